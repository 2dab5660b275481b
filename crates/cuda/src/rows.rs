//! Rows of matrices by index: `kernels/rows.cu`.
//!
//! Indices come from the host. [`NONE`] means "no row".

use crate::context::Context;
use crate::driver::{Address, Element, Error, Result};
use crate::launch::{THREADS, WARP, launch, to_blocks, to_i32};
use crate::matrix::{Matrix, MatrixMut};
use crate::packed::Packed;
use bytemuck::{Pod, Zeroable};
pub use vlct_kernels::gather::NONE;
use vlct_kernels::gather::{SUM_BLOCK, sort_by_row};
use vlct_kernels::mat::Beta;

/// Largest second dimension of a grid.
const MAX_STRIPS: usize = 65535;

/// A matrix, and for each row of a result the index of a row of the matrix, or [`NONE`].
#[derive(Clone, Copy, Debug)]
pub struct Pick<'a> {
    /// The matrix.
    pub from: Matrix<'a>,
    /// The indices.
    pub rows: &'a [u32],
}

/// Where a row of the result of [`gather`] comes from, as in `rows.cu`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Source {
    matrix: i32,
    row: i32,
}

/// A sum of rows, as in `rows.cu`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Sum {
    first: i32,
    end: i32,
    row: i32,
}

/// Copies rows: row `i` of `out [T, D]` is row `rows[i]` of the only pick whose `rows[i]` is not [`NONE`]. All matrices are f32, or all are
/// bfloat16.
///
/// # Errors
/// Those of the driver, or if shapes or types do not fit, or if a row has no source or several.
pub fn gather(context: &Context, picks: &[Pick], out: MatrixMut) -> Result<()> {
    const OPERATION: &str = "gather";
    let (rows, width) = (out.rows(), out.columns());
    let mut sources = vec![None; rows];
    for (matrix, pick) in picks.iter().enumerate() {
        pick.check(OPERATION, rows, width, out.element())?;
        let chosen = pick.rows.iter().zip(&mut sources).enumerate();
        for (i, (row, source)) in chosen.filter(|(_, (row, _))| **row != NONE) {
            let (matrix, row) = (to_i32(OPERATION, matrix)?, to_i32(OPERATION, *row as usize)?);
            if source.replace(Source { matrix, row }).is_some() {
                return Err(invalid(OPERATION, format!("row {i} of the result has two sources")));
            }
        }
    }
    let sources: Option<Vec<Source>> = sources.into_iter().collect();
    let Some(sources) = sources else {
        return Err(invalid(OPERATION, "a row of the result has no source".into()));
    };
    if out.is_empty() {
        return Ok(());
    }
    let (kernel, bytes) = match out.element() {
        Element::F32 => ("gather_f32", Element::F32.bytes()),
        Element::Bf16 => ("gather_bf16", Element::Bf16.bytes()),
    };
    // A thread copies 16 bytes.
    let (grid, block) = row_grid(OPERATION, rows, width, 16 / bytes)?;
    let addresses: Vec<u64> = picks.iter().map(|pick| pick.from.address().0).collect();
    let mut arrays = Packed::default();
    let (addresses, sources) = (arrays.push(&addresses), arrays.push(&sources));
    let arrays = arrays.upload(context)?;
    let (addresses, sources) = (arrays.address(addresses), arrays.address(sources));
    let (out, width) = (out.address(), to_i32(OPERATION, width)?);
    // SAFETY: the shapes and indices were checked.
    unsafe { launch!(context, kernel, grid, block, 0, [addresses, sources, out, width]) }
}

/// Computes the sum of row `i` of `base [T, D]` and row `rows[i]` of each table, in order; [`NONE`] skips a table. Without a base, sums
/// begin with zeros. All matrices are f32.
///
/// # Errors
/// Those of the driver, or if shapes or types do not fit.
pub fn lookup(context: &Context, base: Option<Matrix>, tables: &[Pick], out: MatrixMut) -> Result<()> {
    const OPERATION: &str = "lookup";
    let (rows, width) = (out.rows(), out.columns());
    out.expect(OPERATION, "out", [rows, width], Element::F32)?;
    if let Some(base) = base {
        base.expect(OPERATION, "base", [rows, width], Element::F32)?;
    }
    for table in tables {
        table.check(OPERATION, rows, width, Element::F32)?;
    }
    if out.is_empty() {
        return Ok(());
    }
    let (grid, block) = row_grid(OPERATION, rows, width, 4)?;
    let addresses: Vec<u64> = tables.iter().map(|table| table.from.address().0).collect();
    let indices: Vec<u32> = tables.iter().flat_map(|table| table.rows).copied().collect();
    let mut arrays = Packed::default();
    let (addresses, indices) = (arrays.push(&addresses), arrays.push(&indices));
    let arrays = arrays.upload(context)?;
    let (addresses, indices) = (arrays.address(addresses), arrays.address(indices));
    let base = base.map_or(Address::NULL, |base| base.address());
    let (count, out, width) = (
        to_i32(OPERATION, tables.len())?,
        out.address(),
        to_i32(OPERATION, width)?,
    );
    // SAFETY: the shapes and indices were checked.
    unsafe {
        launch!(
            context,
            "lookup_f32",
            grid,
            block,
            0,
            [base, addresses, indices, count, out, width]
        )
    }
}

