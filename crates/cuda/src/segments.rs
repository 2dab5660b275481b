//! Means over segments, which are ranges of rows of a packed matrix, and their gradient: `kernels/segments.cu`.

use crate::context::Context;
use crate::driver::Element::F32;
use crate::driver::Result;
use crate::launch::{THREADS, launch, to_blocks, to_i32};
use crate::matrix::{Matrix, MatrixMut};
use crate::packed::Packed;
use crate::rows::{NONE, invalid, row_grid};
use bytemuck::{Pod, Zeroable};
use std::ops::Range;
use vlct_kernels::mat::Beta;

/// Columns of a block of the forward pass: four for each thread of a warp.
const STRIP: usize = 128;

/// Bytes of shared memory of the forward pass: four sums for each thread.
const SHARED_BYTES: u32 = THREADS * 16;

/// A segment, as in `segments.cu`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Segment {
    first: i32,
    end: i32,
}

/// Computes the mean `out [S, D]` of the rows of each segment of `x [T, D]`; zeros for an empty segment. Both matrices are f32.
///
/// # Errors
/// Those of the driver, or if shapes or types do not fit, or a segment ends after the last row.
pub fn mean(context: &Context, x: Matrix, segments: &[Range<usize>], out: MatrixMut) -> Result<()> {
    const OPERATION: &str = "mean of segments";
    let width = x.columns();
    x.expect(OPERATION, "x", [x.rows(), width], F32)?;
    out.expect(OPERATION, "out", [segments.len(), width], F32)?;
    check(OPERATION, segments, x.rows())?;
    if out.is_empty() {
        return Ok(());
    }
    let ranges = segments.iter().map(|rows| {
        Ok(Segment {
            first: to_i32(OPERATION, rows.start)?,
            end: to_i32(OPERATION, rows.end)?,
        })
    });
    let mut arrays = Packed::default();
    let place = arrays.push(&ranges.collect::<Result<Vec<_>>>()?);
    let arrays = arrays.upload(context)?;
    let segments_at = arrays.address(place);
    let strips = to_blocks(OPERATION, width.div_ceil(STRIP))?;
    let grid = [to_blocks(OPERATION, segments.len())?, strips, 1];
    let (x, out, width) = (x.address(), out.address(), to_i32(OPERATION, width)?);
    // SAFETY: the shapes and segments were checked.
    unsafe {
        launch!(
            context,
            "segment_mean_f32",
            grid,
            [THREADS, 1, 1],
            SHARED_BYTES,
            [x, segments_at, out, width]
        )
    }
}

/// Computes `dx = β·dx`, then `dx[t] += d_out[s] / len(s)` for each row `t` of each segment `s`; `d_out` is `[S, D]`, `dx` `[T, D]`, both
/// f32.
///
/// # Errors
/// Those of the driver, or if shapes or types do not fit, or if the segments overlap, are not in the order of the rows, or end after the
/// last row.
pub fn mean_backward(
    context: &Context,
    d_out: Matrix,
    segments: &[Range<usize>],
    dx: MatrixMut,
    beta: Beta,
) -> Result<()> {
    const OPERATION: &str = "gradient of the mean of segments";
    let width = dx.columns();
    d_out.expect(OPERATION, "d_out", [segments.len(), width], F32)?;
    dx.expect(OPERATION, "dx", [dx.rows(), width], F32)?;
    check(OPERATION, segments, dx.rows())?;
    if segments.windows(2).any(|pair| pair[1].start < pair[0].end) {
        return Err(invalid(
            OPERATION,
            "the segments are not in the order of the rows".into(),
        ));
    }
    if dx.is_empty() {
        return Ok(());
    }
    let mut segment_of_row = vec![NONE; dx.rows()];
    for (s, rows) in segments.iter().enumerate() {
        segment_of_row[rows.clone()].fill(to_blocks(OPERATION, s)?);
    }
    let factors: Vec<f32> = segments.iter().map(|rows| 1.0 / rows.len().max(1) as f32).collect();
    let mut arrays = Packed::default();
    let (segments, factors) = (arrays.push(&segment_of_row), arrays.push(&factors));
    let arrays = arrays.upload(context)?;
    let (segments, factors) = (arrays.address(segments), arrays.address(factors));
    let (grid, block) = row_grid(OPERATION, dx.rows(), width, 4)?;
    let (d_out, dx, width) = (d_out.address(), dx.address(), to_i32(OPERATION, width)?);
    // SAFETY: the shapes and segments were checked.
    unsafe {
        launch!(
            context,
            "segment_mean_backward_f32",
            grid,
            block,
            0,
            [d_out, segments, factors, beta.factor(), dx, width]
        )
    }
}

/// Fails unless all segments are ranges of rows.
fn check(operation: &'static str, segments: &[Range<usize>], rows: usize) -> Result<()> {
    match segments.iter().find(|s| s.start > s.end || s.end > rows) {
        None => Ok(()),
        Some(s) => Err(invalid(
            operation,
            format!("the segment {s:?} is not a range of {rows} rows"),
        )),
    }
}
