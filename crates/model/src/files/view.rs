//! Tensors whose values stay in the bytes of their file until they are read.

use std::borrow::Cow;

use indexmap::IndexMap;
use rayon::prelude::*;

use super::error::TensorProblem;
use super::state::{Dtype, StateDict, StoredTensor, bf16_to_f32, decode, f16_to_f32};
use super::{Format, Style, Summary, WeightFile, names};
use vlct_checkpoint::AVERAGE_PREFIX;

/// Number of values that one thread copies at a time.
const CHUNK: usize = 1 << 18;
/// Number of values that are converted before they are checked.
const CHECKED: usize = 1 << 12;

/// The tensors of a weight file. Values are read from the bytes of the file on request.
#[derive(Debug, Clone)]
pub struct WeightIndex<'a> {
    /// The tensors by the model's names, in the file's order.
    pub tensors: IndexMap<String, TensorView<'a>>,
    /// Tensors whose values cannot be read, each with the reason.
    pub unreadable: IndexMap<String, TensorProblem>,
    /// Moving averages of the weights, by the names of the weights. Only checkpoints of this program have them.
    pub averages: IndexMap<String, TensorView<'a>>,
    /// The format of the file.
    pub format: Format,
    /// The naming scheme of the tensors.
    pub style: Style,
    /// The content of the file other than the weights.
    pub summary: Summary,
}

/// The tensors of a weight file by the names in the file.
pub(super) struct RawIndex<'a> {
    /// The tensors, or the reasons why they cannot be read, in the file's order.
    pub tensors: IndexMap<String, Result<TensorView<'a>, TensorProblem>>,
    /// Moving averages of the weights.
    pub averages: IndexMap<String, TensorView<'a>>,
    pub format: Format,
    pub summary: Summary,
}

impl WeightIndex<'_> {
    /// Returns the shape of a tensor; `None` if there is no such tensor.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|tensor| tensor.shape.as_slice())
    }

    /// Returns names, shapes and element types, in order.
    pub fn shapes(&self) -> impl ExactSizeIterator<Item = (&str, &[usize], Dtype)> {
        let tensors = self.tensors.iter();
        tensors.map(|(name, tensor)| (name.as_str(), tensor.shape.as_slice(), tensor.dtype))
    }

    /// Replaces every weight that has a moving average by its average.
    #[must_use]
    pub fn with_averages(mut self) -> Self {
        for (name, average) in std::mem::take(&mut self.averages) {
            if let Some(tensor) = self.tensors.get_mut(&name) {
                *tensor = average;
            }
        }
        self
    }

    /// Returns the names of the model's tensors, and averages of tensors, with values that are NaN or infinite, each with the number of
    /// these values, and the same of tensors that the model does not have.
    pub fn non_finite(&self) -> NonFinite {
        let mut found = NonFinite::default();
        for (name, tensor) in &self.tensors {
            match (tensor.non_finite(), names::is_of_model(name)) {
                (0, _) => {}
                (count, true) => found.of_model.push((name.clone(), count)),
                (count, false) => found.others.push((name.clone(), count)),
            }
        }
        for (name, average) in &self.averages {
            let count = average.non_finite();
            if count > 0 {
                found.of_model.push((format!("{AVERAGE_PREFIX}{name}"), count));
            }
        }
        found
    }

    /// Returns the names of the tensors whose values have changed since the file was written.
    pub fn damaged(&self) -> Vec<String> {
        let is_damaged = |(_, problem): &(&String, &TensorProblem)| **problem == TensorProblem::Checksum;
        let damaged = self.unreadable.iter().filter(is_damaged);
        damaged.map(|(name, _)| name.clone()).collect()
    }

    /// Copies all readable tensors.
    pub fn decode(self) -> WeightFile {
        let tensors = self.tensors.into_iter();
        WeightFile {
            state: tensors
                .map(|(name, tensor)| (name, tensor.decode()))
                .collect::<StateDict>(),
            unreadable: self.unreadable,
            format: self.format,
            style: self.style,
            summary: self.summary,
        }
    }
}

