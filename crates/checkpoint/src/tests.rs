//! Tests of checkpoints, including damaged files, full disks and killed processes.

use std::{fs, fs::File, io::Write, path::Path, process::Command};

use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;
use vlct_util::atomic::Output;

use super::*;
use crate::format::HEADER_START;
use crate::format::{CHECKSUM_DIGITS, CHECKSUM_OFFSET, FORMAT_1, checksum_digits};
use crate::write::save_content;
use xxhash_rust::xxh3::xxh3_128;

fn tensor<'a>(name: &'a str, shape: &'a [usize], data: &'a [f32]) -> TensorRef<'a> {
    let data = vlct_tensor::Device::default().tensor(1, data.len(), data);
    TensorRef { name, shape, data }
}

fn save_small(path: &Path, step: u64) {
    let state = json!({"global_step": step, "epoch": 1, "best_metric": 0.625, "config": "seed = 1\n\"quoted\""});
    let bias = [step as f32];
    let tensors = [
        tensor(
            "head.weight",
            &[2, 3],
            &[0.0, -1.5, f32::MIN_POSITIVE, f32::MAX, 3.25, 1e-40],
        ),
        tensor("head.bias", &[1], &bias),
        tensor("scale", &[], &[7.0]),
        tensor("empty", &[0, 4], &[]),
        tensor("optimizer.exp_avg.head.bias", &[1], &[0.5]),
    ];
    let bytes = save(path, &tensors, &state, &json!({"model": step})).unwrap();
    assert_eq!(bytes, fs::metadata(path).unwrap().len());
}

fn file_names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn load_returns_saved_tensors_and_state() {
    let run = TempDir::new().unwrap();
    let path = last_path(run.path());
    save_small(&path, 12);
    assert_eq!(file_names(path.parent().unwrap()), [FILE_NAME]);
    let checkpoint = load(&path).unwrap();
    assert_eq!(checkpoint.state()["config"], "seed = 1\n\"quoted\"");
    let names: Vec<_> = checkpoint.names().collect();
    assert_eq!(&names[..3], ["head.weight", "head.bias", "scale"]);
    assert_eq!(checkpoint.shape("head.weight").unwrap(), [2, 3]);
    assert_eq!(checkpoint.shape("empty").unwrap(), [0, 4]);
    assert_eq!(checkpoint.shape("absent"), None);
    let expected = [0.0, -1.5, f32::MIN_POSITIVE, f32::MAX, 3.25, 1e-40];
    assert_eq!(checkpoint.values("head.weight").unwrap(), expected);
    let mut scale = [0.0];
    checkpoint.copy_to("scale", &[], &mut scale).unwrap();
    assert_eq!(scale, [7.0]);
    let error = checkpoint
        .copy_to("head.bias", &[1, 1], &mut scale)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("`head.bias` has shape [1], the model needs [1, 1]"),
        "{error}"
    );
    let error = checkpoint.values("absent").unwrap_err().to_string();
    assert!(error.contains("`absent`") && error.contains(FILE_NAME), "{error}");
}

/// Rewrites a checkpoint in format 1.
fn to_format_1(path: &Path) {
    let bytes = fs::read(path).unwrap();
    let offset = |part: &str| {
        bytes
            .windows(part.len())
            .position(|w| w == part.as_bytes())
            .expect("in the file")
    };
    let mut old = bytes.clone();
    old[offset(FORMAT)..][..FORMAT.len()].copy_from_slice(FORMAT_1.as_bytes());
    let digits = CHECKSUM_OFFSET..CHECKSUM_OFFSET + CHECKSUM_DIGITS;
    old[digits.clone()].fill(b'0');
    let checksum = checksum_digits(xxh3_128(&old));
    old[digits].copy_from_slice(checksum.as_bytes());
    fs::write(path, old).unwrap();
}

#[test]
fn reads_format_1() {
    let run = TempDir::new().unwrap();
    let path = last_path(run.path());
    save_small(&path, 12);
    let new = load(&path).unwrap();
    assert_eq!((new.format(), new.description()), (2, Some(&json!({"model": 12}))));
    to_format_1(&path);
    let old = load(&path).unwrap();
    assert_eq!((old.format(), old.description()), (1, None));
    assert_eq!(old.state(), new.state());
    assert_eq!(old.values("head.weight").unwrap(), new.values("head.weight").unwrap());
    assert_eq!(inspect(&path).unwrap().step, Some(12));
}

