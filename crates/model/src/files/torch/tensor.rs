//! The description of a tensor in a pickle: storage, offset, shape and strides.
//!
//! PyTorch pickles a tensor as a call of one of its `_rebuild_…` functions (`torch/_utils.py`). The first argument is a persistent
//! reference to a storage: `("storage", type, key, location, number of values)`. The format before version 1.6 adds a sixth item:
//! `None`, or `(key, offset, size)` if the storage is a view of another storage.

use super::super::error::TensorProblem;
use super::super::state::Dtype;
use vlct_pickle::{Pickle, Ref, Value};

type Result<T> = std::result::Result<T, TensorProblem>;

/// Maximum number of nested wrappers (a parameter around a tensor, a subclass around a parameter).
const MAX_WRAPPERS: usize = 8;

/// A pickle's reference to a storage.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct StorageId {
    /// Key of the storage in the file.
    pub key: String,
    /// PyTorch's name of the storage class, such as `FloatStorage`.
    pub class: String,
    /// Offset of the view in the storage, in values; 0 if the storage is not a view.
    pub offset: usize,
}

/// The layout of a tensor in a storage. Offset and strides are in values.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Layout {
    pub key: String,
    pub dtype: Dtype,
    pub offset: usize,
    pub shape: Vec<usize>,
    pub strides: Vec<usize>,
}

/// Returns the bytes per value of a storage class, including classes whose tensors are not supported.
pub(super) fn value_size(class: &str) -> Option<usize> {
    if let Some(dtype) = storage_dtype(class) {
        return Some(dtype.size());
    }
    Some(match class {
        "UntypedStorage" | "QInt8Storage" | "QUInt8Storage" | "QUInt4x2Storage" | "QUInt2x4Storage" => 1,
        "QInt32Storage" => 4,
        "ComplexFloatStorage" => 8,
        "ComplexDoubleStorage" => 16,
        _ => return None,
    })
}

fn storage_dtype(class: &str) -> Option<Dtype> {
    Some(match class {
        "FloatStorage" => Dtype::F32,
        "DoubleStorage" => Dtype::F64,
        "HalfStorage" => Dtype::F16,
        "BFloat16Storage" => Dtype::BF16,
        "LongStorage" => Dtype::I64,
        "IntStorage" => Dtype::I32,
        "ShortStorage" => Dtype::I16,
        "CharStorage" => Dtype::I8,
        "ByteStorage" => Dtype::U8,
        "BoolStorage" => Dtype::Bool,
        _ => return None,
    })
}

/// Returns PyTorch's storage class of a dtype, the inverse of [`storage_dtype`].
pub(super) fn storage_class(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::F32 => "FloatStorage",
        Dtype::F64 => "DoubleStorage",
        Dtype::F16 => "HalfStorage",
        Dtype::BF16 => "BFloat16Storage",
        Dtype::I64 => "LongStorage",
        Dtype::I32 => "IntStorage",
        Dtype::I16 => "ShortStorage",
        Dtype::I8 => "CharStorage",
        Dtype::U8 => "ByteStorage",
        Dtype::Bool => "BoolStorage",
    }
}

fn parse_dtype(name: &str) -> Option<Dtype> {
    Some(match name {
        "float32" => Dtype::F32,
        "float64" => Dtype::F64,
        "float16" => Dtype::F16,
        "bfloat16" => Dtype::BF16,
        "int64" => Dtype::I64,
        "int32" => Dtype::I32,
        "int16" => Dtype::I16,
        "int8" => Dtype::I8,
        "uint8" => Dtype::U8,
        "bool" => Dtype::Bool,
        _ => return None,
    })
}

/// Whether the value is a call of one of PyTorch's functions that make tensors and parameters.
pub(super) fn is_tensor(pickle: &Pickle, value: Ref) -> bool {
    rebuild_function(pickle, value).is_some()
}

fn rebuild_function<'p>(pickle: &'p Pickle, value: Ref) -> Option<&'p str> {
    let (module, name) = pickle.global(pickle.object(value)?.callable)?;
    let makes_tensor = match module {
        "torch._utils" => name.starts_with("_rebuild_"),
        "torch._tensor" => name == "_rebuild_from_type_v2",
        _ => false,
    };
    makes_tensor.then_some(name)
}