/// Names of tensors with values that are NaN or infinite, each with the number of these values.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NonFinite {
    /// Tensors with names of the model, and averages.
    pub of_model: Vec<(String, usize)>,
    /// Other tensors.
    pub others: Vec<(String, usize)>,
}

/// A tensor in the bytes of a file.
#[derive(Debug, Clone)]
pub struct TensorView<'a> {
    shape: Vec<usize>,
    dtype: Dtype,
    big_endian: bool,
    values: Values<'a>,
}

/// The places of the values of a tensor.
#[derive(Debug, Clone)]
enum Values<'a> {
    /// The values in row-major order.
    RowMajor(&'a [u8]),
    /// A storage, and the positions in it, in values. All positions are within the storage.
    Strided {
        storage: &'a [u8],
        offset: usize,
        strides: Vec<usize>,
    },
    /// Tensors of the same type and byte order, whose values follow one another.
    Joined(Vec<TensorView<'a>>),
}

impl<'a> TensorView<'a> {
    /// Makes a tensor of values in row-major order.
    ///
    /// # Panics
    /// Panics if `bytes` does not have the size of the values.
    pub(super) fn contiguous(shape: Vec<usize>, dtype: Dtype, bytes: &'a [u8], big_endian: bool) -> Self {
        assert_eq!(
            shape.iter().product::<usize>() * dtype.size(),
            bytes.len(),
            "bytes of a tensor of shape {shape:?}"
        );
        Self {
            shape,
            dtype,
            big_endian,
            values: Values::RowMajor(bytes),
        }
    }

    /// Makes a tensor whose values are at arbitrary positions of a storage. The caller has checked that all positions are within the
    /// storage.
    pub(super) fn strided(
        shape: Vec<usize>,
        dtype: Dtype,
        storage: &'a [u8],
        big_endian: bool,
        offset: usize,
        strides: Vec<usize>,
    ) -> Self {
        Self {
            shape,
            dtype,
            big_endian,
            values: Values::Strided {
                storage,
                offset,
                strides,
            },
        }
    }

    /// Joins tensors along the first axis.
    ///
    /// # Errors
    /// Returns [`TensorProblem::PartsDiffer`] if there is no tensor, or if the tensors differ in shape, element type or byte order, or have
    /// no axis.
    pub(super) fn joined(parts: Vec<Self>) -> Result<Self, TensorProblem> {
        let like = |part: &Self| (part.shape.clone(), part.dtype, part.big_endian);
        let joined = parts.first().map(like).and_then(|first| {
            let (mut shape, dtype, big_endian) = first.clone();
            let rows = shape.first_mut()?;
            *rows = rows.checked_mul(parts.len())?;
            parts
                .iter()
                .all(|part| like(part) == first)
                .then_some((shape, dtype, big_endian))
        });
        let Some((shape, dtype, big_endian)) = joined else {
            let described = parts.iter().map(|part| format!("{} {:?}", part.dtype, part.shape));
            return Err(TensorProblem::PartsDiffer(described.collect::<Vec<_>>().join(", ")));
        };
        Ok(Self {
            shape,
            dtype,
            big_endian,
            values: Values::Joined(parts),
        })
    }

    /// Returns the sizes of the axes.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Returns the element type.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Copies the values, in the element type of the file.
    pub fn decode(&self) -> StoredTensor {
        let data = decode(self.dtype, &self.row_major(), self.big_endian);
        StoredTensor::new(self.shape.clone(), data)
    }

    /// Writes the values to `out` in single precision, on all cores: 16-bit values are widened, 64-bit values rounded. Returns whether all
    /// are finite; `None`, and writes nothing, if the values are integers or booleans.
    ///
    /// # Panics
    /// Panics if `out` does not have the number of values.
    pub fn read_f32(&self, out: &mut [f32]) -> Option<bool> {
        assert_eq!(
            out.len(),
            self.shape.iter().product::<usize>(),
            "number of values of a tensor of shape {:?}",
            self.shape
        );
        if let Values::Joined(parts) = &self.values {
            let mut is_finite = true;
            let mut rest = out;
            for part in parts {
                let (out, after) = rest.split_at_mut(part.shape.iter().product());
                is_finite &= part.read_f32(out)?;
                rest = after;
            }
            return Some(is_finite);
        }
        let bytes = self.row_major();
        let big_endian = self.big_endian;
        Some(match self.dtype {
            Dtype::F32 => convert(&bytes, out, big_endian, f32::from_le_bytes),
            Dtype::F64 => convert(&bytes, out, big_endian, |b| f64::from_le_bytes(b) as f32),
            Dtype::F16 => convert(&bytes, out, big_endian, |b| f16_to_f32(u16::from_le_bytes(b))),
            Dtype::BF16 => convert(&bytes, out, big_endian, |b| bf16_to_f32(u16::from_le_bytes(b))),
            Dtype::I64 | Dtype::I32 | Dtype::I16 | Dtype::I8 | Dtype::U8 | Dtype::Bool => return None,
        })
    }

    /// Returns the number of floating-point values that are NaN or infinite; 0 for integers and booleans.
    pub fn non_finite(&self) -> usize {
        if let Values::Joined(parts) = &self.values {
            return parts.iter().map(Self::non_finite).sum();
        }
        let bytes = self.row_major();
        let big_endian = self.big_endian;
        match self.dtype {
            Dtype::F32 => count(&bytes, big_endian, |b| !f32::from_le_bytes(b).is_finite()),
            Dtype::F64 => count(&bytes, big_endian, |b| !f64::from_le_bytes(b).is_finite()),
            Dtype::F16 => count(&bytes, big_endian, |b| !f16_to_f32(u16::from_le_bytes(b)).is_finite()),
            Dtype::BF16 => count(&bytes, big_endian, |b| !bf16_to_f32(u16::from_le_bytes(b)).is_finite()),
            Dtype::I64 | Dtype::I32 | Dtype::I16 | Dtype::I8 | Dtype::U8 | Dtype::Bool => 0,
        }
    }

    /// Returns the bytes of the values in row-major order.
    fn row_major(&self) -> Cow<'a, [u8]> {
        let (storage, offset, strides) = match &self.values {
            Values::RowMajor(bytes) => return Cow::Borrowed(bytes),
            Values::Joined(parts) => {
                let parts: Vec<_> = parts.iter().map(Self::row_major).collect();
                return Cow::Owned(parts.concat());
            }
            Values::Strided {
                storage,
                offset,
                strides,
            } => (storage, offset, strides),
        };
        let size = self.dtype.size();
        let count = self.shape.iter().product::<usize>();
        let mut gathered = Vec::with_capacity(count * size);
        let mut index = vec![0; self.shape.len()];
        let mut position = *offset;
        for _ in 0..count {
            gathered.extend_from_slice(&storage[position * size..(position + 1) * size]);
            for axis in (0..index.len()).rev() {
                // The stride of an axis of length 1 may have any value: it is added and subtracted again, so the sum may wrap.
                let (length, stride) = (self.shape[axis], strides[axis]);
                index[axis] += 1;
                position = position.wrapping_add(stride);
                if index[axis] < length {
                    break;
                }
                position = position.wrapping_sub(stride.wrapping_mul(length));
                index[axis] = 0;
            }
        }
        Cow::Owned(gathered)
    }
}