/// Computes `d_table = β·d_table`, then `d_table[rows[i]] += d_out[i]` for each row `i` of `d_out [T, D]`; [`NONE`] skips a row. Both
/// matrices are f32. Sums have the order of [`vlct_kernels::gather::scatter_add`].
///
/// # Errors
/// Those of the driver, or if shapes or types do not fit.
pub fn scatter_add(context: &Context, d_out: Matrix, rows: &[u32], d_table: MatrixMut, beta: Beta) -> Result<()> {
    const OPERATION: &str = "scatter_add";
    let width = d_table.columns();
    d_table.expect(OPERATION, "d_table", [d_table.rows(), width], Element::F32)?;
    d_out.expect(OPERATION, "d_out", [rows.len(), width], Element::F32)?;
    check_indices(OPERATION, rows, d_table.rows())?;
    // Every index of a row is below the number of rows, so it fits if this number does.
    to_i32(OPERATION, rows.len())?;
    to_i32(OPERATION, d_table.rows())?;
    if d_table.is_empty() {
        return Ok(());
    }
    if beta == Beta::Zero {
        let bytes = d_table.len() * Element::F32.bytes();
        context.driver().fill(d_table.address(), 0, bytes, context.stream())?;
    }
    let order = sort_by_row(rows);
    // Sums of blocks of the gradients of rows that occur often; sums of these sums; and sums of all gradients of the other rows.
    let (mut blocks, mut block_sums, mut others) = (Vec::new(), Vec::new(), Vec::new());
    let mut first = 0;
    for group in order.chunk_by(|a, b| rows[*a as usize] == rows[*b as usize]) {
        let row = rows[group[0] as usize] as usize;
        if group.len() <= SUM_BLOCK {
            others.push(sum(first, group.len(), row));
        } else {
            block_sums.push(sum(blocks.len(), group.len().div_ceil(SUM_BLOCK), row));
            for (i, block) in group.chunks(SUM_BLOCK).enumerate() {
                blocks.push(sum(first + i * SUM_BLOCK, block.len(), blocks.len()));
            }
        }
        first += group.len();
    }
    if order.is_empty() {
        return Ok(());
    }
    let mut arrays = Packed::default();
    let order = arrays.push(&order);
    let places = [&blocks, &block_sums, &others].map(|sums| arrays.push(sums));
    let arrays = arrays.upload(context)?;
    let order = arrays.address(order);
    let columns = to_i32(OPERATION, width)?;
    let add = |x: Address, order: Address, count: usize, place, beta: f32, out: Address| {
        if count == 0 {
            return Ok(());
        }
        let (grid, block) = row_grid(OPERATION, count, width, 4)?;
        let sums = arrays.address(place);
        // SAFETY: the shapes and indices were checked, and `partial` has a row for each block.
        unsafe {
            launch!(
                context,
                "sum_rows_f32",
                grid,
                block,
                0,
                [x, order, sums, beta, out, columns]
            )
        }
    };
    let table = d_table.address();
    let partial = context.allocate(blocks.len() * width * Element::F32.bytes())?;
    add(d_out.address(), order, blocks.len(), places[0], 0.0, partial.address())?;
    add(
        partial.address(),
        Address::NULL,
        block_sums.len(),
        places[1],
        1.0,
        table,
    )?;
    add(d_out.address(), order, others.len(), places[2], 1.0, table)
}

/// The numbers are at most that of the indices, which fits.
fn sum(first: usize, count: usize, row: usize) -> Sum {
    Sum {
        first: first as i32,
        end: (first + count) as i32,
        row: row as i32,
    }
}

impl Pick<'_> {
    fn check(&self, operation: &'static str, rows: usize, width: usize, element: Element) -> Result<()> {
        self.from
            .expect(operation, "a matrix", [self.from.rows(), width], element)?;
        if self.rows.len() != rows {
            let reason = format!("{} indices for {rows} rows", self.rows.len());
            return Err(invalid(operation, reason));
        }
        check_indices(operation, self.rows, self.from.rows())
    }
}

/// Fails if an index other than [`NONE`] is not below `rows`.
pub(crate) fn check_indices(operation: &'static str, indices: &[u32], rows: usize) -> Result<()> {
    match indices.iter().find(|i| **i != NONE && **i as usize >= rows) {
        None => Ok(()),
        Some(i) => Err(invalid(
            operation,
            format!("the index {i} is outside of the matrix with {rows} rows"),
        )),
    }
}

pub(crate) fn invalid(operation: &'static str, reason: String) -> Error {
    Error::InvalidArgument { operation, reason }
}

/// Grid and block of a kernel in which block (r, s) has strip `s` of row `r`, with `values` adjacent values for each thread. There must be
/// at least one row and one column.
pub(crate) fn row_grid(
    operation: &'static str,
    rows: usize,
    columns: usize,
    values: usize,
) -> Result<([u32; 3], [u32; 3])> {
    let threads = columns.div_ceil(values);
    let block = threads.next_multiple_of(WARP as usize).min(THREADS as usize);
    let strips = threads.div_ceil(block);
    if strips > MAX_STRIPS {
        return Err(invalid(operation, format!("the width {columns} is too large")));
    }
    Ok(([to_blocks(operation, rows)?, strips as u32, 1], [block as u32, 1, 1]))
}
