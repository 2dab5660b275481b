//! Tests of the choice of kernels, and of the files in `crates/cuda/cubins`: they must belong to the sources of the kernels.

use super::*;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// What to do if a test of the files fails.
const REBUILD: &str = "run `.ci/cubins build`";

fn manifest() -> Value {
    serde_json::from_str(MANIFEST).expect("the manifest")
}

fn directory(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// The files of a directory with one of these extensions, by their names.
fn files(of: &str, extensions: &[&str]) -> BTreeMap<String, String> {
    let entries = fs::read_dir(directory(of)).expect("a directory").flatten();
    let paths = entries.map(|entry| entry.path());
    let matches = |path: &PathBuf| {
        extensions
            .iter()
            .any(|e| path.extension().is_some_and(|found| found == *e))
    };
    let read = |path: PathBuf| {
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        (name, fs::read_to_string(&path).expect("a text"))
    };
    paths.filter(matches).map(read).collect()
}

fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The names in `REGISTER_KERNEL(name)`.
fn registered(text: &str) -> impl Iterator<Item = String> {
    /// The argument of a macro that defines instances of kernels, in their names.
    const INSTANCE: &str = "##W";
    let arguments = |call: &str| -> Vec<String> {
        let calls = text.split(call).skip(1);
        calls
            .filter_map(|rest| Some(rest.split([')', ',']).next()?.trim().to_owned()))
            .collect()
    };
    let widths: BTreeSet<String> = arguments("ATTENTION_KERNELS(")
        .into_iter()
        .filter(|width| width != "W")
        .collect();
    arguments("REGISTER_KERNEL(")
        .into_iter()
        .flat_map(move |name| match name.strip_suffix(INSTANCE) {
            Some(stem) => widths.iter().map(|width| format!("{stem}{width}")).collect(),
            None => vec![name],
        })
}

fn chosen(capability: (u32, u32)) -> Option<&'static str> {
    choose(capability).map(|architecture| architecture.name)
}

#[test]
fn the_nearest_architecture_is_chosen() {
    let cases = [
        ((7, 5), None),
        ((8, 0), Some("sm_80")),
        ((8, 6), Some("sm_86")),
        ((8, 7), Some("sm_86")),
        ((8, 9), Some("sm_89")),
        ((9, 0), Some("sm_90a")),
        ((9, 1), None),
        ((10, 0), Some("sm_100a")),
        ((10, 3), None),
        ((11, 0), None),
        ((12, 0), Some("sm_120a")),
        ((12, 1), None),
        ((13, 0), None),
    ];
    for (capability, name) in cases {
        assert_eq!(chosen(capability), name, "{capability:?}");
    }
    assert_eq!(supported(), "8.0 to 8.9, 9.0, 10.0, 12.0");
}

#[test]
fn names_of_architectures_are_parsed() {
    let parse = |name| Architecture::parse(name).map(|a| (a.capability, a.is_exact));
    assert_eq!(parse("sm_86"), Some(((8, 6), false)));
    assert_eq!(parse("sm_100a"), Some(((10, 0), true)));
    assert_eq!(parse("compute_80"), None);
    assert_eq!(parse("sm_"), None);
    assert_eq!(architectures().count(), ARCHIVES.len(), "an archive has a wrong name");
}

#[test]
fn cubins_were_compiled_from_these_sources() {
    let sources = files("kernels", &["cu", "cuh"]);
    let hashes: BTreeMap<_, _> = sources
        .iter()
        .map(|(name, text)| (name.clone(), Value::from(hash(text.as_bytes()))))
        .collect();
    let stored: BTreeMap<_, _> = manifest()["sources"]
        .as_object()
        .expect("sources")
        .clone()
        .into_iter()
        .collect();
    assert_eq!(stored, hashes, "kernels were changed after the cubins: {REBUILD}");
}

