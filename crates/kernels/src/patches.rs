//! Cutting pictures into square patches.

use rayon::prelude::*;

/// Order of the values inside a patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// (channel, row, column): what a convolution kernel `[D, 3, P, P]` multiplies.
    ChannelFirst,
    /// (row, column, channel): the targets of masked autoencoding.
    ChannelLast,
}

/// Copies the named patches of a picture `[3, size, size]` to `out [patches.len(), 3·side²]`.
///
/// Patch `r · (size/side) + c` covers the rows from `r·side` and the columns from `c·side`.
pub fn extract(picture: &[f32], size: usize, side: usize, patches: &[u32], order: Order, out: &mut [f32]) {
    let grid = size / side;
    assert!(picture.len() == 3 * size * size && out.len() == patches.len() * 3 * side * side);
    out.par_chunks_exact_mut(3 * side * side)
        .zip(patches)
        .for_each(|(out, patch)| {
            let (top, left) = (*patch as usize / grid * side, *patch as usize % grid * side);
            for channel in 0..3 {
                for y in 0..side {
                    let row = &picture[(channel * size + top + y) * size + left..][..side];
                    match order {
                        Order::ChannelFirst => out[(channel * side + y) * side..][..side].copy_from_slice(row),
                        Order::ChannelLast => {
                            let target = out[y * side * 3 + channel..].iter_mut().step_by(3);
                            target.zip(row).for_each(|(o, v)| *o = *v);
                        }
                    }
                }
            }
        });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_orders_hold_the_same_pixels() {
        let (size, side) = (6, 2);
        let picture: Vec<f32> = (0..3 * size * size).map(|i| i as f32).collect();
        let patches = [0u32, 5, 7];
        let (mut first, mut last) = (vec![0f32; 36], vec![0f32; 36]);
        extract(&picture, size, side, &patches, Order::ChannelFirst, &mut first);
        extract(&picture, size, side, &patches, Order::ChannelLast, &mut last);
        for (i, patch) in patches.iter().enumerate() {
            let (top, left) = (*patch as usize / 3 * 2, *patch as usize % 3 * 2);
            for c in 0..3 {
                for y in 0..2 {
                    for x in 0..2 {
                        let want = picture[(c * size + top + y) * size + left + x];
                        assert_eq!(first[i * 12 + (c * 2 + y) * 2 + x], want);
                        assert_eq!(last[i * 12 + (y * 2 + x) * 3 + c], want);
                    }
                }
            }
        }
    }
}
