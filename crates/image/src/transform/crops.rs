//! Random and central crops.

use rand::{Rng, RngExt};

use crate::CropBox;

/// Smallest area of a random crop for classification, as a fraction of the image.
pub(super) const MIN_AREA: f64 = 0.08;
/// Narrowest aspect ratio (width / height) of a random crop.
const MIN_ASPECT: f64 = 3.0 / 4.0;
/// Widest aspect ratio of a random crop.
const MAX_ASPECT: f64 = 4.0 / 3.0;

/// Draws a crop as torchvision's `RandomResizedCrop.get_params` does: the fraction of the area is uniform in `min_area`..=1, and the
/// logarithm of the aspect ratio is uniform between 3/4 and 4/3. Returns the first of ten draws that fits into the image; if none fits,
/// the largest centred box within the limits of the aspect ratio.
pub fn random_resized_crop(width: u32, height: u32, min_area: f64, rng: &mut impl Rng) -> CropBox {
    const DRAWS: usize = 10;
    for _ in 0..DRAWS {
        let (w, h) = random_box(width, height, min_area, rng);
        if (1..=width).contains(&w) && (1..=height).contains(&h) {
            return place(w, h, width, height, rng);
        }
    }
    central_crop(width, height)
}

/// Draws the size (width, height) of a box; it may be larger than the image.
fn random_box(width: u32, height: u32, min_area: f64, rng: &mut impl Rng) -> (u32, u32) {
    let area = f64::from(width) * f64::from(height);
    let target = area * (min_area + (1.0 - min_area) * rng.random::<f64>());
    let log_aspect = MIN_ASPECT.ln() + (MAX_ASPECT.ln() - MIN_ASPECT.ln()) * rng.random::<f64>();
    let aspect = log_aspect.exp();
    // Python rounds half to even.
    let w = (target * aspect).sqrt().round_ties_even() as u32;
    let h = (target / aspect).sqrt().round_ties_even() as u32;
    (w, h)
}

/// Draws the position of a box of `w` × `h` pixels in an image.
fn place(w: u32, h: u32, width: u32, height: u32, rng: &mut impl Rng) -> CropBox {
    CropBox {
        top: rng.random_range(0..=height.saturating_sub(h)),
        left: rng.random_range(0..=width.saturating_sub(w)),
        width: w,
        height: h,
    }
}

/// Returns the largest centred box whose aspect ratio is within the limits.
fn central_crop(width: u32, height: u32) -> CropBox {
    let aspect = f64::from(width) / f64::from(height);
    let (w, h) = if aspect < MIN_ASPECT {
        (width, (f64::from(width) / MIN_ASPECT).round_ties_even() as u32)
    } else if aspect > MAX_ASPECT {
        ((f64::from(height) * MAX_ASPECT).round_ties_even() as u32, height)
    } else {
        (width, height)
    };
    CropBox {
        left: width.saturating_sub(w) / 2,
        top: height.saturating_sub(h) / 2,
        width: w.min(width),
        height: h.min(height),
    }
}

/// Draws a crop as the linear probing of MAE does: area and aspect ratio are drawn as in [`random_resized_crop`], once, and a box that
/// is too wide or too high is limited to the image. The area is 8 to 100 % of the image before.
pub fn random_area_crop(width: u32, height: u32, rng: &mut impl Rng) -> CropBox {
    let (w, h) = random_box(width, height, MIN_AREA, rng);
    place(w.clamp(1, width.max(1)), h.clamp(1, height.max(1)), width, height, rng)
}

