//! The inverse discrete cosine transform of libjpeg (`jidctint.c`, the method "islow"), in integers.

/// Bits after the binary point of the constants.
const CONSTANT_BITS: i32 = 13;
/// Additional bits of the values between the two passes.
const PASS_BITS: i32 = 2;

/// Multiplies coefficients with the quantisation table and transforms them to 8 × 8 samples, in rows of length 8.
pub(super) fn transform(coefficients: &[i16; 64], quantisation: &[u16; 64]) -> [u8; 64] {
    if coefficients[1..].iter().all(|&coefficient| coefficient == 0) {
        // All lines have the same values then.
        let value = i32::from(coefficients[0]) * i32::from(quantisation[0]);
        let line = pass([value, 0, 0, 0, 0, 0, 0, 0], CONSTANT_BITS - PASS_BITS);
        let line = pass([line[0], 0, 0, 0, 0, 0, 0, 0], CONSTANT_BITS + PASS_BITS + 3);
        return [to_sample(line[0]); 64];
    }
    let mut values = [0i32; 64];
    for ((value, &coefficient), &factor) in values.iter_mut().zip(coefficients).zip(quantisation) {
        *value = i32::from(coefficient) * i32::from(factor);
    }
    for column in 0..8 {
        let line = std::array::from_fn(|row| values[8 * row + column]);
        let line = pass(line, CONSTANT_BITS - PASS_BITS);
        for (row, value) in line.into_iter().enumerate() {
            values[8 * row + column] = value;
        }
    }
    let mut samples = [0; 64];
    for (row, out) in values.as_chunks::<8>().0.iter().zip(samples.as_chunks_mut::<8>().0) {
        let line = pass(*row, CONSTANT_BITS + PASS_BITS + 3);
        *out = line.map(to_sample);
    }
    samples
}

fn to_sample(value: i32) -> u8 {
    value.saturating_add(128).clamp(0, 255) as u8
}

/// Transforms a line of eight values, and divides by `1 << shift` with rounding. Values of damaged files may overflow.
fn pass(line: [i32; 8], shift: i32) -> [i32; 8] {
    let times = |value: i32, constant: i32| value.wrapping_mul(constant);
    let sum = |a: i32, b: i32| a.wrapping_add(b);
    let difference = |a: i32, b: i32| a.wrapping_sub(b);

    // The even part.
    let z1 = times(sum(line[2], line[6]), 4_433);
    let t2 = sum(z1, times(line[6], -15_137));
    let t3 = sum(z1, times(line[2], 6_270));
    let t0 = times(sum(line[0], line[4]), 1 << CONSTANT_BITS);
    let t1 = times(difference(line[0], line[4]), 1 << CONSTANT_BITS);
    let even = [sum(t0, t3), sum(t1, t2), difference(t1, t2), difference(t0, t3)];

    // The odd part.
    let [o0, o1, o2, o3] = [line[7], line[5], line[3], line[1]];
    let z5 = times(sum(sum(o0, o2), sum(o1, o3)), 9_633);
    let z1 = times(sum(o0, o3), -7_373);
    let z2 = times(sum(o1, o2), -20_995);
    let z3 = sum(times(sum(o0, o2), -16_069), z5);
    let z4 = sum(times(sum(o1, o3), -3_196), z5);
    let odd = [
        sum(times(o3, 12_299), sum(z1, z4)),
        sum(times(o2, 25_172), sum(z2, z3)),
        sum(times(o1, 16_819), sum(z2, z4)),
        sum(times(o0, 2_446), sum(z1, z3)),
    ];

    let half = 1 << (shift - 1);
    std::array::from_fn(|i| {
        let value = match i {
            0..4 => sum(even[i], odd[i]),
            _ => difference(even[7 - i], odd[7 - i]),
        };
        sum(value, half) >> shift
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_the_definition() {
        let mut seed = 1u32;
        for _ in 0..200 {
            let coefficients: [i16; 64] = std::array::from_fn(|i| {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                ((seed >> 16) as i16 % 200) / (1 + i as i16 / 4)
            });
            let got = transform(&coefficients, &[3; 64]);
            for (i, &sample) in got.iter().enumerate() {
                let (y, x) = ((i / 8) as f64, (i % 8) as f64);
                let mut sum = 0.0;
                for (j, &coefficient) in coefficients.iter().enumerate() {
                    let (v, u) = ((j / 8) as f64, (j % 8) as f64);
                    let scale = |k: f64| if k == 0.0 { 0.5f64.sqrt() } else { 1.0 };
                    let cosine = |k: f64, t: f64| ((2.0 * t + 1.0) * k * std::f64::consts::PI / 16.0).cos();
                    sum += scale(u) * scale(v) / 4.0 * 3.0 * f64::from(coefficient) * cosine(u, x) * cosine(v, y);
                }
                let want = (sum + 128.0).clamp(0.0, 255.0);
                assert!((f64::from(sample) - want).abs() <= 1.01, "{sample} {want}");
            }
        }
    }
}
