//! Rearranging single blocks: packing them as rhs, transposing, rounding.

use super::super::engine::{BLOCK, SIDE};
use super::super::math::gelu;
use super::super::number::Bf16;
use super::super::registers::{Registers, for_registers, load, masks};
use std::ops::Range;

for_registers! {
/// `y = normalised·w + b` for a block; rows from `rows` on become zero.
///
/// # Safety
/// An engine is in use; `normalised` and `y` are blocks at cache lines, `w` and `b` have at most 32 values.
pub unsafe fn scale_block<R>(normalised: &[Bf16], w: &[f32], b: &[f32], rows: usize, y: &mut [Bf16]) {
    // SAFETY: a block has 32 rows of 32 (caller).
    unsafe {
        let (w, b) = (load::<R>(w, 0), load::<R>(b, 0));
        for r in 0..SIDE {
            let n = R::widen(R::load_bf16(normalised.as_ptr().add(r * SIDE)));
            let scaled = [R::mul_add(n[0], w[0], b[0]), R::mul_add(n[1], w[1], b[1])];
            let row = if r < rows { R::round(scaled[0], scaled[1]) } else { R::zero_bf16() };
            R::store_bf16(y.as_mut_ptr().add(r * SIDE), row);
        }
    }
}
}

/// Loads up to 32 f32 values, rounds them to bf16 and pads with zeros.
///
/// # Safety
/// The CPU has the instruction set of `R`, and `x` is valid for the lanes in the masks.
#[inline(always)]
unsafe fn load_row<R: Registers>(x: *const f32, [low, high]: [u16; 2]) -> R::Bf16 {
    // SAFETY: `x` is valid for the lanes in the masks (caller).
    unsafe { R::round(R::load_masked(low, x), R::load_masked(high, x.wrapping_add(16))) }
}

for_registers! {
/// Rounds a row of blocks.
///
/// # Safety
/// An engine is in use; `x` is valid for `rows` (at most 32) rows of `columns` values `stride` apart, `out` for a row of blocks at a
/// cache line.
pub unsafe fn block_row_from_f32<R>(x: *const f32, rows: usize, columns: usize, stride: usize, out: *mut Bf16) {
    for c in 0..columns.div_ceil(SIDE) {
        let masks = masks(columns - c * SIDE);
        for r in 0..SIDE {
            // SAFETY: row `r` of block `c` lies within both matrices, and the masks end with its columns (caller).
            unsafe {
                let row = if r < rows { load_row::<R>(x.add(r * stride + c * SIDE), masks) } else { R::zero_bf16() };
                R::store_bf16(out.add(c * BLOCK + r * SIDE), row);
            }
        }
    }
}
}

for_registers! {
/// Packs a block of `[k, n]` as rhs: interleaves its rows; of its sixteen pairs of rows, those in `pairs`.
///
/// # Safety
/// An engine is in use; both pointers are valid for a block, `out` at a cache line.
pub unsafe fn pack_rows<R>(block: *const Bf16, pairs: Range<usize>, out: *mut Bf16) {
    for p in pairs {
        // SAFETY: a block has sixteen pairs of rows (caller).
        unsafe {
            let [even, odd] = load_pair::<R>(block, p);
            store_pair::<R>(even, odd, p, out);
        }
    }
}
}

for_registers! {
/// Packs the GELU of a block of `[k, n]` as rhs; of its sixteen pairs of rows, those in `pairs`.
///
/// # Safety
/// An engine is in use; both pointers are valid for a block, `out` at a cache line.
pub unsafe fn pack_gelu<R>(block: *const Bf16, pairs: Range<usize>, out: *mut Bf16) {
    for p in pairs {
        // SAFETY: a block has sixteen pairs of rows (caller).
        unsafe {
            let [even, odd] = load_pair::<R>(block, p);
            store_pair::<R>(gelu::<R>(R::widen(even)), gelu::<R>(R::widen(odd)), p, out);
        }
    }
}
}

