//! Conversion of decoded samples to 8-bit RGB, by Pillow's rules.

use image::{ColorType, RgbImage};

/// Converts `width` × `height` pixels of interleaved samples. 16-bit samples are in native byte order.
///
/// Pillow keeps the high byte of 16-bit colour samples, but *clips* 16-bit grey samples without alpha to 255, so that most
/// of these images become nearly white. The published models were trained on these results.
///
/// # Errors
/// Returns the reason if the layout has no equivalent in Pillow or the number of samples is wrong.
pub(super) fn to_rgb(samples: Vec<u8>, layout: ColorType, width: u32, height: u32) -> Result<RgbImage, String> {
    let pixels = match layout {
        ColorType::Rgb8 => samples,
        ColorType::L8 => samples.iter().flat_map(|&v| [v; 3]).collect(),
        ColorType::La8 => samples.as_chunks::<2>().0.iter().flat_map(|&[v, _]| [v; 3]).collect(),
        ColorType::Rgba8 => drop_fourth(samples),
        ColorType::L16 => pixels_16_bit::<1>(&samples)
            .flat_map(|[v]| [v.min(255) as u8; 3])
            .collect(),
        ColorType::La16 => pixels_16_bit::<2>(&samples)
            .flat_map(|[v, _]| [high_byte(v); 3])
            .collect(),
        ColorType::Rgb16 => pixels_16_bit::<3>(&samples).flat_map(|p| p.map(high_byte)).collect(),
        ColorType::Rgba16 => pixels_16_bit::<4>(&samples)
            .flat_map(|[r, g, b, _]| [r, g, b].map(high_byte))
            .collect(),
        other => return Err(format!("pixels of type {other:?} have no RGB form")),
    };
    RgbImage::from_raw(width, height, pixels).ok_or_else(|| "too few pixels".to_string())
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

/// Removes every fourth byte. Works in place, because images can be large.
fn drop_fourth(mut samples: Vec<u8>) -> Vec<u8> {
    let pixels = samples.len() / 4;
    for i in 1..pixels {
        samples.copy_within(4 * i..4 * i + 3, 3 * i);
    }
    samples.truncate(3 * pixels);
    samples
}

#[cfg(test)]
mod tests {
    use super::*;

    fn native(values: &[u16]) -> Vec<u8> {
        values.iter().flat_map(|v| v.to_ne_bytes()).collect()
    }

    #[test]
    fn alpha_is_dropped_not_blended() {
        let rgba = vec![1, 2, 3, 0, 4, 5, 6, 128, 7, 8, 9, 255];
        assert_eq!(
            to_rgb(rgba, ColorType::Rgba8, 3, 1).unwrap().as_raw(),
            &[1, 2, 3, 4, 5, 6, 7, 8, 9]
        );
        assert_eq!(to_rgb(vec![9, 0], ColorType::La8, 1, 1).unwrap().as_raw(), &[9; 3]);
    }

    #[test]
    fn sixteen_bit_grey_is_clipped_and_colour_truncated() {
        let grey = to_rgb(native(&[7, 256, 65535]), ColorType::L16, 3, 1).unwrap();
        assert_eq!(grey.as_raw(), &[7, 7, 7, 255, 255, 255, 255, 255, 255]);
        let rgb = to_rgb(native(&[0x1234, 0xff00, 0x00ff]), ColorType::Rgb16, 1, 1).unwrap();
        assert_eq!(rgb.as_raw(), &[0x12, 0xff, 0]);
        let rgba = to_rgb(native(&[0x1234, 0xff00, 0x00ff, 1]), ColorType::Rgba16, 1, 1).unwrap();
        assert_eq!(rgba, rgb);
        assert_eq!(
            to_rgb(native(&[0x1234, 5]), ColorType::La16, 1, 1).unwrap().as_raw(),
            &[0x12; 3]
        );
    }

    #[test]
    fn rejects_wrong_lengths_and_floats() {
        assert!(to_rgb(vec![0; 5], ColorType::Rgb8, 2, 1).is_err());
        assert!(to_rgb(vec![0; 12], ColorType::Rgb32F, 1, 1).is_err());
    }
}
