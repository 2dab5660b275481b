//! Arguments and sizes of launches, as kernels take them.

use super::{Address, Error, Result};
use std::ffi::c_void;

/// Threads of a block, of all kernels that do not need another number: `__launch_bounds__(256)`.
pub(crate) const THREADS: u32 = 256;

/// Threads of a warp.
pub(crate) const WARP: u32 = 32;

/// A type of arguments of kernels.
///
/// # Safety
/// The type has the size and representation of a parameter's type in CUDA C++.
pub(crate) unsafe trait Argument: Copy {}

// SAFETY: `int`.
unsafe impl Argument for i32 {}
// SAFETY: `long long`.
unsafe impl Argument for i64 {}
// SAFETY: `float`.
unsafe impl Argument for f32 {}
// SAFETY: a pointer; `Address` is transparent.
unsafe impl Argument for Address {}

/// Returns the address of an argument.
pub(crate) fn argument<T: Argument>(value: &T) -> *const c_void {
    std::ptr::from_ref(value).cast()
}

/// Converts a size to the type of kernel parameters.
pub(crate) fn to_i32(operation: &'static str, size: usize) -> Result<i32> {
    i32::try_from(size).map_err(|_| Error::InvalidArgument {
        operation,
        reason: format!("the size {size} exceeds 2³¹ − 1"),
    })
}

/// Converts a number of blocks.
pub(crate) fn to_blocks(operation: &'static str, blocks: usize) -> Result<u32> {
    to_i32(operation, blocks).map(i32::unsigned_abs)
}
