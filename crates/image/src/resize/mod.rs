//! Pillow's bicubic resize, with a crop.
//!
//! The filter is Catmull-Rom (cubic with a = -0.5), widened when the image shrinks (anti-aliasing). Two passes with 8-bit values
//! between them have Pillow's order and fixed-point arithmetic, so the results equal Pillow's bit for bit on every machine. Between
//! the passes, only the rows within the support of the vertical filter are kept (a ring buffer), or one group of 16 rows
//! if the vertical pass is first: these rows stay in the cache, and their memory does not grow with the height of the image.
//!
//! The image is cropped *before* filtering, as in torchvision's `resized_crop`: pixels outside the crop have no influence.

use std::cell::RefCell;

use image::RgbImage;

use crate::{ImageError, Result};

mod passes;
mod weights;

use passes::{Column, ROWS, horizontal, transpose_back, vertical, vertical_levels};
use weights::Weights;

/// A rectangle of an image, in pixels from the top left corner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CropBox {
    /// First column.
    pub left: u32,
    /// First row.
    pub top: u32,
    /// Number of columns.
    pub width: u32,
    /// Number of rows.
    pub height: u32,
}

impl CropBox {
    /// Returns the box that covers the whole image.
    pub fn whole(image: &RgbImage) -> Self {
        Self {
            left: 0,
            top: 0,
            width: image.width(),
            height: image.height(),
        }
    }
}

/// The map from a level (0..=255) to a value, for red, green and blue: `level · scale + offset`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LevelMap {
    /// Factor of each channel.
    pub scale: [f32; 3],
    /// Offset of each channel.
    pub offset: [f32; 3],
}

impl LevelMap {
    /// The identity.
    pub(crate) const IDENTITY: Self = Self {
        scale: [1.0; 3],
        offset: [0.0; 3],
    };
}

/// Resizes an image to `width` × `height` pixels, without preserving the aspect ratio.
///
/// # Errors
/// Returns [`ImageError::NoPixels`] if the image or the result has no pixels.
pub fn resize(image: &RgbImage, width: u32, height: u32) -> Result<RgbImage> {
    resize_crop(image, CropBox::whole(image), (width, height), false)
}

/// Resizes the part `crop` of an image to `size` × `size` pixels, and mirrors the result left to right if `flip`.
///
/// # Errors
/// Returns [`ImageError::NoPixels`] if the crop has no pixels or `size` is 0, and [`ImageError::Crop`] if the crop is not inside the image.
pub fn resized_crop(image: &RgbImage, crop: CropBox, size: u32, flip: bool) -> Result<RgbImage> {
    resize_crop(image, crop, (size, size), flip)
}

fn resize_crop(image: &RgbImage, crop: CropBox, (width, height): (u32, u32), flip: bool) -> Result<RgbImage> {
    let mut out = RgbImage::new(width, height);
    let plane = width as usize * height as usize;
    let mut planes = vec![0.0; 3 * plane];
    resize_into(image, crop, (width, height), flip, LevelMap::IDENTITY, &mut planes)?;
    for (i, pixel) in out.as_chunks_mut::<3>().0.iter_mut().enumerate() {
        *pixel = std::array::from_fn(|c| planes[c * plane + i] as u8);
    }
    Ok(out)
}

/// Scratch memory of one thread, reused from image to image.
#[derive(Default)]
struct Scratch {
    /// A group of rows of the image, transposed.
    transposed: Vec<Column>,
    /// The same group after the horizontal pass.
    columns: Vec<Column>,
    /// The rows between the two passes.
    intermediate: Vec<u8>,
}

/// Resizes the part `crop` of an image to `size` (width, height), mirrors the result left to right if `flip`, maps its levels by
/// `level_map`, and writes the values to `out` `[3, height, width]`.
///
/// # Errors
/// Returns [`ImageError::NoPixels`] if the crop or the result has no pixels, [`ImageError::Crop`] if the crop is not inside the
/// image, and [`ImageError::Length`] if `out` does not have `3 · height · width` elements.
pub fn resize_into(
    image: &RgbImage,
    crop: CropBox,
    size: (u32, u32),
    flip: bool,
    level_map: LevelMap,
    out: &mut [f32],
) -> Result<()> {
    let window = CropBox {
        left: 0,
        top: 0,
        width: size.0,
        height: size.1,
    };
    resize_window_into(image, crop, size, window, flip, level_map, out)
}

