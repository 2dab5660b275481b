//! ViLT's rule for the sizes of images that keep their proportions.

/// The longest side of results for the shorter side 800. It grows in proportion to the shorter side.
const LONGEST: f64 = 1333.0;
/// See [`LONGEST`].
const SHORTER: f64 = 800.0;

/// Returns the longest side of results with this shorter side, in pixels.
pub(super) fn longest(shorter: u32) -> u32 {
    (LONGEST / SHORTER * f64::from(shorter)) as u32
}

/// Returns the largest ratio of the sides of an image for which [`proportional_size`] returns a size.
pub(super) fn largest_ratio(shorter: u32, multiple: u32) -> f64 {
    // The shorter side is rounded to the nearest number of pixels.
    f64::from(longest(shorter)) / (f64::from(multiple) - 0.5)
}

/// Returns the size (width, height) to which ViLT resizes an image of `width` × `height` pixels. The shorter side becomes `shorter`, or
/// less if the longer side would be above 1333/800 · `shorter`. Then both sides are rounded, and reduced to multiples of `multiple`.
/// Returns `None` if a side would have no pixels.
pub fn proportional_size(width: u32, height: u32, shorter: u32, multiple: u32) -> Option<(u32, u32)> {
    let (w, h) = (f64::from(width), f64::from(height));
    let scale = f64::from(shorter) / w.min(h);
    let (mut new_width, mut new_height) = if h < w {
        (scale * w, f64::from(shorter))
    } else {
        (f64::from(shorter), scale * h)
    };
    let longest = f64::from(longest(shorter));
    if new_width.max(new_height) > longest {
        let scale = longest / new_width.max(new_height);
        (new_width, new_height) = (new_width * scale, new_height * scale);
    }
    let side = |side: f64| Some((side + 0.5) as u32 / multiple * multiple).filter(|side| *side > 0);
    Some((side(new_width)?, side(new_height)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_are_those_of_vilt() {
        for directory in vlct_golden::vilt_directories("") {
            let table = vlct_golden::json(directory.join("resize_sizes.json"));
            let multiple = table["size_divisor"].as_u64().expect("a number") as u32;
            let rows = table["rows"].as_array().expect("rows");
            assert!(!rows.is_empty());
            for row in rows {
                let [width, height, shorter, new_width, new_height] =
                    std::array::from_fn(|i| row[i].as_u64().expect("a number") as u32);
                let want = (new_width > 0 && new_height > 0).then_some((new_width, new_height));
                assert_eq!(proportional_size(width, height, shorter, multiple), want, "{row}");
            }
        }
    }

    proptest! {
        #[test]
        fn longer_images_than_the_largest_ratio_have_no_size(shorter in 64u32..2000, side in 10u32..1000) {
            let limit = largest_ratio(shorter, 32) * f64::from(side);
            prop_assert!(proportional_size(side, (limit * 0.999) as u32, shorter, 32).is_some());
            prop_assert_eq!(proportional_size((limit * 1.001 + 1.0) as u32, side, shorter, 32), None);
        }

        #[test]
        fn results_are_multiples_and_not_too_long(
            width in 0u32..10_000, height in 0u32..10_000, shorter in 1u32..8193, multiple in 1u32..100,
        ) {
            if let Some((new_width, new_height)) = proportional_size(width, height, shorter, multiple) {
                prop_assert!(new_width.is_multiple_of(multiple) && new_height.is_multiple_of(multiple));
                prop_assert!(new_width.min(new_height) <= shorter && new_width.max(new_height) <= longest(shorter).max(shorter));
            }
        }
    }
}
