//! Conversion of CIE L\*a\*b\* to sRGB. Pillow converts with colour profiles of LittleCMS, whose results differ by at most a few levels.

/// The white point D50.
const WHITE: [f64; 3] = [0.964_22, 1.0, 0.825_21];

/// From XYZ of D50 to linear sRGB, with Bradford's adaptation.
const MATRIX: [[f64; 3]; 3] = [
    [3.134_051_3, -1.617_027_7, -0.490_652_2],
    [-0.978_762_7, 1.916_142_2, 0.033_449_6],
    [0.071_942_5, -0.228_971_2, 1.405_218_3],
];

/// Converts a pixel. `a` and `b` are signed.
pub(super) fn to_rgb(lightness: u8, a: u8, b: u8) -> [u8; 3] {
    let signed = |value: u8| f64::from(value as i8);
    let y = (f64::from(lightness) * 100.0 / 255.0 + 16.0) / 116.0;
    let lab = [y + signed(a) / 500.0, y, y - signed(b) / 200.0];
    let linear = |t: f64| {
        if t > 6.0 / 29.0 {
            t * t * t
        } else {
            108.0 / 841.0 * (t - 4.0 / 29.0)
        }
    };
    let xyz: [f64; 3] = std::array::from_fn(|i| WHITE[i] * linear(lab[i]));
    MATRIX.map(|row| {
        let value: f64 = row.iter().zip(xyz).map(|(factor, value)| factor * value).sum();
        let value = value.clamp(0.0, 1.0);
        let encoded = if value <= 0.003_130_8 {
            12.92 * value
        } else {
            1.055 * value.powf(1.0 / 2.4) - 0.055
        };
        (encoded * 255.0).round() as u8
    })
}
