//! Layer normalisation ([`crate::layer_norm`]) from f32 rows to bfloat16 blocks. The forward pass also stores the normalised values in
//! blocks, so that the backward pass does not need the input.

use super::blocks::{self, BLOCK, Blocks, SIDE};
use super::micro_kernel::store_fence;
use super::number::Bf16;
use super::prefetch::{Level, prefetch};
use super::registers::{for_registers, load, masks};
use crate::parallel::SharedMut;
use rayon::prelude::*;

/// Writes `normalised = (x − μ)/sqrt(σ² + ε)` and `y = normalised · w + b`, both `[rows, width]` in blocks, and `rstd = 1/sqrt(σ² + ε)` for
/// each row.
///
/// # Panics
/// If the sizes do not fit, a matrix is not 64-byte aligned, or the CPU has no bfloat16 engine.
pub fn forward(x: &[f32], w: &[f32], b: &[f32], eps: f32, normalised: &mut [Bf16], y: &mut [Bf16], rstd: &mut [f32]) {
    let (width, rows) = (w.len(), rstd.len());
    let len = blocks::len(rows, width);
    blocks::check(normalised, rows, width);
    blocks::check(y, rows, width);
    assert!(x.len() == rows * width && b.len() == width);
    let row_len = (width.div_ceil(SIDE) * BLOCK).max(1);
    normalised[..len]
        .par_chunks_mut(row_len)
        .zip(y[..len].par_chunks_mut(row_len))
        .zip(rstd.par_chunks_mut(SIDE))
        .zip(x.par_chunks(SIDE * width))
        .for_each(|(((normalised, y), rstd), x)| {
            // SAFETY: `check` has found an engine and enough memory for these rows of blocks; `x` has a row for each value of `rstd`.
            unsafe { forward_rows(x, w, b, eps, normalised, y, rstd) };
            store_fence();
        });
}

/// Adds the gradient of the input to `dx`, and computes `dw += Σ dy·normalised` and `db += Σ dy`. Rounds the new `dx` and writes it, in
/// blocks, to `rounded`, an operand of the backward pass of the previous layer.
///
/// # Panics
/// If the sizes do not fit, or `rounded` is not 64-byte aligned.
#[allow(clippy::too_many_arguments)]
pub fn backward(
    dy: Blocks,
    normalised: Blocks,
    w: &[f32],
    rstd: &[f32],
    dx: &mut [f32],
    rounded: &mut [Bf16],
    dw: &mut [f32],
    db: &mut [f32],
) {
    /// Rows of blocks per task. The `dw` and `db` of each task are summed separately and then added in order.
    const ROWS_PER_TASK: usize = 4;
    let (rows, width) = (dy.rows(), dy.columns());
    assert!(normalised.rows() == rows && normalised.columns() == width && rstd.len() == rows);
    assert!(dx.len() == rows * width && [w.len(), dw.len(), db.len()] == [width; 3]);
    let padded = width.next_multiple_of(SIDE);
    let mut partial = vec![0f32; rows.div_ceil(ROWS_PER_TASK * SIDE) * 2 * padded];
    blocks::check(rounded, rows, width);
    let (dx, rounded) = (SharedMut::new(dx), SharedMut::new(rounded));
    partial
        .par_chunks_mut((2 * padded).max(1))
        .enumerate()
        .for_each(|(task, partial)| {
            let (dw, db) = partial.split_at_mut(padded);
            for i in task * ROWS_PER_TASK..((task + 1) * ROWS_PER_TASK).min(dy.row_blocks()) {
                let count = SIDE.min(rows - i * SIDE);
                // SAFETY: only this task accesses these rows of both results, and `check` has found an engine.
                unsafe {
                    let dx = std::slice::from_raw_parts_mut(dx.ptr_at(i * SIDE * width), count * width);
                    let row_len = padded * SIDE;
                    let rounded = std::slice::from_raw_parts_mut(rounded.ptr_at(i * row_len), row_len);
                    backward_rows(dy, normalised, i, w, &rstd[i * SIDE..][..count], dx, rounded, dw, db);
                }
            }
        });
    for partial in partial.chunks_exact(2 * padded) {
        let (w, b) = partial.split_at(padded);
        dw.iter_mut().zip(w).for_each(|(d, p)| *d += p);
        db.iter_mut().zip(b).for_each(|(d, p)| *d += p);
    }
}

