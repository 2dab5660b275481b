//! Operations that replace every pixel value through a table, one table per channel.

use image::RgbImage;

/// A table for one channel.
type Table = [u8; 256];

/// The table that maps each value by a function.
pub(super) fn table(f: impl Fn(u8) -> u8) -> Table {
    std::array::from_fn(|value| f(value as u8))
}

/// Replaces every value of red, green and blue through its table.
pub(super) fn look_up(image: &mut RgbImage, [red, green, blue]: &[Table; 3]) {
    for pixel in image.as_chunks_mut::<3>().0 {
        *pixel = [
            red[pixel[0] as usize],
            green[pixel[1] as usize],
            blue[pixel[2] as usize],
        ];
    }
}

/// How often each value occurs, per channel.
fn histograms(image: &RgbImage) -> [[u64; 256]; 3] {
    let mut counts = [[0u64; 256]; 3];
    for pixel in image.as_chunks::<3>().0 {
        for (channel, value) in counts.iter_mut().zip(pixel) {
            channel[*value as usize] += 1;
        }
    }
    counts
}

/// Stretches each channel so that its darkest value becomes 0 and its brightest 255; a constant channel stays.
/// Pillow's `ImageOps.autocontrast` without cut-off.
pub fn auto_contrast(image: &mut RgbImage) {
    let tables = histograms(image).map(|counts| {
        let low = counts.iter().position(|&n| n > 0).unwrap_or(0);
        let high = counts.iter().rposition(|&n| n > 0).unwrap_or(0);
        if high <= low {
            return table(|v| v);
        }
        let scale = 255.0 / (high - low) as f64;
        let offset = -(low as f64) * scale;
        // Truncated, as Python's `int`.
        table(|v| (f64::from(v) * scale + offset) as u8)
    });
    look_up(image, &tables);
}

/// Flattens each channel's histogram. Pillow's `ImageOps.equalize`: the bin width leaves the last occupied bin out,
/// and a channel with one value, or with too few pixels to fill 255 bins, stays.
pub fn equalize(image: &mut RgbImage) {
    let tables = histograms(image).map(|counts| {
        let last = counts.iter().rev().find(|&&n| n > 0).copied().unwrap_or(0);
        // Zero also where only one value occurs.
        let step = (counts.iter().sum::<u64>() - last) / 255;
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

/// Keeps the top `bits` bits of each value (limited to 1..=8). Pillow's `ImageOps.posterize`.
pub fn posterize(image: &mut RgbImage, bits: u32) {
    let mask = 0xffu8 << (8 - bits.clamp(1, 8));
    image.iter_mut().for_each(|v| *v &= mask);
}

/// Inverts every value that is not below `threshold` (0..=256). Pillow's `ImageOps.solarize`.
pub fn solarize(image: &mut RgbImage, threshold: f64) {
    let inverted = table(|v| if f64::from(v) < threshold { v } else { 255 - v });
    look_up(image, &[inverted; 3]);
}

/// Adds `amount` to every value (clipped to 0..=255, truncated), then solarizes at 128.
pub fn solarize_add(image: &mut RgbImage, amount: f64) {
    let changed = table(|v| {
        // `as` clips and truncates.
        let sum = (f64::from(v) + amount) as u8;
        if sum < 128 { sum } else { 255 - sum }
    });
    look_up(image, &[changed; 3]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(values: &[u8]) -> RgbImage {
        let pixels = values.iter().flat_map(|&v| [v; 3]).collect();
        RgbImage::from_raw(values.len() as u32, 1, pixels).unwrap()
    }

    fn reds(image: &RgbImage) -> Vec<u8> {
        image.pixels().map(|p| p.0[0]).collect()
    }

    #[test]
    fn auto_contrast_reaches_both_ends_and_leaves_constants() {
        let mut picture = row(&[50, 100, 150]);
        auto_contrast(&mut picture);
        assert_eq!(reds(&picture), [0, 127, 255]);
        let mut constant = row(&[9, 9]);
        auto_contrast(&mut constant);
        assert_eq!(reds(&constant), [9, 9]);
    }

    #[test]
    fn equalize_clips_small_steps_and_leaves_tiny_pictures() {
        let mut tiny = row(&[1, 2, 3]);
        equalize(&mut tiny);
        assert_eq!(reds(&tiny), [1, 2, 3]);
        // 400 pixels before the last bin: step 1, running sum beyond 255.
        let mut values = vec![10; 400];
        values.push(20);
        let mut picture = row(&values);
        equalize(&mut picture);
        assert_eq!((reds(&picture)[0], reds(&picture)[400]), (0, 255));
    }

    #[test]
    fn posterize_and_solarize_by_hand() {
        let mut picture = row(&[0, 127, 128, 255]);
        posterize(&mut picture, 0);
        assert_eq!(reds(&picture), [0, 0, 128, 128], "at least one bit");
        let mut picture = row(&[76, 77]);
        solarize(&mut picture, 76.8);
        assert_eq!(reds(&picture), [76, 178]);
        let mut picture = row(&[0, 94, 95, 250]);
        solarize_add(&mut picture, 33.0);
        assert_eq!(reds(&picture), [33, 127, 127, 0]);
    }
}
