//! Epilogues of products: bias, residual, GELU and its gradient, rounding.

use super::blocks::{BLOCK, Blocks, SIDE, check, transpose_in_place};
use super::gemm::Epilogue;
use super::math::{self, gelu_slope};
use super::number::Bf16;
use super::prefetch::{Level, prefetch};
use super::registers::{Registers, for_registers, load, masks};
use crate::mat::Beta;
use crate::parallel::SharedMut;
use std::marker::PhantomData;
use std::ops::Range;

/// Stores row-major f32: `out = β·out + sums (+ bias) (+ residual)`.
pub struct StoreF32<'a> {
    out: SharedMut<f32>,
    rows: usize,
    columns: usize,
    bias: Option<&'a [f32]>,
    residual: Option<&'a [f32]>,
    beta: Beta,
}

impl<'a> StoreF32<'a> {
    /// Stores to `out [rows, columns]`.
    ///
    /// # Panics
    /// If the slice is not a multiple of `columns` long.
    pub fn new(out: &'a mut [f32], columns: usize, beta: Beta) -> Self {
        assert!(out.len().is_multiple_of(columns.max(1)), "result outside its slice");
        Self {
            rows: out.len() / columns.max(1),
            out: SharedMut::new(out),
            columns,
            bias: None,
            residual: None,
            beta,
        }
    }

    /// Adds a vector to each row.
    ///
    /// # Panics
    /// If it has another width.
    pub fn bias(mut self, bias: Option<&'a [f32]>) -> Self {
        assert!(bias.is_none_or(|b| b.len() == self.columns), "bias of another width");
        self.bias = bias;
        self
    }

    /// Adds a matrix of the same size.
    ///
    /// # Panics
    /// If it has another size.
    pub fn residual(mut self, residual: Option<&'a [f32]>) -> Self {
        assert!(
            residual.is_none_or(|r| r.len() == self.rows * self.columns),
            "residual of another size"
        );
        self.residual = residual;
        self
    }
}

/// Stores the transpose in row-major f32: `out[c, r] = β·out[c, r] + sums[r, c]`.
pub struct StoreF32Transposed<'a> {
    out: SharedMut<f32>,
    rows: usize,
    columns: usize,
    beta: Beta,
    memory: PhantomData<&'a mut [f32]>,
}

impl<'a> StoreF32Transposed<'a> {
    /// Stores the transpose of `[rows, columns]` sums.
    ///
    /// # Panics
    /// If the slice has another size.
    pub fn new(out: &'a mut [f32], rows: usize, columns: usize, beta: Beta) -> Self {
        assert_eq!(out.len(), rows * columns, "result outside its slice");
        Self {
            out: SharedMut::new(out),
            rows,
            columns,
            beta,
            memory: PhantomData,
        }
    }
}

/// Stores blocks: `out = sums (+ bias)`, rounded.
pub struct StoreBf16<'a> {
    out: SharedMut<Bf16>,
    rows: usize,
    columns: usize,
    bias: Option<&'a [f32]>,
}

impl<'a> StoreBf16<'a> {
    /// Stores blocks of `[rows, columns]`.
    ///
    /// # Panics
    /// If the sizes do not fit, or `out` is off a cache line.
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

/// Stores blocks: `active = gelu(sums + bias)` and, for a backward pass, `hidden = sums + bias`, both rounded.
pub struct Gelu<'a> {
    hidden: Option<SharedMut<Bf16>>,
    active: SharedMut<Bf16>,
    rows: usize,
    columns: usize,
    bias: &'a [f32],
}

impl<'a> Gelu<'a> {
    /// Stores blocks of `[rows, bias.len()]`.
    ///
    /// # Panics
    /// If the sizes do not fit, or a matrix is off a cache line.
    pub fn new(hidden: Option<&'a mut [Bf16]>, active: &'a mut [Bf16], rows: usize, bias: &'a [f32]) -> Self {
        check(active, rows, bias.len());
        if let Some(hidden) = &hidden {
            check(hidden, rows, bias.len());
        }
        Self {
            hidden: hidden.map(SharedMut::new),
            active: SharedMut::new(active),
            rows,
            columns: bias.len(),
            bias,
        }
    }
}

/// Stores blocks: `d_hidden = sums · gelu'(hidden)`, rounded.
pub struct GeluBackward<'a> {
    hidden: Blocks<'a>,
    d_hidden: SharedMut<Bf16>,
}

impl<'a> GeluBackward<'a> {
    /// Stores blocks of the size of `hidden`.
    ///
    /// # Panics
    /// If `d_hidden` is too short or off a cache line.
    pub fn new(hidden: Blocks<'a>, d_hidden: &'a mut [Bf16]) -> Self {
        check(d_hidden, hidden.rows(), hidden.columns());
        Self {
            hidden,
            d_hidden: SharedMut::new(d_hidden),
        }
    }
}

