//! Layer normalisation ([`crate::layer_norm`]) from f32 to blocks, keeping the normalised values in blocks as well: the
//! backward pass needs them and nothing else of the input.

use super::blocks::{self, BLOCK, Blocks, SIDE};
use super::number::Bf16;
use crate::parallel::SharedMut;
use rayon::prelude::*;

/// Writes `normalised = (x − μ)/sqrt(σ² + ε)` and `y = normalised · w + b` (blocks of `[rows, width]`) and, per row,
/// `rstd = 1/sqrt(σ² + ε)`.
///
/// # Panics
/// If the sizes do not fit, blocks are off a cache line, or the machine does not multiply bfloat16.
pub fn forward(x: &[f32], w: &[f32], b: &[f32], eps: f32, normalised: &mut [Bf16], y: &mut [Bf16], rstd: &mut [f32]) {
    let (width, rows) = (w.len(), rstd.len());
    let len = blocks::len(rows, width);
    blocks::check(normalised, rows, width);
    blocks::check(y, rows, width);
    assert!(x.len() == rows * width && b.len() == width);
    let row = (width.div_ceil(SIDE) * BLOCK).max(1);
    normalised[..len]
        .par_chunks_mut(row)
        .zip(y[..len].par_chunks_mut(row))
        .zip(rstd.par_chunks_mut(SIDE))
        .zip(x.par_chunks(SIDE * width))
        .for_each(|(((normalised, y), rstd), x)| {
            // SAFETY: a row of blocks each, `x` as many rows as `rstd`; the machine has the instructions.
            unsafe { x86::forward_rows(x, w, b, eps, normalised, y, rstd) };
            super::micro_kernel::store_fence();
        });
}

/// Adds the gradients: `dx += …`, `dw += Σ dy·normalised`, `db += Σ dy`. `rounded` becomes the new `dx` in blocks: the layer
/// before multiplies with it.
///
/// # Panics
/// If the sizes do not fit, or `rounded` is off a cache line.
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
    /// Rows of blocks whose contributions to `dw` and `db` are summed before they are added in order.
    const TASK: usize = 4;
    let (rows, width) = (dy.rows(), dy.columns());
    assert!(normalised.rows() == rows && normalised.columns() == width && rstd.len() == rows);
    assert!(dx.len() == rows * width && [w.len(), dw.len(), db.len()] == [width; 3]);
    let padded = width.next_multiple_of(SIDE);
    let mut partial = vec![0f32; rows.div_ceil(TASK * SIDE) * 2 * padded];
    blocks::check(rounded, rows, width);
    let (dx, rounded) = (SharedMut::new(dx), SharedMut::new(rounded));
    partial
        .par_chunks_mut((2 * padded).max(1))
        .enumerate()
        .for_each(|(task, partial)| {
            let (dw, db) = partial.split_at_mut(padded);
            for i in task * TASK..((task + 1) * TASK).min(dy.row_blocks()) {
                let count = SIDE.min(rows - i * SIDE);
                // SAFETY: these rows of both results belong to this task alone; the machine has the instructions.
                unsafe {
                    let dx = std::slice::from_raw_parts_mut(dx.at(i * SIDE * width), count * width);
                    let row = padded * SIDE;
                    let rounded = std::slice::from_raw_parts_mut(rounded.at(i * row), row);
                    x86::backward_rows(dy, normalised, i, w, &rstd[i * SIDE..][..count], dx, rounded, dw, db);
                }
            }
        });
    for partial in partial.chunks_exact(2 * padded) {
        let (w, b) = partial.split_at(padded);
        dw.iter_mut().zip(w).for_each(|(d, p)| *d += p);
        db.iter_mut().zip(b).for_each(|(d, p)| *d += p);
    }
}

mod x86 {
    use super::super::avx512::{round2, widen};
    use super::super::blocks::{load, masks};
    use super::super::prefetch::{Level, prefetch};
    use super::{BLOCK, Bf16, Blocks, SIDE};
    use std::arch::x86_64::*;