#[test]
fn the_safetensors_crate_reads_checkpoints() {
    let run = TempDir::new().unwrap();
    let path = best_path(run.path());
    save_small(&path, 3);
    let bytes = fs::read(&path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(file.len(), 5);
    assert_eq!(file.tensor("head.bias").unwrap().data(), 3f32.to_le_bytes());
    let (header_length, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    assert_eq!(header_length % 8, 0, "data is aligned");
    let texts = metadata.metadata().clone().unwrap();
    assert_eq!(texts["format"], FORMAT);
    assert_eq!(
        serde_json::from_str::<Value>(&texts["state"]).unwrap()["global_step"],
        3
    );
}

#[test]
fn writes_tensors_larger_than_the_buffer() {
    let run = TempDir::new().unwrap();
    let path = run.path().join("big.safetensors");
    let data: Vec<f32> = (0..700_001).map(|i| i as f32 * 0.25).collect();
    let tensors = [
        tensor("a", &[3], &data[..3]),
        tensor("b", &[700_001], &data),
        tensor("c", &[2], &data[5..7]),
    ];
    save(&path, &tensors, &Value::Null, &Value::Null).unwrap();
    let checkpoint = load(&path).unwrap();
    assert_eq!(checkpoint.values("b").unwrap(), data);
    assert_eq!(checkpoint.values("c").unwrap(), data[5..7]);
}

#[test]
fn rejects_invalid_tensors_before_writing() {
    let run = TempDir::new().unwrap();
    let path = run.path().join("directory").join(FILE_NAME);
    let cases: [&[TensorRef]; 3] = [
        &[tensor("a", &[1], &[1.0]), tensor("a", &[1], &[2.0])],
        &[tensor("__metadata__", &[1], &[1.0])],
        &[tensor("a", &[2], &[1.0])],
    ];
    for tensors in cases {
        assert!(matches!(
            save(&path, tensors, &Value::Null, &Value::Null),
            Err(CheckpointError::Invalid(_))
        ));
    }
    assert!(!path.parent().unwrap().exists());
}

#[test]
fn detects_every_truncation() {
    let run = TempDir::new().unwrap();
    let path = run.path().join(FILE_NAME);
    save_small(&path, 1);
    let intact = fs::read(&path).unwrap();
    for length in 0..intact.len() {
        fs::write(&path, &intact[..length]).unwrap();
        let error = load(&path).unwrap_err().to_string();
        assert!(error.contains(FILE_NAME) && !error.contains('\n'), "{length}: {error}");
    }
    fs::write(&path, [&intact[..], b"x"].concat()).unwrap();
    let error = load(&path).unwrap_err().to_string();
    assert!(
        error.contains(&format!("{} bytes instead of {}", intact.len() + 1, intact.len())),
        "{error}"
    );
}

#[test]
fn detects_a_changed_bit_in_each_byte() {
    let run = TempDir::new().unwrap();
    let path = run.path().join(FILE_NAME);
    save_small(&path, 1);
    let intact = fs::read(&path).unwrap();
    for offset in 0..intact.len() {
        let mut altered = intact.clone();
        altered[offset] ^= 1 << (offset % 8);
        fs::write(&path, &altered).unwrap();
        let error = load(&path).expect_err("a changed bit");
        assert!(matches!(error, CheckpointError::Damaged { .. }), "{offset}: {error}");
    }
}

proptest! {
    #[test]
    fn detects_any_damage(start in any::<prop::sample::Index>(), bytes in prop::collection::vec(any::<u8>(), 1..9)) {
        let run = TempDir::new().unwrap();
        let path = run.path().join(FILE_NAME);
        save_small(&path, 1);
        let intact = fs::read(&path).unwrap();
        let mut altered = intact.clone();
        let start = start.index(intact.len());
        let end = intact.len().min(start + bytes.len());
        altered[start..end].copy_from_slice(&bytes[..end - start]);
        fs::write(&path, &altered).unwrap();
        prop_assert_eq!(load(&path).is_ok(), altered == intact);
        let _ = inspect(&path);
    }

    #[test]
    fn rejects_arbitrary_files(bytes in prop::collection::vec(any::<u8>(), 0..200), has_header_start in any::<bool>()) {
        let run = TempDir::new().unwrap();
        let path = run.path().join(FILE_NAME);
        let start: &[u8] = if has_header_start { HEADER_START.as_bytes() } else { b"" };
        fs::write(&path, [&(bytes.len() as u64).to_le_bytes(), start, &bytes].concat()).unwrap();
        prop_assert!(load(&path).is_err());
        prop_assert!(inspect(&path).is_err());
    }

    #[test]
    fn saving_and_loading_keeps_every_bit_of_the_state(values in prop::collection::vec(prop::num::f64::NORMAL | prop::num::f64::SUBNORMAL, 0..20), n in any::<u64>()) {
        let run = TempDir::new().unwrap();
        let path = run.path().join(FILE_NAME);
        let state = json!({"sums": values, "seed": n, "text": "ü\u{0}\"\\"});
        save(&path, &[], &state, &Value::Null).unwrap();
        let checkpoint = load(&path).unwrap();
        prop_assert_eq!(checkpoint.state(), &state);
    }
}

#[test]
fn errors_name_missing_files_and_directories() {
    let run = TempDir::new().unwrap();
    let error = load(&run.path().join("absent.safetensors")).unwrap_err().to_string();
    assert!(
        error.contains("absent.safetensors: checkpoint cannot be read"),
        "{error}"
    );
    let error = load(run.path()).unwrap_err().to_string();
    assert!(error.contains("not a file"), "{error}");
}

#[test]
fn rejects_safetensors_files_that_are_not_checkpoints() {
    let run = TempDir::new().unwrap();
    let path = run.path().join("weights.safetensors");
    let header = r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}   "#;
    fs::write(
        &path,
        [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &[0; 4]].concat(),
    )
    .unwrap();
    let error = load(&path).unwrap_err().to_string();
    assert!(error.contains("not a checkpoint of this program"), "{error}");
}

#[test]
fn steps_are_those_of_directories_with_canonical_names() {
    let run = TempDir::new().unwrap();
    let directories = ["step_000020", "step_000003", "step_1000000", "step_7", "step_x", "last"];
    for directory in directories {
        fs::create_dir(run.path().join(directory)).unwrap();
    }
    assert_eq!(steps(run.path()).unwrap(), [3, 20, 1_000_000]);
    assert!(step_path(run.path(), 20).parent().unwrap().is_dir());
}

#[test]
fn inspect_reports_damage() {
    let run = TempDir::new().unwrap();
    let path = run.path().join(FILE_NAME);
    save_small(&path, 40);
    let summary = inspect(&path).unwrap();
    assert_eq!(
        (summary.step, summary.epoch, summary.metric),
        (Some(40), Some(1), Some(0.625))
    );
    assert_eq!((summary.tensors, summary.parameters, summary.optimizer), (4, 8, true));
    assert_eq!(summary.damage, None);
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, &bytes).unwrap();
    let summary = inspect(&path).unwrap();
    assert!(summary.damage.unwrap().contains("altered"));
    assert_eq!(summary.step, Some(40));
}

