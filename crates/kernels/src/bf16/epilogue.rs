//! Epilogues of matrix products: bias, residual, GELU and its gradient, rounding.

use super::blocks::{BLOCK, Blocks, SIDE, check, transpose_in_place};
use super::gemm::Epilogue;
use super::math::{self, gelu_derivative};
use super::number::Bf16;
use super::prefetch::{Level, prefetch};
use super::registers::{Registers, for_registers, load, masks};
use crate::mat::Beta;
use crate::parallel::SharedMut;
use std::marker::PhantomData;
use std::ops::Range;

/// Stores a row-major f32 matrix: `out = β·out + sums (+ bias) (+ residual)`.
pub struct StoreF32<'a> {
    out: SharedMut<f32>,
    rows: usize,
    columns: usize,
    bias: Option<&'a [f32]>,
    residual: Option<&'a [f32]>,
    beta: Beta,
}

impl<'a> StoreF32<'a> {
    /// Makes an epilogue that stores to `out [rows, columns]`; the length of the slice determines the number of rows.
    ///
    /// # Panics
    /// If the length of the slice is not a multiple of `columns`.
    pub fn new(out: &'a mut [f32], columns: usize, beta: Beta) -> Self {
        assert!(
            out.len().is_multiple_of(columns.max(1)),
            "slice does not fit the result"
        );
        Self {
            rows: out.len() / columns.max(1),
            out: SharedMut::new(out),
            columns,
            bias: None,
            residual: None,
            beta,
        }
    }

    /// Adds a bias to each row.
    ///
    /// # Panics
    /// If the length of the bias is not the number of columns.
    pub fn bias(mut self, bias: Option<&'a [f32]>) -> Self {
        assert!(bias.is_none_or(|b| b.len() == self.columns), "bias of another width");
        self.bias = bias;
        self
    }

    /// Adds a matrix of the size of the result.
    ///
    /// # Panics
    /// If the matrix has another size.
    pub fn residual(mut self, residual: Option<&'a [f32]>) -> Self {
        assert!(
            residual.is_none_or(|r| r.len() == self.rows * self.columns),
            "residual of another size"
        );
        self.residual = residual;
        self
    }
}

/// Stores the transpose of the sums as a row-major f32 matrix: `out[c, r] = β·out[c, r] + sums[r, c]`.
pub struct StoreF32Transposed<'a> {
    out: SharedMut<f32>,
    rows: usize,
    columns: usize,
    beta: Beta,
    lifetime: PhantomData<&'a mut [f32]>,
}

impl<'a> StoreF32Transposed<'a> {
    /// Makes an epilogue that stores the transpose of a product `[rows, columns]`.
    ///
    /// # Panics
    /// If the length of the slice is not `rows · columns`.
    pub fn new(out: &'a mut [f32], rows: usize, columns: usize, beta: Beta) -> Self {
        assert_eq!(out.len(), rows * columns, "slice does not fit the result");
        Self {
            out: SharedMut::new(out),
            rows,
            columns,
            beta,
            lifetime: PhantomData,
        }
    }
}

/// Stores a matrix in blocks: `out = sums (+ bias)`, rounded.
pub struct StoreBf16<'a> {
    out: SharedMut<Bf16>,
    rows: usize,
    columns: usize,
    bias: Option<&'a [f32]>,
}

impl<'a> StoreBf16<'a> {
    /// Makes an epilogue that stores a matrix `[rows, columns]`.
    ///
    /// # Panics
    /// If the sizes do not fit, or `out` is not 64-byte aligned.
    pub fn new(out: &'a mut [Bf16], rows: usize, columns: usize, bias: Option<&'a [f32]>) -> Self {
        check(out, rows, columns);
        assert!(bias.is_none_or(|b| b.len() == columns), "bias of another width");
        Self {
            out: SharedMut::new(out),
            rows,
            columns,
            bias,
        }
    }
}

/// Stores matrices in blocks, rounded: `activation = gelu(sums + bias)` and, for a backward pass, `hidden = sums + bias`.
pub struct Gelu<'a> {
    hidden: Option<SharedMut<Bf16>>,
    activation: SharedMut<Bf16>,
    rows: usize,
    columns: usize,
    bias: &'a [f32],
}