/// Returns the layout of a pickled tensor.
pub(super) fn layout(pickle: &Pickle, value: Ref) -> Result<Layout> {
    let object = pickle.object(value).ok_or(TensorProblem::Malformed("tensor"))?;
    let mut callable = object.callable;
    let mut arguments = object.arguments;
    for _ in 0..MAX_WRAPPERS {
        let (_, function) = pickle.global(callable).ok_or(TensorProblem::Malformed("tensor"))?;
        let items = pickle.items(arguments).ok_or(TensorProblem::Malformed("tensor"))?;
        match (function, items) {
            ("_rebuild_parameter" | "_rebuild_parameter_with_state", [inner, ..]) => {
                let inner = pickle.object(*inner).ok_or(TensorProblem::Malformed("parameter"))?;
                (callable, arguments) = (inner.callable, inner.arguments);
            }
            ("_rebuild_from_type_v2", [function, _class, inner, ..]) => (callable, arguments) = (*function, *inner),
            ("_rebuild_tensor" | "_rebuild_tensor_v2", [storage, offset, shape, strides, ..]) => {
                return dense_layout(pickle, *storage, *offset, *shape, *strides, None);
            }
            ("_rebuild_tensor_v3", [storage, offset, shape, strides, _grad, _hooks, dtype, ..]) => {
                let name = pickle.global(*dtype).map(|(_, name)| name);
                let name = name.ok_or(TensorProblem::Malformed("dtype"))?;
                let dtype = parse_dtype(name).ok_or_else(|| TensorProblem::UnsupportedDtype(name.to_owned()))?;
                return dense_layout(pickle, *storage, *offset, *shape, *strides, Some(dtype));
            }
            (other, _) if !other.starts_with("_rebuild_tensor") => {
                return Err(TensorProblem::UnsupportedDtype(other.to_owned()));
            }
            _ => return Err(TensorProblem::Malformed("tensor")),
        }
    }
    Err(TensorProblem::Malformed("tensor: too many wrappers"))
}

fn dense_layout(
    pickle: &Pickle,
    storage: Ref,
    offset: Ref,
    shape: Ref,
    strides: Ref,
    dtype: Option<Dtype>,
) -> Result<Layout> {
    let Value::Persistent(id) = pickle.get(storage) else {
        return Err(TensorProblem::Malformed("storage"));
    };
    let storage = storage_id(pickle, *id).ok_or(TensorProblem::Malformed("storage"))?;
    let dtype = match dtype {
        Some(dtype) => dtype,
        None => storage_dtype(&storage.class).ok_or(TensorProblem::UnsupportedDtype(storage.class))?,
    };
    let offset = pickle
        .size(offset)
        .and_then(|offset| offset.checked_add(storage.offset));
    let offset = offset.ok_or(TensorProblem::Malformed("offset"))?;
    let shape = parse_sizes(pickle, shape).ok_or(TensorProblem::Malformed("shape"))?;
    let strides = parse_sizes(pickle, strides).ok_or(TensorProblem::Malformed("strides"))?;
    if shape.len() != strides.len() {
        return Err(TensorProblem::Malformed("strides"));
    }
    Ok(Layout {
        key: storage.key,
        dtype,
        offset,
        shape,
        strides,
    })
}

/// Reads a tuple of sizes or a `torch.Size`.
fn parse_sizes(pickle: &Pickle, value: Ref) -> Option<Vec<usize>> {
    let items = match pickle.object(value) {
        Some(object) if pickle.global(object.callable) == Some(("torch", "Size")) => {
            pickle.items(*pickle.items(object.arguments)?.first()?)?
        }
        Some(_) => return None,
        None => pickle.items(value)?,
    };
    items.iter().map(|item| pickle.size(*item)).collect()
}

/// Decodes a persistent reference to a storage; `None` if the reference has another form.
pub(super) fn storage_id(pickle: &Pickle, id: Ref) -> Option<StorageId> {
    let items = pickle.items(id)?;
    let [kind, class, key, _location, _count, view @ ..] = items else {
        return None;
    };
    if pickle.text(*kind) != Some("storage") {
        return None;
    }
    // The class is `torch.FloatStorage`, `torch.cuda.FloatStorage` or `torch.storage.…`.
    let (module, class) = pickle.global(*class)?;
    if module.split('.').next() != Some("torch") {
        return None;
    }
    let key = match pickle.get(*key) {
        Value::Text(key) => key.to_string(),
        Value::Int(key) => key.to_string(),
        _ => return None,
    };
    let offset = match view.first().and_then(|view| pickle.items(*view)) {
        Some([_key, offset, _size]) => pickle.size(*offset)?,
        _ => 0,
    };
    Some(StorageId {
        key,
        class: class.to_owned(),
        offset,
    })
}