    /// # Safety
    /// `normalised` and `y` are rows of blocks; `x` holds a row for each of `rstd`, at most 32.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub unsafe fn forward_rows(
        x: &[f32],
        w: &[f32],
        b: &[f32],
        eps: f32,
        normalised: &mut [Bf16],
        y: &mut [Bf16],
        rstd: &mut [f32],
    ) {
        let width = w.len();
        let mut means = [_mm512_setzero_ps(); SIDE];
        for (r, rstd) in rstd.iter_mut().enumerate() {
            let x = &x[r * width..][..width];
            // SAFETY: loads are masked.
            unsafe {
                let mut sums = [_mm512_setzero_ps(); 2];
                for c in (0..width).step_by(SIDE) {
                    let values = load(x, c);
                    sums = [_mm512_add_ps(sums[0], values[0]), _mm512_add_ps(sums[1], values[1])];
                }
                let mean = _mm512_set1_ps(_mm512_reduce_add_ps(_mm512_add_ps(sums[0], sums[1])) / width as f32);
                let mut squares = [_mm512_setzero_ps(); 2];
                for c in (0..width).step_by(SIDE) {
                    let (values, masks) = (load(x, c), masks(width - c));
                    for half in 0..2 {
                        let d = _mm512_maskz_sub_ps(masks[half], values[half], mean);
                        squares[half] = _mm512_fmadd_ps(d, d, squares[half]);
                    }
                }
                let variance = _mm512_reduce_add_ps(_mm512_add_ps(squares[0], squares[1])) / width as f32;
                *rstd = 1.0 / (variance + eps).sqrt();
                means[r] = mean;
            }
        }
        // Block by block, so that each is written as it lies in memory.
        for c in (0..width).step_by(SIDE) {
            // SAFETY: a block has 32 rows of 32; loads are masked.
            unsafe {
                let (masks, w, b) = (masks(width - c), load(w, c), load(b, c));
                for r in 0..SIDE {
                    let place = c * SIDE + r * SIDE;
                    let (normalised, y) = (normalised.as_mut_ptr().add(place), y.as_mut_ptr().add(place));
                    let Some(rstd) = rstd.get(r) else {
                        _mm512_store_si512(normalised.cast(), _mm512_setzero_si512());
                        _mm512_store_si512(y.cast(), _mm512_setzero_si512());
                        continue;
                    };
                    let (values, mean, factor) = (load(&x[r * width..][..width], c), means[r], _mm512_set1_ps(*rstd));
                    let n = [
                        _mm512_maskz_mul_ps(masks[0], _mm512_sub_ps(values[0], mean), factor),
                        _mm512_maskz_mul_ps(masks[1], _mm512_sub_ps(values[1], mean), factor),
                    ];
                    let scaled = [_mm512_fmadd_ps(n[0], w[0], b[0]), _mm512_fmadd_ps(n[1], w[1], b[1])];
                    // Read again in the backward pass only: past the caches.
                    _mm512_stream_si512(normalised.cast(), round2(n[0], n[1]));
                    _mm512_store_si512(y.cast(), round2(scaled[0], scaled[1]));
                }
            }
        }
    }

    /// # Safety
    /// Row `i` of blocks is in both matrices; `dx` holds a row for each of `rstd`, `rounded` is a row of blocks; `dw` and `db` are padded to whole blocks.
    #[allow(clippy::too_many_arguments)]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub unsafe fn backward_rows(
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
        // Per row: Σ dy·w and Σ dy·w·normalised.
        let mut sums = [[_mm512_setzero_ps(); 2]; SIDE];
        // SAFETY: by the contract; a block has 32 rows of 32.
        unsafe {
            for c in 0..width.div_ceil(SIDE) {
                let (dy, n, w) = (dy.at(i, c).as_ptr(), normalised.at(i, c).as_ptr(), load(w, c * SIDE));
                let [mut dws, mut dbs] = [load(dw, c * SIDE), load(db, c * SIDE)];
                for r in 0..rstd.len() {
                    let d = widen(_mm512_loadu_si512(dy.add(r * SIDE).cast()));
                    let n = widen(_mm512_loadu_si512(n.add(r * SIDE).cast()));
                    // The second pass reads them, rows far apart in memory.
                    prefetch(Level::L2, dx.as_ptr().wrapping_add(r * width + c * SIDE), 2);
                    for half in 0..2 {
                        let g = _mm512_mul_ps(d[half], w[half]);
                        sums[r][0] = _mm512_add_ps(sums[r][0], g);
                        sums[r][1] = _mm512_fmadd_ps(g, n[half], sums[r][1]);
                        dws[half] = _mm512_fmadd_ps(d[half], n[half], dws[half]);
                        dbs[half] = _mm512_add_ps(dbs[half], d[half]);
                    }
                }
                for half in 0..2 {
                    _mm512_storeu_ps(dw.as_mut_ptr().add(c * SIDE + 16 * half), dws[half]);
                    _mm512_storeu_ps(db.as_mut_ptr().add(c * SIDE + 16 * half), dbs[half]);
                }
            }
            let mut means = sums;
            for mean in means.as_flattened_mut() {
                *mean = _mm512_set1_ps(_mm512_reduce_add_ps(*mean) / width as f32);
            }
            for c in 0..width.div_ceil(SIDE) {
                let (dy, n, w) = (dy.at(i, c).as_ptr(), normalised.at(i, c).as_ptr(), load(w, c * SIDE));
                let masks = masks(width - c * SIDE);
                for r in 0..SIDE {
                    let target = rounded.as_mut_ptr().add(c * BLOCK + r * SIDE);
                    let Some(rstd) = rstd.get(r) else {
                        _mm512_store_si512(target.cast(), _mm512_setzero_si512());
                        continue;
                    };
                    let d = widen(_mm512_loadu_si512(dy.add(r * SIDE).cast()));
                    let n = widen(_mm512_loadu_si512(n.add(r * SIDE).cast()));
                    let rstd = _mm512_set1_ps(*rstd);
                    let mut new = [_mm512_setzero_ps(); 2];
                    for half in 0..2 {
                        let g = _mm512_fmsub_ps(d[half], w[half], means[r][0]);
                        let g = _mm512_fnmadd_ps(n[half], means[r][1], g);
                        let at = dx.as_mut_ptr().wrapping_add(r * width + c * SIDE + 16 * half);
                        let old = _mm512_maskz_loadu_ps(masks[half], at);
                        new[half] = _mm512_maskz_fmadd_ps(masks[half], g, rstd, old);
                        _mm512_mask_storeu_ps(at, masks[half], new[half]);
                    }
                    _mm512_store_si512(target.cast(), round2(new[0], new[1]));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::support::{Support, support};
    use super::*;
    use crate::aligned::AlignedVec;
    use crate::mat::Beta;

    #[test]
    fn both_directions_are_those_of_f32_up_to_rounding() {
        if support() == Support::None {
            return;
        }
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
            let [mut want, mut want_dx] = [0; 2].map(|_| vec![0.5f32; x.len()]);
            let [mut mean, mut want_rstd] = [0; 2].map(|_| vec![0f32; rows]);
            let [mut want_dw, mut want_db] = [0; 2].map(|_| vec![1f32; width]);
            crate::layer_norm::forward(&x, &w, &b, 1e-6, &mut want, &mut mean, &mut want_rstd);
            let (dws, dbs) = (&mut want_dw, &mut want_db);
            crate::layer_norm::backward(&dy, &x, &w, &mean, &want_rstd, &mut want_dx, Beta::One, dws, dbs);

            let [mut normalised, mut y, mut d] = [0; 3].map(|_| AlignedVec::<Bf16>::zeroed(blocks::len(rows, width)));
            let mut again = AlignedVec::<Bf16>::zeroed(blocks::len(width, rows));
            let mut rstd = vec![0f32; rows];
            forward(&x, &w, &b, 1e-6, normalised.as_mut_slice(), y.as_mut_slice(), &mut rstd);
            let normalised = Blocks::new(normalised.as_slice(), rows, width);
            let read = |m: &AlignedVec<Bf16>| {
                let mut out = vec![0f32; rows * width];
                blocks::to_f32(Blocks::new(m.as_slice(), rows, width), &mut out);
                out
            };
            let close = |got: &[f32], want: &[f32], factor: f32| {
                let top = want.iter().fold(0f32, |m, v| m.max(v.abs()));
                for (i, (g, w)) in got.iter().zip(want).enumerate() {
                    assert!((g - w).abs() <= factor * Bf16::EPSILON * top, "{i}: {g} {w}");
                }
            };
            close(&read(&y), &want, 1.0);
            close(&rstd, &want_rstd, 1e-3);
            blocks::transpose_scaled(normalised, &w, &b, again.as_mut_slice());
            let mut turned = vec![0f32; rows * width];
            blocks::to_f32(Blocks::new(again.as_slice(), width, rows), &mut turned);
            let turned: Vec<f32> = (0..rows * width)
                .map(|i| turned[i % width * rows + i / width])
                .collect();
            close(&turned, &want, 2.0);
            blocks::from_f32(&dy, rows, width, d.as_mut_slice());
            let (mut dx, mut dw, mut db) = (vec![0.5f32; x.len()], vec![1f32; width], vec![1f32; width]);
            let dy = Blocks::new(d.as_slice(), rows, width);
            let mut rounded = AlignedVec::<Bf16>::zeroed(blocks::len(rows, width));
            rounded.as_mut_slice().fill(Bf16::from_f32(f32::NAN));
            let out = rounded.as_mut_slice();
            backward(dy, normalised, &w, &rstd, &mut dx, out, &mut dw, &mut db);
            close(&dx, &want_dx, 1.0);
            let mut again = AlignedVec::<Bf16>::zeroed(blocks::len(rows, width));
            blocks::from_f32(&dx, rows, width, again.as_mut_slice());
            let len = blocks::len(rows, width);
            assert_eq!(rounded.as_slice()[..len], again.as_slice()[..len]);
            close(&dw, &want_dw, 1.0);
            close(&db, &want_db, 1e-2);
        }
    }
}
