//! Tensors whose values stay in the bytes of their file until they are read.

use std::borrow::Cow;

use indexmap::IndexMap;
use rayon::prelude::*;

use super::state::{Dtype, StateDict, StoredTensor, bf16_to_f32, decode, f16_to_f32};
use super::{Format, Style, Summary, WeightFile};

/// Number of values that one thread copies at a time.
const CHUNK: usize = 1 << 18;

/// The tensors of a weight file. Values are read from the bytes of the file on request.
#[derive(Debug, Clone)]
pub struct WeightIndex<'a> {
    /// The tensors, in the file's order.
    pub tensors: IndexMap<String, TensorView<'a>>,
    /// The format of the file.
    pub format: Format,
    /// The naming scheme of the tensors.
    pub style: Style,
    /// The content of the file other than the weights.
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

    /// Copies all tensors.
    pub fn decode(self) -> WeightFile {
        let tensors = self.tensors.into_iter();
        WeightFile {
            state: tensors
                .map(|(name, tensor)| (name, tensor.decode()))
                .collect::<StateDict>(),
            format: self.format,
            style: self.style,
            summary: self.summary,
        }
    }
}

/// A tensor in the bytes of a file.
#[derive(Debug, Clone)]
pub struct TensorView<'a> {
    shape: Vec<usize>,
    dtype: Dtype,
    big_endian: bool,
    /// The values in row-major order; or the storage that contains them, if there are strides.
    bytes: &'a [u8],
    strides: Option<Strides>,
}

/// The positions of values in a storage, in values. All positions are within the storage.
#[derive(Debug, Clone)]
struct Strides {
    offset: usize,
    strides: Vec<usize>,
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
            bytes,
            strides: None,
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
            bytes: storage,
            strides: Some(Strides { offset, strides }),
        }
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

    /// Writes the values to `out` in single precision, on all cores: 16-bit values are widened, 64-bit values rounded. Returns false, and
    /// writes nothing, if the values are integers or booleans.
    ///
    /// # Panics
    /// Panics if `out` does not have the number of values.
    pub fn read_f32(&self, out: &mut [f32]) -> bool {
        assert_eq!(
            out.len(),
            self.shape.iter().product::<usize>(),
            "number of values of a tensor of shape {:?}",
            self.shape
        );
        let bytes = self.row_major();
        let big_endian = self.big_endian;
        match self.dtype {
            Dtype::F32 => convert(&bytes, out, big_endian, f32::from_le_bytes),
            Dtype::F64 => convert(&bytes, out, big_endian, |b| f64::from_le_bytes(b) as f32),
            Dtype::F16 => convert(&bytes, out, big_endian, |b| f16_to_f32(u16::from_le_bytes(b))),
            Dtype::BF16 => convert(&bytes, out, big_endian, |b| bf16_to_f32(u16::from_le_bytes(b))),
            Dtype::I64 | Dtype::I32 | Dtype::I16 | Dtype::I8 | Dtype::U8 | Dtype::Bool => return false,
        }
        true
    }

    /// Returns the bytes of the values in row-major order.
    fn row_major(&self) -> Cow<'a, [u8]> {
        let Some(Strides { offset, strides }) = &self.strides else {
            return Cow::Borrowed(self.bytes);
        };
        let size = self.dtype.size();
        let count = self.shape.iter().product::<usize>();
        let mut gathered = Vec::with_capacity(count * size);
        let mut index = vec![0; self.shape.len()];
        let mut position = *offset;
        for _ in 0..count {
            gathered.extend_from_slice(&self.bytes[position * size..(position + 1) * size]);
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

/// Converts values of `N` bytes.
fn convert<const N: usize>(bytes: &[u8], out: &mut [f32], big_endian: bool, from_le: impl Fn([u8; N]) -> f32 + Sync) {
    let values = bytes.as_chunks::<N>().0;
    out.par_chunks_mut(CHUNK)
        .zip(values.par_chunks(CHUNK))
        .for_each(|(out, values)| {
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
        });
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
                assert!(view.read_f32(&mut out));
                assert_eq!(out, [1.5], "{dtype}");
                assert_eq!(view.decode().to_f32().expect("floating-point values"), [1.5].as_slice());
            }
        }
        let view = TensorView::contiguous(vec![2], Dtype::U8, &[1, 2], false);
        assert!(!view.read_f32(&mut [0.0; 2]));
        assert_eq!(view.decode().data, TensorData::U8(vec![1, 2]));
    }

    #[test]
    fn long_tensors_are_read_in_chunks() {
        let values: Vec<f32> = (0..2 * CHUNK + 3).map(|i| i as f32).collect();
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let view = TensorView::contiguous(vec![values.len()], Dtype::F32, &bytes, false);
        let mut out = vec![0.0; values.len()];
        assert!(view.read_f32(&mut out));
        assert_eq!(out, values);
    }

    #[test]
    fn strided_values_are_read_in_row_major_order() {
        let storage: Vec<u8> = (0..6).flat_map(|i| (i as f32).to_le_bytes()).collect();
        let view = TensorView::strided(vec![3, 2], Dtype::F32, &storage, false, 0, vec![1, 3]);
        let mut out = [0.0; 6];
        assert!(view.read_f32(&mut out));
        assert_eq!(out, [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
    }
}
