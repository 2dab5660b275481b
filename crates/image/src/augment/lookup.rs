//! Operations that map each value independently of the others, with one function for all channels or one per channel.
//!
//! Simple functions are computed with SIMD, others by a table.

#![allow(
    clippy::needless_range_loop,
    reason = "loops over lanes are clearer with indices, and vectorise too"
)]

use image::RgbImage;
use vlct_simd::multiversion;

/// The results of a function for the 256 values of a channel.
type Table = [u8; 256];

/// Returns the table of a function.
fn table(f: impl Fn(u8) -> u8) -> Table {
    std::array::from_fn(|value| f(value as u8))
}

/// Maps red, green and blue by their tables.
fn look_up(image: &mut RgbImage, [red, green, blue]: &[Table; 3]) {
    for pixel in image.as_chunks_mut::<3>().0 {
        *pixel = [
            red[pixel[0] as usize],
            green[pixel[1] as usize],
            blue[pixel[2] as usize],
        ];
    }
}

/// Returns the histogram of each channel. Images have less than 2³² pixels.
fn histograms(image: &RgbImage) -> [[u32; 256]; 3] {
    // Neighbouring pixels are often equal. With two sets of counts, an increment need not wait for the previous increment of the same
    // count.
    let mut counts = [[[0u32; 256]; 3]; 2];
    let (pairs, rest) = image.as_chunks::<3>().0.as_chunks::<2>();
    for pair in pairs {
        for (counts, pixel) in counts.iter_mut().zip(pair) {
            for (channel, value) in counts.iter_mut().zip(pixel) {
                channel[*value as usize] += 1;
            }
        }
    }
    let [mut sums, others] = counts;
    for (channel, value) in sums.iter_mut().zip(rest.as_flattened()) {
        channel[*value as usize] += 1;
    }
    for (sum, other) in sums.as_flattened_mut().iter_mut().zip(others.as_flattened()) {
        *sum += other;
    }
    sums
}

/// Values per iteration: a multiple of the three channels and of the vector width.
const LANES: usize = 48;

multiversion! {
    /// Returns the smallest and the largest value of each channel, or 255 and 0 if there is none.
    fn extremes(values: &[u8]) -> [[u8; 3]; 2] {
        let (mut low, mut high) = ([u8::MAX; LANES], [0; LANES]);
        let (chunks, rest) = values.as_chunks::<LANES>();
        for chunk in chunks {
            for i in 0..LANES {
                low[i] = low[i].min(chunk[i]);
                high[i] = high[i].max(chunk[i]);
            }
        }
        for (i, value) in rest.iter().enumerate() {
            low[i] = low[i].min(*value);
            high[i] = high[i].max(*value);
        }
        let mut extremes = [[u8::MAX; 3], [0; 3]];
        for i in 0..LANES {
            extremes[0][i % 3] = extremes[0][i % 3].min(low[i]);
            extremes[1][i % 3] = extremes[1][i % 3].max(high[i]);
        }
        extremes
    }
}

/// Stretches each channel so that its darkest value becomes 0 and its brightest 255; a constant channel stays unchanged.
/// Equals Pillow's `ImageOps.autocontrast` without cut-off.
pub fn auto_contrast(image: &mut RgbImage) {
    let [low, high] = extremes(image);
    // Most photographs span the full range already.
    if (0..3).all(|c| high[c] <= low[c] || (low[c], high[c]) == (0, u8::MAX)) {
        return;
    }
    let tables = std::array::from_fn(|c| {
        if high[c] <= low[c] {
            return table(|v| v);
        }
        let scale = 255.0 / f64::from(high[c] - low[c]);
        let offset = -f64::from(low[c]) * scale;
        // Truncated, as Python's `int`.
        table(|v| (f64::from(v) * scale + offset) as u8)
    });
    look_up(image, &tables);
}

/// Flattens each channel's histogram. As in Pillow's `ImageOps.equalize`, the step (pixels per output level) does not count the
/// last occupied bin, and a channel with one value, or with too few pixels to fill 255 bins, stays unchanged.
pub fn equalize(image: &mut RgbImage) {
    let tables = histograms(image).map(|counts| {
        let last = counts.iter().rev().find(|&&n| n > 0).copied().unwrap_or(0);
        // The step is also zero if only one value occurs.
        let step = (counts.iter().sum::<u32>() - last) / 255;
        if step == 0 {
            return table(|v| v);
        }
        let mut sum = step / 2;
        counts.map(|n| {
            let level = (sum / step).min(255) as u8;
            sum += n;
            level
        })
    });
    look_up(image, &tables);
}

/// Keeps the top `bits` (limited to 0..=8) of each value. Equals Pillow's `ImageOps.posterize`.
pub fn posterize(image: &mut RgbImage, bits: u32) {
    let mask = (0xff00u16 >> bits.min(8)) as u8;
    image.iter_mut().for_each(|v| *v &= mask);
}

/// Inverts every value from `threshold` (0..=256) on. Equals Pillow's `ImageOps.solarize`.
pub fn solarize(image: &mut RgbImage, threshold: f64) {
    // An integer is below the threshold if and only if it is below the ceiling of the threshold.
    invert_from(image, threshold.ceil() as u16, 0);
}

