//! Pillow's bicubic resize, with a crop.
//!
//! The filter is Catmull-Rom (cubic with a = -0.5), widened when the picture shrinks (anti-aliasing), applied in two
//! passes, horizontal then vertical, with values of 8 bits between them, in Pillow's fixed-point arithmetic: the results are
//! Pillow's, on every machine. Rows between the passes live in a ring that is as long as the vertical filter reaches, so that
//! they stay in cache and their memory does not grow with the height of the picture.
//!
//! A crop is cut out *before* filtering, as torchvision's `resized_crop` does: pixels outside of it have no influence.

use std::cell::RefCell;

use image::RgbImage;

use crate::{DataError, Result};

mod passes;
mod weights;

use passes::{Column, ROWS, horizontal, turn_back, vertical};
use weights::Weights;

/// A rectangle of a picture, in pixels from the top left corner.
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
    /// The whole picture.
    pub fn whole(image: &RgbImage) -> Self {
        Self {
            left: 0,
            top: 0,
            width: image.width(),
            height: image.height(),
        }
    }
}

/// What becomes of a level (0..=255) of red, green and blue: `level · scale + offset`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Levels {
    /// Factors.
    pub scale: [f32; 3],
    /// Terms.
    pub offset: [f32; 3],
}

impl Levels {
    /// Levels as they are.
    const PLAIN: Self = Self {
        scale: [1.0; 3],
        offset: [0.0; 3],
    };
}

/// Resizes a picture to exactly `width` × `height` pixels; the aspect ratio is not preserved.
///
/// # Errors
/// [`DataError::Invalid`] if the picture or the result has no pixels.
pub fn resize(image: &RgbImage, width: u32, height: u32) -> Result<RgbImage> {
    picture(image, CropBox::whole(image), (width, height), false)
}

/// Cuts `crop` out, resizes it to `size` × `size` pixels, and mirrors it left to right if `flip`.
///
/// # Errors
/// [`DataError::Invalid`] if the box has no pixels or is not inside the picture, or if `size` is 0.
pub fn resized_crop(image: &RgbImage, crop: CropBox, size: u32, flip: bool) -> Result<RgbImage> {
    picture(image, crop, (size, size), flip)
}

fn picture(image: &RgbImage, crop: CropBox, (width, height): (u32, u32), flip: bool) -> Result<RgbImage> {
    let mut out = RgbImage::new(width, height);
    let plane = width as usize * height as usize;
    let mut planes = vec![0.0; 3 * plane];
    resize_into(image, crop, (width, height), flip, Levels::PLAIN, &mut planes)?;
    for (i, pixel) in out.as_chunks_mut::<3>().0.iter_mut().enumerate() {
        *pixel = [0, 1, 2].map(|c| planes[c * plane + i] as u8);
    }
    Ok(out)
}

/// Kept from picture to picture of one thread.
#[derive(Default)]
struct Scratch {
    /// Some rows of the picture, turned.
    turned: Vec<Column>,
    /// The same, resized.
    columns: Vec<Column>,
    /// Resized rows that the vertical pass needs.
    ring: Vec<u8>,
}

/// Cuts `crop` out, resizes it to `size` (width, height), mirrors it left to right if `flip`, and writes it to `out`
/// `[3, height, width]`.
///
/// # Errors
/// [`DataError::Invalid`] if the box has no pixels or is not inside the picture, if the result has no pixels, or if `out` is not
/// as long as it.
pub fn resize_into(
    image: &RgbImage,
    crop: CropBox,
    size: (u32, u32),
    flip: bool,
    levels: Levels,
    out: &mut [f32],
) -> Result<()> {
    thread_local! {
        static SCRATCH: RefCell<Scratch> = RefCell::default();
    }
    check(image, crop, size, out.len())?;
    SCRATCH.with_borrow_mut(|scratch| run(image, crop, size, flip, levels, scratch, out));
    Ok(())
}

fn check(image: &RgbImage, crop: CropBox, (width, height): (u32, u32), room: usize) -> Result<()> {
    if width == 0 || height == 0 || crop.width == 0 || crop.height == 0 {
        return Err(DataError::Invalid(format!(
            "cannot resize {}x{} pixels to {width}x{height}",
            crop.width, crop.height
        )));
    }
    let inside = |first: u32, count: u32, all: u32| first.checked_add(count).is_some_and(|end| end <= all);
    if !inside(crop.left, crop.width, image.width()) || !inside(crop.top, crop.height, image.height()) {
        return Err(DataError::Invalid(format!(
            "cannot cut {}x{} pixels at ({}, {}) out of a picture of {}x{}",
            crop.width,
            crop.height,
            crop.left,
            crop.top,
            image.width(),
            image.height()
        )));
    }
    let values = 3 * u64::from(width) * u64::from(height);
    if room as u64 != values {
        return Err(DataError::Invalid(format!(
            "a picture of {width}x{height} pixels needs {values} values, the buffer has {room}"
        )));
    }
    Ok(())
}