/// How a result is written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Writing {
    Add,
    Write,
    /// With non-temporal stores, which do not read the cache line first.
    Stream,
}

impl Writing {
    /// Chooses non-temporal stores for results of 2 MiB and more, which have left L2 before they are read.
    fn of(beta: Beta, values: usize) -> Self {
        const LARGE: usize = 2 << 20;
        match (beta, values * size_of::<f32>() >= LARGE) {
            (Beta::One, _) => Self::Add,
            (Beta::Zero, true) => Self::Stream,
            (Beta::Zero, false) => Self::Write,
        }
    }
}

/// Offset of a block in memory.
fn place(row: usize, column: usize, columns: usize) -> usize {
    (row / SIDE * columns.div_ceil(SIDE) + column / SIDE) * BLOCK
}

impl Epilogue for StoreF32<'_> {
    fn size(&self) -> (usize, usize) {
        (self.rows, self.columns)
    }

    unsafe fn rows(&self, row: usize, column: usize, sums: &mut [f32; BLOCK], range: Range<usize>) {
        let (rows, columns) = (SIDE.min(self.rows - row), SIDE.min(self.columns - column));
        let start = row * self.columns + column;
        let bias = self.bias.map(|b| &b[column..][..columns]);
        let residual = self.residual.map(|r| r[start..].as_ptr());
        // SAFETY: the block lies within the result, whose size `new` has checked, and one thread processes it (caller); `gemm` has
        // found an engine.
        unsafe {
            store(
                self.out.at(start),
                rows,
                columns,
                self.columns,
                sums,
                bias,
                residual,
                Writing::of(self.beta, self.rows * self.columns),
                range,
            )
        };
    }
}

impl Epilogue for StoreF32Transposed<'_> {
    fn size(&self) -> (usize, usize) {
        (self.rows, self.columns)
    }

    unsafe fn rows(&self, row: usize, column: usize, sums: &mut [f32; BLOCK], range: Range<usize>) {
        let (rows, columns) = (SIDE.min(self.columns - column), SIDE.min(self.rows - row));
        let start = column * self.rows + row;
        // SAFETY: the transposed block lies within the result, whose size `new` has checked, and one thread processes it (caller);
        // `gemm` has found an engine.
        unsafe {
            if range.start == 0 {
                transpose_in_place(sums);
            }
            store(
                self.out.at(start),
                rows,
                columns,
                self.rows,
                sums,
                None,
                None,
                Writing::of(self.beta, self.rows * self.columns),
                range,
            );
        }
    }
}

impl Epilogue for StoreBf16<'_> {
    fn size(&self) -> (usize, usize) {
        (self.rows, self.columns)
    }

    unsafe fn rows(&self, row: usize, column: usize, sums: &mut [f32; BLOCK], range: Range<usize>) {
        let (rows, columns) = (SIDE.min(self.rows - row), SIDE.min(self.columns - column));
        let bias = self.bias.map(|b| &b[column..][..columns]);
        // SAFETY: `check` has made room for this block, and one thread processes it (caller); `gemm` has found an engine.
        unsafe { round(self.out.at(place(row, column, self.columns)), rows, sums, bias, range) };
    }
}

impl Epilogue for Gelu<'_> {
    fn size(&self) -> (usize, usize) {
        (self.rows, self.columns)
    }

    unsafe fn rows(&self, row: usize, column: usize, sums: &mut [f32; BLOCK], range: Range<usize>) {
        let (rows, columns) = (SIDE.min(self.rows - row), SIDE.min(self.columns - column));
        let place = place(row, column, self.columns);
        // SAFETY: `check` has made room for this block, and one thread processes it (caller); `gemm` has found an engine.
        unsafe {
            let bias = &self.bias[column..][..columns];
            let hidden = self.hidden.map(|h| h.at(place));
            gelu(hidden, self.active.at(place), rows, sums, bias, range);
        }
    }
}

impl Epilogue for GeluBackward<'_> {
    fn size(&self) -> (usize, usize) {
        (self.hidden.rows(), self.hidden.columns())
    }

    fn read(&self, row: usize, column: usize) -> Option<&[Bf16]> {
        Some(&self.hidden.at(row / SIDE, column / SIDE)[..BLOCK])
    }

    unsafe fn rows(&self, row: usize, column: usize, sums: &mut [f32; BLOCK], range: Range<usize>) {
        let hidden = self.hidden.at(row / SIDE, column / SIDE).as_ptr();
        let place = place(row, column, self.hidden.columns());
        // SAFETY: `check` has made room for this block, and one thread processes it (caller); `gemm` has found an engine.
        unsafe { gelu_backward(hidden, self.d_hidden.at(place), sums, range) };
    }
}

