//! Launches of kernels with checked sizes.

use crate::context::Context;
pub(crate) use crate::driver::arguments::{THREADS, WARP, argument, to_blocks, to_i32};

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

/// Blocks for `count` values, four for each thread; the threads of a larger number of values loop.
pub(crate) fn flat_grid(context: &Context, count: usize) -> [u32; 3] {
    // Eight blocks of 256 threads are the most that a multiprocessor can have at a time (2048 threads).
    let max = 8 * context.driver().multiprocessors().max(1) as usize;
    [count.div_ceil(4 * THREADS as usize).clamp(1, max) as u32, 1, 1]
}