fn run(
    image: &RgbImage,
    crop: CropBox,
    (width, height): (u32, u32),
    flip: bool,
    levels: Levels,
    Scratch { turned, columns, ring }: &mut Scratch,
    out: &mut [f32],
) {
    let across = Weights::new(crop.width, width);
    let down = Weights::new(crop.height, height);
    let (width, rows) = (width as usize, crop.height as usize);
    let stride = 3 * width;
    // Whole groups of rows, as many as a result needs and one that is begun.
    let groups = down.most().div_ceil(ROWS) + 1;
    turned.resize(3 * crop.width as usize, [0; ROWS]);
    columns.resize(stride, [0; ROWS]);
    ring.resize(groups * ROWS * stride, 0);

    let first = 3 * (crop.top as usize * image.width() as usize + crop.left as usize);
    let source = |y: usize| &image.as_raw()[first + 3 * y * image.width() as usize..][..3 * crop.width as usize];
    let mut made = 0;
    let mut taps = Vec::with_capacity(down.most());
    for y in 0..height as usize {
        let (top, weights) = down.of(y);
        while made < top + weights.len() {
            // Beyond the last row there is nothing; it stands in.
            let group: [&[u8]; ROWS] = std::array::from_fn(|r| source((made + r).min(rows - 1)));
            horizontal(&group, &across, flip, turned, columns);
            let place = made / ROWS % groups * ROWS * stride;
            turn_back(columns, &mut ring[place..][..ROWS * stride]);
            made += ROWS;
        }
        for c in 0..3 {
            taps.clear();
            taps.extend((top..top + weights.len()).map(|y| y % (groups * ROWS) * stride + c * width));
            let out = &mut out[(c * height as usize + y) * width..][..width];
            vertical(ring, &taps, weights, levels.scale[c], levels.offset[c], out);
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
    fn same_size_is_a_copy_and_flip_mirrors() {
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
        let mut spoilt = RgbImage::from_pixel(40, 30, image::Rgb([255, 0, 255]));
        for y in crop.top..crop.top + crop.height {
            for x in crop.left..crop.left + crop.width {
                spoilt.put_pixel(x, y, *p.get_pixel(x, y));
            }
        }
        for size in [9, 33] {
            assert_eq!(
                resized_crop(&p, crop, size, false).unwrap(),
                resized_crop(&spoilt, crop, size, false).unwrap()
            );
        }
    }

    #[test]
    fn very_tall_pictures_agree_with_very_wide_ones() {
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

    /// The two passes over a whole picture, value by value.
    fn plain(image: &RgbImage, crop: CropBox, (width, height): (u32, u32), flip: bool) -> RgbImage {
        let weigh = |weights: &Weights, i: u32, value: &dyn Fn(u32) -> u8| {
            let (first, weights) = weights.of(i as usize);
            let sum: i32 = (first as u32..)
                .zip(weights)
                .map(|(j, w)| w * i32::from(value(j)))
                .sum();
            ((sum + (1 << (weights::WEIGHT_BITS - 1))) >> weights::WEIGHT_BITS).clamp(0, 255) as u8
        };
        let (across, down) = (Weights::new(crop.width, width), Weights::new(crop.height, height));
        let wide = RgbImage::from_fn(width, crop.height, |x, y| {
            let value = |c| weigh(&across, x, &|j| image.get_pixel(crop.left + j, crop.top + y).0[c]);
            image::Rgb([0, 1, 2].map(value))
        });
        let mut out = RgbImage::from_fn(width, height, |x, y| {
            image::Rgb([0, 1, 2].map(|c| weigh(&down, y, &|j| wide.get_pixel(x, j).0[c])))
        });
        if flip {
            image::imageops::flip_horizontal_in_place(&mut out);
        }
        out
    }

    proptest! {
        #[test]
        fn every_size_is_that_of_two_plain_passes(
            width in 1u32..90, height in 1u32..120, to in (1u32..70, 1u32..70), cut in (0u32..20, 0u32..20), flip: bool,
        ) {
            let p = RgbImage::from_fn(width, height, |x, y| {
                image::Rgb([((x * 53) ^ (y * 7)) as u8, (x * y) as u8, if (x + y) % 3 == 0 { 255 } else { 0 }])
            });
            let (left, top) = (cut.0.min(width - 1), cut.1.min(height - 1));
            let crop = CropBox { left, top, width: width - left, height: height - top };
            prop_assert_eq!(super::picture(&p, crop, to, flip).unwrap(), plain(&p, crop, to, flip));
        }
    }

    #[test]
    fn impossible_boxes_are_refused() {
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
