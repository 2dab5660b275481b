//! Element-wise operations.

use crate::parallel::over_rows;
use vlct_simd::multiversion;

/// Computes `y += x`.
pub fn add(x: &[f32], y: &mut [f32]) {
    assert_eq!(x.len(), y.len());
    over_rows(y, 1, |first, y| add_scaled(&x[first..first + y.len()], 1.0, y));
}

/// Computes `y += rate · (x − y)`. If `x` and `y` are equal, `y` does not change.
pub fn interpolate(x: &[f32], rate: f32, y: &mut [f32]) {
    assert_eq!(x.len(), y.len());
    over_rows(y, 1, |first, y| interpolate_block(&x[first..first + y.len()], rate, y));
}

/// Computes `out[r] = x[r] + factors[r] · (y[r] − x[r])` for each row `r` of `D` values. Rows with the factor 0 or 1 are copies.
pub fn interpolate_rows(x: &[f32], y: &[f32], factors: &[f32], out: &mut [f32]) {
    assert!(x.len() == out.len() && y.len() == out.len());
    let Some(width) = row_width(out, factors) else { return };
    over_rows(out, width, |first, block| {
        let rows = block.chunks_exact_mut(width).zip(&factors[first..]).enumerate();
        for (i, (row, factor)) in rows {
            let at = (first + i) * width;
            if *factor == 1.0 {
                row.copy_from_slice(&y[at..at + width]);
                continue;
            }
            row.copy_from_slice(&x[at..at + width]);
            if *factor != 0.0 {
                interpolate_block(&y[at..at + width], *factor, row);
            }
        }
    });
}

/// Computes `out[r] = factors[r] · x[r]` for each row `r` of `D` values.
pub fn scale_rows(x: &[f32], factors: &[f32], out: &mut [f32]) {
    assert_eq!(x.len(), out.len());
    let Some(width) = row_width(out, factors) else { return };
    over_rows(out, width, |first, block| {
        let x = x[first * width..].chunks_exact(width);
        for ((row, x), factor) in block.chunks_exact_mut(width).zip(x).zip(&factors[first..]) {
            row.iter_mut().zip(x).for_each(|(v, x)| *v = factor * x);
        }
    });
}

/// Returns the number of values of a row if there is one factor for each row; `None` without rows.
fn row_width(values: &[f32], factors: &[f32]) -> Option<usize> {
    let width = values.len().checked_div(factors.len())?;
    assert_eq!(width * factors.len(), values.len(), "one factor per row");
    (width > 0).then_some(width)
}

/// Sets every row of `out [T, D]` to `bias [D]`, plus the same row of `residual [T, D]` if a residual is given.
pub fn bias_rows(bias: &[f32], residual: Option<&[f32]>, out: &mut [f32]) {
    let width = bias.len();
    over_rows(out, width, |first, block| match residual {
        None => block.chunks_exact_mut(width).for_each(|row| row.copy_from_slice(bias)),
        Some(residual) => add_bias(bias, &residual[first * width..][..block.len()], block),
    });
}

/// Computes `y = tanh(x)`.
pub fn tanh(x: &[f32], y: &mut [f32]) {
    over_rows(y, 1, |first, y| {
        y.iter_mut().zip(&x[first..]).for_each(|(y, x)| *y = x.tanh())
    });
}

/// Replaces `dy` by `dx = dy · (1 − y²)`, where `y = tanh(x)`.
pub fn tanh_backward_in_place(y: &[f32], dy: &mut [f32]) {
    over_rows(dy, 1, |first, dy| {
        dy.iter_mut().zip(&y[first..]).for_each(|(d, y)| *d *= 1.0 - y * y)
    });
}

multiversion! {
/// Computes `y += x · factor` on the calling thread.
pub fn add_scaled(x: &[f32], factor: f32, y: &mut [f32]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y += x * factor;
    }
}
}

multiversion! {
fn interpolate_block(x: &[f32], rate: f32, y: &mut [f32]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y += rate * (x - *y);
    }
}
}

multiversion! {
fn add_bias(bias: &[f32], residual: &[f32], out: &mut [f32]) {
    let width = bias.len();
    for (out, residual) in out.chunks_exact_mut(width).zip(residual.chunks_exact(width)) {
        for i in 0..width {
            out[i] = residual[i] + bias[i];
        }
    }
}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_equal_their_definitions() {
        let mut y = vec![1.0, 2.0];
        add(&[3.0, 4.0], &mut y);
        assert_eq!(y, [4.0, 6.0]);
        interpolate(&[8.0, 6.0], 0.25, &mut y);
        assert_eq!(y, [5.0, 6.0]);
        let mut rows = vec![0f32; 4];
        bias_rows(&[1.0, 2.0], None, &mut rows);
        assert_eq!(rows, [1.0, 2.0, 1.0, 2.0]);
        bias_rows(&[1.0, 2.0], Some(&[10.0, 20.0, 30.0, 40.0]), &mut rows);
        assert_eq!(rows, [11.0, 22.0, 31.0, 42.0]);
        let mut mixed = vec![0f32; 6];
        interpolate_rows(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], &[9.0; 6], &[0.0, 0.5, 1.0], &mut mixed);
        assert_eq!(mixed, [1.0, 2.0, 6.0, 6.5, 9.0, 9.0]);
        let mut scaled = vec![5f32; 6];
        scale_rows(&mixed, &[0.0, 2.0, 1.0], &mut scaled);
        assert_eq!(scaled, [0.0, 0.0, 12.0, 13.0, 9.0, 9.0]);
        interpolate_rows(&[], &[], &[], &mut []);
        let mut d = [1f32];
        let mut t = [0f32];
        tanh(&[0.5], &mut t);
        tanh_backward_in_place(&t, &mut d);
        assert!((t[0] - 0.462_117_16).abs() < 1e-6 && (d[0] - 0.786_447_7).abs() < 1e-6);
    }
}