#[test]
fn archives_contain_the_cubins_of_the_manifest() {
    let manifest = manifest();
    let names: BTreeSet<&str> = ARCHIVES.iter().map(|(name, _)| *name).collect();
    let stored: BTreeSet<&str> = manifest["architectures"]
        .as_object()
        .expect("architectures")
        .keys()
        .map(String::as_str)
        .collect();
    assert_eq!(names, stored);
    for architecture in architectures() {
        let cubins = Cubins::read(architecture).expect("an archive");
        let entries = manifest["architectures"][architecture.name].as_array().expect("cubins");
        assert_eq!(cubins.ranges.len(), entries.len());
        for (index, entry) in entries.iter().enumerate() {
            let cubin = cubins.cubin(index).expect("a cubin");
            assert!(cubin.starts_with(b"\x7fELF"));
            assert_eq!(
                entry["sha256"],
                hash(cubin),
                "{} {}: {REBUILD}",
                architecture.name,
                entry["source"]
            );
        }
    }
}

/// Each kernel of each source is in the cubins of all architectures, without spills and within the limits of registers. Sources with
/// instructions of Hopper are compiled for it only.
#[test]
fn every_kernel_is_compiled_for_every_architecture() {
    let sources = files("kernels", &["cu"]);
    let kernels_of = |is_hopper: bool| -> BTreeSet<String> {
        let is_included = |text: &&String| is_hopper || !text.contains("#include \"hopper.cuh\"");
        sources
            .values()
            .filter(is_included)
            .flat_map(|text| registered(text))
            .collect()
    };
    let kernels = kernels_of(true);
    assert!(kernels.contains("layer_norm_f32"), "{kernels:?}");
    assert!(kernels.contains("attention_wgmma_64"), "{kernels:?}");
    assert!(!kernels_of(false).contains("attention_wgmma_64"));
    let limits: Value = serde_json::from_str(include_str!("../../../../cubins/limits.json")).expect("limits");
    let manifest = manifest();
    for architecture in architectures() {
        let entries = manifest["architectures"][architecture.name].as_array().expect("cubins");
        let mut compiled = BTreeSet::new();
        for (kernel, properties) in entries
            .iter()
            .flat_map(|entry| entry["kernels"].as_object().expect("kernels"))
        {
            let limit = limits["kernels"].get(kernel).unwrap_or(&limits["registers"]);
            let place = format!("{kernel} for {}", architecture.name);
            let spills = limits["spills"].get(kernel).and_then(Value::as_u64).unwrap_or(0);
            assert!(
                properties["spills"].as_u64() <= Some(spills),
                "{place}: {properties} spills more than {spills} bytes"
            );
            assert!(
                properties["registers"].as_u64() <= limit.as_u64(),
                "{place}: {properties} exceeds {limit}"
            );
            assert!(compiled.insert(kernel.clone()), "there are two kernels {place}");
        }
        let expected = kernels_of(architecture.name == "sm_90a");
        assert_eq!(compiled, expected, "{}: {REBUILD}", architecture.name);
    }
    let named = ["kernels", "spills"].map(|limit| limits[limit].as_object().expect("limits of kernels"));
    for kernel in named.into_iter().flat_map(|limits| limits.keys()) {
        assert!(
            kernels.contains(kernel),
            "limits.json names {kernel}, which does not exist"
        );
    }
}

/// Launchers name kernels by string literals. Each kernel has a launcher, and a literal with a suffix of kernels is a kernel.
#[test]
fn launchers_name_the_kernels() {
    let kernels: BTreeSet<String> = files("kernels", &["cu"])
        .values()
        .flat_map(|text| registered(text))
        .collect();
    let launchers = ["src", "src/driver", "src/attention"].map(|directory| files(directory, &["rs"]));
    let literals: BTreeSet<String> = launchers
        .iter()
        .flat_map(BTreeMap::values)
        .flat_map(|text| text.split('"').skip(1).step_by(2))
        .map(String::from)
        .collect();
    let unused: Vec<&String> = kernels.iter().filter(|kernel| !literals.contains(*kernel)).collect();
    assert!(unused.is_empty(), "no launcher names {unused:?}");
    let is_name = |text: &str| {
        text.bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
    };
    let has_suffix = |text: &str| ["_f32", "_bf16"].iter().any(|suffix| text.ends_with(suffix));
    let unknown: Vec<&String> = literals
        .iter()
        .filter(|text| is_name(text) && has_suffix(text) && !kernels.contains(*text))
        .collect();
    assert!(
        unknown.is_empty(),
        "launchers name {unknown:?}, but there are no such kernels"
    );
}
