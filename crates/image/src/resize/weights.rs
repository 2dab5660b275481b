//! Weights of Pillow's bicubic filter.

use std::ops::Range;

/// Fractional bits of a fixed-point weight, as in Pillow for 8-bit images (`PRECISION_BITS`).
pub(super) const WEIGHT_BITS: u32 = 32 - 8 - 2;

/// Support radius of the filter in source pixels, for an image that does not shrink.
const SUPPORT: f64 = 2.0;

/// Returns the value of the Catmull-Rom filter (cubic with a = −0.5) at distance `x`.
fn bicubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < SUPPORT {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

/// For each value of a resized row or column (a result), the source values from which it is computed, and their weights.
pub(super) struct Weights {
    /// For each result, the index of its first source value and the index of its first weight in `values`. One more entry marks the end.
    taps: Vec<(usize, usize)>,
    values: Vec<i32>,
}

impl Weights {
    /// Computes the weights of those results in `window` for resizing `from` values to `to` values, both at least 1, with the arithmetic
    /// of Pillow's `precompute_coeffs` and `normalize_coeffs_8bpc`.
    pub(super) fn new(from: u32, to: u32, window: Range<u32>) -> Self {
        let scale = f64::from(from) / f64::from(to);
        // When the image shrinks, the filter is widened (anti-aliasing).
        let stretch = scale.max(1.0);
        let (support, inverse) = (SUPPORT * stretch, 1.0 / stretch);
        let mut taps = Vec::with_capacity(window.len() + 1);
        let mut values = Vec::new();
        let mut exact = Vec::new();
        for i in window {
            let centre = (f64::from(i) + 0.5) * scale;
            let first = (centre - support + 0.5).max(0.0) as usize;
            let end = (centre + support + 0.5).min(f64::from(from)) as usize;
            exact.clear();
            exact.extend((first..end).map(|j| bicubic((j as f64 - centre + 0.5) * inverse)));
            let sum: f64 = exact.iter().sum();
            let norm = if sum == 0.0 { 1.0 } else { 1.0 / sum };
            taps.push((first, values.len()));
            // Rounded half away from zero.
            values.extend(
                exact
                    .iter()
                    .map(|w| (w * norm * f64::from(1u32 << WEIGHT_BITS)).round() as i32),
            );
        }
        taps.push((from as usize, values.len()));
        Self { taps, values }
    }

    /// Returns the number of results.
    pub(super) fn len(&self) -> usize {
        self.taps.len() - 1
    }

    /// Returns the index of the first source value of a result, and the weights of the source values from this index on.
    pub(super) fn of_result(&self, result: usize) -> (usize, &[i32]) {
        let (first, start) = self.taps[result];
        (first, &self.values[start..self.taps[result + 1].1])
    }

    /// Returns the largest number of weights of a result.
    pub(super) fn max_taps(&self) -> usize {
        self.taps
            .windows(2)
            .map(|pair| pair[1].1 - pair[0].1)
            .max()
            .unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn weights_of_equal_sizes_are_the_identity() {
        let weights = Weights::new(9, 9, 0..9);
        for i in 0..9 {
            let (first, w) = weights.of_result(i);
            for (j, w) in w.iter().enumerate() {
                assert_eq!(*w, if first + j == i { 1 << WEIGHT_BITS } else { 0 });
            }
        }
    }

    proptest! {
        #[test]
        fn weights_are_in_range_sum_to_one_and_do_not_overflow(from in 1u32..5000, to in 1u32..600) {
            let weights = Weights::new(from, to, 0..to);
            prop_assert_eq!(weights.len(), to as usize);
            for i in 0..weights.len() {
                let (first, w) = weights.of_result(i);
                prop_assert!(!w.is_empty() && w.len() <= weights.max_taps());
                prop_assert!(first + w.len() <= from as usize);
                let sum: i64 = w.iter().map(|w| i64::from(*w)).sum();
                prop_assert!((sum - (1 << WEIGHT_BITS)).abs() <= w.len() as i64);
                let largest: i64 = w.iter().map(|w| 255 * i64::from(w.abs())).sum();
                prop_assert!(largest + (1 << (WEIGHT_BITS - 1)) <= i64::from(i32::MAX));
            }
        }
    }
}
