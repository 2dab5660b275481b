//! Rows picked from tables, and the gradients that go back to them.

use crate::elementwise::add_scaled;
use crate::parallel::{SharedMut, over_rows};
use rayon::prelude::*;

/// A row number that means "no row".
pub const NONE: u32 = u32::MAX;

/// `out[i] = table[rows[i]]`, or left as it is where `rows[i]` is [`NONE`].
pub fn copy_rows(table: &[f32], width: usize, rows: &[u32], out: &mut [f32]) {
    assert_eq!(out.len(), rows.len() * width);
    over_rows(out, width, |first, block| {
        for (row, r) in block.chunks_exact_mut(width).zip(&rows[first..]) {
            if *r != NONE {
                row.copy_from_slice(&table[*r as usize * width..][..width]);
            }
        }
    });
}

/// `out[i] += table[rows[i]]`, nothing where `rows[i]` is [`NONE`].
pub fn add_rows(table: &[f32], width: usize, rows: &[u32], out: &mut [f32]) {
    assert_eq!(out.len(), rows.len() * width);
    over_rows(out, width, |first, block| {
        for (row, r) in block.chunks_exact_mut(width).zip(&rows[first..]) {
            if *r != NONE {
                add_scaled(&table[*r as usize * width..][..width], 1.0, row);
            }
        }
    });
}

/// `d_table[rows[i]] += d_out[i]`: the gradient of [`copy_rows`] and [`add_rows`] to the table.
///
/// Rows that are picked often are summed in fixed blocks of picks, so the result does not depend on the threads.
pub fn scatter_add(d_out: &[f32], width: usize, rows: &[u32], d_table: &mut [f32]) {
    /// Picks of one row that are summed before their sum is added to the table.
    const BLOCK: usize = 256;
    assert_eq!(d_out.len(), rows.len() * width);
    let mut order: Vec<u32> = (0..rows.len() as u32).filter(|i| rows[*i as usize] != NONE).collect();
    order.sort_by_key(|i| rows[*i as usize]); // stable: picks of a row stay in order
    if let Some(last) = order.last() {
        assert!(
            (rows[*last as usize] as usize + 1) * width <= d_table.len(),
            "row outside the table"
        );
    }
    let table = SharedMut::new(d_table);
    let groups: Vec<&[u32]> = order.chunk_by(|a, b| rows[*a as usize] == rows[*b as usize]).collect();
    groups.par_iter().for_each(|picks| {
        let row = rows[picks[0] as usize] as usize;
        // SAFETY: each group is another row of the table, and the last one lies within it (asserted above).
        let target = unsafe { std::slice::from_raw_parts_mut(table.at(row * width), width) };
        let pick = |i: &u32| &d_out[*i as usize * width..][..width];
        if picks.len() <= BLOCK {
            picks.iter().for_each(|i| add_scaled(pick(i), 1.0, target));
            return;
        }
        let partial: Vec<Vec<f32>> = picks
            .par_chunks(BLOCK)
            .map(|block| {
                let mut sum = vec![0f32; width];
                block.iter().for_each(|i| add_scaled(pick(i), 1.0, &mut sum));
                sum
            })
            .collect();
        partial.iter().for_each(|sum| add_scaled(sum, 1.0, target));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn picks_and_returns() {
        let table = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let rows = [2, NONE, 0, 2];
        let mut out = vec![0f32; 8];
        copy_rows(&table, 2, &rows, &mut out);
        assert_eq!(out, [5.0, 6.0, 0.0, 0.0, 1.0, 2.0, 5.0, 6.0]);
        add_rows(&table, 2, &rows, &mut out);
        assert_eq!(out, [10.0, 12.0, 0.0, 0.0, 2.0, 4.0, 10.0, 12.0]);
        let mut d = vec![1f32; 6];
        scatter_add(&out, 2, &rows, &mut d);
        assert_eq!(d, [3.0, 5.0, 1.0, 1.0, 21.0, 25.0]);
    }

    #[test]
    fn a_row_picked_often_gets_every_contribution() {
        let rows: Vec<u32> = (0..2000).map(|i| (i % 3 == 0) as u32).collect();
        let mut d = vec![0f32; 4];
        scatter_add(&vec![1f32; 4000], 2, &rows, &mut d);
        assert_eq!(d, [1333.0, 1333.0, 667.0, 667.0]);
    }
}
