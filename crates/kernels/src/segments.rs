//! Means over segments, which are ranges of rows of a packed matrix. The plain versions are
//! [`reference::segment_mean`](crate::reference::segment_mean) and
//! [`reference::segment_mean_backward`](crate::reference::segment_mean_backward).

use std::ops::Range;

use crate::elementwise::add_scaled;
use rayon::prelude::*;

/// Computes `out[s]`, the mean of the rows `segments[s]` of `x [T, D]`. The mean of an empty segment is 0.
///
/// # Panics
/// If a segment ends after the last row, or `out` does not have one row per segment.
pub fn mean(x: &[f32], width: usize, segments: &[Range<usize>], out: &mut [f32]) {
    assert_eq!(out.len(), segments.len() * width);
    out.par_chunks_exact_mut(width).zip(segments).for_each(|(out, rows)| {
        out.fill(0.0);
        for row in x[rows.start * width..rows.end * width].chunks_exact(width) {
            add_scaled(row, 1.0, out);
        }
        let factor = 1.0 / rows.len().max(1) as f32;
        out.iter_mut().for_each(|v| *v *= factor);
    });
}

/// Computes `dx[t] += d_out[s] / len(s)` for each row `t` of each segment `s`. Segments may not overlap.
///
/// # Panics
/// If the segments are not in the order of the rows, or end after the last row.
pub fn mean_backward(d_out: &[f32], width: usize, segments: &[Range<usize>], dx: &mut [f32]) {
    assert_eq!(d_out.len(), segments.len() * width);
    let (mut rest, mut first) = (dx, 0);
    let mut parts = Vec::with_capacity(segments.len());
    for rows in segments {
        assert!(rows.start >= first && rows.end >= rows.start, "segments out of order");
        let (_, after) = rest.split_at_mut((rows.start - first) * width);
        let (part, after) = after.split_at_mut(rows.len() * width);
        parts.push(part);
        (rest, first) = (after, rows.end);
    }
    parts
        .into_par_iter()
        .zip(d_out.par_chunks_exact(width))
        .for_each(|(part, d)| {
            let factor = 1.0 / (part.len() / width).max(1) as f32;
            part.chunks_exact_mut(width).for_each(|row| add_scaled(d, factor, row));
        });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference;

    #[test]
    fn forward_and_backward_equal_the_reference() {
        let (rows, width) = (11, 5);
        let x: Vec<f32> = (0..rows * width).map(|i| ((i * 31) % 17) as f32 / 7.0 - 1.0).collect();
        let segments = [1..4, 4..4, 5..11];
        let (mut got, mut want) = (vec![7f32; 3 * width], vec![0f32; 3 * width]);
        mean(&x, width, &segments, &mut got);
        reference::segment_mean(&mut want, &x, width, &segments);
        let assert_close = |got: &[f32], want: &[f32]| {
            for (got, want) in got.iter().zip(want) {
                assert!((got - want).abs() < 1e-6, "{got} instead of {want}");
            }
        };
        assert_close(&got, &want);
        let (mut dx, mut want_dx) = (x.clone(), x.clone());
        mean_backward(&got, width, &segments, &mut dx);
        reference::segment_mean_backward(&mut want_dx, &got, width, &segments);
        assert_close(&dx, &want_dx);
        assert_eq!(dx[..width], x[..width], "a row of no segment");
    }
}
