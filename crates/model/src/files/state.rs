//! Named tensors in memory.

use std::borrow::Cow;
use std::io::Write;

use indexmap::IndexMap;

/// The values of a tensor, row-major, in the element type of the file.
#[derive(Debug, Clone, PartialEq)]
pub enum TensorData {
    /// 32-bit floating point.
    F32(Vec<f32>),
    /// 64-bit floating point.
    F64(Vec<f64>),
    /// IEEE half precision, as bits.
    F16(Vec<u16>),
    /// bfloat16, as bits.
    BF16(Vec<u16>),
    /// 64-bit integers.
    I64(Vec<i64>),
    /// 32-bit integers.
    I32(Vec<i32>),
    /// 16-bit integers.
    I16(Vec<i16>),
    /// 8-bit integers.
    I8(Vec<i8>),
    /// 8-bit unsigned integers.
    U8(Vec<u8>),
    /// Booleans.
    Bool(Vec<bool>),
}

/// Evaluates `$body` with `$values` bound to the vector of any variant of [`TensorData`].
macro_rules! with_values {
    ($data:expr, $values:ident => $body:expr) => {
        match $data {
            TensorData::F32($values) => $body,
            TensorData::F64($values) => $body,
            TensorData::F16($values) | TensorData::BF16($values) => $body,
            TensorData::I64($values) => $body,
            TensorData::I32($values) => $body,
            TensorData::I16($values) => $body,
            TensorData::I8($values) => $body,
            TensorData::U8($values) => $body,
            TensorData::Bool($values) => $body,
        }
    };
}

impl TensorData {
    /// Returns the number of values.
    pub fn len(&self) -> usize {
        with_values!(self, values => values.len())
    }

    /// Whether there are no values.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the element type.
    pub fn dtype(&self) -> Dtype {
        match self {
            Self::F32(_) => Dtype::F32,
            Self::F64(_) => Dtype::F64,
            Self::F16(_) => Dtype::F16,
            Self::BF16(_) => Dtype::BF16,
            Self::I64(_) => Dtype::I64,
            Self::I32(_) => Dtype::I32,
            Self::I16(_) => Dtype::I16,
            Self::I8(_) => Dtype::I8,
            Self::U8(_) => Dtype::U8,
            Self::Bool(_) => Dtype::Bool,
        }
    }

    /// Writes the values as little-endian bytes, in chunks of bounded size.
    pub(crate) fn write_le(&self, out: &mut dyn Write) -> std::io::Result<()> {
        match self {
            Self::F32(values) => write_chunks(out, values, f32::to_le_bytes),
            Self::F64(values) => write_chunks(out, values, f64::to_le_bytes),
            Self::F16(values) | Self::BF16(values) => write_chunks(out, values, u16::to_le_bytes),
            Self::I64(values) => write_chunks(out, values, i64::to_le_bytes),
            Self::I32(values) => write_chunks(out, values, i32::to_le_bytes),
            Self::I16(values) => write_chunks(out, values, i16::to_le_bytes),
            Self::I8(values) => write_chunks(out, values, i8::to_le_bytes),
            Self::U8(values) => out.write_all(values),
            Self::Bool(values) => write_chunks(out, values, |value| [u8::from(value)]),
        }
    }
}

/// Writes values as little-endian bytes, in chunks of bounded size.
pub(super) fn write_chunks<T: Copy, const N: usize>(
    out: &mut dyn Write,
    values: &[T],
    bytes: impl Fn(T) -> [u8; N],
) -> std::io::Result<()> {
    /// Values per chunk.
    const CHUNK: usize = 16 << 10;
    let mut buffer = Vec::with_capacity(CHUNK.min(values.len()) * N);
    for chunk in values.chunks(CHUNK) {
        buffer.clear();
        buffer.extend(chunk.iter().flat_map(|value| bytes(*value)));
        out.write_all(&buffer)?;
    }
    Ok(())
}

/// Element types of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(
    missing_docs,
    reason = "the variants of TensorData have the same names and are documented"
)]
pub enum Dtype {
    F32,
    F64,
    F16,
    BF16,
    I64,
    I32,
    I16,
    I8,
    U8,
    Bool,
}

impl Dtype {
    /// Whether the values are floating-point numbers.
    pub fn is_floating(self) -> bool {
        matches!(self, Self::F32 | Self::F64 | Self::F16 | Self::BF16)
    }

    /// Returns the size of a value in a file, in bytes.
    pub fn size(self) -> usize {
        match self {
            Self::F64 | Self::I64 => 8,
            Self::F32 | Self::I32 => 4,
            Self::F16 | Self::BF16 | Self::I16 => 2,
            Self::I8 | Self::U8 | Self::Bool => 1,
        }
    }
}