/// Rows `2·pair` and `2·pair + 1` of a block.
///
/// # Safety
/// The CPU has the instruction set of `R`, `block` is valid for a block, and `pair < 16`.
#[inline(always)]
unsafe fn load_pair<R: Registers>(block: *const Bf16, pair: usize) -> [R::Bf16; 2] {
    // SAFETY: both rows lie within the block (caller).
    unsafe {
        let row = block.add(2 * pair * SIDE);
        [R::load_bf16(row), R::load_bf16(row.add(SIDE))]
    }
}

/// Writes two rows of `[k, n]` to row `pair` of both tiles of a packed block.
///
/// # Safety
/// The CPU has the instruction set of `R`, `out` is valid for a block at a cache line, and `pair < 16`.
#[inline(always)]
unsafe fn store_pair<R: Registers>(even: R::Bf16, odd: R::Bf16, pair: usize, out: *mut Bf16) {
    // SAFETY: both rows lie within the block (caller).
    unsafe {
        let [low, high] = R::interleave(even, odd);
        R::store_bf16(out.add(pair * SIDE), low);
        R::store_bf16(out.add(BLOCK / 2 + pair * SIDE), high);
    }
}

for_registers! {
/// Packs a block of `[n, k]` as rhs: transposes pairs of elements.
///
/// # Safety
/// An engine is in use; both pointers are valid for a block, `out` at a cache line.
pub unsafe fn pack_columns<R>(block: *const Bf16, out: *mut Bf16) {
    for half in [0, BLOCK / 2] {
        // SAFETY: half a block is sixteen rows (caller).
        unsafe {
            let mut rows = [R::zero_bf16(); 16];
            for (r, row) in rows.iter_mut().enumerate() {
                *row = R::load_bf16(block.add(half + r * SIDE));
            }
            for (r, row) in R::transpose_pairs(rows).into_iter().enumerate() {
                R::store_bf16(out.add(half + r * SIDE), row);
            }
        }
    }
}
}

for_registers! {
/// Transposes a block.
///
/// # Safety
/// An engine is in use; both pointers are valid for a block, `out` at a cache line.
pub unsafe fn transpose_block<R>(block: *const Bf16, out: *mut Bf16) {
    for half in 0..2 {
        // SAFETY: a block has sixteen pairs of rows (caller).
        unsafe {
            let mut rows = [R::zero_bf16(); 16];
            for (p, row) in rows.iter_mut().enumerate() {
                let [even, odd] = load_pair::<R>(block, p);
                *row = R::interleave(even, odd)[half];
            }
            for (r, row) in R::transpose_pairs(rows).into_iter().enumerate() {
                R::store_bf16(out.add(half * (BLOCK / 2) + r * SIDE), row);
            }
        }
    }
}
}

for_registers! {
/// Packs 32 rows of a weight `[n, k]`, `stride` values apart, which are columns of rhs.
///
/// # Safety
/// An engine is in use; `w` is valid for `rows` rows of `columns` values (at most 32 of each), `out` for a block at a cache line.
pub unsafe fn pack_weight_rows<R>(w: *const f32, rows: usize, columns: usize, stride: usize, out: *mut Bf16) {
    let masks = masks(columns);
    for half in [0, 16] {
        // SAFETY: only rows below `rows` are read, and the masks end with `columns` (caller).
        unsafe {
            let mut sixteen = [R::zero_bf16(); 16];
            for (r, row) in (half..rows).zip(&mut sixteen) {
                *row = load_row::<R>(w.add(r * stride), masks);
            }
            for (r, row) in R::transpose_pairs(sixteen).into_iter().enumerate() {
                R::store_bf16(out.add((half + r) * SIDE), row);
            }
        }
    }
}
}

for_registers! {
/// Packs 32 rows of a weight `[k, n]`, `stride` values apart, which are rows of rhs; of its sixteen pairs of rows, those in `pairs`.
///
/// # Safety
/// An engine is in use; `w` is valid for `rows` rows of `columns` values (at most 32 of each), `out` for a block at a cache line.
pub unsafe fn pack_weight_columns<R>(w: *const f32, rows: usize, columns: usize, stride: usize, pairs: Range<usize>, out: *mut Bf16) {
    let masks = masks(columns);
    for p in pairs {
        // SAFETY: only rows below `rows` are read, and the masks end with `columns` (caller).
        unsafe {
            let w = w.wrapping_add(2 * p * stride);
            let even = if 2 * p < rows { load_row::<R>(w, masks) } else { R::zero_bf16() };
            let odd = if 2 * p + 1 < rows { load_row::<R>(w.wrapping_add(stride), masks) } else { R::zero_bf16() };
            store_pair::<R>(even, odd, p, out);
        }
    }
}
}

