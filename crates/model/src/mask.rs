//! The patches of an image that the encoder sees (He et al. 2022, random masking).

/// A random choice of the patches of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PatchMask {
    /// Visible patches, in the order in which the encoder gets them.
    pub kept: Vec<u32>,
    /// Hidden patches.
    pub removed: Vec<u32>,
    /// For each patch its position in `kept` followed by `removed`.
    pub ids_restore: Vec<u32>,
}

impl PatchMask {
    /// Keeps the `trunc(patches · (1 − mask_ratio))` patches with the lowest noise, ordered by it; ties by patch index.
    pub fn from_noise(noise: &[f32], mask_ratio: f64) -> Self {
        let keep = (noise.len() as f64 * (1.0 - mask_ratio)) as usize;
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
    fn keeps_the_lowest_in_order() {
        let mask = PatchMask::from_noise(&[0.5, 0.1, 0.9, 0.3, 0.2], 0.6);
        assert_eq!((mask.kept, mask.removed), (vec![1, 4], vec![3, 0, 2]));
        assert_eq!(mask.ids_restore, [3, 0, 4, 2, 1]);
    }

    #[test]
    fn the_published_numbers_of_kept_patches() {
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