impl<'a> Gelu<'a> {
    /// Makes an epilogue that stores matrices `[rows, bias.len()]`.
    ///
    /// # Panics
    /// If the sizes do not fit, or a matrix is not 64-byte aligned.
    pub fn new(hidden: Option<&'a mut [Bf16]>, activation: &'a mut [Bf16], rows: usize, bias: &'a [f32]) -> Self {
        check(activation, rows, bias.len());
        if let Some(hidden) = &hidden {
            check(hidden, rows, bias.len());
        }
        Self {
            hidden: hidden.map(SharedMut::new),
            activation: SharedMut::new(activation),
            rows,
            columns: bias.len(),
            bias,
        }
    }
}

/// Stores a matrix in blocks: `d_hidden = sums · gelu'(hidden)`, rounded.
pub struct GeluBackward<'a> {
    hidden: Blocks<'a>,
    d_hidden: SharedMut<Bf16>,
}

impl<'a> GeluBackward<'a> {
    /// Makes an epilogue that stores a matrix of the size of `hidden`.
    ///
    /// # Panics
    /// If `d_hidden` is too short or not 64-byte aligned.
    pub fn new(hidden: Blocks<'a>, d_hidden: &'a mut [Bf16]) -> Self {
        check(d_hidden, hidden.rows(), hidden.columns());
        Self {
            hidden,
            d_hidden: SharedMut::new(d_hidden),
        }
    }
}

/// How a result is stored.
#[derive(Clone, Copy, PartialEq, Eq)]
enum StoreMode {
    Add,
    Overwrite,
    /// Overwrites with non-temporal stores, which do not read the cache line first.
    NonTemporal,
}

impl StoreMode {
    /// Chooses non-temporal stores if β is 0 and the result has at least 2 MiB, which are evicted from L2 before they are read.
    fn new(beta: Beta, values: usize) -> Self {
        const MIN_NON_TEMPORAL_BYTES: usize = 2 << 20;
        match (beta, values * size_of::<f32>() >= MIN_NON_TEMPORAL_BYTES) {
            (Beta::One, _) => Self::Add,
            (Beta::Zero, true) => Self::NonTemporal,
            (Beta::Zero, false) => Self::Overwrite,
        }
    }
}

/// Returns the offset of the block at (`row`, `column`), in elements.
fn block_offset(row: usize, column: usize, columns: usize) -> usize {
    (row / SIDE * columns.div_ceil(SIDE) + column / SIDE) * BLOCK
}

impl Epilogue for StoreF32<'_> {
    fn size(&self) -> (usize, usize) {
        (self.rows, self.columns)
    }

    unsafe fn process_rows(&self, row: usize, column: usize, sums: &mut [f32; BLOCK], range: Range<usize>) {
        let (rows, columns) = (SIDE.min(self.rows - row), SIDE.min(self.columns - column));
        let start = row * self.columns + column;
        let bias = self.bias.map(|b| &b[column..][..columns]);
        let residual = self.residual.map(|r| r[start..].as_ptr());
        // SAFETY: the block lies within the result, whose size `new` has checked, and only one thread processes it (caller); `gemm` has
        // found an engine.
        unsafe {
            store_f32(
                self.out.ptr_at(start),
                rows,
                columns,
                self.columns,
                sums,
                bias,
                residual,
                StoreMode::new(self.beta, self.rows * self.columns),
                range,
            )
        };
    }
}

impl Epilogue for StoreF32Transposed<'_> {
    fn size(&self) -> (usize, usize) {
        (self.rows, self.columns)
    }

    unsafe fn process_rows(&self, row: usize, column: usize, sums: &mut [f32; BLOCK], range: Range<usize>) {
        let (rows, columns) = (SIDE.min(self.columns - column), SIDE.min(self.rows - row));
        let start = column * self.rows + row;
        // SAFETY: the transposed block lies within the result, whose size `new` has checked, and only one thread processes it (caller);
        // `gemm` has found an engine.
        unsafe {
            if range.start == 0 {
                transpose_in_place(sums);
            }
            store_f32(
                self.out.ptr_at(start),
                rows,
                columns,
                self.rows,
                sums,
                None,
                None,
                StoreMode::new(self.beta, self.rows * self.columns),
                range,
            );
        }
    }
}

