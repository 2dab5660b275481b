//! Checkpoints written by PyTorch: the zip archives of version 1.6 and later, and the format before version 1.6.
//!
//! Both formats consist of a pickle with everything except the values of tensors, and of storages with the values. Nothing in the
//! pickle is executed (see [`vlct_pickle`]). Only the weights and the hyper-parameters are decoded; other entries are described in a few
//! words. A tensor that cannot be read does not prevent reading the others.

mod archive;
mod containers;
mod json;
mod legacy;
mod tensor;
mod training;
mod write;

pub(super) use archive::SIGNATURES;
#[cfg(test)]
pub(super) use legacy::legacy_file;
pub(super) use legacy::starts_with_magic;
pub use training::{Group, ParameterState, Setting, StoredParameter, StoredTraining, Training};
pub(super) use training::{training_in_archive, training_in_legacy};
pub(super) use write::{write, write_training};

use std::collections::{HashMap, HashSet};

use indexmap::IndexMap;
use rayon::prelude::*;

use super::error::{Problem, TensorProblem};
use super::view::{RawIndex, TensorView};
use super::{Format, Summary};
use vlct_pickle::Pickle;

/// Maximum size of the decoded tensors, in multiples of the size of the file. Tensors that share storages can take more than the
/// file; real checkpoints stay far below this limit.
const MAX_SHARING: usize = 4;
/// Size of the decoded tensors that every file may have, in bytes. A small file can have views that are larger than itself.
const MIN_DECODED: usize = 64 << 20;

/// The storages of a file, by key.
struct Storages<'a> {
    storages: HashMap<String, Storage<'a>>,
    big_endian: bool,
}

/// The values of tensors in a file.
struct Storage<'a> {
    bytes: &'a [u8],
    /// The CRC-32 that the file has for the bytes; `None` if it has none.
    crc32: Option<u32>,
}

/// Finds the tensors of a zip archive of PyTorch 1.6 and later, without copying values, and verifies their checksums.
pub(super) fn index_archive(bytes: &[u8]) -> Result<RawIndex<'_>, Problem> {
    let archive = archive::open(bytes)?;
    let pickle = vlct_pickle::parse(archive.pickle)?;
    index(&pickle, &archive.storages, bytes.len(), Format::TorchZip)
}

/// Finds the tensors of a file in the format before version 1.6, without copying values.
pub(super) fn index_legacy(bytes: &[u8]) -> Result<RawIndex<'_>, Problem> {
    let (pickle, storages) = legacy::open(bytes)?;
    index(&pickle, &storages, bytes.len(), Format::TorchLegacy)
}

fn index<'a>(pickle: &Pickle, storages: &Storages<'a>, length: usize, format: Format) -> Result<RawIndex<'a>, Problem> {
    let weights = containers::find(pickle)?;
    let mut layouts = IndexMap::new();
    let mut skipped = Vec::new();
    for (key, value) in weights.entries {
        let Some(name) = pickle.text(key) else {
            skipped.push(pickle.describe(key));
            continue;
        };
        let layout = if tensor::is_tensor(pickle, value) {
            tensor::layout(pickle, value)
        } else {
            match pickle.callable(value) {
                // At the top level, other objects next to the tensors are normal.
                Some(callable) if pickle.entries(value).is_none() && !weights.path.is_empty() => {
                    Err(TensorProblem::ForeignCallable(callable))
                }
                _ => {
                    skipped.push(name.to_owned());
                    continue;
                }
            }
        };
        layouts.insert(name.to_owned(), layout);
    }
    let keys = layouts.values().flatten().map(|layout| layout.key.as_str()).collect();
    let Verified { damaged, has_checksums } = storages.verify(keys);
    let mut remaining = length.saturating_mul(MAX_SHARING).max(MIN_DECODED);
    let mut tensor = |layout: Result<tensor::Layout, TensorProblem>| {
        let layout = layout?;
        match damaged.contains(&layout.key) {
            true => Err(TensorProblem::Checksum),
            false => storages.tensor(&layout, &mut remaining),
        }
    };
    let tensors = layouts
        .into_iter()
        .map(|(name, layout)| (name, tensor(layout)))
        .collect();
    let top = pickle.entries(pickle.root()).unwrap_or_default();
    let find = |name: &str| {
        let found = top.iter().rev().find(|(key, _)| pickle.text(*key) == Some(name));
        found.map(|(_, value)| *value)
    };
    let number = |name: &str| pickle.int(find(name)?).and_then(|value| u64::try_from(value).ok());
    let (epoch, global_step) = (number("epoch"), number("global_step"));
    let entries = match weights.path.first() {
        None => Vec::new(),
        Some(first) => top
            .iter()
            .filter_map(|(key, value)| Some((pickle.text(*key)?, *value)))
            .filter(|(key, _)| key != first)
            .map(|(key, value)| (key.to_owned(), pickle.describe(value)))
            .collect(),
    };
    Ok(RawIndex {
        tensors,
        averages: IndexMap::new(),
        format,
        summary: Summary {
            description: find("description")
                .and_then(|value| pickle.text(value))
                .and_then(super::description),
            hyper_parameters: find("hyper_parameters").map_or(serde_json::Value::Null, |value| json::of(pickle, value)),
            weights_under: (!weights.path.is_empty()).then(|| weights.path.join(".")),
            epoch,
            global_step,
            entries,
            skipped,
            has_checksums,
            ..Summary::default()
        },
    })
}