for_registers! {
/// Sums of each row of a row of blocks.
///
/// # Safety
/// An engine is in use.
pub unsafe fn block_row_sums<R>(blocks: &[Bf16]) -> [f32; SIDE] {
    let mut out = [0f32; SIDE];
    // SAFETY: `chunks_exact` gives blocks, which have 32 rows of 32.
    unsafe {
        let mut sums = [R::splat(0.0); SIDE];
        for block in blocks.chunks_exact(BLOCK) {
            for (r, sum) in sums.iter_mut().enumerate() {
                let [low, high] = R::widen(R::load_bf16(block.as_ptr().add(r * SIDE)));
                *sum = R::add(*sum, R::add(low, high));
            }
        }
        for (out, sum) in out.iter_mut().zip(sums) {
            *out = R::reduce_add(sum);
        }
    }
    out
}
}

for_registers! {
/// Adds the rows `range` of a block to `sums`, which has one value per column, at most 32.
///
/// # Safety
/// An engine is in use; `block` is valid for a block.
pub unsafe fn add_rows<R>(block: *const Bf16, range: Range<usize>, sums: &mut [f32]) {
    // SAFETY: the rows lie within the block (caller), and the masks end with `sums`.
    unsafe {
        let mut totals = load::<R>(sums, 0);
        for r in range {
            let row = R::widen(R::load_bf16(block.add(r * SIDE)));
            totals = [R::add(totals[0], row[0]), R::add(totals[1], row[1])];
        }
        let [low, high] = masks(sums.len());
        R::store_masked(sums.as_mut_ptr(), low, totals[0]);
        R::store_masked(sums.as_mut_ptr().wrapping_add(16), high, totals[1]);
    }
}
}

/// Loads a 16 × 16 quadrant of a 32 × 32 block.
///
/// # Safety
/// The CPU has the instruction set of `R`, and `at` points to the first of these values in a block.
#[inline(always)]
unsafe fn load_quarter<R: Registers>(at: *const f32) -> [R::F32; 16] {
    // SAFETY: the sixteen rows lie within the block (caller).
    unsafe {
        let mut rows = [R::splat(0.0); 16];
        for (r, row) in rows.iter_mut().enumerate() {
            *row = R::load(at.add(r * SIDE));
        }
        rows
    }
}

/// Writes what [`load_quarter`] reads.
///
/// # Safety
/// The CPU has the instruction set of `R`, and `at` points to the first of these values in a block.
#[inline(always)]
unsafe fn store_quarter<R: Registers>(at: *mut f32, rows: [R::F32; 16]) {
    for (r, row) in rows.into_iter().enumerate() {
        // SAFETY: the sixteen rows lie within the block (caller).
        unsafe { R::store(at.add(r * SIDE), row) };
    }
}

for_registers! {
/// Transposes a block of f32 sums.
///
/// # Safety
/// An engine is in use.
pub unsafe fn transpose_in_place<R>(sums: &mut [f32; BLOCK]) {
    let at = sums.as_mut_ptr();
    // SAFETY: these are the four quarters of a block of 32 × 32.
    unsafe {
        let (upper_right, lower_left) = (at.add(16), at.add(16 * SIDE));
        for diagonal in [at, lower_left.add(16)] {
            store_quarter::<R>(diagonal, R::transpose(load_quarter::<R>(diagonal)));
        }
        let (upper, lower) = (load_quarter::<R>(upper_right), load_quarter::<R>(lower_left));
        store_quarter::<R>(upper_right, R::transpose(lower));
        store_quarter::<R>(lower_left, R::transpose(upper));
    }
}
}
