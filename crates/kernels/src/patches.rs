//! Extraction of square patches from images. The plain version is [`reference::patches`](crate::reference::patches).

use rayon::prelude::*;

/// The order of the values of a patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// (channel, row, column), as in a convolution kernel `[D, 3, P, P]`.
    ChannelFirst,
    /// (row, column, channel), as in the targets of masked autoencoding.
    ChannelLast,
}

/// Copies the listed patches of an image `[3, size, size]` to `out [patches.len(), 3·side²]`.
///
/// Patch `r · (size/side) + c` has `side` rows from `r·side` on and `side` columns from `c·side` on.
pub fn extract(image: &[f32], size: usize, side: usize, patches: &[u32], order: Order, out: &mut [f32]) {
    let grid = size / side;
    assert!(image.len() == 3 * size * size && out.len() == patches.len() * 3 * side * side);
    out.par_chunks_exact_mut(3 * side * side)
        .zip(patches)
        .for_each(|(out, patch)| {
            let (top, left) = (*patch as usize / grid * side, *patch as usize % grid * side);
            for channel in 0..3 {
                for y in 0..side {
                    let row = &image[(channel * size + top + y) * size + left..][..side];
                    match order {
                        Order::ChannelFirst => out[(channel * side + y) * side..][..side].copy_from_slice(row),
                        Order::ChannelLast => {
                            let values = out[y * side * 3 + channel..].iter_mut().step_by(3);
                            values.zip(row).for_each(|(o, v)| *o = *v);
                        }
                    }
                }
            }
        });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference;

    #[test]
    fn both_orders_equal_the_reference() {
        let (size, side) = (6, 2);
        let image: Vec<f32> = (0..3 * size * size).map(|i| i as f32).collect();
        let patches = [0u32, 5, 7];
        for order in [Order::ChannelFirst, Order::ChannelLast] {
            let [mut out, mut want] = [[f32::NAN; 36]; 2];
            extract(&image, size, side, &patches, order, &mut out);
            reference::patches(&mut want, &image, size, side, &patches, order);
            assert_eq!(out, want);
        }
    }
}
