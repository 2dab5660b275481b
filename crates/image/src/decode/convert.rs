//! Conversion of decoded samples to 8-bit RGB, by Pillow's rules.

use image::{ColorType, RgbImage};

use super::Decoded;
use super::samples::Samples;
use crate::Background;

/// Converts pixels to RGB.
///
/// Pillow keeps the high byte of 16-bit colour samples, but *clips* 16-bit grey samples without alpha to 255, so that most
/// of these images become nearly white. The published models were trained on these results.
///
/// # Errors
/// Returns the reason if the layout has no equivalent in Pillow or the number of samples is wrong.
pub(super) fn to_rgb(samples: Samples, background: Background) -> Result<Decoded, String> {
    let Samples {
        values: samples,
        layout,
        width,
        height,
    } = samples;
    let opaque = |pixels| (pixels, false);
    let (pixels, transparent) = match layout {
        ColorType::Rgb8 => opaque(samples),
        ColorType::L8 => opaque(samples.iter().flat_map(|&v| [v; 3]).collect()),
        ColorType::L16 => opaque(
            pixels_16_bit::<1>(&samples)
                .flat_map(|[v]| [v.min(255) as u8; 3])
                .collect(),
        ),
        ColorType::Rgb16 => opaque(pixels_16_bit::<3>(&samples).flat_map(|p| p.map(high_byte)).collect()),
        ColorType::La8 => {
            let pixels = samples.as_chunks::<2>().0;
            remove_alpha(
                pixels.iter().flat_map(|&[v, alpha]| [v, v, v, alpha]).collect(),
                background,
            )
        }
        ColorType::La16 => {
            let pixels = pixels_16_bit::<2>(&samples).map(|p| p.map(high_byte));
            remove_alpha(pixels.flat_map(|[v, alpha]| [v, v, v, alpha]).collect(), background)
        }
        ColorType::Rgba8 => remove_alpha(samples, background),
        ColorType::Rgba16 => {
            let pixels = pixels_16_bit::<4>(&samples).flat_map(|p| p.map(high_byte));
            remove_alpha(pixels.collect(), background)
        }
        other => return Err(format!("pixels of type {other:?} have no RGB form")),
    };
    let image = RgbImage::from_raw(width, height, pixels).ok_or_else(|| "too few pixels".to_string())?;
    Ok(Decoded { image, transparent })
}

fn high_byte(value: u16) -> u8 {
    (value >> 8) as u8
}

/// Returns pixels of `N` native-endian 16-bit samples.
fn pixels_16_bit<const N: usize>(samples: &[u8]) -> impl Iterator<Item = [u16; N]> {
    let values = samples.as_chunks::<2>().0;
    let pixels = values.as_chunks::<N>().0;
    pixels.iter().map(|pixel| pixel.map(u16::from_ne_bytes))
}

/// Removes every fourth byte, the alpha, and returns whether one was not opaque. Works in place, because images can be large.
fn remove_alpha(mut samples: Vec<u8>, background: Background) -> (Vec<u8>, bool) {
    let pixels = samples.len() / 4;
    let transparent = samples.as_chunks::<4>().0.iter().any(|pixel| pixel[3] != 255);
    match background {
        Background::Colour(colour) if transparent => {
            for i in 0..pixels {
                let alpha = samples[4 * i + 3];
                for (channel, behind) in colour.into_iter().enumerate() {
                    samples[3 * i + channel] = over(samples[4 * i + channel], alpha, behind);
                }
            }
        }
        _ => {
            for i in 1..pixels {
                samples.copy_within(4 * i..4 * i + 3, 3 * i);
            }
        }
    }
    samples.truncate(3 * pixels);
    (samples, transparent)
}

