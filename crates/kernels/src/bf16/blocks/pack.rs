//! Operations on single blocks and rows of blocks: packing as an rhs, transposing, rounding, summing.

use super::super::engine::{BLOCK, SIDE};
use super::super::math::gelu;
use super::super::number::Bf16;
use super::super::registers::{Registers, for_registers, load, masks};
use std::ops::Range;

for_registers! {
/// Computes `y = normalised·w + b` for a block. Row `rows` and all later rows are set to zero.
///
/// # Safety
/// `engine()` is `Some`; `normalised` and `y` are 64-byte aligned blocks, `w` and `b` have at most 32 values.
pub unsafe fn affine_block<R>(normalised: &[Bf16], w: &[f32], b: &[f32], rows: usize, y: &mut [Bf16]) {
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

/// Loads up to 32 f32 values, rounds them to bfloat16 and pads them with zeros.
///
/// # Safety
/// The CPU has the instruction set of `R`, and `x` is valid for the lanes in the masks.
#[inline(always)]
unsafe fn load_row<R: Registers>(x: *const f32, [low, high]: [u16; 2]) -> R::Bf16 {
    // SAFETY: `x` is valid for the lanes in the masks (caller).
    unsafe { R::round(R::load_masked(low, x), R::load_masked(high, x.wrapping_add(16))) }
}

for_registers! {
/// Converts at most 32 rows of f32 values to a row of bfloat16 blocks, padded with zeros.
///
/// # Safety
/// `engine()` is `Some`; `x` is valid for `rows` (at most 32) rows of `columns` values, where rows are `stride` values apart; `out`
/// is valid for a 64-byte aligned row of blocks.
pub unsafe fn block_row_from_f32<R>(x: *const f32, rows: usize, columns: usize, stride: usize, out: *mut Bf16) {
    for c in 0..columns.div_ceil(SIDE) {
        let masks = masks(columns - c * SIDE);
        for r in 0..SIDE {
            // SAFETY: only rows below `rows` are read, and the masks select only columns below `columns` (caller).
            unsafe {
                let row = if r < rows { load_row::<R>(x.add(r * stride + c * SIDE), masks) } else { R::zero_bf16() };
                R::store_bf16(out.add(c * BLOCK + r * SIDE), row);
            }
        }
    }
}
}

for_registers! {
/// Packs the pairs of rows `pairs` of a block of a matrix `[k, n]` as an rhs, by interleaving the two rows of each pair.
///
/// # Safety
/// `engine()` is `Some`; both pointers are valid for a block, `out` is 64-byte aligned, and `pairs` is a part of 0..16.
pub unsafe fn pack_block<R>(block: *const Bf16, pairs: Range<usize>, out: *mut Bf16) {
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
/// Computes the GELU of a block, and packs the pairs of rows `pairs` of the result as [`pack_block`] does.
///
/// # Safety
/// The requirements of [`pack_block`] hold.
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

/// Loads rows `2·pair` and `2·pair + 1` of a block.
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

/// Stores two rows of a matrix `[k, n]` as row `pair` of both tiles of a packed block.
///
/// # Safety
/// The CPU has the instruction set of `R`, `out` is valid for a 64-byte aligned block, and `pair < 16`.
#[inline(always)]
unsafe fn store_pair<R: Registers>(even: R::Bf16, odd: R::Bf16, pair: usize, out: *mut Bf16) {
    // SAFETY: row `pair` of both tiles lies within the block (caller).
    unsafe {
        let [low, high] = R::interleave(even, odd);
        R::store_bf16(out.add(pair * SIDE), low);
        R::store_bf16(out.add(BLOCK / 2 + pair * SIDE), high);
    }
}

for_registers! {
/// Packs a block of a matrix `[n, k]` as the rhs `[k, n]`, by transposing pairs of elements.
///
/// # Safety
/// `engine()` is `Some`; both pointers are valid for a block, and `out` is 64-byte aligned.
pub unsafe fn pack_block_transposed<R>(block: *const Bf16, out: *mut Bf16) {
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
/// `engine()` is `Some`; both pointers are valid for a block, and `out` is 64-byte aligned.
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
/// Packs up to 32 × 32 values of a row-major weight `[n, k]` as a block of the rhs `[k, n]`. Rows are `stride` values apart.
///
/// # Safety
/// `engine()` is `Some`; `w` is valid for `rows` rows of `columns` values (at most 32 of each), `out` for a 64-byte aligned block.
pub unsafe fn pack_weight_transposed<R>(w: *const f32, rows: usize, columns: usize, stride: usize, out: *mut Bf16) {
    let masks = masks(columns);
    for half in [0, 16] {
        // SAFETY: only rows below `rows` are read, and the masks select only columns below `columns` (caller).
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
/// Packs up to 32 × 32 values of a row-major weight `[k, n]` as a block of the rhs. Writes only the row pairs `pairs`. Rows of the weight are
/// `stride` values apart.
///
/// # Safety
/// `engine()` is `Some`; `w` is valid for `rows` rows of `columns` values (at most 32 of each), `out` for a 64-byte aligned block;
/// `pairs` is a part of 0..16.
pub unsafe fn pack_weight<R>(w: *const f32, rows: usize, columns: usize, stride: usize, pairs: Range<usize>, out: *mut Bf16) {
    let masks = masks(columns);
    for p in pairs {
        // SAFETY: only rows below `rows` are read, and the masks select only columns below `columns` (caller).
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
/// Returns the 32 row sums of a `[32, 32·n]` matrix that is stored as `n` blocks.
///
/// # Safety
/// `engine()` is `Some`.
pub unsafe fn block_row_sums<R>(blocks: &[Bf16]) -> [f32; SIDE] {
    let mut out = [0f32; SIDE];
    // SAFETY: `chunks_exact` returns blocks, which have 32 rows of 32.
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
/// Adds the rows `range` of a block to `sums`, which has a value for each of at most 32 columns.
///
/// # Safety
/// `engine()` is `Some`; `block` is valid for a block, `range` is a part of 0..32, and `sums` has at most 32 values.
pub unsafe fn add_rows<R>(block: *const Bf16, range: Range<usize>, sums: &mut [f32]) {
    // SAFETY: the rows lie within the block (caller), and the masks select only values of `sums`.
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

/// Loads a quadrant, 16 × 16 values, of a block of f32 sums.
///
/// # Safety
/// The CPU has the instruction set of `R`, and `first` points to the first value of a quadrant of a block.
#[inline(always)]
unsafe fn load_quadrant<R: Registers>(first: *const f32) -> [R::F32; 16] {
    // SAFETY: the sixteen rows lie within the block (caller).
    unsafe {
        let mut rows = [R::splat(0.0); 16];
        for (r, row) in rows.iter_mut().enumerate() {
            *row = R::load(first.add(r * SIDE));
        }
        rows
    }
}

/// Stores a quadrant, 16 × 16 values, of a block of f32 sums.
///
/// # Safety
/// The CPU has the instruction set of `R`, and `first` points to the first value of a quadrant of a block.
#[inline(always)]
unsafe fn store_quadrant<R: Registers>(first: *mut f32, rows: [R::F32; 16]) {
    for (r, row) in rows.into_iter().enumerate() {
        // SAFETY: the sixteen rows lie within the block (caller).
        unsafe { R::store(first.add(r * SIDE), row) };
    }
}

for_registers! {
/// Transposes a block of f32 sums in place.
///
/// # Safety
/// `engine()` is `Some`.
pub unsafe fn transpose_in_place<R>(sums: &mut [f32; BLOCK]) {
    let upper_left = sums.as_mut_ptr();
    // SAFETY: these are the four quadrants of a block of 32 × 32.
    unsafe {
        let (upper_right, lower_left) = (upper_left.add(16), upper_left.add(16 * SIDE));
        for diagonal in [upper_left, lower_left.add(16)] {
            store_quadrant::<R>(diagonal, R::transpose(load_quadrant::<R>(diagonal)));
        }
        let (upper, lower) = (load_quadrant::<R>(upper_right), load_quadrant::<R>(lower_left));
        store_quadrant::<R>(upper_right, R::transpose(lower));
        store_quadrant::<R>(lower_left, R::transpose(upper));
    }
}
}
