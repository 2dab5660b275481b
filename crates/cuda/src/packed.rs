//! Arrays for kernels, such as indices and addresses, which are copied to the device together.

use crate::context::{Buffer, Context};
use crate::driver::{Address, Result};
use bytemuck::Pod;

/// Alignment of each array in bytes: that of the largest vector load.
const ALIGNMENT: usize = 16;

/// Arrays on the host. One copy of all arrays takes less time than a copy of each.
#[derive(Default)]
pub(crate) struct Packed {
    bytes: Vec<u8>,
}

/// The place of an array in the copy on the device.
#[derive(Clone, Copy)]
pub(crate) struct Place(usize);

impl Packed {
    /// Adds an array.
    pub fn push<T: Pod>(&mut self, values: &[T]) -> Place {
        let start = self.bytes.len().next_multiple_of(ALIGNMENT);
        self.bytes.resize(start, 0);
        self.bytes.extend_from_slice(bytemuck::cast_slice(values));
        Place(start)
    }

    /// Copies all arrays to the device.
    pub fn upload(&self, context: &Context) -> Result<Uploaded> {
        context.upload(&self.bytes).map(Uploaded)
    }
}

/// Arrays on the device.
pub(crate) struct Uploaded(Buffer);

impl Uploaded {
    /// The first element of an array.
    pub fn address(&self, place: Place) -> Address {
        self.0.address().offset(place.0)
    }
}
