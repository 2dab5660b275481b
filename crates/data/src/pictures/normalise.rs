//! Pixels to the numbers that the model sees, and back: `(pixel / 255 - mean) / std` per channel.

use std::sync::LazyLock;

use image::RgbImage;

use crate::{DataError, Result};

/// Mean of red, green and blue over ImageNet, in units of full brightness.
pub const MEAN: [f32; 3] = [0.485, 0.456, 0.406];

/// Standard deviation of red, green and blue over ImageNet, in units of full brightness.
pub const STD: [f32; 3] = [0.229, 0.224, 0.225];

/// The normalised value of every pixel value, per channel. A table, because it reproduces torchvision's three
/// roundings (divide, subtract, divide) at the price of one load.
static TABLE: LazyLock<[[f32; 256]; 3]> = LazyLock::new(|| {
    std::array::from_fn(|channel| std::array::from_fn(|pixel| (pixel as f32 / 255.0 - MEAN[channel]) / STD[channel]))
});

/// Writes a picture as normalised planes `[3, height, width]`, mirrored left to right if `flip`.
///
/// # Errors
/// [`DataError::Invalid`] if `out` does not hold exactly `3 · height · width` values.
pub fn normalise_into(image: &RgbImage, flip: bool, out: &mut [f32]) -> Result<()> {
    let (width, height) = (image.width() as usize, image.height() as usize);
    let plane = width * height;
    if out.len() != 3 * plane {
        return Err(DataError::Invalid(format!(
            "a picture of {width}x{height} pixels needs {} values, the buffer has {}",
            3 * plane,
            out.len()
        )));
    }
    if plane == 0 {
        return Ok(());
    }
    let table = &*TABLE;
    let (red, rest) = out.split_at_mut(plane);
    let (green, blue) = rest.split_at_mut(plane);
    let rows = image.as_raw().chunks_exact(3 * width);
    let planes = red
        .chunks_exact_mut(width)
        .zip(green.chunks_exact_mut(width))
        .zip(blue.chunks_exact_mut(width));
    for (row, ((red, green), blue)) in rows.zip(planes) {
        let pixels = row.as_chunks::<3>().0;
        let targets = red.iter_mut().zip(green).zip(blue);
        let write = |(((r, g), b), p): (((&mut f32, &mut f32), &mut f32), &[u8; 3])| {
            *r = table[0][p[0] as usize];
            *g = table[1][p[1] as usize];
            *b = table[2][p[2] as usize];
        };
        if flip {
            targets.zip(pixels.iter().rev()).for_each(write);
        } else {
            targets.zip(pixels).for_each(write);
        }
    }
    Ok(())
}

/// Turns normalised planes `[3, size, size]` back into a picture: rounded to the nearest pixel value, clipped to
/// 0..=255; a value that is not a number becomes 0. For reports: reconstructions leave the range of real pictures.
///
/// # Errors
/// [`DataError::Invalid`] if `values` does not hold exactly `3 · size · size` numbers.
pub fn denormalise(values: &[f32], size: usize) -> Result<RgbImage> {
    let expected = size.checked_mul(size).and_then(|p| p.checked_mul(3));
    let side = u32::try_from(size).ok();
    let (Some(expected), Some(side)) = (expected, side) else {
        return Err(DataError::Invalid(format!(
            "a picture of {size}x{size} pixels is too large"
        )));
    };
    if values.len() != expected {
        return Err(DataError::Invalid(format!(
            "a picture of {size}x{size} pixels needs {expected} values, {} were given",
            values.len()
        )));
    }
    let mut pixels = vec![0u8; expected];
    for (channel, plane) in values.chunks_exact((size * size).max(1)).enumerate() {
        for (pixel, value) in pixels[channel..].iter_mut().step_by(3).zip(plane) {
            // `as` clips to the range of u8 and sends NaN to 0.
            *pixel = ((value * STD[channel] + MEAN[channel]) * 255.0).round() as u8;
        }
    }
    RgbImage::from_raw(side, side, pixels)
        .ok_or_else(|| DataError::Invalid(format!("a picture of {size}x{size} pixels is too large")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gradient(width: u32, height: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| {
            image::Rgb([x as u8 * 7, y as u8 * 11, (x * y) as u8])
        })
    }

    #[test]
    fn denormalise_undoes_normalise() {
        let picture = gradient(13, 13);
        let mut values = vec![0.0; 3 * 13 * 13];
        normalise_into(&picture, false, &mut values).unwrap();
        assert_eq!(denormalise(&values, 13).unwrap(), picture);
    }

    #[test]
    fn flip_mirrors_left_and_right() {
        let picture = gradient(5, 3);
        let mirrored = image::imageops::flip_horizontal(&picture);
        let (mut a, mut b) = (vec![0.0; 45], vec![0.0; 45]);
        normalise_into(&picture, true, &mut a).unwrap();
        normalise_into(&mirrored, false, &mut b).unwrap();
        assert_eq!(a, b);
    }

    #[test]
    fn planes_are_red_green_blue_with_imagenet_statistics() {
        let picture = RgbImage::from_pixel(1, 1, image::Rgb([0, 255, 51]));
        let mut values = [0.0; 3];
        normalise_into(&picture, false, &mut values).unwrap();
        let want = [-0.485 / 0.229, (1.0 - 0.456) / 0.224, (0.2 - 0.406) / 0.225];
        vlct_golden::assert_within("planes", &values, &want, 1e-6);
    }

    #[test]
    fn out_of_range_values_are_clipped_and_wrong_lengths_refused() {
        let picture = denormalise(&[f32::NAN, 1e9, -1e9], 1).unwrap();
        assert_eq!(picture.as_raw(), &[0, 255, 0]);
        assert!(denormalise(&[0.0; 5], 1).is_err());
        assert!(denormalise(&[], usize::MAX).is_err());
        assert!(normalise_into(&gradient(2, 2), false, &mut [0.0; 11]).is_err());
    }
}