/// Composites a value with `alpha` over an opaque one, with the rounding of Pillow's `ImagingAlphaComposite`.
fn over(value: u8, alpha: u8, behind: u8) -> u8 {
    // Pillow has seven more bits, which are zero if the background is opaque.
    let sum = u32::from(value) * u32::from(alpha) + u32::from(behind) * u32::from(255 - alpha) + 128;
    // The rounded quotient by 255. It is at most 255.
    ((sum + (sum >> 8)) >> 8) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn native(values: &[u16]) -> Vec<u8> {
        values.iter().flat_map(|v| v.to_ne_bytes()).collect()
    }

    fn to_rgb(
        values: Vec<u8>,
        layout: ColorType,
        width: u32,
        height: u32,
        background: Background,
    ) -> Result<Decoded, String> {
        let samples = Samples {
            values,
            layout,
            width,
            height,
        };
        super::to_rgb(samples, background)
    }

    fn kept(samples: Vec<u8>, layout: ColorType, width: u32) -> (Vec<u8>, bool) {
        let decoded = to_rgb(samples, layout, width, 1, Background::Keep).unwrap();
        (decoded.image.into_raw(), decoded.transparent)
    }

    #[test]
    fn alpha_is_dropped_by_default() {
        let rgba = vec![1, 2, 3, 0, 4, 5, 6, 128, 7, 8, 9, 255];
        assert_eq!(kept(rgba, ColorType::Rgba8, 3), (vec![1, 2, 3, 4, 5, 6, 7, 8, 9], true));
        assert_eq!(kept(vec![9, 0], ColorType::La8, 1), (vec![9; 3], true));
        assert_eq!(kept(vec![9, 255], ColorType::La8, 1), (vec![9; 3], false));
    }

    #[test]
    fn alpha_is_composited_over_a_colour() {
        let rgba = vec![1, 2, 3, 0, 100, 200, 0, 128, 7, 8, 9, 255];
        let decoded = to_rgb(rgba, ColorType::Rgba8, 3, 1, Background::Colour([255, 0, 10])).unwrap();
        assert_eq!(decoded.image.as_raw(), &[255, 0, 10, 177, 100, 5, 7, 8, 9]);
        let decoded = to_rgb(native(&[0, 0x80ff]), ColorType::La16, 1, 1, Background::WHITE).unwrap();
        assert_eq!((decoded.image.as_raw(), decoded.transparent), (&vec![127; 3], true));
    }

    /// Pillow's arithmetic for an opaque background (`src/libImaging/AlphaComposite.c`), which has seven more bits of precision.
    fn pillow(value: u8, alpha: u8, behind: u8) -> u8 {
        if alpha == 0 {
            return behind;
        }
        let (alpha, blend) = (u32::from(alpha), 255 * (255 - u32::from(alpha)));
        let total = alpha * 255 + blend;
        let first = alpha * 255 * 255 * 128 / total;
        let second = 255 * 128 - first;
        let sum = u32::from(value) * first + u32::from(behind) * second + (0x80 << 7);
        ((((sum >> 8) + sum) >> 8) >> 7) as u8
    }

    #[test]
    fn compositing_equals_pillow_for_all_values() {
        for value in 0..=255 {
            for alpha in 0..=255 {
                for behind in 0..=255 {
                    assert_eq!(over(value, alpha, behind), pillow(value, alpha, behind));
                }
            }
        }
    }

    #[test]
    fn sixteen_bit_grey_is_clipped_and_colour_truncated() {
        let grey = kept(native(&[7, 256, 65535]), ColorType::L16, 3);
        assert_eq!(grey, (vec![7, 7, 7, 255, 255, 255, 255, 255, 255], false));
        let rgb = kept(native(&[0x1234, 0xff00, 0x00ff]), ColorType::Rgb16, 1);
        assert_eq!(rgb, (vec![0x12, 0xff, 0], false));
        let rgba = kept(native(&[0x1234, 0xff00, 0x00ff, 1]), ColorType::Rgba16, 1);
        assert_eq!(rgba, (rgb.0, true));
        assert_eq!(kept(native(&[0x1234, 5]), ColorType::La16, 1), (vec![0x12; 3], true));
    }

    #[test]
    fn rejects_wrong_lengths_and_floats() {
        assert!(to_rgb(vec![0; 5], ColorType::Rgb8, 2, 1, Background::Keep).is_err());
        assert!(to_rgb(vec![0; 12], ColorType::Rgb32F, 1, 1, Background::Keep).is_err());
    }
}
