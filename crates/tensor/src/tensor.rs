//! A matrix in the memory of a device.

use std::any::Any;
use std::borrow::Cow;
use std::sync::Arc;
pub use vlct_kernels::patches::Order;

/// The memory of one matrix, in the form that its device gives it. Only the backend that made it looks inside.
pub(crate) trait Storage: Any + Send + Sync {
    /// The values of the `[rows, columns]` matrix in host memory, row-major; borrowed if they are stored so.
    fn to_host(&self, rows: usize, columns: usize) -> Cow<'_, [f32]>;

    /// Bytes of one value.
    fn value_bytes(&self) -> usize;
}

/// A matrix `[rows, columns]`. Cloning shares the memory; values do not change while they are shared.
///
/// [`Device`](crate::Device) makes tensors of values, operations ([`Tape`](crate::Tape)) make them of other tensors.
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

    /// The values in host memory, row-major. The CPU lends f32 values; anything else is a copy, for which a device first finishes
    /// its work.
    pub fn to_host(&self) -> Cow<'_, [f32]> {
        self.storage.to_host(self.rows, self.columns)
    }

    /// The only value of a `[1, 1]` matrix, read as by [`Tensor::to_host`].
    ///
    /// # Panics
    /// If the matrix has another shape.
    pub fn item(&self) -> f32 {
        assert!(self.len() == 1, "not a scalar");
        self.to_host()[0]
    }

    /// Bytes of all values.
    pub(crate) fn bytes(&self) -> f64 {
        (self.len() * self.storage.value_bytes()) as f64
    }

    /// The same memory as a `[rows, columns]` matrix; its values must be in row-major order, as those of variables are.
    ///
    /// # Panics
    /// If the number of values differs.
    pub(crate) fn reshaped(&self, rows: usize, columns: usize) -> Self {
        assert_eq!(self.len(), rows * columns, "a shape with another number of values");
        Self {
            storage: Arc::clone(&self.storage),
            rows,
            columns,
        }
    }

    /// Whether another tensor has the same memory.
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
            None => panic!("a tensor of another device"),
        }
    }

    /// The storage, to be changed by the backend that made it; `None` if the memory is shared.
    ///
    /// # Panics
    /// If another backend made it.
    pub(crate) fn storage_mut<S: Storage>(&mut self) -> Option<&mut S> {
        let storage: &mut dyn Any = Arc::get_mut(&mut self.storage)?;
        match storage.downcast_mut() {
            Some(storage) => Some(storage),
            None => panic!("a tensor of another device"),
        }
    }
}

impl std::fmt::Debug for Tensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tensor[{}, {}]", self.rows, self.columns)
    }
}