impl std::fmt::Display for Dtype {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::F32 => "float32",
            Self::F64 => "float64",
            Self::F16 => "float16",
            Self::BF16 => "bfloat16",
            Self::I64 => "int64",
            Self::I32 => "int32",
            Self::I16 => "int16",
            Self::I8 => "int8",
            Self::U8 => "uint8",
            Self::Bool => "bool",
        })
    }
}

/// Decodes bytes into values; remaining bytes that do not make a whole value are ignored.
pub(crate) fn decode(dtype: Dtype, bytes: &[u8], big_endian: bool) -> TensorData {
    fn values<T, const N: usize>(bytes: &[u8], big_endian: bool, from_le: impl Fn([u8; N]) -> T) -> Vec<T> {
        let (values, _) = bytes.as_chunks::<N>();
        if big_endian {
            let swapped = |mut value: [u8; N]| {
                value.reverse();
                value
            };
            values.iter().map(|value| from_le(swapped(*value))).collect()
        } else {
            values.iter().map(|value| from_le(*value)).collect()
        }
    }
    match dtype {
        Dtype::F32 => TensorData::F32(values(bytes, big_endian, f32::from_le_bytes)),
        Dtype::F64 => TensorData::F64(values(bytes, big_endian, f64::from_le_bytes)),
        Dtype::F16 => TensorData::F16(values(bytes, big_endian, u16::from_le_bytes)),
        Dtype::BF16 => TensorData::BF16(values(bytes, big_endian, u16::from_le_bytes)),
        Dtype::I64 => TensorData::I64(values(bytes, big_endian, i64::from_le_bytes)),
        Dtype::I32 => TensorData::I32(values(bytes, big_endian, i32::from_le_bytes)),
        Dtype::I16 => TensorData::I16(values(bytes, big_endian, i16::from_le_bytes)),
        Dtype::I8 => TensorData::I8(values(bytes, big_endian, i8::from_le_bytes)),
        Dtype::U8 => TensorData::U8(bytes.to_vec()),
        Dtype::Bool => TensorData::Bool(bytes.iter().map(|byte| *byte != 0).collect()),
    }
}

/// A tensor in the element type of a file.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredTensor {
    /// Sizes of the axes; their product is the number of values.
    pub shape: Vec<usize>,
    /// The values, row-major.
    pub data: TensorData,
}

impl StoredTensor {
    /// Makes a 32-bit floating-point tensor.
    ///
    /// # Panics
    /// Panics if the product of `shape` is not the number of values.
    pub fn f32(shape: impl Into<Vec<usize>>, values: Vec<f32>) -> Self {
        Self::new(shape.into(), TensorData::F32(values))
    }

    /// Makes a tensor.
    ///
    /// # Panics
    /// Panics if the product of `shape` is not the number of values.
    pub fn new(shape: Vec<usize>, data: TensorData) -> Self {
        assert_eq!(
            shape.iter().product::<usize>(),
            data.len(),
            "number of values of a tensor of shape {shape:?}"
        );
        Self { shape, data }
    }

    /// Returns the values in single precision: borrowed if the tensor is f32, widened from float16 and bfloat16, rounded from f64.
    /// Returns `None` for integers and booleans.
    pub fn to_f32(&self) -> Option<Cow<'_, [f32]>> {
        Some(match &self.data {
            TensorData::F32(values) => Cow::Borrowed(values),
            TensorData::F64(values) => Cow::Owned(values.iter().map(|value| *value as f32).collect()),
            TensorData::F16(values) => Cow::Owned(values.iter().copied().map(f16_to_f32).collect()),
            TensorData::BF16(values) => Cow::Owned(values.iter().copied().map(bf16_to_f32).collect()),
            _ => return None,
        })
    }

    /// Returns the values of [`StoredTensor::to_f32`], without copying an f32 tensor.
    pub fn into_f32(self) -> Option<Vec<f32>> {
        match self.data {
            TensorData::F32(values) => Some(values),
            _ => self.to_f32().map(Cow::into_owned),
        }
    }
}

/// The reason why a [`StateDict`] has no floating-point values under a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// There is no tensor of this name.
    #[error("there is no tensor {0}")]
    Missing(String),
    /// The tensor has integer or boolean values.
    #[error("tensor {name} has {dtype} values, floating-point values are needed")]
    NotFloating {
        /// The name of the tensor.
        name: String,
        /// Its element type.
        dtype: Dtype,
    },
}

/// Tensors by name, in order of insertion.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StateDict {
    tensors: IndexMap<String, StoredTensor>,
}

impl StateDict {
    /// Makes a state dict without tensors.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a tensor. If a tensor of the same name exists, the new tensor takes its position, and the old tensor is returned.
    pub fn insert(&mut self, name: impl Into<String>, tensor: StoredTensor) -> Option<StoredTensor> {
        self.tensors.insert(name.into(), tensor)
    }

    /// Returns the tensor of a name.
    pub fn get(&self, name: &str) -> Option<&StoredTensor> {
        self.tensors.get(name)
    }

