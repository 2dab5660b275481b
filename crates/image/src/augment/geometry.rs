//! Rotation, shear and translation by nearest neighbour. The image keeps its size, and pixels without a source are black.
//!
//! Pillow computes source coordinates in 16.16 fixed point from pixel centres (`Image.transform` with `AFFINE` and
//! `NEAREST`); the same arithmetic here decides which neighbour is the nearest. Shears and translations move whole
//! rows or columns by whole pixels, so these are copied without computing coordinates per pixel.

use std::ops::Range;

use image::RgbImage;

use super::bicubic::Affine;
use crate::memory;

/// Converts a number to 16.16 fixed point, rounded half up. The number is limited, so that the product with any pixel
/// index does not overflow.
fn to_fixed_point(value: f64) -> i64 {
    (value.clamp(-1e6, 1e6) * 65536.0 + 0.5).floor() as i64
}

/// Returns the range of integers i ≥ 0 for which `start + i · step`, in fixed point, lies in 0..limit.
fn indices_inside(start: i64, step: i64, limit: i64) -> Range<i64> {
    let last = (limit << 16) - 1;
    let (near, far) = match step {
        0 if (0..=last).contains(&start) => return 0..i64::MAX,
        0 => return 0..0,
        1.. => (-start, last - start),
        _ => (start - last, start),
    };
    // The first step at or beyond the near end, and the first step beyond the far end.
    let step = step.abs();
    (near.max(0) + step - 1) / step..far.div_euclid(step) + 1
}

/// Returns the map of a rotation about the centre of an image of `size` (width, height) by `degrees`, counter-clockwise, as Pillow
/// computes it.
pub fn rotation_map(degrees: f64, size: (u32, u32)) -> Affine {
    let angle = -degrees.rem_euclid(360.0).to_radians();
    // Pillow rounds the matrix entries to 15 decimals, which makes right angles exact.
    let round = |v: f64| (v * 1e15).round_ties_even() / 1e15;
    let (cos, sin) = (round(angle.cos()), round(angle.sin()));
    let (centre_x, centre_y) = (f64::from(size.0) / 2.0, f64::from(size.1) / 2.0);
    let origin_x = cos * -centre_x + sin * -centre_y + centre_x;
    let origin_y = -sin * -centre_x + cos * -centre_y + centre_y;
    [cos, sin, origin_x, -sin, cos, origin_y]
}

/// Rotates about the centre by `degrees`, counter-clockwise, like Pillow's `Image.rotate`.
pub fn rotate(image: &mut RgbImage, degrees: f64) {
    let (width, height) = (i64::from(image.width()), i64::from(image.height()));
    if width == 0 || height == 0 {
        return;
    }
    let [cos, sin, origin_x, _, _, origin_y] = rotation_map(degrees, image.dimensions());

    // Source position of the pixel (0, 0), then one step per column and one per row.
    let mut row_x = to_fixed_point(origin_x + cos * 0.5 + sin * 0.5);
    let mut row_y = to_fixed_point(origin_y - sin * 0.5 + cos * 0.5);
    let (step_x, step_y) = (to_fixed_point(cos), to_fixed_point(-sin));
    let (row_step_x, row_step_y) = (to_fixed_point(sin), to_fixed_point(cos));

    let stride = 3 * width as usize;
    let mut out = memory::take(image.len());
    let source = image.as_chunks::<3>().0;
    for row in out.chunks_exact_mut(stride) {
        let (inside_x, inside_y) = (
            indices_inside(row_x, step_x, width),
            indices_inside(row_y, step_y, height),
        );
        let end = inside_x.end.min(inside_y.end).clamp(0, width);
        let first = inside_x.start.max(inside_y.start).min(end);
        row[..3 * first as usize].fill(0);
        row[3 * end as usize..].fill(0);
        let (mut x, mut y) = (row_x + first * step_x, row_y + first * step_y);
        for pixel in row[3 * first as usize..3 * end as usize].as_chunks_mut::<3>().0 {
            *pixel = source[((y >> 16) * width + (x >> 16)) as usize];
            x += step_x;
            y += step_y;
        }
        row_x += row_step_x;
        row_y += row_step_y;
    }
    if let Some(rotated) = RgbImage::from_raw(image.width(), image.height(), out) {
        memory::give_back(std::mem::replace(image, rotated).into_raw());
    }
}

/// Replaces each pixel by the pixel `factor · row` columns to the right.
pub fn shear_x(image: &mut RgbImage, factor: f64) {
    let (start, step) = (to_fixed_point(0.5 + 0.5 * factor), to_fixed_point(factor));
    shift_rows(image, |y| (start + y * step) >> 16);
}