/// Converts values of `N` bytes. Returns whether all results are finite.
fn convert<const N: usize>(
    bytes: &[u8],
    out: &mut [f32],
    big_endian: bool,
    from_le: impl Fn([u8; N]) -> f32 + Sync,
) -> bool {
    let values = bytes.as_chunks::<N>().0;
    let chunks = out.par_chunks_mut(CHUNK).zip(values.par_chunks(CHUNK));
    let is_finite = chunks.map(|(out, values)| {
        let mut is_finite = true;
        // The values are checked while they are in the L1 cache.
        for (out, values) in out.chunks_mut(CHECKED).zip(values.chunks(CHECKED)) {
            if big_endian {
                for (out, value) in out.iter_mut().zip(values) {
                    let mut value = *value;
                    value.reverse();
                    *out = from_le(value);
                }
            } else {
                for (out, value) in out.iter_mut().zip(values) {
                    *out = from_le(*value);
                }
            }
            is_finite &= out.iter().fold(true, |finite, value| finite & value.is_finite());
        }
        is_finite
    });
    is_finite.reduce(|| true, |a, b| a & b)
}

/// Returns the number of values of `N` bytes for which `holds` is true.
fn count<const N: usize>(bytes: &[u8], big_endian: bool, holds: impl Fn([u8; N]) -> bool + Sync) -> usize {
    let in_chunk = |values: &[[u8; N]]| {
        let holds = |value: &&[u8; N]| {
            let mut value = **value;
            if big_endian {
                value.reverse();
            }
            holds(value)
        };
        values.iter().filter(holds).count()
    };
    bytes.as_chunks::<N>().0.par_chunks(CHUNK).map(in_chunk).sum()
}

