//! Affine maps with bicubic interpolation and a fill colour, as Pillow's `Image.transform` and `Image.rotate` with `BICUBIC`.
//!
//! Pillow's interpolation of affine maps is the cubic with a = −1 in double precision, truncated, unlike its resize (a = −0.5,
//! rounded). A result whose centre maps to a position outside the image has the fill colour.

#![allow(
    clippy::needless_range_loop,
    reason = "loops over lanes are clearer with indices, and vectorise too"
)]

use image::RgbImage;
use vlct_simd::multiversion;

use crate::memory;

/// A map from a position of the result to a position of the source, in pixels: `(x, y)` comes from
/// `(m[0]·x + m[1]·y + m[2], m[3]·x + m[4]·y + m[5])`.
pub type Affine = [f64; 6];

/// Returns the map of a shear along rows: each pixel is replaced by the one `factor · y` columns to the right.
pub fn shear_x_map(factor: f64) -> Affine {
    [1.0, factor, 0.0, 0.0, 1.0, 0.0]
}

/// Returns the map of a shear along columns: each pixel is replaced by the one `factor · x` rows below.
pub fn shear_y_map(factor: f64) -> Affine {
    [1.0, 0.0, 0.0, factor, 1.0, 0.0]
}

/// Returns the map of a translation: each pixel is replaced by the one `x` columns to the right and `y` rows below.
pub fn translation_map(x: f64, y: f64) -> Affine {
    [1.0, 0.0, x, 0.0, 1.0, y]
}

/// Pixels that are repeated beyond each edge: the interpolation reads two on each side of a position in the image.
const BORDER: usize = 2;

/// Values of a pixel in the source of the interpolation: red, green, blue and an unused one, so that a vector holds a pixel.
type Pixel = [u8; 4];

/// The image with its edge pixels repeated [`BORDER`] times.
struct Source<'a> {
    pixels: &'a [Pixel],
    /// Distance between rows, in pixels.
    pitch: usize,
    width: f64,
    height: f64,
}

/// Replaces the image by the result of the map, which has the same size.
pub fn transform_bicubic(image: &mut RgbImage, map: &Affine, fill: [u8; 3]) {
    let (width, height) = (image.width() as usize, image.height() as usize);
    if width == 0 || height == 0 {
        return;
    }
    let pitch = width + 2 * BORDER;
    let mut padded = memory::take(4 * pitch * (height + 2 * BORDER));
    pad(image.as_chunks::<3>().0, width, height, padded.as_chunks_mut::<4>().0);
    let source = Source {
        pixels: padded.as_chunks::<4>().0,
        pitch,
        width: width as f64,
        height: height as f64,
    };
    for (y, row) in image.as_chunks_mut::<3>().0.chunks_exact_mut(width).enumerate() {
        transform_row(&source, map, y as f64 + 0.5, fill, row);
    }
    memory::give_back(padded);
}

/// Copies `pixels` `[height, width]` into the middle of `padded`, and repeats the edges.
fn pad(pixels: &[[u8; 3]], width: usize, height: usize, padded: &mut [Pixel]) {
    let pitch = width + 2 * BORDER;
    for (y, out) in padded.chunks_exact_mut(pitch).enumerate() {
        let row = &pixels[y.saturating_sub(BORDER).min(height - 1) * width..][..width];
        let (left, rest) = out.split_at_mut(BORDER);
        let (middle, right) = rest.split_at_mut(width);
        for (out, [red, green, blue]) in middle.iter_mut().zip(row) {
            *out = [*red, *green, *blue, 0];
        }
        left.fill(middle[0]);
        right.fill(middle[width - 1]);
    }
}

multiversion! {
    /// Computes the row of the result whose centre is at `centre_y`.
    fn transform_row(source: &Source<'_>, map: &Affine, centre_y: f64, fill: [u8; 3], row: &mut [[u8; 3]]) {
        for (x, out) in row.iter_mut().enumerate() {
            let centre_x = x as f64 + 0.5;
            // In Pillow's order of operations.
            let source_x = map[0] * centre_x + map[1] * centre_y + map[2];
            let source_y = map[3] * centre_x + map[4] * centre_y + map[5];
            let is_inside = source_x >= 0.0 && source_x < source.width && source_y >= 0.0 && source_y < source.height;
            *out = if is_inside { interpolate(source, source_x - 0.5, source_y - 0.5) } else { fill };
        }
    }
}

/// Returns the value at a position, in pixels from the centre of the first pixel.
#[inline(always)]
fn interpolate(source: &Source<'_>, x: f64, y: f64) -> [u8; 3] {
    let (left, top) = (x.floor(), y.floor());
    let (dx, dy) = (x - left, y - top);
    // The first of four columns and rows, in the padded image: one pixel before the position.
    let column = (left as isize + BORDER as isize - 1) as usize;
    let row = (top as isize + BORDER as isize - 1) as usize;
    let taps = |r: usize| -> &[Pixel; 4] {
        let start = (row + r) * source.pitch + column;
        &source.pixels[start..start + 4].as_chunks().0[0]
    };
    // At a distance of zero the cubic is the value itself.
    let value = if dy == 0.0 {
        cubic(taps(1).map(levels), dx)
    } else if dx == 0.0 {
        cubic([0, 1, 2, 3].map(|r| levels(taps(r)[1])), dy)
    } else {
        cubic([0, 1, 2, 3].map(|r| cubic(taps(r).map(levels), dx)), dy)
    };
    // Adding 2^52 moves the integer into the low byte of the mantissa. A saturating conversion (`as u8`) does not vectorise.
    const TWO_TO_52: f64 = (1u64 << 52) as f64;
    let mut out = [0; 3];
    for c in 0..3 {
        out[c] = (value[c].clamp(0.0, 255.0).floor() + TWO_TO_52).to_bits() as u8;
    }
    out
}