/// Returns the size (width, height) of the image, and the window in it, from which evaluation of classifiers makes an image of
/// `size` × `size` pixels: for a size of at most 224 the shorter side is resized to `size` · 256 / 224, above to `size`; the
/// window is central.
pub fn evaluation_window(width: u32, height: u32, size: u32) -> ((u32, u32), CropBox) {
    const LARGEST_WITH_MARGIN: u32 = 224;
    const KEPT: f64 = 224.0 / 256.0;
    let shorter = if size <= LARGEST_WITH_MARGIN {
        (f64::from(size) / KEPT) as u32
    } else {
        size
    };
    let longer = |long: u32, short: u32| (f64::from(shorter) * f64::from(long) / f64::from(short)) as u32;
    let (w, h) = if width <= height {
        (shorter, longer(height, width))
    } else {
        (longer(width, height), shorter)
    };
    let window = CropBox {
        left: w.saturating_sub(size).div_ceil(2),
        top: h.saturating_sub(size).div_ceil(2),
        width: size,
        height: size,
    };
    ((w, h), window)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::SeedableRng;

    #[test]
    fn extreme_aspect_ratios_fall_back_to_a_central_crop() {
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let wide = random_resized_crop(1000, 30, 0.8, &mut rng);
        assert_eq!(
            wide,
            CropBox {
                left: 480,
                top: 0,
                width: 40,
                height: 30
            }
        );
        let tall = random_resized_crop(30, 1000, 0.8, &mut rng);
        assert_eq!(
            tall,
            CropBox {
                left: 0,
                top: 480,
                width: 30,
                height: 40
            }
        );
    }

    #[test]
    fn classification_crops_have_the_published_areas_and_aspect_ratios() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let crops: Vec<CropBox> = (0..4000)
            .map(|_| random_resized_crop(1000, 1000, MIN_AREA, &mut rng))
            .collect();
        let area = |c: &CropBox| f64::from(c.width * c.height) / 1e6;
        assert!(crops.iter().all(|c| (0.079..=1.0).contains(&area(c))));
        // Boxes above 3/4 of the area may not fit, so the areas below are uniform.
        let below = |limit: f64| crops.iter().filter(|c| area(c) < limit).count() as f64;
        assert!(
            (below(0.41) / below(0.74) - 0.5).abs() < 0.03,
            "{} {}",
            below(0.41),
            below(0.74)
        );
        let aspect = |c: &CropBox| f64::from(c.width) / f64::from(c.height);
        assert!(crops.iter().all(|c| (0.74..1.34).contains(&aspect(c))));
        let wide = crops.iter().filter(|c| aspect(c) > 1.0).count();
        assert!((1850..2150).contains(&wide), "{wide}");
    }

    #[test]
    fn area_crops_are_limited_to_the_image() {
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        let crops: Vec<CropBox> = (0..500).map(|_| random_area_crop(1000, 30, &mut rng)).collect();
        // A box of 8 % of the area is 42 to 57 pixels wide, so its height never fits.
        assert!(
            crops
                .iter()
                .all(|c| c.height == 30 && c.top == 0 && (42..=200).contains(&c.width))
        );
        assert!(crops.iter().any(|c| c.left < 100) && crops.iter().any(|c| c.left > 800));
        assert_eq!(random_area_crop(1, 1, &mut rng).width, 1);
    }

    #[test]
    fn evaluation_keeps_the_centre_and_the_aspect_ratio() {
        let window = |left, top, size| CropBox {
            left,
            top,
            width: size,
            height: size,
        };
        assert_eq!(evaluation_window(500, 375, 224), ((341, 256), window(59, 16, 224)));
        assert_eq!(evaluation_window(375, 500, 224), ((256, 341), window(16, 59, 224)));
        assert_eq!(evaluation_window(500, 375, 384), ((512, 384), window(64, 0, 384)));
        assert_eq!(evaluation_window(100, 100, 225), ((225, 225), window(0, 0, 225)));
        assert_eq!(evaluation_window(640, 480, 32), ((48, 36), window(8, 2, 32)));
    }

    proptest! {
        #[test]
        fn crops_are_inside_the_image(width in 1u32..3000, height in 1u32..3000, size in 1u32..600, seed in 0u64..1000) {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            for crop in [
                random_resized_crop(width, height, 0.8, &mut rng),
                random_resized_crop(width, height, MIN_AREA, &mut rng),
                random_area_crop(width, height, &mut rng),
                central_crop(width, height),
            ] {
                prop_assert!(crop.width >= 1 && crop.height >= 1);
                prop_assert!(crop.left + crop.width <= width && crop.top + crop.height <= height);
            }
            let ((w, h), window) = evaluation_window(width, height, size);
            prop_assert!(window.left + size <= w && window.top + size <= h);
        }
    }
}
