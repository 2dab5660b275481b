//! Conversion of YCbCr to RGB: Pillow's own for uncompressed files, and libtiff's for compressed ones, whose chroma may be subsampled.

/// Converts a pixel as in Pillow (`ConvertYCbCr.c`), with six bits after the binary point.
pub(super) fn to_rgb(y: u8, cb: u8, cr: u8) -> [u8; 3] {
    // The entries of Pillow's tables, which are rounded towards zero after half is added.
    let entry = |factor: f64, value: u8| (factor * 64.0 * (f64::from(value) - 128.0) + 0.5) as i32;
    let y = i32::from(y);
    let red = y + (entry(1.402, cr) >> 6);
    let green = y + ((entry(-0.344_14, cb) + entry(-0.714_14, cr)) >> 6);
    let blue = y + (entry(1.772, cb) >> 6);
    [red, green, blue].map(|value| value.clamp(0, 255) as u8)
}

/// Converts a pixel as in libtiff (`tif_color.c`), with its default coefficients.
fn to_rgb_by_libtiff(y: u8, cb: u8, cr: u8) -> [u8; 3] {
    const HALF: i32 = 1 << 15;
    let (y, cb, cr) = (i32::from(y), i32::from(cb) - 128, i32::from(cr) - 128);
    // 1.402, 0.714136, 0.344136 and 1.772, with 16 bits after the binary point.
    let red = y + ((91_881 * cr + HALF) >> 16);
    let green = y + ((-46_802 * cr - 22_553 * cb + HALF) >> 16);
    let blue = y + ((116_130 * cb + HALF) >> 16);
    [red, green, blue].map(|value| value.clamp(0, 255) as u8)
}

/// The subsampling of chroma: a unit has the luma of `horizontal` × `vertical` pixels, and one value each of Cb and Cr.
#[derive(Clone, Copy)]
pub(super) struct Subsampling {
    pub(super) horizontal: usize,
    pub(super) vertical: usize,
}

impl Subsampling {
    /// Number of bytes of a unit.
    pub(super) fn unit_size(self) -> usize {
        self.horizontal * self.vertical + 2
    }

    /// Converts rows of units to RGB rows of `width` pixels.
    pub(super) fn convert(self, units: &[u8], width: usize) -> Vec<u8> {
        let across = width.div_ceil(self.horizontal);
        let unit_rows = units.chunks_exact(across * self.unit_size());
        let mut pixels = Vec::with_capacity(unit_rows.len() * self.vertical * width * 3);
        for unit_row in unit_rows {
            for y in 0..self.vertical {
                for x in 0..width {
                    let unit = &unit_row[x / self.horizontal * self.unit_size()..][..self.unit_size()];
                    let luma = unit[y * self.horizontal + x % self.horizontal];
                    let chroma = &unit[self.horizontal * self.vertical..];
                    pixels.extend(to_rgb_by_libtiff(luma, chroma[0], chroma[1]));
                }
            }
        }
        pixels
    }
}