/// The result of [`Storages::verify`].
struct Verified {
    /// Keys of the storages whose bytes differ from those that were written.
    damaged: HashSet<String>,
    /// Whether all verified storages have a checksum.
    has_checksums: bool,
}

impl<'a> Storages<'a> {
    /// Verifies the checksums of these storages, on all cores.
    fn verify(&self, keys: HashSet<&str>) -> Verified {
        let found: Vec<(&str, &Storage)> = keys
            .into_iter()
            .filter_map(|key| Some((key, self.storages.get(key)?)))
            .filter(|(_, storage)| !storage.bytes.is_empty())
            .collect();
        let is_damaged = |(_, storage): &&(&str, &Storage)| {
            storage
                .crc32
                .is_some_and(|crc32| crc32fast::hash(storage.bytes) != crc32)
        };
        let damaged = found.par_iter().filter(is_damaged);
        Verified {
            damaged: damaged.map(|(key, _)| (*key).to_owned()).collect(),
            has_checksums: found.iter().all(|(_, storage)| storage.crc32.is_some()),
        }
    }

    /// Finds a tensor's values in its storage, and subtracts their size from `remaining`, the number of bytes that tensors may have.
    fn tensor(&self, layout: &tensor::Layout, remaining: &mut usize) -> Result<TensorView<'a>, TensorProblem> {
        let bytes = self.storages.get(&layout.key).map(|storage| storage.bytes);
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
            // A view with a stride of 0 can have more values than its storage. The other views cannot, which is checked below.
            product
                .filter(|n| n.checked_mul(size).is_some())
                .ok_or_else(beyond_storage)?
        };
        if count > 0 {
            let mut dimensions = layout.shape.iter().zip(&layout.strides);
            let last = dimensions.try_fold(layout.offset, |last, (n, stride)| {
                last.checked_add((n - 1).checked_mul(*stride)?)
            });
            last.filter(|last| *last < available).ok_or_else(beyond_storage)?;
        }
        let rest = remaining.checked_sub(count * size);
        *remaining = rest.ok_or(TensorProblem::TooLarge { size: count * size })?;

        let shape = layout.shape.clone();
        Ok(if count == 0 {
            TensorView::contiguous(shape, layout.dtype, &[], self.big_endian)
        } else if is_contiguous(&layout.shape, &layout.strides) {
            let start = layout.offset * size;
            let bytes = &bytes[start..start + count * size];
            TensorView::contiguous(shape, layout.dtype, bytes, self.big_endian)
        } else {
            let (offset, strides) = (layout.offset, layout.strides.clone());
            TensorView::strided(shape, layout.dtype, bytes, self.big_endian, offset, strides)
        })
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