    /// Removes and returns the tensor of a name. The other tensors keep their order.
    ///
    /// The time is proportional to the number of tensors.
    pub fn remove(&mut self, name: &str) -> Option<StoredTensor> {
        self.tensors.shift_remove(name)
    }

    /// Returns the values of a tensor in single precision.
    ///
    /// # Errors
    /// Returns an error if there is no such tensor or its values are not floating-point numbers.
    pub fn f32(&self, name: &str) -> Result<Cow<'_, [f32]>, StateError> {
        let tensor = self.get(name).ok_or_else(|| StateError::Missing(name.to_owned()))?;
        tensor.to_f32().ok_or_else(|| StateError::NotFloating {
            name: name.to_owned(),
            dtype: tensor.data.dtype(),
        })
    }

    /// Whether a tensor of this name exists.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Returns the names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Returns names and tensors, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &StoredTensor)> {
        self.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// Returns the number of tensors.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Whether there are no tensors.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// Returns the total number of values in all tensors.
    pub fn parameters(&self) -> usize {
        self.tensors.values().map(|tensor| tensor.data.len()).sum()
    }
}

impl IntoIterator for StateDict {
    type Item = (String, StoredTensor);
    type IntoIter = indexmap::map::IntoIter<String, StoredTensor>;

    fn into_iter(self) -> Self::IntoIter {
        self.tensors.into_iter()
    }
}

impl FromIterator<(String, StoredTensor)> for StateDict {
    fn from_iter<T: IntoIterator<Item = (String, StoredTensor)>>(tensors: T) -> Self {
        Self {
            tensors: tensors.into_iter().collect(),
        }
    }
}

pub(super) fn bf16_to_f32(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// Widens a float16 value exactly; NaN keeps its payload.
pub(super) fn f16_to_f32(bits: u16) -> f32 {
    let sign = u32::from(bits & 0x8000) << 16;
    let exponent = u32::from(bits >> 10) & 0x1f;
    let fraction = u32::from(bits & 0x3ff);
    let magnitude = match exponent {
        // Zero and subnormal values are multiples of 2^-24, which single precision holds exactly.
        0 => (fraction as f32 * f32::from_bits((127 - 24) << 23)).to_bits(),
        0x1f => 0x7f80_0000 | (fraction << 13),
        _ => ((exponent + 127 - 15) << 23) | (fraction << 13),
    };
    f32::from_bits(sign | magnitude)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_precision_widens_exactly() {
        for (bits, want) in [
            (0x0000, 0.0),
            (0x0001, 2f32.powi(-24)),
            (0x03ff, 1023.0 * 2f32.powi(-24)),
            (0x0400, 2f32.powi(-14)),
            (0x3c00, 1.0),
            (0x3555, 0.333_251_95),
            (0xc000, -2.0),
            (0x7bff, 65504.0),
            (0x7c00, f32::INFINITY),
            (0xfc00, f32::NEG_INFINITY),
        ] {
            assert_eq!(f16_to_f32(bits), want, "{bits:#06x}");
        }
        assert!(f16_to_f32(0x7e01).is_nan());
        assert!(f16_to_f32(0x8000).is_sign_negative());
        assert_eq!(bf16_to_f32(0x3fc0), 1.5);
        assert_eq!(bf16_to_f32(0xff80), f32::NEG_INFINITY);
    }

    #[test]
    fn keeps_order_and_widens_half_precision() {
        let mut state = StateDict::new();
        state.insert("b", StoredTensor::f32([2], vec![1.0, 2.0]));
        state.insert("a", StoredTensor::new(vec![1], TensorData::BF16(vec![0x3f80])));
        state.insert("n", StoredTensor::new(vec![1, 1], TensorData::I64(vec![7])));
        assert_eq!(state.names().collect::<Vec<_>>(), ["b", "a", "n"]);
        assert!(matches!(state.f32("b").unwrap(), Cow::Borrowed(_)));
        assert_eq!(*state.f32("a").unwrap(), [1.0]);
        assert_eq!(
            state.f32("n").unwrap_err().to_string(),
            "tensor n has int64 values, floating-point values are needed"
        );
        assert_eq!(state.f32("x").unwrap_err(), StateError::Missing("x".into()));
        state.remove("b");
        assert_eq!(state.names().collect::<Vec<_>>(), ["a", "n"]);
        assert_eq!(state.parameters(), 2);
    }

    #[test]
    fn decodes_written_values_in_both_byte_orders() {
        let data = TensorData::F32(vec![1.5, -2.25]);
        let mut bytes = Vec::new();
        data.write_le(&mut bytes).unwrap();
        assert_eq!(decode(Dtype::F32, &bytes, false), data);
        bytes.chunks_mut(4).for_each(<[u8]>::reverse);
        assert_eq!(decode(Dtype::F32, &bytes, true), data);
    }
}