impl Epilogue for StoreBf16<'_> {
    fn size(&self) -> (usize, usize) {
        (self.rows, self.columns)
    }

    unsafe fn process_rows(&self, row: usize, column: usize, sums: &mut [f32; BLOCK], range: Range<usize>) {
        let (rows, columns) = (SIDE.min(self.rows - row), SIDE.min(self.columns - column));
        let bias = self.bias.map(|b| &b[column..][..columns]);
        // SAFETY: `check` has checked that the block lies in the slice, and only one thread processes it (caller); `gemm` has found an
        // engine.
        unsafe {
            store_bf16(
                self.out.ptr_at(block_offset(row, column, self.columns)),
                rows,
                sums,
                bias,
                range,
            )
        };
    }
}

impl Epilogue for Gelu<'_> {
    fn size(&self) -> (usize, usize) {
        (self.rows, self.columns)
    }

    unsafe fn process_rows(&self, row: usize, column: usize, sums: &mut [f32; BLOCK], range: Range<usize>) {
        let (rows, columns) = (SIDE.min(self.rows - row), SIDE.min(self.columns - column));
        let offset = block_offset(row, column, self.columns);
        // SAFETY: `check` has checked that the block lies in the slice, and only one thread processes it (caller); `gemm` has found an
        // engine.
        unsafe {
            let bias = &self.bias[column..][..columns];
            let hidden = self.hidden.map(|h| h.ptr_at(offset));
            store_gelu(hidden, self.activation.ptr_at(offset), rows, sums, bias, range);
        }
    }
}

impl Epilogue for GeluBackward<'_> {
    fn size(&self) -> (usize, usize) {
        (self.hidden.rows(), self.hidden.columns())
    }

    fn input_block(&self, row: usize, column: usize) -> Option<&[Bf16]> {
        Some(&self.hidden.blocks_from(row / SIDE, column / SIDE)[..BLOCK])
    }

    unsafe fn process_rows(&self, row: usize, column: usize, sums: &mut [f32; BLOCK], range: Range<usize>) {
        let hidden = self.hidden.blocks_from(row / SIDE, column / SIDE).as_ptr();
        let offset = block_offset(row, column, self.hidden.columns());
        // SAFETY: `check` has checked that the block lies in the slice, and only one thread processes it (caller); `gemm` has found an
        // engine.
        unsafe { store_gelu_gradient(hidden, self.d_hidden.ptr_at(offset), sums, range) };
    }
}

for_registers! {
/// Stores rows `range` for [`StoreF32`] and [`StoreF32Transposed`].
///
/// # Safety
/// `engine()` is `Some`; `out` and `residual` are valid for `rows` rows of `columns` (at most 32) values, with rows `stride` apart;
/// `range` is a part of 0..32.
unsafe fn store_f32<R>(
    out: *mut f32,
    rows: usize,
    columns: usize,
    stride: usize,
    sums: &[f32; BLOCK],
    bias: Option<&[f32]>,
    residual: Option<*const f32>,
    mode: StoreMode,
    range: Range<usize>,
) {
    // SAFETY: `r` is below `rows` and within 0..32 (caller), and the masks select only columns below `columns`.
    unsafe {
        let bias = load_bias::<R>(bias);
        let masks = masks(columns);
        for r in range.start..range.end.min(rows) {
            for half in 0..2 {
                let (mask, offset) = (masks[half], r * stride + 16 * half);
                let mut v = R::add(R::load(sums.as_ptr().add(r * SIDE + 16 * half)), bias[half]);
                if let Some(residual) = residual {
                    let residual = residual.wrapping_add(offset);
                    v = R::add(v, R::load_masked(mask, residual));
                    // The block to the right is processed next.
                    prefetch(Level::L1, residual.wrapping_add(SIDE), 1);
                }
                let out = out.wrapping_add(offset);
                if mode == StoreMode::Add {
                    v = R::add(v, R::load_masked(mask, out));
                }
                if mode == StoreMode::NonTemporal && mask == u16::MAX && out.addr().is_multiple_of(64) {
                    R::stream(out, v);
                } else {
                    R::store_masked(out, mask, v);
                }
            }
        }
    }
}
}

