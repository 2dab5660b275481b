//! A matrix in the memory of a device.

use std::any::Any;
use std::borrow::Cow;
use std::sync::Arc;
pub use vlct_kernels::patches::{Order, Planes};

/// The memory of a matrix, in the format of its device. Only the backend that allocated the memory accesses its content.
pub(crate) trait Storage: Any + Send + Sync {
    /// Returns the values of the `[rows, columns]` matrix in host memory, f32 and row-major; borrowed if they are stored in this form.
    fn to_host(&self, rows: usize, columns: usize) -> Cow<'_, [f32]>;

    /// Bytes of one value.
    fn value_bytes(&self) -> usize;
}

/// A matrix `[rows, columns]`. Cloning shares the memory; values do not change while they are shared.
///
/// [`Device`](crate::Device) makes tensors from values. Operations ([`Tape`](crate::Tape)) make tensors from other tensors.
#[derive(Clone)]
pub struct Tensor {
    storage: Arc<dyn Storage>,
    rows: usize,
    columns: usize,
}

impl Tensor {
    pub(crate) fn new(storage: impl Storage, rows: usize, columns: usize) -> Self {
        Self {
            storage: Arc::new(storage),
            rows,
            columns,
        }
    }

    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The number of columns.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// The number of values.
    pub(crate) fn len(&self) -> usize {
        self.rows * self.columns
    }

    /// Returns the values in host memory, row-major. On the CPU, f32 values are borrowed. Other values are copied, after the device has
    /// finished its work.
    pub fn to_host(&self) -> Cow<'_, [f32]> {
        self.storage.to_host(self.rows, self.columns)
    }

    /// Returns the value of a `[1, 1]` matrix; see [`Tensor::to_host`].
    ///
    /// # Panics
    /// If the matrix has another shape.
    pub fn item(&self) -> f32 {
        assert!(self.len() == 1, "not a scalar");
        self.to_host()[0]
    }

    /// Size of all values in bytes.
    pub(crate) fn bytes(&self) -> f64 {
        (self.len() * self.storage.value_bytes()) as f64
    }

    /// Returns a `[rows, columns]` matrix that shares the memory. The values must be in row-major order, as the values of
    /// [`Var`](crate::Var) are.
    ///
    /// # Panics
    /// If the number of values differs.
    pub(crate) fn reshaped(&self, rows: usize, columns: usize) -> Self {
        assert_eq!(self.len(), rows * columns, "reshape to another number of values");
        Self {
            storage: Arc::clone(&self.storage),
            rows,
            columns,
        }
    }

    /// Whether another tensor shares the memory.
    pub(crate) fn is_shared(&self) -> bool {
        Arc::strong_count(&self.storage) > 1
    }

    /// The storage, for the backend that made it.
    ///
    /// # Panics
    /// If another backend made it.
    pub(crate) fn storage<S: Storage>(&self) -> &S {
        let storage: &dyn Any = &*self.storage;
        match storage.downcast_ref() {
            Some(storage) => storage,
            None => panic!("tensor is on another device"),
        }
    }

    /// The mutable storage, for the backend that made it; `None` if the memory is shared.
    ///
    /// # Panics
    /// If another backend made it.
    pub(crate) fn storage_mut<S: Storage>(&mut self) -> Option<&mut S> {
        let storage: &mut dyn Any = Arc::get_mut(&mut self.storage)?;
        match storage.downcast_mut() {
            Some(storage) => Some(storage),
            None => panic!("tensor is on another device"),
        }
    }
}

impl std::fmt::Debug for Tensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tensor[{}, {}]", self.rows, self.columns)
    }
}