/// Replaces each pixel by the pixel `factor · column` rows below.
pub fn shear_y(image: &mut RgbImage, factor: f64) {
    let (width, height) = (i64::from(image.width()), i64::from(image.height()));
    let (start, step) = (to_fixed_point(0.5 + 0.5 * factor), to_fixed_point(factor));
    // Neighbouring columns that move by the same number of rows are copied together.
    let mut runs: Vec<(Range<usize>, i64)> = Vec::new();
    for x in 0..width {
        let shift = (start + x * step) >> 16;
        let end = 3 * (x as usize + 1);
        match runs.last_mut() {
            Some((run, run_shift)) if *run_shift == shift => run.end = end,
            _ => runs.push((end - 3..end, shift)),
        }
    }
    let stride = 3 * width as usize;
    let values: &mut [u8] = image;
    let mut copy = |y: i64, (run, shift): &(Range<usize>, i64)| {
        let (from, to) = ((y + shift) * stride as i64, y as usize * stride);
        if (0..height).contains(&(y + shift)) {
            values.copy_within(from as usize + run.start..from as usize + run.end, to + run.start);
        } else {
            values[to + run.start..to + run.end].fill(0);
        }
    };
    // Each copy must read rows that are not overwritten yet: runs that move up are copied from the top, runs that move down from the
    // bottom.
    let (up, down): (Vec<_>, Vec<_>) = runs.into_iter().partition(|(_, shift)| *shift >= 0);
    for y in 0..height {
        up.iter().for_each(|run| copy(y, run));
    }
    for y in (0..height).rev() {
        down.iter().for_each(|run| copy(y, run));
    }
}

/// Replaces each pixel by the pixel `pixels` columns to the right: a positive value moves the image to the left.
pub fn translate_x(image: &mut RgbImage, pixels: f64) {
    let shift = whole_pixels(pixels);
    shift_rows(image, |_| shift);
}

/// Replaces each pixel by the pixel `pixels` rows below: a positive value moves the image up.
pub fn translate_y(image: &mut RgbImage, pixels: f64) {
    let stride = 3 * image.width() as usize;
    let height = image.height() as usize;
    let shift = whole_pixels(pixels);
    shift_within(image, stride, height, shift);
}

/// Rounds a shift to whole pixels: returns the index of the pixel that contains the centre of pixel 0 (at 0.5)
/// after a shift by `pixels`.
fn whole_pixels(pixels: f64) -> i64 {
    (pixels + 0.5).floor() as i64
}

/// Moves each row left by the number of pixels that `shift` gives for its index.
fn shift_rows(image: &mut RgbImage, shift: impl Fn(i64) -> i64) {
    let width = image.width() as usize;
    if width == 0 {
        return;
    }
    for (y, row) in image.chunks_exact_mut(3 * width).enumerate() {
        shift_within(row, 3, width, shift(y as i64));
    }
}

/// Moves `count` units of `unit` bytes towards the front by `shift` units (towards the back if negative) and
/// fills the rest with zeros.
fn shift_within(bytes: &mut [u8], unit: usize, count: usize, shift: i64) {
    let distance = shift.unsigned_abs().min(count as u64) as usize * unit;
    let end = count * unit;
    if shift >= 0 {
        bytes.copy_within(distance..end, 0);
        bytes[end - distance..end].fill(0);
    } else {
        bytes.copy_within(0..end - distance, distance);
        bytes[..distance].fill(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn image(width: u32, height: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| image::Rgb([x as u8 + 1, y as u8 + 1, 7]))
    }

    #[test]
    fn translation_moves_and_fills_with_black() {
        let mut left = image(4, 2);
        translate_x(&mut left, 1.0);
        assert_eq!(
            left.pixels().map(|p| p.0[0]).collect::<Vec<_>>(),
            [2, 3, 4, 0, 2, 3, 4, 0]
        );
        let mut down = image(1, 4);
        translate_y(&mut down, -2.6);
        assert_eq!(down.pixels().map(|p| p.0[1]).collect::<Vec<_>>(), [0, 0, 0, 1]);
        for far in [-1e300, 1e300, 5.0] {
            let mut moved_out = image(3, 3);
            translate_y(&mut moved_out, far);
            assert!(moved_out.iter().all(|&v| v == 0));
        }
        for extreme in [f64::NAN, f64::INFINITY, -1e300] {
            for operation in [rotate, shear_x, shear_y, translate_x] {
                operation(&mut image(3, 3), extreme);
            }
        }
    }

    proptest! {
        #[test]
        fn indices_inside_are_those_of_coordinates_in_the_image(start in -3_000_000i64..3_000_000, step in -200_000i64..200_000, limit in 1i64..60) {
            let range = indices_inside(start, step, limit);
            for i in 0..200 {
                prop_assert_eq!(range.contains(&i), (0..limit).contains(&((start + i * step) >> 16)), "{}", i);
            }
        }
    }

    #[test]
    fn rotation_by_right_angles_is_exact() {
        let source = image(5, 5);
        let mut rotated = source.clone();
        rotate(&mut rotated, 90.0);
        assert_eq!(rotated, image::imageops::rotate270(&source));
        rotate(&mut rotated, 270.0);
        assert_eq!(rotated, source);
        rotate(&mut rotated, -720.0);
        assert_eq!(rotated, source);
    }

    #[test]
    fn shears_are_transposes_of_each_other() {
        let source = image(9, 14);
        let transpose = |p: &RgbImage| RgbImage::from_fn(p.height(), p.width(), |x, y| *p.get_pixel(y, x));
        for factor in [0.09, -0.3, 1.0] {
            let mut x = source.clone();
            shear_x(&mut x, factor);
            let mut y = transpose(&source);
            shear_y(&mut y, factor);
            assert_eq!(transpose(&x), y, "{factor}");
        }
    }
}
