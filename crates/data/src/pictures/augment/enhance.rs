//! Pillow's enhancers (`ImageEnhance`): a blend of the picture with a degenerate version of itself. A factor of 0
//! gives the degenerate version, 1 the picture, more exaggerates.

use image::RgbImage;

use super::lookup::{look_up, table};

/// `degenerate + factor · (value - degenerate)`, clipped and truncated, in f32 as `Image.blend` computes it.
#[inline]
fn blend(degenerate: u8, value: u8, factor: f32) -> u8 {
    let (degenerate, value) = (i32::from(degenerate), i32::from(value));
    (degenerate as f32 + factor * (value - degenerate) as f32) as u8
}

/// Brightness of a pixel: ITU-R 601 weights in 16-bit fixed point, rounded, as Pillow's `convert("L")`.
#[inline]
fn grey(pixel: &[u8; 3]) -> u8 {
    let [red, green, blue] = pixel.map(u32::from);
    ((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16) as u8
}

/// Saturation: blends with the grey version.
pub fn color(image: &mut RgbImage, factor: f64) {
    let factor = factor as f32;
    for pixel in image.as_chunks_mut::<3>().0 {
        let grey = grey(pixel);
        *pixel = pixel.map(|value| blend(grey, value, factor));
    }
}

/// Contrast: blends with a constant, the rounded mean brightness.
pub fn contrast(image: &mut RgbImage, factor: f64) {
    let pixels = image.as_chunks::<3>().0;
    if pixels.is_empty() {
        return;
    }
    let sum: u64 = pixels.iter().map(|p| u64::from(grey(p))).sum();
    let mean = (sum as f64 / pixels.len() as f64 + 0.5) as u8;
    look_up(image, &[table(|value| blend(mean, value, factor as f32)); 3]);
}

/// Brightness: blends with black.
pub fn brightness(image: &mut RgbImage, factor: f64) {
    look_up(image, &[table(|value| blend(0, value, factor as f32)); 3]);
}

/// Sharpness: blends with a smoothed version (3 × 3 kernel of ones with 5 in the centre, over 13). The outermost
/// pixels have no full neighbourhood and stay, as Pillow's filter leaves them.
pub fn sharpness(image: &mut RgbImage, factor: f64) {
    let (width, height) = (image.width() as usize, image.height() as usize);
    if width < 3 || height < 3 {
        return;
    }
    let factor = factor as f32;
    let stride = 3 * width;
    let source = image.as_raw().clone();
    let mut columns = vec![0u16; stride];
    let windows = source.windows(3 * stride).step_by(stride);
    for (window, row) in windows.zip(image.chunks_exact_mut(stride).skip(1)) {
        let (above, rest) = window.split_at(stride);
        let (here, below) = rest.split_at(stride);
        for (sum, ((a, b), c)) in columns.iter_mut().zip(above.iter().zip(here).zip(below)) {
            *sum = u16::from(*a) + u16::from(*b) + u16::from(*c);
        }
        // Values of one channel are three apart.
        let sums = columns.iter().zip(&columns[3..]).zip(&columns[6..]);
        for ((out, value), ((left, middle), right)) in row[3..].iter_mut().zip(&here[3..]).zip(sums) {
            let sum = left + middle + right + 4 * u16::from(*value);
            // Thirteen is odd: no ties, and adding six before dividing rounds to nearest.
            *out = blend(((sum + 6) / 13) as u8, *value, factor);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture() -> RgbImage {
        RgbImage::from_fn(7, 6, |x, y| {
            image::Rgb([(x * 36) as u8, (y * 50) as u8, (x * y * 8) as u8])
        })
    }

    #[test]
    fn factor_one_changes_nothing() {
        for enhance in [color, contrast, brightness, sharpness] {
            let mut changed = picture();
            enhance(&mut changed, 1.0);
            assert_eq!(changed, picture());
        }
    }

    #[test]
    fn factor_zero_gives_the_degenerate_picture() {
        let mut black = picture();
        brightness(&mut black, 0.0);
        assert!(black.iter().all(|&v| v == 0));
        let mut grey = picture();
        color(&mut grey, 0.0);
        assert!(grey.pixels().all(|p| p.0[0] == p.0[1] && p.0[1] == p.0[2]));
        let mut flat = picture();
        contrast(&mut flat, 0.0);
        assert!(flat.iter().all(|v| *v == flat.as_raw()[0]));
        let mut dot = RgbImage::new(3, 3);
        dot.put_pixel(1, 1, image::Rgb([130, 13, 26]));
        sharpness(&mut dot, 0.0);
        assert_eq!(dot.get_pixel(1, 1).0, [50, 5, 10]);
    }
}
