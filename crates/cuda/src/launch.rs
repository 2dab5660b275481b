//! Launches of kernels with checked sizes.

use crate::context::Context;
use crate::driver::{Address, Error, Result};
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

/// Launches a kernel: `launch!(context, "name", grid, block, shared_bytes, [argument, …])`. The arguments have the types `i32`, `i64`, `f32`
/// and `Address`. As the function of the driver, it must be called in an `unsafe` block.
macro_rules! launch {
    ($context:expr, $kernel:expr, $grid:expr, $block:expr, $shared:expr, [$($argument:expr),* $(,)?]) => {
        $context.driver().launch(
            $kernel,
            $grid,
            $block,
            $shared,
            $context.stream(),
            &[$($crate::launch::argument(&$argument)),*],
        )
    };
}
pub(crate) use launch;

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

/// Blocks for `count` values, four for each thread; the threads of a larger number of values loop.
pub(crate) fn flat_grid(context: &Context, count: usize) -> [u32; 3] {
    // Eight blocks of 256 threads are the most that a multiprocessor can have at a time (2048 threads).
    let max = 8 * context.driver().multiprocessors().max(1) as usize;
    [count.div_ceil(4 * THREADS as usize).clamp(1, max) as u32, 1, 1]
}