/// Inverts every value.
pub fn invert(image: &mut RgbImage) {
    image.iter_mut().for_each(|v| *v = 255 - *v);
}

/// Adds `amount` to every value below 128.
pub fn add_to_dark(image: &mut RgbImage, amount: u8) {
    image.iter_mut().for_each(|v| {
        if *v < 128 {
            *v = v.saturating_add(amount);
        }
    });
}

/// Adds `amount` to every value (clipped to 0..=255, truncated), then solarizes at 128.
pub fn solarize_add(image: &mut RgbImage, amount: f64) {
    // The sum is clipped at 0, so truncating it equals adding the floor of `amount`.
    invert_from(image, 128, amount.floor().clamp(-255.0, 255.0) as i16);
}

multiversion! {
    /// Adds `amount`, clips to 0..=255, and inverts values from `threshold` on.
    fn invert_from(values: &mut [u8], threshold: u16, amount: i16) {
        for value in values {
            let sum = (i16::from(*value) + amount).clamp(0, 255) as u8;
            *value = if u16::from(sum) < threshold { sum } else { 255 - sum };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn grey_row(values: &[u8]) -> RgbImage {
        let pixels = values.iter().flat_map(|&v| [v; 3]).collect();
        RgbImage::from_raw(values.len() as u32, 1, pixels).unwrap()
    }

    fn reds(image: &RgbImage) -> Vec<u8> {
        image.pixels().map(|p| p.0[0]).collect()
    }

    #[test]
    fn auto_contrast_stretches_to_the_full_range_and_keeps_constants() {
        let mut image = grey_row(&[50, 100, 150]);
        auto_contrast(&mut image);
        assert_eq!(reds(&image), [0, 127, 255]);
        let mut constant = grey_row(&[9, 9]);
        auto_contrast(&mut constant);
        assert_eq!(reds(&constant), [9, 9]);
    }

    #[test]
    fn equalize_clips_small_steps_and_keeps_tiny_images() {
        let mut tiny = grey_row(&[1, 2, 3]);
        equalize(&mut tiny);
        assert_eq!(reds(&tiny), [1, 2, 3]);
        // 400 pixels before the last bin: step 1, running sum beyond 255.
        let mut values = vec![10; 400];
        values.push(20);
        let mut image = grey_row(&values);
        equalize(&mut image);
        assert_eq!((reds(&image)[0], reds(&image)[400]), (0, 255));
    }

    #[test]
    fn posterize_and_solarize_equal_values_computed_by_hand() {
        let mut image = grey_row(&[0, 127, 128, 255]);
        posterize(&mut image, 1);
        assert_eq!(reds(&image), [0, 0, 128, 128]);
        posterize(&mut image, 0);
        assert_eq!(reds(&image), [0; 4]);
        let mut image = grey_row(&[0, 127, 128, 255]);
        for bits in [8, 100] {
            posterize(&mut image, bits);
            assert_eq!(reds(&image), [0, 127, 128, 255]);
        }
        invert(&mut image);
        assert_eq!(reds(&image), [255, 128, 127, 0]);
        add_to_dark(&mut image, 99);
        assert_eq!(reds(&image), [255, 128, 226, 99]);
        let mut image = grey_row(&[76, 77]);
        solarize(&mut image, 76.8);
        assert_eq!(reds(&image), [76, 178]);
        let mut image = grey_row(&[0, 94, 95, 250]);
        solarize_add(&mut image, 33.0);
        assert_eq!(reds(&image), [33, 127, 127, 0]);
    }

    proptest! {
        #[test]
        fn solarize_and_solarize_add_equal_tables(threshold in -10.0f64..270.0, amount in -300.0f64..300.0) {
            let all = grey_row(&std::array::from_fn::<u8, 256, _>(|v| v as u8));
            let mut inverted = all.clone();
            solarize(&mut inverted, threshold);
            prop_assert_eq!(reds(&inverted), table(|v| if f64::from(v) < threshold { v } else { 255 - v }));
            let mut added = all;
            solarize_add(&mut added, amount);
            let change = |v: u8| {
                let sum = (f64::from(v) + amount) as u8;
                if sum < 128 { sum } else { 255 - sum }
            };
            prop_assert_eq!(reds(&added), table(change));
        }

        #[test]
        fn histograms_and_extremes_equal_naive_ones(values in proptest::collection::vec(any::<u8>(), 0..200)) {
            let pixels: Vec<u8> = values.iter().flat_map(|v| [*v, v / 2, 255 - v]).collect();
            let image = RgbImage::from_raw(values.len() as u32, 1, pixels).unwrap();
            let [red, _, blue] = histograms(&image);
            for value in 0..=255u8 {
                let count = values.iter().filter(|v| **v == value).count() as u32;
                prop_assert_eq!((red[value as usize], blue[255 - value as usize]), (count, count));
            }
            if let (Some(low), Some(high)) = (values.iter().min(), values.iter().max()) {
                prop_assert_eq!(extremes(&image), [[*low, low / 2, 255 - high], [*high, high / 2, 255 - low]]);
            }
        }
    }
}
