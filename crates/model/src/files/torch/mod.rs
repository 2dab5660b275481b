//! Checkpoints written by PyTorch: the zip archives of version 1.6 and later, and the format before it.
//!
//! Both hold a pickle that describes everything but the tensors' values, and the values as raw storages. Nothing in the
//! pickle is executed (see [`vlct_pickle`]); only the weights are decoded, the rest is described in words.

mod archive;
mod legacy;
mod tensor;
mod write;

pub(super) use archive::SIGNATURES;
pub(super) use legacy::starts_with_magic;
pub(super) use write::write;

use std::collections::HashMap;

use super::error::{Problem, TensorProblem};
use super::state::{StateDict, StoredTensor, decode};
use super::{Format, Style, Summary, WeightFile};
use vlct_pickle::{Pickle, Ref, Value};

/// How many times the file's own size its decoded tensors may take: tensors may share storages, but no checkpoint repeats its whole
/// content more often than this.
const MAX_SHARING: usize = 4;

/// Raw values of tensors, by key.
struct Storages<'a> {
    bytes: HashMap<String, &'a [u8]>,
    big_endian: bool,
}

/// Reads a zip archive.
pub(super) fn read_archive(bytes: &[u8]) -> Result<WeightFile, Problem> {
    let archive = archive::open(bytes)?;
    let pickle = vlct_pickle::parse(archive.pickle)?;
    weight_file(&pickle, &archive.storages, bytes.len(), Format::TorchZip)
}

/// Reads the format before version 1.6.
pub(super) fn read_legacy(bytes: &[u8]) -> Result<WeightFile, Problem> {
    let (pickle, storages) = legacy::open(bytes)?;
    weight_file(&pickle, &storages, bytes.len(), Format::TorchLegacy)
}

/// Where in the pickle the weights are.
struct Weights {
    /// The top-level key; nothing if they are the top level itself.
    under: Option<&'static str>,
    entries: Vec<(Ref, Ref)>,
}

fn weight_file(pickle: &Pickle, storages: &Storages, length: usize, format: Format) -> Result<WeightFile, Problem> {
    let weights = find_weights(pickle)?;
    let mut state = StateDict::new();
    let mut skipped = Vec::new();
    let limit = length.saturating_mul(MAX_SHARING);
    let mut left = limit;
    for (key, value) in weights.entries {
        let Some(name) = pickle.text(key) else {
            skipped.push(pickle.describe(key));
            continue;
        };
        if !tensor::is_tensor(pickle, value) {
            // At the top level other things may stand beside the tensors.
            if pickle.object(value).is_some() && pickle.entries(value).is_none() && weights.under.is_some() {
                return Err(foreign(pickle, value, format!("entry {name} of the weights")));
            }
            skipped.push(name.to_owned());
            continue;
        }
        let in_tensor = |problem| Problem::Tensor {
            name: name.to_owned(),
            problem,
        };
        let layout = tensor::layout(pickle, value).map_err(in_tensor)?;
        let tensor = storages.tensor(&layout, &mut left).map_err(in_tensor)?;
        state.insert(name, tensor.ok_or(Problem::TooLarge { limit })?);
    }
    let top = pickle.entries(pickle.root()).unwrap_or_default();
    let number = |wanted: &str| {
        let (_, value) = top.iter().rev().find(|(key, _)| pickle.text(*key) == Some(wanted))?;
        pickle.int(*value).and_then(|value| u64::try_from(value).ok())
    };
    let (epoch, global_step) = (number("epoch"), number("global_step"));
    let rest = match weights.under {
        None => Vec::new(),
        Some(under) => top
            .iter()
            .filter_map(|(key, value)| Some((pickle.text(*key)?, *value)))
            .filter(|(key, _)| *key != under)
            .map(|(key, value)| (key.to_owned(), pickle.describe(value)))
            .collect(),
    };
    Ok(WeightFile {
        style: Style::of(&state),
        state,
        format,
        summary: Summary {
            weights_under: weights.under.map(str::to_owned),
            epoch,
            global_step,
            entries: rest,
            skipped,
        },
    })
}

