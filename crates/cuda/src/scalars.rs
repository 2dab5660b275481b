//! Sums of scalars on the device: `kernels/scalars.cu`.

use crate::context::{Buffer, Context};
use crate::driver::Element::F32;
use crate::driver::Result;
use crate::launch::{THREADS, WARP, launch, to_i32};
use crate::matrix::{Matrix, MatrixMut};
use bytemuck::{Pod, Zeroable};

/// A factor of [`weighted_sum`], as the kernel reads it: a pointer and a float, which CUDA C++ pads to 16 bytes.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Term {
    value: u64,
    factor: f32,
    padding: u32,
}

/// Computes `out = Σ factor · value` of scalars `[1, 1]`.
///
/// # Errors
/// Those of the driver, or if shapes or types do not fit.
pub fn weighted_sum(context: &Context, terms: &[(Matrix, f32)], out: MatrixMut) -> Result<()> {
    const OPERATION: &str = "weighted sum";
    out.expect(OPERATION, "out", [1, 1], F32)?;
    let count = to_i32(OPERATION, terms.len())?;
    let terms = terms.iter().map(|(value, factor)| {
        value.expect(OPERATION, "value", [1, 1], F32)?;
        Ok(Term {
            value: value.address().0,
            factor: *factor,
            padding: 0,
        })
    });
    let terms = context.upload(&terms.collect::<Result<Vec<_>>>()?)?;
    // SAFETY: there are `count` terms, whose addresses are those of scalars.
    unsafe {
        launch!(
            context,
            "weighted_sum",
            [1, 1, 1],
            [WARP, 1, 1],
            0,
            [terms.address(), out.address(), count]
        )
    }
}

/// Computes `out = Σ values / divisor` for the first `count` values of a buffer. Without values the result is 0.
pub(crate) fn sum(
    operation: &'static str,
    context: &Context,
    values: &Buffer,
    count: usize,
    divisor: f32,
    out: &MatrixMut,
) -> Result<()> {
    let divisor = if count == 0 { 1.0 } else { divisor };
    let count = to_i32(operation, count)?;
    let values = values.matrix(1, count.unsigned_abs() as usize, F32);
    // SAFETY: the buffer has `count` values, and `out` is a scalar that the caller has checked.
    unsafe {
        launch!(
            context,
            "sum_scalars",
            [1, 1, 1],
            [THREADS, 1, 1],
            THREADS / WARP * 4,
            [values.address(), divisor, out.address(), count]
        )
    }
}
