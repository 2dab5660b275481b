//! Finding and reading golden data in tests, and comparing results with them.
//!
//! A directory of golden data has the subdirectories `model`, `weights`, `imagenet`, `images`, `augment`, `text` and `prepare`, each of them
//! optional. The repository has a small one, `tests/golden`. Tests use it and, if it exists, a second one: the directory that the
//! environment variable `VLC_GOLDEN` names or, if the variable is not set, `../shared/golden`. In the same way, tests of models of
//! Hugging Face use `tests/golden_vilt` and the directory `VLC_GOLDEN_VILT` or `../shared/golden_vilt`.

use std::path::{Path, PathBuf};

/// Returns the subdirectory `part` (`"model"`, `"text"`, …) of every golden directory that has it.
///
/// # Panics
/// If no golden directory has it.
pub fn directories(part: &str) -> Vec<PathBuf> {
    find("golden", "VLC_GOLDEN", part)
}

/// Returns the subdirectory `part` (`"mae"`, `"hf"`) of every golden directory of models of Hugging Face that has it.
///
/// # Panics
/// If no golden directory has it.
pub fn vilt_directories(part: &str) -> Vec<PathBuf> {
    find("golden_vilt", "VLC_GOLDEN_VILT", part)
}

/// Returns the subdirectory `part` of `tests/NAME`, and of the directory that an environment variable names or of `../shared/NAME`.
fn find(name: &str, variable: &str, part: &str) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let additional = match std::env::var_os(variable) {
        Some(path) if Path::new(&path).is_absolute() => PathBuf::from(path),
        Some(path) => root.join(path),
        None => root.join("../shared").join(name),
    };
    let directories: Vec<PathBuf> = [root.join("tests").join(name), additional]
        .iter()
        .map(|d| d.join(part))
        .filter(|d| d.is_dir())
        .collect();
    assert!(!directories.is_empty(), "no golden data for {part}");
    directories
}

/// Reads a JSON file.
pub fn json(path: impl AsRef<Path>) -> serde_json::Value {
    let path = path.as_ref();
    let text = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_slice(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The tensors of a `.safetensors` file, converted to `f32` or `i64` on access.
pub struct Tensors {
    bytes: Vec<u8>,
}

impl Tensors {
    /// Reads the file into memory.
    pub fn open(path: impl AsRef<Path>) -> Self {
        let path = path.as_ref();
        Self {
            bytes: std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display())),
        }
    }

    fn view(&self, name: &str) -> safetensors::tensor::TensorView<'_> {
        let file = safetensors::SafeTensors::deserialize(&self.bytes).expect("golden file");
        let (_, view) = file
            .iter()
            .find(|(n, _)| *n == name)
            .unwrap_or_else(|| panic!("no tensor {name}"));
        view
    }

    /// The names of all tensors, sorted.
    pub fn names(&self) -> Vec<String> {
        let file = safetensors::SafeTensors::deserialize(&self.bytes).expect("golden file");
        let mut names: Vec<String> = file.names().iter().map(|n| n.to_string()).collect();
        names.sort();
        names
    }

    /// Whether there is a tensor of this name.
    pub fn has(&self, name: &str) -> bool {
        self.names().iter().any(|n| n == name)
    }

    /// The shape of a tensor.
    pub fn shape(&self, name: &str) -> Vec<usize> {
        self.view(name).shape().to_vec()
    }

    /// The values of an `F32` or `F16` tensor, as `f32`.
    pub fn f32(&self, name: &str) -> Vec<f32> {
        let view = self.view(name);
        let data = view.data();
        match view.dtype() {
            safetensors::Dtype::F32 => data
                .as_chunks()
                .0
                .iter()
                .map(|b: &[u8; 4]| f32::from_le_bytes(*b))
                .collect(),
            safetensors::Dtype::F16 => data
                .as_chunks()
                .0
                .iter()
                .map(|b: &[u8; 2]| half::f16::from_le_bytes(*b).to_f32())
                .collect(),
            other => panic!("{name} is {other:?}, not floating point"),
        }
    }

    /// The values of an `I64`, `I32` or `BOOL` tensor, as `i64`.
    pub fn i64(&self, name: &str) -> Vec<i64> {
        let view = self.view(name);
        let data = view.data();
        match view.dtype() {
            safetensors::Dtype::I64 => data.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b)).collect(),
            safetensors::Dtype::I32 => data
                .as_chunks()
                .0
                .iter()
                .map(|b: &[u8; 4]| i32::from_le_bytes(*b) as i64)
                .collect(),
            safetensors::Dtype::BOOL => data.iter().map(|b| *b as i64).collect(),
            other => panic!("{name} is {other:?}, not an integer"),
        }
    }
}

/// Panics if `|got[i] - want[i]|` exceeds `tolerance` times the largest magnitude in `want`, for any `i`.
pub fn assert_close(what: &str, got: &[f32], want: &[f32], tolerance: f32) {
    assert_eq!(got.len(), want.len(), "{what}: length");
    let scale = want.iter().fold(0f32, |m, v| m.max(v.abs()));
    assert_within(what, got, want, tolerance * scale);
}

/// Panics if `|got[i] - want[i]|` exceeds `tolerance`, for any `i`.
pub fn assert_within(what: &str, got: &[f32], want: &[f32], tolerance: f32) {
    assert_eq!(got.len(), want.len(), "{what}: length");
    let mut worst = (0usize, 0f32);
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        let difference = (g - w).abs();
        assert!(!difference.is_nan(), "{what}[{i}]: {g} instead of {w}");
        if difference > worst.1 {
            worst = (i, difference);
        }
    }
    let (i, difference) = worst;
    assert!(
        difference <= tolerance,
        "{what}[{i}]: {} instead of {}, difference {difference:e} > {tolerance:e}",
        got[i],
        want[i]
    );
}

/// Writes a tar file with the given members (name, content).
pub fn write_tar(path: &Path, members: &[(&str, &[u8])]) {
    let mut builder = tar::Builder::new(std::fs::File::create(path).unwrap());
    for (name, bytes) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, *bytes).unwrap();
    }
    builder.finish().unwrap();
}
