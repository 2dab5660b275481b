//! Checkpoints written by PyTorch: the zip archives of version 1.6 and later, and the format before version 1.6.
//!
//! Both formats consist of a pickle with everything except the values of tensors, and of storages with the values. Nothing in the
//! pickle is executed (see [`vlct_pickle`]). Only the weights and the
//! hyper-parameters are decoded; other entries are described in a few words.

mod archive;
mod json;
mod legacy;
mod tensor;
mod write;

pub(super) use archive::SIGNATURES;
pub(super) use legacy::starts_with_magic;
pub(super) use write::write;

use std::collections::HashMap;

use indexmap::IndexMap;

use super::error::{Problem, TensorProblem};
use super::view::{TensorView, WeightIndex};
use super::{Format, Style, Summary};
use vlct_pickle::{Pickle, Ref, Value};

/// Maximum size of the decoded tensors, in multiples of the size of the file. Tensors that share storages can take more than the
/// file; real checkpoints stay far below this limit.
const MAX_SHARING: usize = 4;

/// The storages of a file, by key.
struct Storages<'a> {
    bytes: HashMap<String, &'a [u8]>,
    big_endian: bool,
}

/// Finds the tensors of a zip archive of PyTorch 1.6 and later, without copying values.
pub(super) fn index_archive(bytes: &[u8]) -> Result<WeightIndex<'_>, Problem> {
    let archive = archive::open(bytes)?;
    let pickle = vlct_pickle::parse(archive.pickle)?;
    index(&pickle, &archive.storages, bytes.len(), Format::TorchZip)
}

/// Finds the tensors of a file in the format before version 1.6, without copying values.
pub(super) fn index_legacy(bytes: &[u8]) -> Result<WeightIndex<'_>, Problem> {
    let (pickle, storages) = legacy::open(bytes)?;
    index(&pickle, &storages, bytes.len(), Format::TorchLegacy)
}

/// The dictionary of weights in the pickle.
struct Weights {
    /// The top-level key of the dictionary; `None` if the top level itself holds the weights.
    under: Option<&'static str>,
    /// Keys and values of the dictionary.
    entries: Vec<(Ref, Ref)>,
}

fn index<'a>(
    pickle: &Pickle,
    storages: &Storages<'a>,
    length: usize,
    format: Format,
) -> Result<WeightIndex<'a>, Problem> {
    let weights = find_weights(pickle)?;
    let mut tensors = IndexMap::new();
    let mut skipped = Vec::new();
    let limit = length.saturating_mul(MAX_SHARING);
    let mut remaining = limit;
    for (key, value) in weights.entries {
        let Some(name) = pickle.text(key) else {
            skipped.push(pickle.describe(key));
            continue;
        };
        if !tensor::is_tensor(pickle, value) {
            // At the top level, other objects next to the tensors are normal.
            if pickle.object(value).is_some() && pickle.entries(value).is_none() && weights.under.is_some() {
                return Err(unsupported_error(pickle, value, format!("entry {name} of the weights")));
            }
            skipped.push(name.to_owned());
            continue;
        }
        let tensor_error = |problem| Problem::Tensor {
            name: name.to_owned(),
            problem,
        };
        let layout = tensor::layout(pickle, value).map_err(tensor_error)?;
        let tensor = storages.tensor(&layout, &mut remaining).map_err(tensor_error)?;
        tensors.insert(name.to_owned(), tensor.ok_or(Problem::TooLarge { limit })?);
    }
    let top = pickle.entries(pickle.root()).unwrap_or_default();
    let find = |name: &str| {
        let found = top.iter().rev().find(|(key, _)| pickle.text(*key) == Some(name));
        found.map(|(_, value)| *value)
    };
    let number = |name: &str| pickle.int(find(name)?).and_then(|value| u64::try_from(value).ok());
    let (epoch, global_step) = (number("epoch"), number("global_step"));
    let entries = match weights.under {
        None => Vec::new(),
        Some(under) => top
            .iter()
            .filter_map(|(key, value)| Some((pickle.text(*key)?, *value)))
            .filter(|(key, _)| *key != under)
            .map(|(key, value)| (key.to_owned(), pickle.describe(value)))
            .collect(),
    };
    Ok(WeightIndex {
        style: Style::detect(tensors.keys().map(String::as_str)),
        tensors,
        format,
        summary: Summary {
            hyper_parameters: find("hyper_parameters").map_or(serde_json::Value::Null, |value| json::of(pickle, value)),
            weights_under: weights.under.map(str::to_owned),
            epoch,
            global_step,
            entries,
            skipped,
        },
    })
}

