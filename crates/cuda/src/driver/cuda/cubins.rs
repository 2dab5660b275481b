//! The compiled kernels, which are a part of the program.
//!
//! `crates/cuda/cubins` has a zlib archive for each architecture: the cubins of all `.cu` files, one after the other. `manifest.json`
//! describes them: compiler, hashes of sources and cubins, and the kernels of each cubin. `.ci/cubins build` writes all of these files.

use crate::driver::{Error, Result};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io::Read;
use std::ops::Range;
use std::sync::LazyLock;

const MANIFEST: &str = include_str!("../../../cubins/manifest.json");

/// The archive of each architecture.
static ARCHIVES: [(&str, &[u8]); 6] = [
    ("sm_80", include_bytes!("../../../cubins/sm_80.z")),
    ("sm_86", include_bytes!("../../../cubins/sm_86.z")),
    ("sm_89", include_bytes!("../../../cubins/sm_89.z")),
    ("sm_90a", include_bytes!("../../../cubins/sm_90a.z")),
    ("sm_100a", include_bytes!("../../../cubins/sm_100a.z")),
    ("sm_120a", include_bytes!("../../../cubins/sm_120a.z")),
];

/// The part of `manifest.json` that is needed at run time.
#[derive(Debug, Deserialize)]
struct Manifest {
    architectures: BTreeMap<String, Vec<Cubin>>,
}

/// The description of a cubin, in the order of the archive.
#[derive(Debug, Deserialize)]
struct Cubin {
    bytes: usize,
    kernels: BTreeMap<String, serde::de::IgnoredAny>,
}

static PARSED: LazyLock<std::result::Result<Manifest, String>> =
    LazyLock::new(|| serde_json::from_str(MANIFEST).map_err(|e| e.to_string()));

/// An architecture that kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Architecture {
    pub name: &'static str,
    capability: (u32, u32),
    /// Whether kernels use functions of exactly this architecture (suffix `a`), so that they run on no other.
    is_exact: bool,
}

impl Architecture {
    /// Parses a name such as `sm_90a`; the last digit is the minor number.
    fn parse(name: &'static str) -> Option<Self> {
        let number = name.strip_prefix("sm_")?;
        let digits = number.trim_end_matches('a');
        let capability: u32 = digits.parse().ok()?;
        Some(Self {
            name,
            capability: (capability / 10, capability % 10),
            is_exact: digits != number,
        })
    }

    /// Whether a device with this compute capability runs the kernels: with a suffix `a` only the same, else a device of the same major
    /// and the same or a higher minor number (CUDA C++ Programming Guide, binary compatibility).
    fn runs_on(&self, capability: (u32, u32)) -> bool {
        let same = self.capability == capability;
        let compatible = self.capability.0 == capability.0 && self.capability.1 <= capability.1;
        same || (!self.is_exact && compatible)
    }
}

fn architectures() -> impl Iterator<Item = Architecture> {
    ARCHIVES.iter().filter_map(|(name, _)| Architecture::parse(name))
}

/// Chooses the kernels for a device: the nearest architecture.
pub(super) fn choose(capability: (u32, u32)) -> Option<Architecture> {
    architectures()
        .filter(|architecture| architecture.runs_on(capability))
        .max_by_key(|architecture| (architecture.capability, architecture.is_exact))
}

/// The compute capabilities that have kernels, for messages.
pub(super) fn supported() -> String {
    let mut majors: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    for major in architectures().map(|architecture| architecture.capability.0) {
        let minors = (0..10).filter(|minor| choose((major, *minor)).is_some());
        majors.insert(major, minors.map(|minor| format!("{major}.{minor}")).collect());
    }
    let ranges = majors.values().map(|versions| match versions.as_slice() {
        [first, .., last] => format!("{first} to {last}"),
        versions => versions.concat(),
    });
    ranges.collect::<Vec<_>>().join(", ")
}

/// The cubins of an architecture, in memory.
#[derive(Debug)]
pub(super) struct Cubins {
    /// Each cubin begins with a word, because the driver reads structures of up to 8 bytes from it.
    words: Vec<u128>,
    /// The range of each cubin in bytes.
    ranges: Vec<Range<usize>>,
    /// The index of the cubin with each kernel.
    kernels: BTreeMap<&'static str, usize>,
}

impl Cubins {
    /// Decompresses the archive of an architecture.
    ///
    /// # Errors
    /// If archive and manifest do not fit together.
    pub fn read(architecture: Architecture) -> Result<Self> {
        let name = architecture.name;
        let fails = |reason: String| Error::Driver {
            function: "reading of cubins",
            message: format!("{name}: {reason}"),
        };
        let manifest = PARSED.as_ref().map_err(|e| fails(e.clone()))?;
        let archive = ARCHIVES.iter().find(|(archive, _)| *archive == name);
        let (Some((_, archive)), Some(cubins)) = (archive, manifest.architectures.get(name)) else {
            return Err(fails("it is not in the manifest".into()));
        };
        let mut reader = flate2::read::ZlibDecoder::new(*archive);
        let mut words = Vec::new();
        let mut ranges = Vec::new();
        let mut kernels = BTreeMap::new();
        for (index, cubin) in cubins.iter().enumerate() {
            let first = words.len();
            words.resize(first + cubin.bytes.div_ceil(size_of::<u128>()), 0u128);
            let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut words[first..]);
            reader
                .read_exact(&mut bytes[..cubin.bytes])
                .map_err(|e| fails(e.to_string()))?;
            let start = first * size_of::<u128>();
            ranges.push(start..start + cubin.bytes);
            kernels.extend(cubin.kernels.keys().map(|kernel| (kernel.as_str(), index)));
        }
        if reader.read(&mut [0]).map_err(|e| fails(e.to_string()))? > 0 {
            return Err(fails("archive and manifest differ".into()));
        }
        Ok(Self { words, ranges, kernels })
    }

    /// The index of the cubin with a kernel, and the kernel's name.
    pub fn index_of(&self, kernel: &str) -> Option<(&'static str, usize)> {
        self.kernels.get_key_value(kernel).map(|(name, index)| (*name, *index))
    }

    /// A cubin.
    pub fn cubin(&self, index: usize) -> Option<&[u8]> {
        bytemuck::cast_slice(&self.words).get(self.ranges.get(index)?.clone())
    }
}

#[cfg(test)]
mod tests;
