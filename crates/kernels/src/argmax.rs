//! The largest value of each row.

use rayon::prelude::*;

/// Column of the largest value of each row of `x [rows, columns]`, the first of equals. NaN is never larger.
pub fn argmax_rows(x: &[f32], columns: usize) -> Vec<u32> {
    let argmax = |row: &[f32]| (0..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best });
    x.par_chunks_exact(columns).map(|row| argmax(row) as u32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_equals_is_taken_and_nan_is_not() {
        let x = [1.0, 3.0, 3.0, f32::NAN, 5.0, 2.0, 0.0, f32::NAN, -1.0];
        assert_eq!(argmax_rows(&x, 3), [1, 0, 0]);
    }
}