/// Like [`resize_into`], but computes only the part `window` of the result, which is mirrored after it is cut, and written to `out`
/// `[3, window.height, window.width]`.
///
/// # Errors
/// Returns the errors of [`resize_into`], for `window` as for `crop`.
pub fn resize_window_into(
    image: &RgbImage,
    crop: CropBox,
    size: (u32, u32),
    window: CropBox,
    flip: bool,
    level_map: LevelMap,
    out: &mut [f32],
) -> Result<()> {
    thread_local! {
        static SCRATCH: RefCell<Scratch> = RefCell::default();
    }
    check_arguments(image, crop, size, window, out.len())?;
    let pitch = 3 * image.width() as usize;
    let job = Job {
        pixels: image.as_raw(),
        first: crop.top as usize * pitch + 3 * crop.left as usize,
        pitch,
        row_values: 3 * crop.width as usize,
        rows: crop.height as usize,
        horizontal: Weights::new(crop.width, size.0, window.left..window.left + window.width),
        vertical: Weights::new(crop.height, size.1, window.top..window.top + window.height),
        flip,
        level_map,
    };
    SCRATCH.with_borrow_mut(|scratch| {
        scratch.transposed.resize(job.row_values, [0; ROWS]);
        scratch.columns.resize(3 * window.width as usize, [0; ROWS]);
        if vertical_is_first(crop, size) {
            job.vertical_then_horizontal(scratch, out);
        } else {
            job.horizontal_then_vertical(scratch, out);
        }
    });
    Ok(())
}

fn check_arguments(image: &RgbImage, crop: CropBox, size: (u32, u32), window: CropBox, length: usize) -> Result<()> {
    if window.width == 0 || window.height == 0 || crop.width == 0 || crop.height == 0 {
        return Err(ImageError::NoPixels {
            from: (crop.width, crop.height),
            to: (window.width, window.height),
        });
    }
    check_inside(crop, image.dimensions())?;
    check_inside(window, size)?;
    let values = 3 * u64::from(window.width) * u64::from(window.height);
    if length as u64 != values {
        return Err(ImageError::Length {
            width: window.width as usize,
            height: window.height as usize,
            expected: values,
            found: length,
        });
    }
    Ok(())
}

fn check_inside(crop: CropBox, image: (u32, u32)) -> Result<()> {
    let is_inside = |first: u32, count: u32, size: u32| first.checked_add(count).is_some_and(|end| end <= size);
    if is_inside(crop.left, crop.width, image.0) && is_inside(crop.top, crop.height, image.1) {
        return Ok(());
    }
    Err(ImageError::Crop {
        size: (crop.width, crop.height),
        position: (crop.left, crop.top),
        image,
    })
}

/// The checked arguments of a resize.
struct Job<'a> {
    /// The pixels of the image.
    pixels: &'a [u8],
    /// Index of the first value of the crop in `pixels`.
    first: usize,
    /// Distance between rows of the image, in values.
    pitch: usize,
    /// Number of values in a row of the crop.
    row_values: usize,
    /// Number of rows of the crop.
    rows: usize,
    horizontal: Weights,
    vertical: Weights,
    flip: bool,
    level_map: LevelMap,
}

/// Returns whether Pillow runs the vertical pass first, which is the case if the height shrinks by more than twice as many pixels
/// as the width. The order matters where the filter overshoots, because the intermediate values are clipped. The rule was found by
/// comparing thousands of sizes with Pillow 13; it also holds for the golden files, which come from Pillow 8.2.
fn vertical_is_first(crop: CropBox, (width, height): (u32, u32)) -> bool {
    let [width_loss, height_loss] =
        [(crop.width, width), (crop.height, height)].map(|(before, after)| i64::from(before) - i64::from(after));
    height_loss > 0 && height_loss > 2 * width_loss
}

