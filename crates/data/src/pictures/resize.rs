//! Pillow's bicubic resize, with a crop.
//!
//! The filter is Catmull-Rom (cubic with a = -0.5), widened when the picture shrinks (anti-aliasing), applied in two
//! passes, horizontal then vertical, with an 8-bit picture between them. `fast_image_resize` has the same filter with
//! SIMD, but would do the vertical pass first. The order shows where the filter overshoots black or white and the
//! intermediate picture clips it, so each pass is called by itself.
//!
//! A crop is cut out *before* filtering, as torchvision's `resized_crop` does: pixels outside of it have no influence.

use std::cell::RefCell;

use fast_image_resize::images::{TypedCroppedImage, TypedImage, TypedImageRef};
use fast_image_resize::pixels::U8x3;
use fast_image_resize::{FilterType, ImageView, ResizeAlg, ResizeOptions, Resizer};
use image::RgbImage;

use crate::{DataError, Result};

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

/// Resizes a picture to exactly `width` × `height` pixels; the aspect ratio is not preserved.
///
/// # Errors
/// [`DataError::Invalid`] if the picture or the result has no pixels.
pub fn resize(image: &RgbImage, width: u32, height: u32) -> Result<RgbImage> {
    resize_box(image, CropBox::whole(image), width, height)
}

/// Cuts `crop` out, resizes it to `size` × `size` pixels, and mirrors it left to right if `flip`.
///
/// # Errors
/// [`DataError::Invalid`] if the box has no pixels or is not inside the picture, or if `size` is 0.
pub fn resized_crop(image: &RgbImage, crop: CropBox, size: u32, flip: bool) -> Result<RgbImage> {
    let mut out = resize_box(image, crop, size, size)?;
    if flip {
        image::imageops::flip_horizontal_in_place(&mut out);
    }
    Ok(out)
}

/// Above this height the vertical pass comes first, so that the intermediate picture of a very tall one stays small.
const HORIZONTAL_FIRST_MAX_HEIGHT: u32 = 8192;

/// Kept from picture to picture of one thread.
#[derive(Default)]
struct Scratch {
    resizer: Resizer,
    intermediate: Vec<u8>,
}

fn resize_box(image: &RgbImage, crop: CropBox, width: u32, height: u32) -> Result<RgbImage> {
    thread_local! {
        static SCRATCH: RefCell<Scratch> = RefCell::default();
    }
    if width == 0 || height == 0 || crop.width == 0 || crop.height == 0 {
        return Err(DataError::Invalid(format!(
            "cannot resize {}x{} pixels to {width}x{height}",
            crop.width, crop.height
        )));
    }
    let outside = |e: &dyn std::fmt::Display| {
        DataError::Invalid(format!(
            "cannot cut {}x{} pixels at ({}, {}) out of a picture of {}x{}: {e}",
            crop.width,
            crop.height,
            crop.left,
            crop.top,
            image.width(),
            image.height()
        ))
    };
    let view =
        TypedImageRef::<U8x3>::from_buffer(image.width(), image.height(), image.as_raw()).map_err(|e| outside(&e))?;
    let view =
        TypedCroppedImage::from_ref(&view, crop.left, crop.top, crop.width, crop.height).map_err(|e| outside(&e))?;

    let between = if crop.height > HORIZONTAL_FIRST_MAX_HEIGHT.max(crop.width) {
        (crop.width, height)
    } else {
        (width, crop.height)
    };
    let mut out = RgbImage::new(width, height);
    SCRATCH
        .with_borrow_mut(|Scratch { resizer, intermediate }| {
            if between == (crop.width, crop.height) || between == (width, height) {
                // One pass, or none, is enough.
                return bicubic(resizer, &view, (width, height), &mut out);
            }
            let length = 3 * between.0 as usize * between.1 as usize;
            intermediate.resize(length, 0);
            bicubic(resizer, &view, between, intermediate)?;
            let view = TypedImageRef::from_buffer(between.0, between.1, intermediate).map_err(|e| e.to_string())?;
            bicubic(resizer, &view, (width, height), &mut out)
        })
        .map_err(|e| DataError::Invalid(format!("cannot resize to {width}x{height}: {e}")))?;
    Ok(out)
}

/// Resizes into `target`, which must have room for `width` × `height` pixels.
fn bicubic(
    resizer: &mut Resizer,
    source: &impl ImageView<Pixel = U8x3>,
    (width, height): (u32, u32),
    target: &mut [u8],
) -> std::result::Result<(), String> {
    let options = ResizeOptions::new()
        .resize_alg(ResizeAlg::Convolution(FilterType::CatmullRom))
        .use_alpha(false);
    let mut target = TypedImage::<U8x3>::from_buffer(width, height, target).map_err(|e| e.to_string())?;
    resizer
        .resize_typed(source, &mut target, &options)
        .map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(width: u32, height: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| {
            image::Rgb([(x * 5) as u8, (y * 3) as u8, (x * y) as u8])
        })
    }

    #[test]
    fn same_size_is_a_copy_and_flip_mirrors() {
        let p = picture(24, 24);
        assert_eq!(resize(&p, 24, 24).unwrap(), p);
        let mirrored = resized_crop(&p, CropBox::whole(&p), 24, true).unwrap();
        assert_eq!(mirrored, image::imageops::flip_horizontal(&p));
    }

    #[test]
    fn pixels_outside_the_crop_have_no_influence() {
        let p = picture(40, 30);
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

    #[test]
    fn impossible_boxes_are_refused() {
        let p = picture(10, 8);
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
