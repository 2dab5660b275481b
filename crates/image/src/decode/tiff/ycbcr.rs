//! Conversion of YCbCr to RGB as in Pillow (`ConvertYCbCr.c`), with six bits after the binary point.

/// Converts a pixel.
pub(super) fn to_rgb(y: u8, cb: u8, cr: u8) -> [u8; 3] {
    // The entries of Pillow's tables.
    let entry = |factor: f64, value: u8| (factor * 64.0 * (f64::from(value) - 128.0)).round() as i32;
    let y = i32::from(y);
    let red = y + (entry(1.402, cr) >> 6);
    let green = y + ((entry(-0.344_14, cb) + entry(-0.714_14, cr)) >> 6);
    let blue = y + (entry(1.772, cb) >> 6);
    [red, green, blue].map(|value| value.clamp(0, 255) as u8)
}
