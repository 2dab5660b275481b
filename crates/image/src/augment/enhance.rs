//! Pillow's enhancers (`ImageEnhance`): a blend of the image with a degenerate version of itself. A factor of 0 gives the
//! degenerate version, 1 the image; a larger factor extrapolates.

#![allow(
    clippy::needless_range_loop,
    reason = "loops over lanes are clearer with indices, and vectorise too"
)]

use image::RgbImage;
use vlct_simd::multiversion;

/// Returns `degenerate + factor · (value - degenerate)`, clipped and truncated, computed in f32 as in `Image.blend`.
#[inline(always)]
fn blend(degenerate: u8, value: u8, factor: f32) -> u8 {
    let (degenerate, value) = (i32::from(degenerate), i32::from(value));
    let blended = degenerate as f32 + factor * (value - degenerate) as f32;
    // Adding 2^23 moves the integer into the low byte of the mantissa. A saturating conversion (`as u8`) does not vectorise.
    const TWO_TO_23: f32 = (1 << 23) as f32;
    (blended.clamp(0.0, 255.0).floor() + TWO_TO_23).to_bits() as u8
}

/// Returns the brightness of a pixel: ITU-R 601 weights in 16-bit fixed point, rounded, as in Pillow's `convert("L")`.
#[inline(always)]
fn grey(red: u8, green: u8, blue: u8) -> u8 {
    let [red, green, blue] = [red, green, blue].map(u32::from);
    ((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16) as u8
}

/// Pixels per iteration.
const LANES: usize = 16;

/// Values of one channel.
type Channel = [u8; LANES];

/// Splits interleaved pixels into channels.
#[inline(always)]
fn channels(pixels: &[[u8; 3]; LANES]) -> [Channel; 3] {
    let mut channels = [[0; LANES]; 3];
    for i in 0..LANES {
        for c in 0..3 {
            channels[c][i] = pixels[i][c];
        }
    }
    channels
}

/// Returns [`grey`] of each pixel.
#[inline(always)]
fn greys([red, green, blue]: &[Channel; 3]) -> Channel {
    let mut greys = [0; LANES];
    for i in 0..LANES {
        greys[i] = grey(red[i], green[i], blue[i]);
    }
    greys
}

/// Changes the saturation: blends with the grey version.
pub fn color(image: &mut RgbImage, factor: f64) {
    blend_with_grey(image.as_chunks_mut::<3>().0, factor as f32);
}

multiversion! {
    fn blend_with_grey(pixels: &mut [[u8; 3]], factor: f32) {
        let (chunks, rest) = pixels.as_chunks_mut::<LANES>();
        for pixels in chunks {
            // The grey of each pixel, three times.
            let mut degenerate = [0; 3 * LANES];
            for (i, grey) in greys(&channels(pixels)).into_iter().enumerate() {
                for c in 0..3 {
                    degenerate[3 * i + c] = grey;
                }
            }
            let values = pixels.as_flattened_mut();
            for i in 0..3 * LANES {
                values[i] = blend(degenerate[i], values[i], factor);
            }
        }
        for pixel in rest {
            let grey = grey(pixel[0], pixel[1], pixel[2]);
            for value in pixel {
                *value = blend(grey, *value, factor);
            }
        }
    }
}

/// Changes the contrast: blends with a constant, the rounded mean brightness.
pub fn contrast(image: &mut RgbImage, factor: f64) {
    let pixels = image.as_chunks::<3>().0;
    if pixels.is_empty() {
        return;
    }
    let mean = (sum_of_greys(pixels) as f64 / pixels.len() as f64 + 0.5) as u8;
    blend_with(image, mean, factor as f32);
}

multiversion! {
    fn sum_of_greys(pixels: &[[u8; 3]]) -> u64 {
        let (chunks, rest) = pixels.as_chunks::<LANES>();
        let mut sum = 0u64;
        for pixels in chunks {
            let mut chunk_sum = 0u32;
            for grey in greys(&channels(pixels)) {
                chunk_sum += u32::from(grey);
            }
            sum += u64::from(chunk_sum);
        }
        for [red, green, blue] in rest {
            sum += u64::from(grey(*red, *green, *blue));
        }
        sum
    }
}

/// Changes the brightness: blends with black.
pub fn brightness(image: &mut RgbImage, factor: f64) {
    blend_with(image, 0, factor as f32);
}

multiversion! {
    fn blend_with(values: &mut [u8], degenerate: u8, factor: f32) {
        for value in values {
            *value = blend(degenerate, *value, factor);
        }
    }
}

/// Changes the sharpness: blends with a smoothed version (3 × 3 kernel of ones with 5 in the centre, over 13). The outermost
/// pixels, which have no full neighbourhood, stay unchanged as in Pillow.
pub fn sharpness(image: &mut RgbImage, factor: f64) {
    let (width, height) = (image.width() as usize, image.height() as usize);
    if width < 3 || height < 3 {
        return;
    }
    let stride = 3 * width;
    // The rows of `image` are overwritten; `above` and `current` are copies of the original rows.
    let values: &mut [u8] = image;
    let (mut above, mut current) = (values[..stride].to_vec(), vec![0; stride]);
    for start in (stride..).step_by(stride).take(height - 2) {
        let (row, below) = values[start..start + 2 * stride].split_at_mut(stride);
        current.copy_from_slice(row);
        sharpen(&above, &current, below, factor as f32, &mut row[3..stride - 3]);
        std::mem::swap(&mut above, &mut current);
    }
}

multiversion! {
    /// Writes the sharpened middle row without its first and last pixel to `out`.
    fn sharpen(above: &[u8], current: &[u8], below: &[u8], factor: f32, out: &mut [u8]) {
        // Values of one channel are three apart.
        let count = out.len();
        let (a0, a1, a2) = (&above[..count], &above[3..3 + count], &above[6..6 + count]);
        let (b0, b1, b2) = (&current[..count], &current[3..3 + count], &current[6..6 + count]);
        let (c0, c1, c2) = (&below[..count], &below[3..3 + count], &below[6..6 + count]);
        for i in 0..count {
            let upper = u16::from(a0[i]) + u16::from(a1[i]) + u16::from(a2[i]);
            let middle = u16::from(b0[i]) + 5 * u16::from(b1[i]) + u16::from(b2[i]);
            let lower = u16::from(c0[i]) + u16::from(c1[i]) + u16::from(c2[i]);
            // Thirteen is odd, so there are no ties: adding six before dividing rounds to nearest.
            out[i] = blend(((upper + middle + lower + 6) / 13) as u8, b1[i], factor);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> RgbImage {
        RgbImage::from_fn(7, 6, |x, y| {
            image::Rgb([(x * 36) as u8, (y * 50) as u8, (x * y * 8) as u8])
        })
    }

    #[test]
    fn factor_one_is_the_identity() {
        for enhance in [color, contrast, brightness, sharpness] {
            let mut changed = image();
            enhance(&mut changed, 1.0);
            assert_eq!(changed, image());
        }
    }

    #[test]
    fn factor_zero_gives_the_degenerate_image() {
        let mut black = image();
        brightness(&mut black, 0.0);
        assert!(black.iter().all(|&v| v == 0));
        let mut grey = image();
        color(&mut grey, 0.0);
        assert!(grey.pixels().all(|p| p.0[0] == p.0[1] && p.0[1] == p.0[2]));
        let mut flat = image();
        contrast(&mut flat, 0.0);
        assert!(flat.iter().all(|v| *v == flat.as_raw()[0]));
        let mut dot = RgbImage::new(3, 3);
        dot.put_pixel(1, 1, image::Rgb([130, 13, 26]));
        sharpness(&mut dot, 0.0);
        assert_eq!(dot.get_pixel(1, 1).0, [50, 5, 10]);
    }
}