for_registers! {
/// Rows `range` of [`StoreF32`] and [`StoreF32Transposed`].
///
/// # Safety
/// An engine is in use; `out` and `residual` are valid for `rows` rows of `columns` (at most 32) values `stride` apart.
unsafe fn store<R>(
    out: *mut f32,
    rows: usize,
    columns: usize,
    stride: usize,
    sums: &[f32; BLOCK],
    bias: Option<&[f32]>,
    residual: Option<*const f32>,
    writing: Writing,
    range: Range<usize>,
) {
    // SAFETY: `r` is below `rows` and 32, and the masks end with `columns` (caller).
    unsafe {
        let bias = load_or_zero::<R>(bias);
        let masks = masks(columns);
        for r in range.start..range.end.min(rows) {
            for half in 0..2 {
                let (mask, place) = (masks[half], r * stride + 16 * half);
                let mut v = R::add(R::load(sums.as_ptr().add(r * SIDE + 16 * half)), bias[half]);
                if let Some(residual) = residual {
                    let residual = residual.wrapping_add(place);
                    v = R::add(v, R::load_masked(mask, residual));
                    // The next block of the same rows is processed after one more product.
                    prefetch(Level::L1, residual.wrapping_add(SIDE), 1);
                }
                let out = out.wrapping_add(place);
                if writing == Writing::Add {
                    v = R::add(v, R::load_masked(mask, out));
                }
                if writing == Writing::Stream && mask == u16::MAX && out.addr().is_multiple_of(64) {
                    R::stream(out, v);
                } else {
                    R::store_masked(out, mask, v);
                }
            }
        }
    }
}
}

/// The values of a bias of up to 32 columns; zeros beyond, and without a bias.
///
/// # Safety
/// The CPU has the instruction set of `R`.
#[inline(always)]
unsafe fn load_or_zero<R: Registers>(bias: Option<&[f32]>) -> [R::F32; 2] {
    // SAFETY: the CPU has the instruction set of `R` (caller).
    unsafe {
        match bias {
            Some(bias) => load::<R>(bias, 0),
            None => [R::splat(0.0); 2],
        }
    }
}

/// A row of sums plus the bias.
///
/// # Safety
/// The CPU has the instruction set of `R`, and `sums` is valid for 32 values.
#[inline(always)]
unsafe fn biased<R: Registers>(sums: *const f32, bias: [R::F32; 2]) -> [R::F32; 2] {
    // SAFETY: `sums` is valid for 32 values (caller).
    unsafe { [R::add(R::load(sums), bias[0]), R::add(R::load(sums.add(16)), bias[1])] }
}

for_registers! {
/// Rows `range` of [`StoreBf16`].
///
/// # Safety
/// An engine is in use; `out` is valid for a block at a cache line.
unsafe fn round<R>(out: *mut Bf16, rows: usize, sums: &[f32; BLOCK], bias: Option<&[f32]>, range: Range<usize>) {
    // SAFETY: a block has 32 rows of 32 (caller).
    unsafe {
        let bias = load_or_zero::<R>(bias);
        for r in range {
            let values = if r < rows {
                let [low, high] = biased::<R>(sums.as_ptr().add(r * SIDE), bias);
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
/// Rows `range` of [`Gelu`].
///
/// # Safety
/// An engine is in use; `active` and `hidden` are valid for a block at a cache line.
unsafe fn gelu<R>(
    hidden: Option<*mut Bf16>,
    active: *mut Bf16,
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
                let x = biased::<R>(sums.as_ptr().add(r * SIDE), bias);
                (h, g) = (R::round(x[0], x[1]), math::gelu::<R>(x));
            }
            if let Some(hidden) = hidden {
                R::stream_bf16(hidden.add(r * SIDE), h);
            }
            R::stream_bf16(active.add(r * SIDE), g);
        }
    }
}
}

for_registers! {
/// Rows `range` of [`GeluBackward`].
///
/// # Safety
/// An engine is in use; `hidden` and `d_hidden` are valid for a block at a cache line.
unsafe fn gelu_backward<R>(hidden: *const Bf16, d_hidden: *mut Bf16, sums: &[f32; BLOCK], range: Range<usize>) {
    for r in range {
        // SAFETY: a block has 32 rows of 32 (caller).
        unsafe {
            let x = R::widen(R::load_bf16(hidden.add(r * SIDE)));
            let d = sums.as_ptr().add(r * SIDE);
            let low = R::mul(R::load(d), gelu_slope::<R>(x[0]));
            let high = R::mul(R::load(d.add(16)), gelu_slope::<R>(x[1]));
            R::stream_bf16(d_hidden.add(r * SIDE), R::round(low, high));
        }
    }
}
}
