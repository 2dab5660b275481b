//! Recorded values of the original: safetensors and JSON files of a directory of golden data.

use safetensors::{Dtype, SafeTensors};
use std::path::{Path, PathBuf};
use vlct_model::config::{Backbone, Heads, Variant};
use vlct_model::files::{self, StoredTensor, TensorData};
use vlct_model::{Model, ModelConfig, VlcConfig};

type Result<T> = std::result::Result<T, String>;

/// The tensors of a safetensors file, converted to f32 or i64 on access.
pub(super) struct Tensors {
    path: PathBuf,
    bytes: Vec<u8>,
}

impl Tensors {
    pub(super) fn open(path: PathBuf) -> Result<Self> {
        let bytes = std::fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(Self { path, bytes })
    }

    fn file(&self) -> Result<SafeTensors<'_>> {
        SafeTensors::deserialize(&self.bytes).map_err(|e| self.error(&e.to_string()))
    }

    fn error(&self, problem: &str) -> String {
        format!("{}: {problem}", self.path.display())
    }

    /// The names of all tensors, sorted.
    pub(super) fn names(&self) -> Result<Vec<String>> {
        let mut names: Vec<String> = self.file()?.names().iter().map(ToString::to_string).collect();
        names.sort();
        Ok(names)
    }

    /// Whether there is a tensor of this name.
    pub(super) fn has(&self, name: &str) -> Result<bool> {
        Ok(self.file()?.names().contains(&name))
    }

    /// The sizes of the axes of a tensor.
    pub(super) fn shape<const N: usize>(&self, name: &str) -> Result<[usize; N]> {
        let file = self.file()?;
        let view = file.tensor(name).map_err(|e| self.error(&e.to_string()))?;
        let shape = view.shape();
        shape
            .try_into()
            .map_err(|_| self.error(&format!("{name} has the shape {shape:?}, {N} axes are expected")))
    }

    /// The values of a floating-point tensor.
    pub(super) fn f32(&self, name: &str) -> Result<Vec<f32>> {
        let file = self.file()?;
        let view = file.tensor(name).map_err(|e| self.error(&e.to_string()))?;
        match view.dtype() {
            Dtype::F32 => Ok(elements(view.data()).map(f32::from_le_bytes).collect()),
            Dtype::F16 => {
                let bits: Vec<u16> = elements(view.data()).map(u16::from_le_bytes).collect();
                let tensor = StoredTensor::new(vec![bits.len()], TensorData::F16(bits));
                tensor.into_f32().ok_or_else(|| self.error("no float16 values"))
            }
            other => Err(self.error(&format!("{name} is {other:?}, not floating point"))),
        }
    }

    /// The values of an integer tensor.
    pub(super) fn i64(&self, name: &str) -> Result<Vec<i64>> {
        let file = self.file()?;
        let view = file.tensor(name).map_err(|e| self.error(&e.to_string()))?;
        match view.dtype() {
            Dtype::I64 => Ok(elements(view.data()).map(i64::from_le_bytes).collect()),
            Dtype::I32 => Ok(elements(view.data())
                .map(|b| i64::from(i32::from_le_bytes(b)))
                .collect()),
            other => Err(self.error(&format!("{name} is {other:?}, not an integer"))),
        }
    }

    /// The values of a floating-point tensor, row by row of its first axis.
    pub(super) fn rows(&self, name: &str, rows: usize) -> Result<Vec<Vec<f32>>> {
        let values = self.f32(name)?;
        let width = self.width(name, values.len(), rows)?;
        Ok(values.chunks_exact(width).map(<[f32]>::to_vec).collect())
    }

    /// The values of an integer tensor, row by row of its first axis.
    pub(super) fn integer_rows(&self, name: &str, rows: usize) -> Result<Vec<Vec<i64>>> {
        let values = self.i64(name)?;
        let width = self.width(name, values.len(), rows)?;
        Ok(values.chunks_exact(width).map(<[i64]>::to_vec).collect())
    }

    fn width(&self, name: &str, values: usize, rows: usize) -> Result<usize> {
        match values.checked_div(rows) {
            Some(width) if width > 0 && width * rows == values => Ok(width),
            _ => Err(self.error(&format!("{name} has {values} values, which are not {rows} rows"))),
        }
    }

    /// The recorded texts without padding. `ids` and `masks` are the names of matrices.
    pub(super) fn texts(&self, ids: &str, masks: &str) -> Result<Vec<Vec<u32>>> {
        let [texts, _] = self.shape(ids)?;
        let without_padding = |(ids, mask): (Vec<i64>, Vec<i64>)| {
            let tokens = ids.into_iter().zip(mask).filter(|(_, m)| *m != 0);
            tokens.map(|(id, _)| id as u32).collect()
        };
        let rows = self.integer_rows(ids, texts)?.into_iter();
        Ok(rows
            .zip(self.integer_rows(masks, texts)?)
            .map(without_padding)
            .collect())
    }
}

/// The little-endian elements of `N` bytes.
fn elements<const N: usize>(data: &[u8]) -> impl Iterator<Item = [u8; N]> {
    data.as_chunks().0.iter().copied()
}

/// Reads a JSON file.
pub(super) fn json(path: &Path) -> Result<serde_json::Value> {
    let text = std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
    serde_json::from_slice(&text).map_err(|e| format!("{}: {e}", path.display()))
}

/// Returns the configuration, with `heads`, and the mask ratio of the model that is recorded in `directory`.
pub(super) fn config(directory: &Path, heads: Heads) -> Result<(VlcConfig, f64)> {
    let path = directory.join("config.json");
    let json = json(&path)?;
    let number = |key: &str| {
        let value = json[key].as_f64();
        value.ok_or_else(|| format!("{}: {key} is not a number", path.display()))
    };
    let size = |key: &str| number(key).map(|number| number as usize);
    let backbone = Backbone {
        patch_size: size("patch")?,
        width: size("dim")?,
        depth: size("depth")?,
        heads: size("heads")?,
        decoder_width: size("decoder_dim")?,
        decoder_depth: size("decoder_depth")?,
        decoder_heads: size("decoder_heads")?,
    };
    let config = VlcConfig {
        image_size: size("image_size")?,
        backbone,
        vocab_size: size("vocab_size")?,
        max_text_len: size("max_text_len")?,
        token_types: 2,
        variant: Variant::VLC,
        drop_rate: 0.0,
        heads,
    };
    Ok((config, number("mask_ratio")?))
}

/// Loads a recorded model, which must have all tensors.
pub(super) fn load(directory: &Path, file: &str, config: VlcConfig) -> Result<Model> {
    let mut model = Model::new(ModelConfig::Vlc(config));
    let file = files::map(&directory.join(file)).map_err(|e| e.to_string())?;
    let index = files::index(&file).map_err(|e| e.to_string())?;
    let report = model
        .load(&index, files::Options::default())
        .map_err(|e| format!("{}: {e}", file.path().display()))?;
    match report.missing.is_empty() {
        true => Ok(model),
        false => Err(format!("{}: tensors are missing: {report}", file.path().display())),
    }
}