/// Finds the dictionary of weights: the one under `model` if it contains tensors, else the one under `state_dict`, else the top
/// level.
fn find_weights(pickle: &Pickle) -> Result<Weights, Problem> {
    let root = pickle.root();
    let Some(top) = pickle.entries(root) else {
        return Err(match pickle.object(root) {
            Some(_) => unsupported_error(pickle, root, "its content".to_owned()),
            None => Problem::NoWeights,
        });
    };
    let holds_tensors = |entries: &[(Ref, Ref)]| entries.iter().any(|(_, value)| tensor::is_tensor(pickle, *value));
    // The first entry under `model` or `state_dict` that an unsupported call would make, and the callable.
    let mut unsupported = None;
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
            Some(entries) => {
                unsupported = unsupported.or(entries.iter().find_map(|(_, v)| unsupported_call(pickle, *v)))
            }
            None => unsupported = unsupported.or(unsupported_call(pickle, *value)),
        }
        unsupported = unsupported.map(|(_, callable)| (format!("`{under}`"), callable));
    }
    if holds_tensors(&top) {
        return Ok(Weights {
            under: None,
            entries: top,
        });
    }
    let unsupported = unsupported.or_else(|| top.iter().find_map(|(_, value)| unsupported_call(pickle, *value)));
    Err(match unsupported {
        Some((entry, callable)) => Problem::ForeignCallable { entry, callable },
        None => Problem::NoWeights,
    })
}

/// Returns a description of the entry and the name of the callable if an unsupported call makes the value.
fn unsupported_call(pickle: &Pickle, value: Ref) -> Option<(String, String)> {
    let is_unsupported = matches!(pickle.get(value), Value::Object(_)) && pickle.entries(value).is_none();
    is_unsupported.then(|| ("an entry".to_owned(), callable_name(pickle, value)))
}

fn unsupported_error(pickle: &Pickle, value: Ref, entry: String) -> Problem {
    Problem::ForeignCallable {
        entry,
        callable: callable_name(pickle, value),
    }
}

fn callable_name(pickle: &Pickle, value: Ref) -> String {
    pickle
        .callable(value)
        .unwrap_or_else(|| "a nameless function".to_owned())
}

impl<'a> Storages<'a> {
    /// Finds a tensor's values in its storage, and subtracts their size from `remaining`. Returns `None` if the size is more than
    /// `remaining`.
    fn tensor(&self, layout: &tensor::Layout, remaining: &mut usize) -> Result<Option<TensorView<'a>>, TensorProblem> {
        let bytes = self.bytes.get(&layout.key).copied();
        let bytes = bytes.ok_or_else(|| TensorProblem::MissingStorage(layout.key.clone()))?;
        let size = layout.dtype.size();
        let available = bytes.len() / size;
        let beyond_storage = || TensorProblem::BeyondStorage {
            shape: layout.shape.clone(),
            available,
        };

        // A tensor without values may have any offset and strides.
        let is_empty = layout.shape.contains(&0);
        let count = if is_empty {
            0
        } else {
            let product = layout
                .shape
                .iter()
                .try_fold(1usize, |product, n| product.checked_mul(*n));
            // A view with a stride of 0 can have any size, so tensors with more values than their storage are rejected.
            product.filter(|n| *n <= available).ok_or_else(beyond_storage)?
        };
        if count > 0 {
            let mut dimensions = layout.shape.iter().zip(&layout.strides);
            let last = dimensions.try_fold(layout.offset, |last, (n, stride)| {
                last.checked_add((n - 1).checked_mul(*stride)?)
            });
            last.filter(|last| *last < available).ok_or_else(beyond_storage)?;
        }
        let Some(rest) = remaining.checked_sub(count * size) else {
            return Ok(None);
        };
        *remaining = rest;

        let shape = layout.shape.clone();
        Ok(Some(if count == 0 {
            TensorView::contiguous(shape, layout.dtype, &[], self.big_endian)
        } else if is_contiguous(&layout.shape, &layout.strides) {
            let start = layout.offset * size;
            let bytes = &bytes[start..start + count * size];
            TensorView::contiguous(shape, layout.dtype, bytes, self.big_endian)
        } else {
            let (offset, strides) = (layout.offset, layout.strides.clone());
            TensorView::strided(shape, layout.dtype, bytes, self.big_endian, offset, strides)
        }))
    }
}

fn is_contiguous(shape: &[usize], strides: &[usize]) -> bool {
    let mut expected = 1;
    shape.iter().zip(strides).rev().all(|(n, stride)| {
        let is_dense = *n == 1 || *stride == expected;
        expected *= n;
        is_dense
    })
}

#[cfg(test)]
mod tests;