#[inline(always)]
fn levels(pixel: Pixel) -> [f64; 4] {
    pixel.map(f64::from)
}

/// Returns the cubic through four neighbouring pixels at the distance `d` (0..1) from the second.
#[inline(always)]
fn cubic([a, b, c, d]: [[f64; 4]; 4], distance: f64) -> [f64; 4] {
    let mut out = [0.0; 4];
    for i in 0..4 {
        let p2 = -a[i] + c[i];
        let p3 = 2.0 * (a[i] - b[i]) + c[i] - d[i];
        let p4 = -a[i] + b[i] - c[i] + d[i];
        out[i] = b[i] + distance * (p2 + distance * (p3 + distance * p4));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::augment::geometry::rotation_map;
    use proptest::prelude::*;

    const FILL: [u8; 3] = [124, 116, 104];

    fn image(width: u32, height: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| {
            image::Rgb([
                ((x * 53) ^ (y * 7)) as u8,
                (x * y) as u8,
                if (x + y) % 3 == 0 { 255 } else { 0 },
            ])
        })
    }

    /// Reference: the cubic through four rows of four pixels, each index limited to the image.
    fn transform_naively(image: &RgbImage, map: &Affine) -> RgbImage {
        let (width, height) = image.dimensions();
        let cubic =
            |[a, b, c, d]: [f64; 4], t: f64| b + t * (c - a + t * (2.0 * (a - b) + c - d + t * (b - a + d - c)));
        RgbImage::from_fn(width, height, |x, y| {
            let (x, y) = (f64::from(x) + 0.5, f64::from(y) + 0.5);
            let (x, y) = (map[0] * x + map[1] * y + map[2], map[3] * x + map[4] * y + map[5]);
            if !(0.0..f64::from(width)).contains(&x) || !(0.0..f64::from(height)).contains(&y) {
                return image::Rgb(FILL);
            }
            let (x, y) = (x - 0.5, y - 0.5);
            let limited = |base: f64, i: i64, size: u32| (base as i64 + i).clamp(0, i64::from(size) - 1) as u32;
            image::Rgb([0, 1, 2].map(|channel| {
                let rows = [-1, 0, 1, 2].map(|j| {
                    let row = [-1, 0, 1, 2].map(|i| {
                        let (column, row) = (limited(x.floor(), i, width), limited(y.floor(), j, height));
                        f64::from(image.get_pixel(column, row).0[channel])
                    });
                    cubic(row, x - x.floor())
                });
                cubic(rows, y - y.floor()) as u8
            }))
        })
    }

    proptest! {
        #[test]
        fn equals_the_cubic_through_sixteen_pixels(
            width in 1u32..30, height in 1u32..30, value in -1.5f64..1.5, degrees in -200.0f64..200.0,
        ) {
            let source = image(width, height);
            for map in [
                rotation_map(degrees, (width, height)),
                shear_x_map(value),
                shear_y_map(value),
                translation_map(10.0 * value, 0.0),
                translation_map(0.0, 10.0 * value),
            ] {
                let mut got = source.clone();
                transform_bicubic(&mut got, &map, FILL);
                let want = transform_naively(&source, &map);
                // The reference adds in another order, so values at whole numbers may be truncated differently.
                prop_assert!(got.iter().zip(want.iter()).all(|(a, b)| a.abs_diff(*b) <= 1), "{:?}", map);
                let equal = got.iter().zip(want.iter()).filter(|(a, b)| a == b).count();
                prop_assert!(equal + 3 >= got.len() - got.len() / 50, "{:?}: {} of {}", map, equal, got.len());
            }
        }
    }

    #[test]
    fn whole_translations_move_and_fill() {
        let source = image(5, 4);
        let mut moved = source.clone();
        transform_bicubic(&mut moved, &translation_map(2.0, -1.0), FILL);
        for (x, y, pixel) in moved.enumerate_pixels() {
            let want = if x < 3 && y > 0 {
                source.get_pixel(x + 2, y - 1).0
            } else {
                FILL
            };
            assert_eq!(pixel.0, want, "{x} {y}");
        }
        for value in [f64::NAN, f64::INFINITY, -1e300] {
            transform_bicubic(&mut moved, &translation_map(value, value), FILL);
            assert!(moved.pixels().all(|pixel| pixel.0 == FILL));
        }
        transform_bicubic(&mut RgbImage::new(0, 3), &translation_map(0.0, 0.0), FILL);
    }
}