for_registers! {
/// Computes a row of blocks of [`forward`].
///
/// # Safety
/// `engine()` is `Some`; `normalised` and `y` are 64-byte aligned rows of blocks; `x` has a row for each value of `rstd`, at most 32.
unsafe fn forward_rows<R>(
    x: &[f32],
    w: &[f32],
    b: &[f32],
    eps: f32,
    normalised: &mut [Bf16],
    y: &mut [Bf16],
    rstd: &mut [f32],
) {
    let width = w.len();
    // SAFETY: a block has 32 rows of 32 (caller), and loads are masked.
    unsafe {
        let mut means = [R::splat(0.0); SIDE];
        for (r, rstd) in rstd.iter_mut().enumerate() {
            let x = &x[r * width..][..width];
            let mut sums = [R::splat(0.0); 2];
            for c in (0..width).step_by(SIDE) {
                let values = load::<R>(x, c);
                sums = [R::add(sums[0], values[0]), R::add(sums[1], values[1])];
            }
            let mean = R::splat(R::reduce_add(R::add(sums[0], sums[1])) / width as f32);
            let mut squares = [R::splat(0.0); 2];
            for c in (0..width).step_by(SIDE) {
                let (values, masks) = (load::<R>(x, c), masks(width - c));
                for half in 0..2 {
                    let d = R::select(masks[half], R::sub(values[half], mean), R::splat(0.0));
                    squares[half] = R::mul_add(d, d, squares[half]);
                }
            }
            let variance = R::reduce_add(R::add(squares[0], squares[1])) / width as f32;
            *rstd = 1.0 / (variance + eps).sqrt();
            means[r] = mean;
        }
        // Block by block, in memory order.
        for c in (0..width).step_by(SIDE) {
            let (masks, w, b) = (masks(width - c), load::<R>(w, c), load::<R>(b, c));
            for r in 0..SIDE {
                let offset = c * SIDE + r * SIDE;
                let (normalised, y) = (normalised.as_mut_ptr().add(offset), y.as_mut_ptr().add(offset));
                let Some(rstd) = rstd.get(r) else {
                    R::store_bf16(normalised, R::zero_bf16());
                    R::store_bf16(y, R::zero_bf16());
                    continue;
                };
                let (values, mean, factor) = (load::<R>(&x[r * width..][..width], c), means[r], R::splat(*rstd));
                let n = [
                    R::select(masks[0], R::mul(R::sub(values[0], mean), factor), R::splat(0.0)),
                    R::select(masks[1], R::mul(R::sub(values[1], mean), factor), R::splat(0.0)),
                ];
                let scaled = [R::mul_add(n[0], w[0], b[0]), R::mul_add(n[1], w[1], b[1])];
                // Non-temporal, because only the backward pass reads these values.
                R::stream_bf16(normalised, R::round(n[0], n[1]));
                R::store_bf16(y, R::round(scaled[0], scaled[1]));
            }
        }
    }
}
}

