//! Copying and adding rows of tables, and their gradients. The plain versions are [`reference::gather`](crate::reference::gather) and
//! [`reference::scatter_add`](crate::reference::scatter_add).

use crate::elementwise::add_scaled;
use crate::parallel::{SharedMut, over_rows};
use rayon::prelude::*;

/// A row index that means "no row".
pub const NONE: u32 = u32::MAX;

/// Number of gradients of one row that [`scatter_add`] sums before their sum is added to the table.
pub const SUM_BLOCK: usize = 256;

/// Returns the indices of all `rows` other than [`NONE`], sorted by row. Indices of equal rows are in order.
pub fn sort_by_row(rows: &[u32]) -> Vec<u32> {
    let mut order: Vec<u32> = (0..rows.len() as u32).filter(|i| rows[*i as usize] != NONE).collect();
    order.sort_by_key(|i| rows[*i as usize]);
    order
}

/// Computes `out[i] = table[rows[i]]`. Leaves `out[i]` unchanged if `rows[i]` is [`NONE`].
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

/// Computes `out[i] += table[rows[i]]`. Leaves `out[i]` unchanged if `rows[i]` is [`NONE`].
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

/// Computes `d_table[rows[i]] += d_out[i]`, the gradient of [`copy_rows`] and [`add_rows`] for the table.
///
/// The gradients of a row that occurs often are summed in blocks of [`SUM_BLOCK`], so that the result does not depend on the number of
/// threads.
pub fn scatter_add(d_out: &[f32], width: usize, rows: &[u32], d_table: &mut [f32]) {
    assert_eq!(d_out.len(), rows.len() * width);
    let order = sort_by_row(rows);
    if let Some(last) = order.last() {
        assert!(
            (rows[*last as usize] as usize + 1) * width <= d_table.len(),
            "row outside the table"
        );
    }
    let table = SharedMut::new(d_table);
    let groups: Vec<&[u32]> = order.chunk_by(|a, b| rows[*a as usize] == rows[*b as usize]).collect();
    groups.par_iter().for_each(|indices| {
        let row = rows[indices[0] as usize] as usize;
        // SAFETY: groups are different rows of the table, and the assert has checked the largest row.
        let d_row = unsafe { std::slice::from_raw_parts_mut(table.ptr_at(row * width), width) };
        let gradient = |i: &u32| &d_out[*i as usize * width..][..width];
        if indices.len() <= SUM_BLOCK {
            indices.iter().for_each(|i| add_scaled(gradient(i), 1.0, d_row));
            return;
        }
        let partial: Vec<Vec<f32>> = indices
            .par_chunks(SUM_BLOCK)
            .map(|block| {
                let mut sum = vec![0f32; width];
                block.iter().for_each(|i| add_scaled(gradient(i), 1.0, &mut sum));
                sum
            })
            .collect();
        partial.iter().for_each(|sum| add_scaled(sum, 1.0, d_row));
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference;

    #[test]
    fn gathers_and_scatters_like_the_reference() {
        let width = 3;
        // Row 0 has more gradients than one block sums, and some rows are `NONE`.
        let rows: Vec<u32> = (0..2000)
            .map(|i| match i % 7 {
                0 => NONE,
                1 => (i % 5) as u32,
                _ => 0,
            })
            .collect();
        let table: Vec<f32> = (0..5 * width).map(|i| i as f32).collect();
        let [mut out, mut want] = [(); 2].map(|_| vec![7f32; rows.len() * width]);
        copy_rows(&table, width, &rows, &mut out);
        reference::gather(&mut want, &table, &rows, width);
        assert_eq!(out, want);
        add_rows(&table, width, &rows, &mut out);
        for (i, row) in rows.iter().enumerate() {
            let factor = if *row == NONE { 1.0 } else { 2.0 };
            for c in 0..width {
                assert_eq!(out[i * width + c], factor * want[i * width + c]);
            }
        }
        let [mut d, mut want_d] = [(); 2].map(|_| vec![1f32; table.len()]);
        scatter_add(&out, width, &rows, &mut d);
        reference::scatter_add(&mut want_d, &out, &rows, width);
        assert_eq!(d, want_d);
    }
}
