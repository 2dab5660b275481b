//! Operations on all values of a list of matrices, with one launch for all of them: `kernels/lists.cu`.

use crate::context::Context;
use crate::driver::Element::F32;
use crate::driver::Result;
use crate::launch::{THREADS, WARP, launch, to_i32};
use crate::matrix::{Matrix, MatrixMut};
use crate::packed::{Packed, Place};
use bytemuck::{Pod, Zeroable};

/// Values of a chunk, as in `lists.cuh`: 64 KiB, as for a task on the CPU. It divides large parameters among multiprocessors and gives each
/// thread sixteen groups of four values.
pub(crate) const CHUNK: usize = 16384;

/// Shared memory for a sum over a block: a double for each warp.
pub(crate) const BLOCK_SUM_BYTES: u32 = THREADS / WARP * 8;

/// A matrix, as in `lists.cu`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Values {
    values: u64,
    length: i64,
}

/// Two matrices, as in `lists.cu`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Pair {
    x: u64,
    y: u64,
    length: i64,
}

/// The chunks of a list of matrices.
pub(crate) struct Chunks {
    /// The first chunk of each matrix, and the number of all chunks.
    pub first: Vec<i32>,
}

impl Chunks {
    /// Divides matrices with these numbers of values into chunks.
    pub fn new(operation: &'static str, lengths: impl Iterator<Item = usize>) -> Result<Self> {
        let (mut first, mut total) = (vec![0], 0);
        for length in lengths {
            total += length.div_ceil(CHUNK);
            first.push(to_i32(operation, total)?);
        }
        Ok(Self { first })
    }

    /// The number of all chunks, which are the blocks of a grid.
    pub fn count(&self) -> u32 {
        self.first.last().map_or(0, |count| count.unsigned_abs())
    }
}

/// Returns the index of the first matrix with a value that is infinite or NaN. All matrices are f32. Waits for all submitted work.
///
/// # Errors
/// Those of the driver and of submitted work, or if a matrix is not f32.
pub fn first_non_finite(context: &Context, matrices: &[Matrix]) -> Result<Option<usize>> {
    const OPERATION: &str = "search for values that are not finite";
    let chunks = chunks_of(OPERATION, matrices)?;
    if chunks.count() == 0 {
        return Ok(None);
    }
    let mut arrays = Packed::default();
    let (places, grid) = (push(&mut arrays, matrices, &chunks), [chunks.count(), 1, 1]);
    let arrays = arrays.upload(context)?;
    let [values, first_chunks] = places.map(|place| arrays.address(place));
    let count = to_i32(OPERATION, matrices.len())?;
    let flags = context.zeros(matrices.len() * size_of::<i32>())?;
    let found = flags.address();
    // SAFETY: the list has all matrices and their chunks, and there is a flag for each matrix.
    unsafe {
        launch!(
            context,
            "find_non_finite_f32",
            grid,
            [THREADS, 1, 1],
            0,
            [values, first_chunks, count, found]
        )?;
    }
    let mut found = vec![0i32; matrices.len()];
    context.download(&flags, &mut found)?;
    Ok(found.iter().position(|found| *found != 0))
}

/// Writes the L2 norm of all values of the matrices to `norm [1, 1]`. All matrices are f32. Squares are summed in double precision.
///
/// # Errors
/// Those of the driver, or if shapes or types do not fit.
pub fn l2_norm(context: &Context, matrices: &[Matrix], norm: MatrixMut) -> Result<()> {
    const OPERATION: &str = "L2 norm";
    norm.expect(OPERATION, "norm", [1, 1], F32)?;
    let chunks = chunks_of(OPERATION, matrices)?;
    let sums = context.allocate(chunks.count() as usize * size_of::<f64>())?;
    let sums_at = sums.address();
    if chunks.count() > 0 {
        let mut arrays = Packed::default();
        let (places, grid) = (push(&mut arrays, matrices, &chunks), [chunks.count(), 1, 1]);
        let arrays = arrays.upload(context)?;
        let [values, first_chunks] = places.map(|place| arrays.address(place));
        let count = to_i32(OPERATION, matrices.len())?;
        // SAFETY: the list has all matrices and their chunks, and there is a sum for each chunk.
        unsafe {
            launch!(
                context,
                "sum_squares_f32",
                grid,
                [THREADS, 1, 1],
                BLOCK_SUM_BYTES,
                [values, first_chunks, count, sums_at]
            )?;
        }
    }
    let (chunks, norm) = (to_i32(OPERATION, chunks.count() as usize)?, norm.address());
    // SAFETY: the kernel reads the sums and writes one value.
    unsafe {
        launch!(
            context,
            "finish_norm_f32",
            [1, 1, 1],
            [THREADS, 1, 1],
            BLOCK_SUM_BYTES,
            [sums_at, chunks, norm]
        )
    }
}

/// Computes `y += rate · (x − y)` for each pair `(y, x)` of f32 matrices of the same shape. If `x` and `y` are equal, `y` does not change.
///
/// # Errors
/// Those of the driver, or if shapes or types do not fit.
pub fn interpolate(context: &Context, pairs: &mut [(MatrixMut, Matrix)], rate: f32) -> Result<()> {
    const OPERATION: &str = "interpolation of a list";
    for (y, x) in &*pairs {
        let shape = [y.rows(), y.columns()];
        y.expect(OPERATION, "y", shape, F32)?;
        x.expect(OPERATION, "x", shape, F32)?;
    }
    let chunks = Chunks::new(OPERATION, pairs.iter().map(|(y, _)| y.len()))?;
    if chunks.count() == 0 {
        return Ok(());
    }
    let list: Vec<Pair> = pairs
        .iter()
        .map(|(y, x)| Pair {
            x: x.address().0,
            y: y.address().0,
            length: y.len() as i64,
        })
        .collect();
    let mut arrays = Packed::default();
    let (list, first_chunks) = (arrays.push(&list), arrays.push(&chunks.first));
    let arrays = arrays.upload(context)?;
    let (list, first_chunks) = (arrays.address(list), arrays.address(first_chunks));
    let (grid, count) = ([chunks.count(), 1, 1], to_i32(OPERATION, pairs.len())?);
    // SAFETY: the list has all pairs, of which both matrices have the same length, and their chunks.
    unsafe {
        launch!(
            context,
            "interpolate_list_f32",
            grid,
            [THREADS, 1, 1],
            0,
            [list, first_chunks, count, rate]
        )
    }
}

fn chunks_of(operation: &'static str, matrices: &[Matrix]) -> Result<Chunks> {
    for matrix in matrices {
        matrix.expect(operation, "a matrix", [matrix.rows(), matrix.columns()], F32)?;
    }
    Chunks::new(operation, matrices.iter().map(Matrix::len))
}

/// Adds the list of the matrices and that of their chunks.
fn push(arrays: &mut Packed, matrices: &[Matrix], chunks: &Chunks) -> [Place; 2] {
    let values: Vec<Values> = matrices
        .iter()
        .map(|matrix| Values {
            values: matrix.address().0,
            length: matrix.len() as i64,
        })
        .collect();
    [arrays.push(&values), arrays.push(&chunks.first)]
}
