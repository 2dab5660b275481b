//! Sums of the columns of matrices: `kernels/column_sums.cu`.

use crate::context::Context;
use crate::driver::{Address, Element, Result};
use crate::launch::{THREADS, WARP, launch, to_blocks, to_i32};
use crate::matrix::{Matrix, MatrixMut};
use vlct_kernels::mat::Beta;

/// Rows that a block sums: 16 for each of its eight warps. More would leave multiprocessors without work at usual numbers of tokens.
const ROWS_PER_CHUNK: usize = 128;

/// A grid has at most this many blocks in its second dimension.
const MAX_CHUNKS: usize = 65535;

/// Bytes of shared memory: a sum for each thread.
const SHARED_BYTES: u32 = THREADS * 4;

/// Computes `out = β·out + Σ x[r]` over all rows `r`; `x [T, D]` is f32 or bfloat16, `out [1, D]` is f32.
///
/// # Errors
/// Those of the driver, or if shapes or types do not fit.
pub fn column_sums(context: &Context, x: Matrix, out: MatrixMut, beta: Beta) -> Result<()> {
    const OPERATION: &str = "column sums";
    out.expect(OPERATION, "out", [1, x.columns()], Element::F32)?;
    if x.columns() == 0 {
        return Ok(());
    }
    let width = to_i32(OPERATION, x.columns())?;
    let strips = to_blocks(OPERATION, x.columns().div_ceil(WARP as usize))?;
    let chunk_rows = ROWS_PER_CHUNK.max(x.rows().div_ceil(MAX_CHUNKS));
    let chunks = x.rows().div_ceil(chunk_rows).max(1);
    let sum = |x: Address, element: Element, rows: usize, chunks: usize, beta: Beta, out: Address| {
        let kernel = match element {
            Element::F32 => "column_sums_f32",
            Element::Bf16 => "column_sums_bf16",
        };
        let rows_per_chunk = to_i32(OPERATION, rows.div_ceil(chunks))?;
        let (grid, rows) = ([strips, chunks as u32, 1], to_i32(OPERATION, rows)?);
        let arguments = (x, beta.factor(), out);
        // SAFETY: the kernel reads `rows` rows and writes a row for each chunk.
        unsafe {
            launch!(
                context,
                kernel,
                grid,
                [THREADS, 1, 1],
                SHARED_BYTES,
                [arguments.0, arguments.1, arguments.2, rows, width, rows_per_chunk]
            )
        }
    };
    if chunks == 1 {
        return sum(x.address(), x.element(), x.rows(), 1, beta, out.address());
    }
    let partial = context.allocate(chunks * x.columns() * Element::F32.bytes())?;
    sum(
        x.address(),
        x.element(),
        x.rows(),
        chunks,
        Beta::Zero,
        partial.address(),
    )?;
    sum(partial.address(), Element::F32, chunks, 1, beta, out.address())
}
