//! Random masking of the patches of an image (He et al. 2022).

/// A partition of the patches of an image into visible and masked ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PatchMask {
    /// Indices of the visible patches, in the order of the encoder's tokens.
    pub kept: Vec<u32>,
    /// Indices of the masked patches.
    pub removed: Vec<u32>,
    /// Index of each patch in the concatenation of `kept` and `removed`.
    pub ids_restore: Vec<u32>,
}

impl PatchMask {
    /// Makes a mask that keeps the `trunc(patches · (1 − mask_ratio))` patches with the lowest noise. The kept and the removed patches are
    /// sorted by noise, then by index. `noise` has one value per patch.
    pub fn from_noise(noise: &[f32], mask_ratio: f64) -> Self {
        Self::lowest(noise, (noise.len() as f64 * (1.0 - mask_ratio)) as usize)
    }

    /// Makes a mask that keeps the `keep` patches with the lowest noise; see [`PatchMask::from_noise`].
    ///
    /// # Panics
    /// Panics if there are fewer patches.
    pub fn lowest(noise: &[f32], keep: usize) -> Self {
        let mut order: Vec<u32> = (0..noise.len() as u32).collect();
        order.sort_by(|a, b| noise[*a as usize].total_cmp(&noise[*b as usize]));
        let mut ids_restore = vec![0u32; noise.len()];
        for (position, patch) in order.iter().enumerate() {
            ids_restore[*patch as usize] = position as u32;
        }
        let removed = order.split_off(keep);
        Self {
            kept: order,
            removed,
            ids_restore,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_patches_with_the_lowest_noise() {
        let mask = PatchMask::from_noise(&[0.5, 0.1, 0.9, 0.3, 0.2], 0.6);
        assert_eq!((mask.kept, mask.removed), (vec![1, 4], vec![3, 0, 2]));
        assert_eq!(mask.ids_restore, [3, 0, 4, 2, 1]);
    }

    #[test]
    fn keeps_as_many_patches_as_the_original() {
        for (patches, ratio, kept) in [
            (576, 0.6, 230),
            (196, 0.6, 78),
            (576, 0.75, 144),
            (196, 0.75, 49),
            (1296, 0.6, 518),
            (256, 0.6, 102),
        ] {
            assert_eq!(PatchMask::from_noise(&vec![0.0; patches], ratio).kept.len(), kept);
        }
    }
}