/// The test writes to `/dev/full`, where every write fails as on a full disk.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_does_not_change_the_previous_checkpoint() {
    let run = TempDir::new().unwrap();
    let path = run.path().join(FILE_NAME);
    let write_to_full_disk = |out: &mut Output| {
        out.write_all(b"half of a checkpoint")?;
        out.flush()?;
        File::options().write(true).open("/dev/full")?.write_all(b"the rest")?;
        Ok(0)
    };
    let error = save_content(&path, write_to_full_disk).unwrap_err().to_string();
    assert!(error.contains("there is no earlier checkpoint"), "{error}");
    assert!(file_names(run.path()).is_empty());

    save_small(&path, 7);
    let error = save_content(&path, write_to_full_disk).unwrap_err().to_string();
    assert!(error.contains("No space left on device"), "{error}");
    assert!(error.contains("the previous checkpoint (step 7) is intact"), "{error}");
    assert_eq!(file_names(run.path()), [FILE_NAME]);
    assert_eq!(load(&path).unwrap().values("head.bias").unwrap(), [7.0]);
}

/// The child process of [`a_file_size_limit_does_not_change_the_previous_checkpoint`]. It saves a checkpoint that exceeds the size limit.
#[test]
#[ignore = "runs as the child process of another test"]
fn limited_child() {
    let path = std::env::var_os("VLCT_TEST_LIMITED_CHECKPOINT").expect("a path from the parent process");
    let error = save(
        Path::new(&path),
        &[tensor("x", &[100_000], &[1.0; 100_000])],
        &Value::Null,
        &Value::Null,
    )
    .unwrap_err();
    println!("error of the child: {error}");
}

/// With a limit on the size of files (`ulimit -f`), a write fails in the middle of the file.
#[cfg(target_os = "linux")]
#[test]
fn a_file_size_limit_does_not_change_the_previous_checkpoint() {
    let run = TempDir::new().unwrap();
    let path = run.path().join(FILE_NAME);
    save_small(&path, 8);
    let output = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 16; exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().unwrap())
        .args(["tests::limited_child", "--exact", "--ignored", "--nocapture"])
        .env("VLCT_TEST_LIMITED_CHECKPOINT", &path)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        text.contains("error of the child") && text.contains("(step 8) is intact"),
        "{text}"
    );
    assert_eq!(file_names(run.path()), [FILE_NAME]);
    assert!(load(&path).is_ok());
}

/// The child process of [`a_kill_before_the_rename_does_not_change_the_previous_checkpoint`]. It aborts while it saves.
#[test]
#[ignore = "runs as the child process of another test"]
fn killed_child() {
    let path = std::env::var_os("VLCT_TEST_KILLED_CHECKPOINT").expect("a path from the parent process");
    let _ = save_content(Path::new(&path), |out| {
        out.write_all(b"half of a checkpoint")?;
        out.flush()?;
        std::process::abort()
    });
}

#[test]
fn a_kill_before_the_rename_does_not_change_the_previous_checkpoint() {
    let run = TempDir::new().unwrap();
    let path = run.path().join(FILE_NAME);
    save_small(&path, 5);
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["tests::killed_child", "--exact", "--ignored"])
        .env("VLCT_TEST_KILLED_CHECKPOINT", &path)
        .output()
        .unwrap()
        .status;
    assert!(!status.success());
    assert_eq!(file_names(run.path()).len(), 2, "the temporary file remains");
    assert_eq!(load(&path).unwrap().state()["global_step"], 5);
    fs::write(run.path().join("notes.txt"), "unrelated").unwrap();
    save_small(&path, 6);
    assert_eq!(file_names(run.path()), [FILE_NAME, "notes.txt"]);
    assert_eq!(load(&path).unwrap().state()["global_step"], 6);
}