for_registers! {
/// Computes one row of blocks, row `i`, of [`backward`].
///
/// # Safety
/// `engine()` is `Some`; both matrices have a row `i` of blocks; `dx` has a row for each value of `rstd`, at most 32; `rounded` is a
/// 64-byte aligned row of blocks; `dw` and `db` are padded to a multiple of 32.
unsafe fn backward_rows<R>(
    dy: Blocks,
    normalised: Blocks,
    i: usize,
    w: &[f32],
    rstd: &[f32],
    dx: &mut [f32],
    rounded: &mut [Bf16],
    dw: &mut [f32],
    db: &mut [f32],
) {
    let width = w.len();
    // SAFETY: a block has 32 rows of 32 (caller); loads and stores of `w` and `dx` are masked.
    unsafe {
        // Two sums for each row: Σ dy·w and Σ dy·w·normalised.
        let mut sums = [[R::splat(0.0); 2]; SIDE];
        for c in 0..width.div_ceil(SIDE) {
            let (dy, n, w) = (dy.blocks_from(i, c).as_ptr(), normalised.blocks_from(i, c).as_ptr(), load::<R>(w, c * SIDE));
            let [mut dws, mut dbs] = [load::<R>(dw, c * SIDE), load::<R>(db, c * SIDE)];
            for r in 0..rstd.len() {
                let d = R::widen(R::load_bf16(dy.add(r * SIDE)));
                let n = R::widen(R::load_bf16(n.add(r * SIDE)));
                // Prefetches `dx` for the loop below, where these 32 columns of consecutive rows are not adjacent in memory.
                prefetch(Level::L2, dx.as_ptr().wrapping_add(r * width + c * SIDE), 2);
                for half in 0..2 {
                    let g = R::mul(d[half], w[half]);
                    sums[r][0] = R::add(sums[r][0], g);
                    sums[r][1] = R::mul_add(g, n[half], sums[r][1]);
                    dws[half] = R::mul_add(d[half], n[half], dws[half]);
                    dbs[half] = R::add(dbs[half], d[half]);
                }
            }
            for half in 0..2 {
                R::store(dw.as_mut_ptr().add(c * SIDE + 16 * half), dws[half]);
                R::store(db.as_mut_ptr().add(c * SIDE + 16 * half), dbs[half]);
            }
        }
        let mut means = sums;
        for mean in means.as_flattened_mut() {
            *mean = R::splat(R::reduce_add(*mean) / width as f32);
        }
        for c in 0..width.div_ceil(SIDE) {
            let (dy, n, w) = (dy.blocks_from(i, c).as_ptr(), normalised.blocks_from(i, c).as_ptr(), load::<R>(w, c * SIDE));
            let masks = masks(width - c * SIDE);
            for r in 0..SIDE {
                let out = rounded.as_mut_ptr().add(c * BLOCK + r * SIDE);
                let Some(rstd) = rstd.get(r) else {
                    R::store_bf16(out, R::zero_bf16());
                    continue;
                };
                let d = R::widen(R::load_bf16(dy.add(r * SIDE)));
                let n = R::widen(R::load_bf16(n.add(r * SIDE)));
                let rstd = R::splat(*rstd);
                let mut new = [R::splat(0.0); 2];
                for half in 0..2 {
                    let g = R::mul_sub(d[half], w[half], means[r][0]);
                    let g = R::neg_mul_add(n[half], means[r][1], g);
                    let dx = dx.as_mut_ptr().wrapping_add(r * width + c * SIDE + 16 * half);
                    let old = R::load_masked(masks[half], dx);
                    new[half] = R::select(masks[half], R::mul_add(g, rstd, old), R::splat(0.0));
                    R::store_masked(dx, masks[half], new[half]);
                }
                R::store_bf16(out, R::round(new[0], new[1]));
            }
        }
    }
}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aligned::AlignedVec;
    use crate::reference;

    #[test]
    fn forward_and_backward_equal_the_reference_up_to_rounding() {
        for (rows, width) in [(70, 96), (33, 50), (150, 768)] {
            let values = |n: usize, seed: usize| -> Vec<f32> {
                (0..n)
                    .map(|i| Bf16::from_f32((((i + seed) * 7919) % 1009) as f32 / 400.0 - 1.2).to_f32())
                    .collect()
            };
            let (x, w, b, dy) = (
                values(rows * width, 1),
                values(width, 2),
                values(width, 3),
                values(rows * width, 4),
            );
            let [mut want, mut want_dx] = [(); 2].map(|_| vec![0.5f32; x.len()]);
            let [mut mean, mut want_rstd] = [(); 2].map(|_| vec![0f32; rows]);
            let [mut want_dw, mut want_db] = [(); 2].map(|_| vec![1f32; width]);
            reference::layer_norm_forward(&mut want, &mut mean, &mut want_rstd, &x, &w, &b, 1e-6);
            reference::layer_norm_backward(&mut want_dx, &mut want_dw, &mut want_db, &dy, &x, &w, &mean, &want_rstd);

            let [mut normalised, mut y, mut d] = [(); 3].map(|_| AlignedVec::<Bf16>::zeroed(blocks::len(rows, width)));
            let mut y_t = AlignedVec::<Bf16>::zeroed(blocks::len(width, rows));
            let mut rstd = vec![0f32; rows];
            forward(&x, &w, &b, 1e-6, normalised.as_mut_slice(), y.as_mut_slice(), &mut rstd);
            let normalised = Blocks::new(normalised.as_slice(), rows, width);
            let to_f32 = |m: &AlignedVec<Bf16>| {
                let mut out = vec![0f32; rows * width];
                blocks::to_f32(Blocks::new(m.as_slice(), rows, width), &mut out);
                out
            };
            let assert_close = |got: &[f32], want: &[f32], factor: f32| {
                let max = want.iter().fold(0f32, |m, v| m.max(v.abs()));
                for (i, (g, w)) in got.iter().zip(want).enumerate() {
                    assert!((g - w).abs() <= factor * Bf16::EPSILON * max, "{i}: {g} {w}");
                }
            };
            assert_close(&to_f32(&y), &want, 1.0);
            assert_close(&rstd, &want_rstd, 1e-3);
            blocks::transpose_scaled(normalised, &w, &b, y_t.as_mut_slice());
            let mut transposed = vec![0f32; rows * width];
            blocks::to_f32(Blocks::new(y_t.as_slice(), width, rows), &mut transposed);
            let transposed: Vec<f32> = (0..rows * width)
                .map(|i| transposed[i % width * rows + i / width])
                .collect();
            assert_close(&transposed, &want, 2.0);
            blocks::from_f32(&dy, rows, width, d.as_mut_slice());
            let (mut dx, mut dw, mut db) = (vec![0.5f32; x.len()], vec![1f32; width], vec![1f32; width]);
            let dy = Blocks::new(d.as_slice(), rows, width);
            let mut rounded = AlignedVec::<Bf16>::zeroed(blocks::len(rows, width));
            rounded.as_mut_slice().fill(Bf16::from_f32(f32::NAN));
            let out = rounded.as_mut_slice();
            backward(dy, normalised, &w, &rstd, &mut dx, out, &mut dw, &mut db);
            assert_close(&dx, &want_dx, 1.0);
            let mut want_rounded = AlignedVec::<Bf16>::zeroed(blocks::len(rows, width));
            blocks::from_f32(&dx, rows, width, want_rounded.as_mut_slice());
            let len = blocks::len(rows, width);
            assert_eq!(rounded.as_slice()[..len], want_rounded.as_slice()[..len]);
            assert_close(&dw, &want_dw, 1.0);
            assert_close(&db, &want_db, 1e-2);
        }
    }
}
