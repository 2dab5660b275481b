//! What is done with the sums of a product while they are at hand: bias, residual, GELU and its gradient, rounding.

use super::blocks::{BLOCK, Blocks, SIDE, check};
use super::gemm::Epilogue;
use super::number::Bf16;
use crate::mat::Beta;
use crate::parallel::SharedMut;
use std::marker::PhantomData;
use std::ops::Range;

/// Row-major f32: `out = sums (+ bias) (+ residual)`, or `out += sums`.
pub struct StoreF32<'a> {
    out: SharedMut<f32>,
    rows: usize,
    columns: usize,
    bias: Option<&'a [f32]>,
    residual: Option<&'a [f32]>,
    beta: Beta,
}

impl<'a> StoreF32<'a> {
    /// Writes to `out [rows, columns]`, or adds to it.
    ///
    /// # Panics
    /// If the slice has another size.
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
    pub fn bias(mut self, bias: Option<&'a [f32]>) -> Self {
        assert!(bias.is_none_or(|b| b.len() == self.columns), "bias of another width");
        self.bias = bias;
        self
    }

    /// Adds a matrix of the same size.
    pub fn residual(mut self, residual: Option<&'a [f32]>) -> Self {
        assert!(
            residual.is_none_or(|r| r.len() == self.rows * self.columns),
            "residual of another size"
        );
        self.residual = residual;
        self
    }
}

/// Row-major f32, transposed: `out[c, r] = sums[r, c]`, or added to.
pub struct StoreF32Transposed<'a> {
    out: SharedMut<f32>,
    rows: usize,
    columns: usize,
    beta: Beta,
    memory: PhantomData<&'a mut [f32]>,
}

impl<'a> StoreF32Transposed<'a> {
    /// Writes the transpose of `[rows, columns]` sums to `out`, or adds it.
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

/// Blocks: `out = sums (+ bias)`, rounded.
pub struct StoreBf16<'a> {
    out: SharedMut<Bf16>,
    rows: usize,
    columns: usize,
    bias: Option<&'a [f32]>,
}

impl<'a> StoreBf16<'a> {
    /// Writes to `out`, blocks of `[rows, columns]`.
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

/// Blocks: `active = gelu(sums + bias)` and, where a backward pass is to follow, `hidden = sums + bias`, both rounded.
pub struct Gelu<'a> {
    hidden: Option<SharedMut<Bf16>>,
    active: SharedMut<Bf16>,
    rows: usize,
    columns: usize,
    bias: &'a [f32],
}

impl<'a> Gelu<'a> {
    /// Writes blocks of `[rows, bias.len()]`.
    ///
    /// # Panics
    /// If the sizes do not fit.
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

/// Blocks: `d_hidden = sums · gelu'(hidden)`, rounded.
pub struct GeluBackward<'a> {
    hidden: Blocks<'a>,
    d_hidden: SharedMut<Bf16>,
}

impl<'a> GeluBackward<'a> {
    /// Writes blocks of the size of `hidden`.
    ///
    /// # Panics
    /// If the sizes do not fit.
    pub fn new(hidden: Blocks<'a>, d_hidden: &'a mut [Bf16]) -> Self {
        check(d_hidden, hidden.rows(), hidden.columns());
        Self {
            hidden,
            d_hidden: SharedMut::new(d_hidden),
        }
    }
}

/// How a result gets to its place.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Writing {
    Add,
    Write,
    /// Past the caches: what was there is not read first.
    Stream,
}

impl Writing {
    /// Of a result of so many values. A large one has left the second caches before it is read.
    fn of(beta: Beta, values: usize) -> Self {
        const LARGE: usize = 2 << 20;
        match (beta, values * size_of::<f32>() >= LARGE) {
            (Beta::One, _) => Self::Add,
            (Beta::Zero, true) => Self::Stream,
            (Beta::Zero, false) => Self::Write,
        }
    }
}

