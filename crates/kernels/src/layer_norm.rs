//! Layer normalisation over the last axis (Ba et al. 2016): `y = (x − μ)/sqrt(σ² + ε) · w + b`.
//!
//! Statistics in f32 with the mean subtracted before squaring.

use crate::mat::Beta;
use crate::parallel::{SharedMut, over_rows};
use rayon::prelude::*;
use vlct_simd::math::{sum, sum2, sum3};
use vlct_simd::multiversion;

/// Writes `y [rows, width]` and, per row, `mean` and `rstd = 1/sqrt(σ² + ε)`.
pub fn forward(x: &[f32], w: &[f32], b: &[f32], eps: f32, y: &mut [f32], mean: &mut [f32], rstd: &mut [f32]) {
    let width = w.len();
    assert!(x.len() == y.len() && b.len() == width && mean.len() * width == x.len() && rstd.len() == mean.len());
    let (mean, rstd) = (SharedMut::new(mean), SharedMut::new(rstd));
    over_rows(y, width, |first, y| {
        let rows = y.len() / width;
        // SAFETY: each task has rows of its own, and `first + rows` is at most the number of rows.
        let (mean, rstd) = unsafe {
            (
                std::slice::from_raw_parts_mut(mean.at(first), rows),
                std::slice::from_raw_parts_mut(rstd.at(first), rows),
            )
        };
        forward_rows(&x[first * width..][..y.len()], w, b, eps, y, mean, rstd);
    });
}

multiversion! {
fn forward_rows(x: &[f32], w: &[f32], b: &[f32], eps: f32, y: &mut [f32], mean: &mut [f32], rstd: &mut [f32]) {
    let width = w.len();
    for (r, (x, y)) in x.chunks_exact(width).zip(y.chunks_exact_mut(width)).enumerate() {
        let m = sum(x, |v| v) / width as f32;
        let variance = sum(x, |v| (v - m) * (v - m)) / width as f32;
        let s = 1.0 / (variance + eps).sqrt();
        for i in 0..width {
            y[i] = (x[i] - m) * s * w[i] + b[i];
        }
        (mean[r], rstd[r]) = (m, s);
    }
}
}

/// The gradients: `dx = β·dx + …`, `dw += Σ dy·x̂`, `db += Σ dy`.
#[allow(clippy::too_many_arguments)]
pub fn backward(
    dy: &[f32],
    x: &[f32],
    w: &[f32],
    mean: &[f32],
    rstd: &[f32],
    dx: &mut [f32],
    beta: Beta,
    dw: &mut [f32],
    db: &mut [f32],
) {
    /// Rows whose contributions to `dw` and `db` are summed before the blocks are added in order.
    const BLOCK: usize = 64;
    let width = w.len();
    assert!(dy.len() == x.len() && dx.len() == x.len() && dw.len() == width && db.len() == width);
    let rows = x.len() / width;
    let mut partial = vec![0f32; rows.div_ceil(BLOCK) * 2 * width];
    dx.par_chunks_mut(BLOCK * width)
        .zip(partial.par_chunks_mut(2 * width))
        .enumerate()
        .for_each(|(i, (dx, partial))| {
            let first = i * BLOCK;
            let span = first * width..first * width + dx.len();
            let (dw, db) = partial.split_at_mut(width);
            backward_rows(
                &dy[span.clone()],
                &x[span],
                w,
                &mean[first..],
                &rstd[first..],
                dx,
                beta,
                dw,
                db,
            );
        });
    for block in partial.chunks_exact(2 * width) {
        for i in 0..width {
            dw[i] += block[i];
            db[i] += block[width + i];
        }
    }
}

multiversion! {
fn backward_rows(dy: &[f32], x: &[f32], w: &[f32], mean: &[f32], rstd: &[f32], dx: &mut [f32], beta: Beta, dw: &mut [f32], db: &mut [f32]) {
    let width = w.len();
    let n = width as f32;
    let rows = dy.chunks_exact(width).zip(x.chunks_exact(width)).zip(dx.chunks_exact_mut(width));
    for (r, ((dy, x), dx)) in rows.enumerate() {
        let (m, s) = (mean[r], rstd[r]);
        let a = sum2(dy, w, |d, w| d * w) / n;
        let b = sum3(dy, w, x, |d, w, x| d * w * ((x - m) * s)) / n;
        for i in 0..width {
            let hat = (x[i] - m) * s;
            let d = (dy[i] * w[i] - a - hat * b) * s;
            dx[i] = if beta == Beta::One { dx[i] + d } else { d };
            dw[i] += dy[i] * hat;
            db[i] += dy[i];
        }
    }
}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(x: &[f32], w: &[f32], b: &[f32]) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
        let rows = x.len() / w.len();
        let (mut y, mut mean, mut rstd) = (vec![0f32; x.len()], vec![0f32; rows], vec![0f32; rows]);
        forward(x, w, b, 1e-6, &mut y, &mut mean, &mut rstd);
        (y, mean, rstd)
    }

    #[test]
    fn rows_have_mean_zero_and_variance_one() {
        let (rows, width) = (50, 72);
        let x: Vec<f32> = (0..rows * width).map(|i| ((i * 31) % 101) as f32 * 0.1 + 5.0).collect();
        let (y, _, _) = run(&x, &vec![1.0; width], &vec![0.0; width]);
        for row in y.chunks_exact(width) {
            let mean = row.iter().sum::<f32>() / width as f32;
            let variance = row.iter().map(|v| v * v).sum::<f32>() / width as f32;
            assert!(mean.abs() < 1e-5 && (variance - 1.0).abs() < 1e-4);
        }
    }

    #[test]
    fn gradients_equal_finite_differences() {
        let (rows, width) = (3, 20);
        let value = |i: usize, s: usize| (((i + s) * 37) % 29) as f32 / 14.0 - 1.0;
        let x: Vec<f32> = (0..rows * width).map(|i| value(i, 1)).collect();
        let (w, b): (Vec<f32>, Vec<f32>) = (0..width).map(|i| (value(i, 2), value(i, 3))).unzip();
        let dy: Vec<f32> = (0..rows * width).map(|i| value(i, 4)).collect();
        let loss = |x: &[f32], w: &[f32], b: &[f32]| -> f64 {
            run(x, w, b).0.iter().zip(&dy).map(|(y, d)| *y as f64 * *d as f64).sum()
        };
        let (_, mean, rstd) = run(&x, &w, &b);
        let (mut dx, mut dw, mut db) = (vec![1f32; x.len()], vec![0f32; width], vec![0f32; width]);
        backward(&dy, &x, &w, &mean, &rstd, &mut dx, Beta::One, &mut dw, &mut db);
        let check = |got: f32, plus: f64, minus: f64| {
            let want = ((plus - minus) / 2e-3) as f32;
            assert!((got - want).abs() < 5e-3 * want.abs().max(1.0), "{got} against {want}");
        };
        let nudged = |v: &[f32], i: usize, e: f32| {
            let mut v = v.to_vec();
            v[i] += e;
            v
        };
        for i in 0..x.len() {
            check(
                dx[i] - 1.0,
                loss(&nudged(&x, i, 1e-3), &w, &b),
                loss(&nudged(&x, i, -1e-3), &w, &b),
            );
        }
        for i in 0..width {
            check(
                dw[i],
                loss(&x, &nudged(&w, i, 1e-3), &b),
                loss(&x, &nudged(&w, i, -1e-3), &b),
            );
            check(
                db[i],
                loss(&x, &w, &nudged(&b, i, 1e-3)),
                loss(&x, &w, &nudged(&b, i, -1e-3)),
            );
        }
    }
}