#[cfg(test)]
mod tests {
    use super::super::state::TensorData;
    use super::*;

    #[test]
    fn reads_values_of_every_floating_point_type_in_both_byte_orders() {
        let cases = [
            (Dtype::F32, 1.5f32.to_le_bytes().to_vec()),
            (Dtype::F64, 1.5f64.to_le_bytes().to_vec()),
            (Dtype::F16, 0x3e00u16.to_le_bytes().to_vec()),
            (Dtype::BF16, 0x3fc0u16.to_le_bytes().to_vec()),
        ];
        for (dtype, little) in cases {
            let big: Vec<u8> = little.iter().rev().copied().collect();
            for (bytes, big_endian) in [(&little, false), (&big, true)] {
                let view = TensorView::contiguous(vec![1], dtype, bytes, big_endian);
                let mut out = [0.0];
                assert_eq!(view.read_f32(&mut out), Some(true));
                assert_eq!(out, [1.5], "{dtype}");
                assert_eq!(view.decode().to_f32().expect("floating-point values"), [1.5].as_slice());
            }
        }
        let view = TensorView::contiguous(vec![2], Dtype::U8, &[1, 2], false);
        assert_eq!(view.read_f32(&mut [0.0; 2]), None);
        assert_eq!(view.decode().data, TensorData::U8(vec![1, 2]));
    }

    #[test]
    fn long_tensors_are_read_in_chunks() {
        let values: Vec<f32> = (0..2 * CHUNK + 3).map(|i| i as f32).collect();
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let view = TensorView::contiguous(vec![values.len()], Dtype::F32, &bytes, false);
        let mut out = vec![0.0; values.len()];
        assert_eq!(view.read_f32(&mut out), Some(true));
        assert_eq!(out, values);
        for position in [0, CHECKED, CHUNK - 1, values.len() - 1] {
            for value in [f32::NAN, f32::NEG_INFINITY] {
                let mut bytes = bytes.clone();
                bytes[4 * position..4 * position + 4].copy_from_slice(&value.to_le_bytes());
                let view = TensorView::contiguous(vec![values.len()], Dtype::F32, &bytes, false);
                assert_eq!(view.read_f32(&mut out), Some(false));
                assert_eq!(view.non_finite(), 1);
            }
        }
    }

    #[test]
    fn strided_values_are_read_in_row_major_order() {
        let storage: Vec<u8> = (0..6).flat_map(|i| (i as f32).to_le_bytes()).collect();
        let view = TensorView::strided(vec![3, 2], Dtype::F32, &storage, false, 0, vec![1, 3]);
        let mut out = [0.0; 6];
        assert_eq!(view.read_f32(&mut out), Some(true));
        assert_eq!(out, [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
    }
}
