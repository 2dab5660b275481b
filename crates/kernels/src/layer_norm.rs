//! Layer normalisation of rows (Ba et al. 2016): `y = (x − μ)/sqrt(σ² + ε) · w + b`.
//!
//! Statistics are f32, with the mean subtracted before squaring. The plain versions are
//! [`reference::layer_norm_forward`](crate::reference::layer_norm_forward) and
//! [`reference::layer_norm_backward`](crate::reference::layer_norm_backward).

use crate::mat::Beta;
use crate::parallel::{SharedMut, over_rows};
use rayon::prelude::*;
use vlct_simd::math::{sum, sum2, sum3};
use vlct_simd::multiversion;

/// Writes `y [rows, width]`, and `mean` and `rstd = 1/sqrt(σ² + ε)` of each row.
pub fn forward(x: &[f32], w: &[f32], b: &[f32], eps: f32, y: &mut [f32], mean: &mut [f32], rstd: &mut [f32]) {
    let width = w.len();
    assert!(x.len() == y.len() && b.len() == width && mean.len() * width == x.len() && rstd.len() == mean.len());
    let (mean, rstd) = (SharedMut::new(mean), SharedMut::new(rstd));
    over_rows(y, width, |first, y| {
        let rows = y.len() / width;
        // SAFETY: tasks have disjoint rows, and the assert has checked that both slices have a value per row.
        let (mean, rstd) = unsafe {
            (
                std::slice::from_raw_parts_mut(mean.ptr_at(first), rows),
                std::slice::from_raw_parts_mut(rstd.ptr_at(first), rows),
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

/// Writes the gradient of the input to `dx`, or adds it if β is 1. Computes `dw += Σ dy·x̂` and `db += Σ dy`, where `x̂` is the normalised
/// input.
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
    /// Rows per task. The `dw` and `db` of each task are summed separately and then added in order.
    const ROWS_PER_TASK: usize = 64;
    let width = w.len();
    assert!(dy.len() == x.len() && dx.len() == x.len() && dw.len() == width && db.len() == width);
    let rows = x.len() / width;
    let mut partial = vec![0f32; rows.div_ceil(ROWS_PER_TASK) * 2 * width];
    dx.par_chunks_mut(ROWS_PER_TASK * width)
        .zip(partial.par_chunks_mut(2 * width))
        .enumerate()
        .for_each(|(i, (dx, partial))| {
            let first = i * ROWS_PER_TASK;
            let range = first * width..first * width + dx.len();
            let (dw, db) = partial.split_at_mut(width);
            backward_rows(
                &dy[range.clone()],
                &x[range],
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
        let mean_d = sum2(dy, w, |d, w| d * w) / n;
        let mean_dx_hat = sum3(dy, w, x, |d, w, x| d * w * ((x - m) * s)) / n;
        for i in 0..width {
            let x_hat = (x[i] - m) * s;
            let d = (dy[i] * w[i] - mean_d - x_hat * mean_dx_hat) * s;
            dx[i] = if beta == Beta::One { dx[i] + d } else { d };
            dw[i] += dy[i] * x_hat;
            db[i] += dy[i];
        }
    }
}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference;

    #[test]
    fn forward_and_backward_equal_the_reference() {
        for (rows, width) in [(3, 20), (150, 72)] {
            let value = |i: usize, seed: usize| (((i + seed) * 37) % 101) as f32 / 40.0 - 1.0;
            let values = |n: usize, seed: usize| -> Vec<f32> { (0..n).map(|i| value(i, seed)).collect() };
            let (x, dy) = (values(rows * width, 1), values(rows * width, 4));
            let (w, b) = (values(width, 2), values(width, 3));
            let assert_close = |got: &[f32], want: &[f32]| {
                for (i, (got, want)) in got.iter().zip(want).enumerate() {
                    assert!(
                        (got - want).abs() < 2e-5 * want.abs().max(1.0),
                        "{i}: {got} instead of {want}"
                    );
                }
            };
            let [mut y, mut want_y] = [(); 2].map(|_| vec![0f32; x.len()]);
            let [mut mean, mut rstd, mut want_mean, mut want_rstd] = [(); 4].map(|_| vec![0f32; rows]);
            forward(&x, &w, &b, 1e-6, &mut y, &mut mean, &mut rstd);
            reference::layer_norm_forward(&mut want_y, &mut want_mean, &mut want_rstd, &x, &w, &b, 1e-6);
            assert_close(&y, &want_y);
            assert_close(&mean, &want_mean);
            assert_close(&rstd, &want_rstd);
            for beta in [Beta::Zero, Beta::One] {
                let before = if beta == Beta::One { 1.0 } else { 0.0 };
                let (mut dx, mut want_dx) = (vec![1f32; x.len()], vec![before; x.len()]);
                let [mut dw, mut db, mut want_dw, mut want_db] = [(); 4].map(|_| vec![0.5f32; width]);
                backward(&dy, &x, &w, &mean, &rstd, &mut dx, beta, &mut dw, &mut db);
                reference::layer_norm_backward(&mut want_dx, &mut want_dw, &mut want_db, &dy, &x, &w, &mean, &rstd);
                assert_close(&dx, &want_dx);
                assert_close(&dw, &want_dw);
                assert_close(&db, &want_db);
            }
        }
    }
}
