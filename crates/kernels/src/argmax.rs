//! The largest value of each row.

use rayon::prelude::*;

/// Returns the column of the largest value of each row of `x [rows, columns]`. Of equal values, the first counts. NaNs are ignored,
/// except that a row whose first value is NaN gives column 0.
pub fn argmax_rows(x: &[f32], columns: usize) -> Vec<u32> {
    let argmax = |row: &[f32]| (0..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best });
    x.par_chunks_exact(columns).map(|row| argmax(row) as u32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn returns_the_first_of_equals_and_ignores_nan_after_column_0() {
        let x = [1.0, 3.0, 3.0, f32::NAN, 5.0, 2.0, 0.0, f32::NAN, -1.0];
        assert_eq!(argmax_rows(&x, 3), [1, 0, 0]);
    }
}