/// The dictionary under `model` if it holds tensors, else the one under `state_dict`, else the top level.
fn find_weights(pickle: &Pickle) -> Result<Weights, Problem> {
    let root = pickle.root();
    let Some(top) = pickle.entries(root) else {
        return Err(match pickle.object(root) {
            Some(_) => foreign(pickle, root, "its content".to_owned()),
            None => Problem::NoWeights,
        });
    };
    let holds_tensors = |entries: &[(Ref, Ref)]| entries.iter().any(|(_, value)| tensor::is_tensor(pickle, *value));
    let mut blocked = None;
    for under in ["model", "state_dict"] {
        let found = top.iter().rev().find(|(key, _)| pickle.text(*key) == Some(under));
        let Some((_, value)) = found else { continue };
        match pickle.entries(*value) {
            Some(entries) if holds_tensors(&entries) => {
                return Ok(Weights {
                    under: Some(under),
                    entries,
                });
            }
            // Entries that something unknown would make are worth an explanation of their own.
            Some(entries) => blocked = blocked.or(entries.iter().find_map(|(_, v)| foreign_call(pickle, *v))),
            None => blocked = blocked.or(foreign_call(pickle, *value)),
        }
        blocked = blocked.map(|(_, callable)| (format!("`{under}`"), callable));
    }
    if holds_tensors(&top) {
        return Ok(Weights {
            under: None,
            entries: top,
        });
    }
    let blocked = blocked.or_else(|| top.iter().find_map(|(_, value)| foreign_call(pickle, *value)));
    Err(match blocked {
        Some((place, callable)) => Problem::ForeignCallable { place, callable },
        None => Problem::NoWeights,
    })
}

/// Place and name of the unknown callable that would make the value, if one would.
fn foreign_call(pickle: &Pickle, at: Ref) -> Option<(String, String)> {
    let is_foreign = matches!(pickle.get(at), Value::Object(_)) && pickle.entries(at).is_none();
    is_foreign.then(|| ("an entry".to_owned(), callable_name(pickle, at)))
}

fn foreign(pickle: &Pickle, at: Ref, place: String) -> Problem {
    Problem::ForeignCallable {
        place,
        callable: callable_name(pickle, at),
    }
}

fn callable_name(pickle: &Pickle, at: Ref) -> String {
    pickle.callable(at).unwrap_or_else(|| "a nameless function".to_owned())
}

impl Storages<'_> {
    /// Copies a tensor's values out of its storage, row-major. Nothing if it takes more than `left` bytes, which it lowers.
    fn tensor(&self, layout: &tensor::Layout, left: &mut usize) -> Result<Option<StoredTensor>, TensorProblem> {
        let bytes = self.bytes.get(&layout.key).copied();
        let bytes = bytes.ok_or_else(|| TensorProblem::MissingStorage(layout.key.clone()))?;
        let size = layout.dtype.size();
        let available = bytes.len() / size;
        let beyond = || TensorProblem::BeyondStorage {
            shape: layout.shape.clone(),
            available,
        };

        // A tensor without values may have any offset and strides.
        let empty = layout.shape.contains(&0);
        let count = if empty {
            0
        } else {
            let product = layout
                .shape
                .iter()
                .try_fold(1usize, |product, n| product.checked_mul(*n));
            // Repeating views (stride zero) could claim any size; none with more values than its storage is believed.
            product.filter(|n| *n <= available).ok_or_else(beyond)?
        };
        if count > 0 {
            let mut dimensions = layout.shape.iter().zip(&layout.strides);
            let last = dimensions.try_fold(layout.offset, |last, (n, stride)| {
                last.checked_add((n - 1).checked_mul(*stride)?)
            });
            last.filter(|last| *last < available).ok_or_else(beyond)?;
        }
        let Some(rest) = left.checked_sub(count * size) else {
            return Ok(None);
        };
        *left = rest;

        let data = if count == 0 {
            decode(layout.dtype, &[], false)
        } else if is_contiguous(&layout.shape, &layout.strides) {
            let start = layout.offset * size;
            decode(layout.dtype, &bytes[start..start + count * size], self.big_endian)
        } else {
            decode(layout.dtype, &gather(layout, bytes, count), self.big_endian)
        };
        Ok(Some(StoredTensor::new(layout.shape.clone(), data)))
    }
}

fn is_contiguous(shape: &[usize], strides: &[usize]) -> bool {
    let mut expected = 1;
    shape.iter().zip(strides).rev().all(|(n, stride)| {
        let fits = *n == 1 || *stride == expected;
        expected *= n;
        fits
    })
}

/// The bytes of a tensor with arbitrary strides, in row-major order. The layout must have been checked against the storage.
fn gather(layout: &tensor::Layout, bytes: &[u8], count: usize) -> Vec<u8> {
    let size = layout.dtype.size();
    let mut gathered = Vec::with_capacity(count * size);
    let mut index = vec![0; layout.shape.len()];
    let mut at = layout.offset;
    for _ in 0..count {
        gathered.extend_from_slice(&bytes[at * size..(at + 1) * size]);
        for axis in (0..index.len()).rev() {
            // The stride of an axis of length one is never used and may be anything, so these sums may wrap and wrap back.
            let (length, stride) = (layout.shape[axis], layout.strides[axis]);
            index[axis] += 1;
            at = at.wrapping_add(stride);
            if index[axis] < length {
                break;
            }
            at = at.wrapping_sub(stride.wrapping_mul(length));
            index[axis] = 0;
        }
    }
    gathered
}

#[cfg(test)]
mod tests;