/// Loads a bias of up to 32 values, padded with zeros. Returns zeros if there is no bias.
///
/// # Safety
/// The CPU has the instruction set of `R`.
#[inline(always)]
unsafe fn load_bias<R: Registers>(bias: Option<&[f32]>) -> [R::F32; 2] {
    // SAFETY: the CPU has the instruction set of `R` (caller).
    unsafe {
        match bias {
            Some(bias) => load::<R>(bias, 0),
            None => [R::splat(0.0); 2],
        }
    }
}

/// Returns a row of sums plus the bias.
///
/// # Safety
/// The CPU has the instruction set of `R`, and `sums` is valid for 32 values.
#[inline(always)]
unsafe fn add_bias<R: Registers>(sums: *const f32, bias: [R::F32; 2]) -> [R::F32; 2] {
    // SAFETY: `sums` is valid for 32 values (caller).
    unsafe { [R::add(R::load(sums), bias[0]), R::add(R::load(sums.add(16)), bias[1])] }
}

for_registers! {
/// Stores rows `range` for [`StoreBf16`].
///
/// # Safety
/// `engine()` is `Some`; `out` is valid for a 64-byte aligned block; `range` is a part of 0..32.
unsafe fn store_bf16<R>(out: *mut Bf16, rows: usize, sums: &[f32; BLOCK], bias: Option<&[f32]>, range: Range<usize>) {
    // SAFETY: a block has 32 rows of 32 (caller).
    unsafe {
        let bias = load_bias::<R>(bias);
        for r in range {
            let values = if r < rows {
                let [low, high] = add_bias::<R>(sums.as_ptr().add(r * SIDE), bias);
                R::round(low, high)
            } else {
                R::zero_bf16()
            };
            R::stream_bf16(out.add(r * SIDE), values);
        }
    }
}
}

for_registers! {
/// Stores rows `range` for [`Gelu`].
///
/// # Safety
/// `engine()` is `Some`; `activation` and `hidden` are valid for 64-byte aligned blocks; `range` is a part of 0..32.
unsafe fn store_gelu<R>(
    hidden: Option<*mut Bf16>,
    activation: *mut Bf16,
    rows: usize,
    sums: &[f32; BLOCK],
    bias: &[f32],
    range: Range<usize>,
) {
    // SAFETY: a block has 32 rows of 32 (caller).
    unsafe {
        let bias = load::<R>(bias, 0);
        for r in range {
            let (mut h, mut g) = (R::zero_bf16(), R::zero_bf16());
            if r < rows {
                let x = add_bias::<R>(sums.as_ptr().add(r * SIDE), bias);
                (h, g) = (R::round(x[0], x[1]), math::gelu::<R>(x));
            }
            if let Some(hidden) = hidden {
                R::stream_bf16(hidden.add(r * SIDE), h);
            }
            R::stream_bf16(activation.add(r * SIDE), g);
        }
    }
}
}

for_registers! {
/// Stores rows `range` for [`GeluBackward`].
///
/// # Safety
/// `engine()` is `Some`; `hidden` and `d_hidden` are valid for 64-byte aligned blocks; `range` is a part of 0..32.
unsafe fn store_gelu_gradient<R>(hidden: *const Bf16, d_hidden: *mut Bf16, sums: &[f32; BLOCK], range: Range<usize>) {
    for r in range {
        // SAFETY: a block has 32 rows of 32 (caller).
        unsafe {
            let x = R::widen(R::load_bf16(hidden.add(r * SIDE)));
            let d = sums.as_ptr().add(r * SIDE);
            let low = R::mul(R::load(d), gelu_derivative::<R>(x[0]));
            let high = R::mul(R::load(d.add(16)), gelu_derivative::<R>(x[1]));
            R::stream_bf16(d_hidden.add(r * SIDE), R::round(low, high));
        }
    }
}
}