impl Job<'_> {
    /// Returns row `y` of the crop.
    fn row(&self, y: usize) -> &[u8] {
        &self.pixels[self.first + y * self.pitch..][..self.row_values]
    }

    fn horizontal_then_vertical(&self, scratch: &mut Scratch, out: &mut [f32]) {
        let Scratch {
            transposed,
            columns,
            intermediate,
        } = scratch;
        let (x_weights, y_weights, level_map) = (&self.horizontal, &self.vertical, &self.level_map);
        let (width, height, stride) = (x_weights.len(), y_weights.len(), 3 * x_weights.len());
        // The ring holds complete groups of rows: as many as one result row needs, and one more, because the first needed row may be in the
        // middle of a group.
        let groups = y_weights.max_taps().div_ceil(ROWS) + 1;
        intermediate.resize(groups * ROWS * stride, 0);
        // Groups above the first needed row are not computed.
        let mut rows_done = y_weights.of_result(0).0 / ROWS * ROWS;
        let mut row_starts = Vec::with_capacity(y_weights.max_taps());
        for y in 0..height {
            let (top, weights) = y_weights.of_result(y);
            while rows_done < top + weights.len() {
                // At the end of the crop, the group is filled with copies of the last row.
                let group: [&[u8]; ROWS] = std::array::from_fn(|r| self.row((rows_done + r).min(self.rows - 1)));
                horizontal(&group, x_weights, self.flip, transposed, columns);
                let start = rows_done / ROWS % groups * ROWS * stride;
                transpose_back(columns, &mut intermediate[start..][..ROWS * stride]);
                rows_done += ROWS;
            }
            for c in 0..3 {
                row_starts.clear();
                row_starts.extend((top..top + weights.len()).map(|y| y % (groups * ROWS) * stride + c * width));
                let out = &mut out[(c * height + y) * width..][..width];
                vertical(
                    intermediate,
                    &row_starts,
                    weights,
                    level_map.scale[c],
                    level_map.offset[c],
                    out,
                );
            }
        }
    }

    fn vertical_then_horizontal(&self, scratch: &mut Scratch, out: &mut [f32]) {
        let Scratch {
            transposed,
            columns,
            intermediate,
        } = scratch;
        let (x_weights, y_weights, level_map) = (&self.horizontal, &self.vertical, &self.level_map);
        let (width, height, stride) = (x_weights.len(), y_weights.len(), 3 * x_weights.len());
        // A group of rows after the vertical pass, and the same group after the horizontal pass.
        intermediate.resize(ROWS * (self.row_values + stride), 0);
        let (vertical_result, resized) = intermediate.split_at_mut(ROWS * self.row_values);
        let mut row_starts = Vec::with_capacity(y_weights.max_taps());
        for group in (0..height).step_by(ROWS) {
            let count = ROWS.min(height - group);
            for (y, row) in (group..group + count).zip(vertical_result.chunks_exact_mut(self.row_values)) {
                let (top, weights) = y_weights.of_result(y);
                row_starts.clear();
                row_starts.extend((top..top + weights.len()).map(|y| self.first + y * self.pitch));
                vertical_levels(self.pixels, &row_starts, weights, row);
            }
            // If the last group is smaller, the surplus rows hold old values, and their results are not used.
            let rows: [&[u8]; ROWS] =
                std::array::from_fn(|r| &vertical_result[r * self.row_values..][..self.row_values]);
            horizontal(&rows, x_weights, self.flip, transposed, columns);
            transpose_back(columns, resized);
            for (r, row) in resized.chunks_exact(stride).take(count).enumerate() {
                for (c, channel) in row.chunks_exact(width).enumerate() {
                    let out = &mut out[(c * height + group + r) * width..][..width];
                    for (value, level) in out.iter_mut().zip(channel) {
                        *value = f32::from(*level) * level_map.scale[c] + level_map.offset[c];
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn gradients(width: u32, height: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| {
            image::Rgb([(x * 5) as u8, (y * 3) as u8, (x * y) as u8])
        })
    }

    #[test]
    fn equal_sizes_copy_and_flip_mirrors() {
        let p = gradients(24, 24);
        assert_eq!(resize(&p, 24, 24).unwrap(), p);
        let mirrored = resized_crop(&p, CropBox::whole(&p), 24, true).unwrap();
        assert_eq!(mirrored, image::imageops::flip_horizontal(&p));
    }

    #[test]
    fn pixels_outside_the_crop_have_no_influence() {
        let p = gradients(40, 30);
        let crop = CropBox {
            left: 7,
            top: 5,
            width: 20,
            height: 16,
        };
        let mut changed = RgbImage::from_pixel(40, 30, image::Rgb([255, 0, 255]));
        for y in crop.top..crop.top + crop.height {
            for x in crop.left..crop.left + crop.width {
                changed.put_pixel(x, y, *p.get_pixel(x, y));
            }
        }
        for size in [9, 33] {
            assert_eq!(
                resized_crop(&p, crop, size, false).unwrap(),
                resized_crop(&changed, crop, size, false).unwrap()
            );
        }
    }

    #[test]
    fn resizing_a_tall_image_equals_resizing_it_rotated() {
        let tall = RgbImage::from_fn(3, 9000, |x, y| {
            image::Rgb([(y / 40) as u8, (x * 80) as u8, (y % 256) as u8])
        });
        let wide = image::imageops::rotate90(&tall);
        let a = resize(&wide, 16, 8).unwrap();
        let b = image::imageops::rotate90(&resize(&tall, 8, 16).unwrap());
        for (a, b) in a.iter().zip(b.iter()) {
            assert!(a.abs_diff(*b) <= 1, "{a} {b}");
        }
    }

    /// Reference: computes the two passes over the whole image, value by value.
    fn resize_naively(image: &RgbImage, crop: CropBox, (width, height): (u32, u32), flip: bool) -> RgbImage {
        let weighted_sum = |weights: &Weights, i: u32, value: &dyn Fn(u32) -> u8| {
            let (first, weights) = weights.of_result(i as usize);
            let sum: i32 = (first as u32..)
                .zip(weights)
                .map(|(j, w)| w * i32::from(value(j)))
                .sum();
            ((sum + (1 << (weights::WEIGHT_BITS - 1))) >> weights::WEIGHT_BITS).clamp(0, 255) as u8
        };
        let resize_width = |image: &RgbImage| {
            let weights = Weights::new(image.width(), width, 0..width);
            RgbImage::from_fn(width, image.height(), |x, y| {
                image::Rgb(std::array::from_fn(|c| {
                    weighted_sum(&weights, x, &|j| image.get_pixel(j, y).0[c])
                }))
            })
        };
        let resize_height = |image: &RgbImage| {
            let weights = Weights::new(image.height(), height, 0..height);
            RgbImage::from_fn(image.width(), height, |x, y| {
                image::Rgb(std::array::from_fn(|c| {
                    weighted_sum(&weights, y, &|j| image.get_pixel(x, j).0[c])
                }))
            })
        };
        let cut = image::imageops::crop_imm(image, crop.left, crop.top, crop.width, crop.height).to_image();
        let mut out = if vertical_is_first(crop, (width, height)) {
            resize_width(&resize_height(&cut))
        } else {
            resize_height(&resize_width(&cut))
        };
        if flip {
            image::imageops::flip_horizontal_in_place(&mut out);
        }
        out
    }

    proptest! {
        #[test]
        fn equals_two_naive_passes(
            width in 1u32..90, height in 1u32..120, to in (1u32..70, 1u32..70), cut in (0u32..20, 0u32..20), flip: bool,
        ) {
            let p = RgbImage::from_fn(width, height, |x, y| {
                image::Rgb([((x * 53) ^ (y * 7)) as u8, (x * y) as u8, if (x + y) % 3 == 0 { 255 } else { 0 }])
            });
            let (left, top) = (cut.0.min(width - 1), cut.1.min(height - 1));
            let crop = CropBox { left, top, width: width - left, height: height - top };
            prop_assert_eq!(resize_crop(&p, crop, to, flip).unwrap(), resize_naively(&p, crop, to, flip));
        }
    }

    proptest! {
        #[test]
        fn a_window_is_the_part_of_the_whole_result(
            width in 1u32..90, height in 1u32..120, to in (1u32..70, 1u32..70), cut in (0u32..30, 0u32..30), flip: bool,
        ) {
            let p = gradients(width, height);
            let whole = resize(&p, to.0, to.1).unwrap();
            let (left, top) = (cut.0.min(to.0 - 1), cut.1.min(to.1 - 1));
            let window = CropBox { left, top, width: (to.0 - left).div_ceil(2), height: (to.1 - top).div_ceil(2) };
            let plane = (window.width * window.height) as usize;
            let mut out = vec![0.0; 3 * plane];
            resize_window_into(&p, CropBox::whole(&p), to, window, flip, LevelMap::IDENTITY, &mut out).unwrap();
            for y in 0..window.height {
                for x in 0..window.width {
                    let column = if flip { window.width - 1 - x } else { x };
                    let want = whole.get_pixel(left + column, top + y).0;
                    let got = [0, 1, 2].map(|c| out[c * plane + (y * window.width + x) as usize]);
                    prop_assert_eq!(got, want.map(f32::from), "{} {}", x, y);
                }
            }
            let outside = CropBox { left: to.0, ..window };
            prop_assert!(resize_window_into(&p, CropBox::whole(&p), to, outside, flip, LevelMap::IDENTITY, &mut out).is_err());
        }
    }

    #[test]
    fn rejects_empty_crops_and_crops_outside_the_image() {
        let p = gradients(10, 8);
        let whole = CropBox::whole(&p);
        assert!(resized_crop(&p, whole, 0, false).is_err());
        assert!(resize(&RgbImage::new(0, 0), 4, 4).is_err());
        assert!(resized_crop(&p, CropBox { width: 0, ..whole }, 4, false).is_err());
        assert!(resized_crop(&p, CropBox { left: 1, ..whole }, 4, false).is_err());
        assert!(resized_crop(&p, CropBox { top: u32::MAX, ..whole }, 4, false).is_err());
        assert!(
            resized_crop(
                &p,
                CropBox {
                    height: u32::MAX,
                    ..whole
                },
                4,
                false
            )
            .is_err()
        );
    }
}