/// Place of a block in memory.
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
        // SAFETY: the block lies within the result, which `new` has measured; one call at a time for a place (contract).
        unsafe {
            x86::store(
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
        // SAFETY: as for `StoreF32`, with rows and columns exchanged.
        unsafe {
            if range.start == 0 {
                super::blocks::transpose_in_place(sums);
            }
            x86::store(
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
        // SAFETY: a whole block within the result; one call at a time for a place (contract).
        unsafe { x86::round(self.out.at(place(row, column, self.columns)), rows, sums, bias, range) };
    }
}

impl Epilogue for Gelu<'_> {
    fn size(&self) -> (usize, usize) {
        (self.rows, self.columns)
    }

    unsafe fn rows(&self, row: usize, column: usize, sums: &mut [f32; BLOCK], range: Range<usize>) {
        let (rows, columns) = (SIDE.min(self.rows - row), SIDE.min(self.columns - column));
        let place = place(row, column, self.columns);
        // SAFETY: as for `StoreBf16`.
        unsafe {
            let bias = &self.bias[column..][..columns];
            let hidden = self.hidden.map(|h| h.at(place));
            x86::gelu(hidden, self.active.at(place), rows, sums, bias, range);
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
        // SAFETY: as for `StoreBf16`.
        unsafe { x86::gelu_gradient(hidden, self.d_hidden.at(place), sums, range) };
    }
}

mod x86 {
    use super::super::avx512::{round2, widen};
    use super::super::blocks::{load, masks};
    use super::super::math::{self, slope};
    use super::super::prefetch::{Level, prefetch};
    use super::{BLOCK, Bf16, SIDE, Writing};
    use std::arch::x86_64::*;
    use std::ops::Range;

    /// # Safety
    /// All rows lie within their matrices.
    #[allow(clippy::too_many_arguments)]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    pub unsafe fn store(
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
        // SAFETY: loads are masked.
        let bias = bias.map_or([_mm512_setzero_ps(); 2], |b| unsafe { load(b, 0) });
        let masks = masks(columns);
        for r in range.start..range.end.min(rows) {
            for half in 0..2 {
                let (mask, place) = (masks[half], r * stride + 16 * half);
                // SAFETY: masked-out addresses are not touched; the others are inside by the contract.
                unsafe {
                    let sums = sums.as_ptr().add(r * SIDE + 16 * half);
                    let mut v = _mm512_add_ps(_mm512_loadu_ps(sums), bias[half]);
                    if let Some(residual) = residual {
                        let residual = residual.wrapping_add(place);
                        v = _mm512_add_ps(v, _mm512_maskz_loadu_ps(mask, residual));
                        // The next block of the same rows comes after one more product.
                        prefetch(Level::L1, residual.wrapping_add(SIDE), 1);
                    }
                    let out = out.wrapping_add(place);
                    if writing == Writing::Add {
                        v = _mm512_add_ps(v, _mm512_maskz_loadu_ps(mask, out));
                    }
                    if writing == Writing::Stream && mask == u16::MAX && (out as usize).is_multiple_of(64) {
                        _mm512_stream_ps(out, v);
                    } else {
                        _mm512_mask_storeu_ps(out, mask, v);
                    }
                }
            }
        }
    }

    /// A row of sums with the bias.
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn biased(sums: *const f32, bias: [__m512; 2]) -> [__m512; 2] {
        // SAFETY: a row is 32 values.
        unsafe {
            [
                _mm512_add_ps(_mm512_loadu_ps(sums), bias[0]),
                _mm512_add_ps(_mm512_loadu_ps(sums.add(16)), bias[1]),
            ]
        }
    }

    /// # Safety
    /// `out` is a block.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub unsafe fn round(out: *mut Bf16, rows: usize, sums: &[f32; BLOCK], bias: Option<&[f32]>, range: Range<usize>) {
        // SAFETY: by the contract.
        unsafe {
            let bias = bias.map_or([_mm512_setzero_ps(); 2], |b| load(b, 0));
            for r in range {
                let values = if r < rows {
                    let [low, high] = biased(sums.as_ptr().add(r * SIDE), bias);
                    round2(low, high)
                } else {
                    _mm512_setzero_si512()
                };
                _mm512_stream_si512(out.add(r * SIDE).cast(), values);
            }
        }
    }

    /// # Safety
    /// `active`, and `hidden` if it is there, are blocks.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512bf16")]
    pub unsafe fn gelu(
        hidden: Option<*mut Bf16>,
        active: *mut Bf16,
        rows: usize,
        sums: &[f32; BLOCK],
        bias: &[f32],
        range: Range<usize>,
    ) {
        // SAFETY: by the contract.
        unsafe {
            let bias = load(bias, 0);
            for r in range {
                let (mut h, mut g) = (_mm512_setzero_si512(), _mm512_setzero_si512());
                if r < rows {
                    let x = biased(sums.as_ptr().add(r * SIDE), bias);
                    (h, g) = (round2(x[0], x[1]), math::gelu(x));
                }
                if let Some(hidden) = hidden {
                    _mm512_stream_si512(hidden.add(r * SIDE).cast(), h);
                }
                _mm512_stream_si512(active.add(r * SIDE).cast(), g);
            }
        }
    }

    /// # Safety
    /// Both are blocks.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512bf16")]
    pub unsafe fn gelu_gradient(hidden: *const Bf16, d_hidden: *mut Bf16, sums: &[f32; BLOCK], range: Range<usize>) {
        for r in range {
            // SAFETY: by the contract.
            unsafe {
                let x = widen(_mm512_loadu_si512(hidden.add(r * SIDE).cast()));
                let d = sums.as_ptr().add(r * SIDE);
                let low = _mm512_mul_ps(_mm512_loadu_ps(d), slope(x[0]));
                let high = _mm512_mul_ps(_mm512_loadu_ps(d.add(16)), slope(x[1]));
                _mm512_stream_si512(d_hidden.add(r * SIDE).cast(), round2(low, high));
            }
        }
    }
}
