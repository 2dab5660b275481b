//! Extraction of square patches from images. The plain version is [`reference::patches`](crate::reference::patches).

use rayon::prelude::*;

/// The values of an image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Planes<'a> {
    /// `[3, height, width]`
    pub values: &'a [f32],
    /// Height in pixels.
    pub height: usize,
    /// Width in pixels.
    pub width: usize,
}

impl<'a> Planes<'a> {
    /// Makes an image of its values.
    ///
    /// # Panics
    /// Panics if the number of values is not `3 · height · width`.
    pub fn new(values: &'a [f32], height: usize, width: usize) -> Self {
        assert_eq!(values.len(), 3 * height * width, "number of values of an image");
        Self { values, height, width }
    }

    /// Makes a square image of its values.
    ///
    /// # Panics
    /// Panics if the number of values is not `3 · side²`.
    pub fn square(values: &'a [f32], side: usize) -> Self {
        Self::new(values, side, side)
    }

    /// Returns the number of patches of `side · side` pixels per column and per row.
    pub fn grid(&self, side: usize) -> [usize; 2] {
        [self.height / side, self.width / side]
    }
}

/// The order of the values of a patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// (channel, row, column), as in a convolution kernel `[D, 3, P, P]`.
    ChannelFirst,
    /// (row, column, channel), as in the targets of masked autoencoding.
    ChannelLast,
}

/// Copies the listed patches of an image to `out [patches.len(), 3·side²]`.
///
/// Patch `r · (width/side) + c` has `side` rows from `r·side` on and `side` columns from `c·side` on.
pub fn extract(image: Planes, side: usize, patches: &[u32], order: Order, out: &mut [f32]) {
    let [_, columns] = image.grid(side);
    assert!(image.values.len() == 3 * image.height * image.width && out.len() == patches.len() * 3 * side * side);
    out.par_chunks_exact_mut(3 * side * side)
        .zip(patches)
        .for_each(|(out, patch)| {
            let (top, left) = (*patch as usize / columns * side, *patch as usize % columns * side);
            for channel in 0..3 {
                for y in 0..side {
                    let row = &image.values[(channel * image.height + top + y) * image.width + left..][..side];
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
        let side = 2;
        let values: Vec<f32> = (0..3 * 48).map(|i| i as f32).collect();
        let patches = [0u32, 5, 7];
        for [height, width] in [[6, 8], [8, 6], [4, 12]] {
            let image = Planes::new(&values, height, width);
            for order in [Order::ChannelFirst, Order::ChannelLast] {
                let [mut out, mut want] = [[f32::NAN; 36]; 2];
                extract(image, side, &patches, order, &mut out);
                reference::patches(&mut want, image, side, &patches, order);
                assert_eq!(out, want);
            }
        }
    }
}
