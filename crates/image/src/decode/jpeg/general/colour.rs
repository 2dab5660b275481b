//! Colour spaces of JPEG files, and their conversion to RGB as in libjpeg (`jdapimin.c`, `jdcolor.c`) and Pillow.

use super::markers::{Frame, State};

/// The colour space of the components of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ColourSpace {
    Grey,
    Rgb,
    YCbCr,
    /// Inverted cyan, magenta, yellow and black.
    Cmyk,
    /// YCbCr of inverted cyan, magenta and yellow, and inverted black.
    Ycck,
}

impl ColourSpace {
    /// Returns the colour space by libjpeg's rules (`default_decompress_parms`).
    pub(super) fn of(state: &State, frame: &Frame) -> Self {
        let ids: Vec<u8> = frame.components.iter().map(|component| component.id).collect();
        match (ids.len(), state.adobe) {
            (1, _) => Self::Grey,
            (4, None | Some(0)) => Self::Cmyk,
            (4, Some(_)) => Self::Ycck,
            _ if state.has_jfif => Self::YCbCr,
            (_, Some(0)) => Self::Rgb,
            (_, None) if ids == *b"RGB" => Self::Rgb,
            _ => Self::YCbCr,
        }
    }

    /// Converts a row of samples, one vector per component, to RGB.
    pub(super) fn convert_row(self, rows: &[Vec<u8>], out: &mut [u8]) {
        let pixels = out.as_chunks_mut::<3>().0.iter_mut();
        match (self, rows) {
            (Self::Rgb, [red, green, blue]) => {
                for (((pixel, &red), &green), &blue) in pixels.zip(red).zip(green).zip(blue) {
                    *pixel = [red, green, blue];
                }
            }
            (Self::YCbCr, [y, cb, cr]) => {
                for (((pixel, &y), &cb), &cr) in pixels.zip(y).zip(cb).zip(cr) {
                    *pixel = ycbcr_to_rgb(y, cb, cr);
                }
            }
            (Self::Cmyk, [c, m, y, k]) => {
                for ((((pixel, &c), &m), &y), &k) in pixels.zip(c).zip(m).zip(y).zip(k) {
                    *pixel = [c, m, y].map(|value| ink_to_rgb(value, k));
                }
            }
            (Self::Ycck, [y, cb, cr, k]) => {
                for ((((pixel, &y), &cb), &cr), &k) in pixels.zip(y).zip(cb).zip(cr).zip(k) {
                    *pixel = ycbcr_to_rgb(y, cb, cr).map(|value| ink_to_rgb(255 - value, k));
                }
            }
            (_, rows) => {
                for (pixel, &grey) in pixels.zip(&rows[0]) {
                    *pixel = [grey; 3];
                }
            }
        }
    }
}

fn ycbcr_to_rgb(y: u8, cb: u8, cr: u8) -> [u8; 3] {
    const HALF: i32 = 1 << 15;
    let (y, cb, cr) = (i32::from(y), i32::from(cb) - 128, i32::from(cr) - 128);
    // 1.402, 0.71414, 0.34414 and 1.772, with 16 bits after the binary point.
    let red = y + ((91_881 * cr + HALF) >> 16);
    let green = y + ((-46_802 * cr - 22_554 * cb + HALF) >> 16);
    let blue = y + ((116_130 * cb + HALF) >> 16);
    [red, green, blue].map(|value| value.clamp(0, 255) as u8)
}

/// Combines an inverted colour of ink with inverted black, with Pillow's rounding (`cmyk2rgb`).
fn ink_to_rgb(inverted: u8, inverted_black: u8) -> u8 {
    let product = u32::from(255 - inverted) * u32::from(inverted_black) + 128;
    inverted_black.saturating_sub((((product >> 8) + product) >> 8) as u8)
}
