//! Image processing: from the bytes of a file to the normalised input `[3, H, W]` of the model, and back.
//!
//! ```text
//! bytes ── decode ──▶ RgbImage ── augment ──▶ RgbImage ── resize ──▶ [H, W] ── normalise ──▶ f32 [3, H, W]
//!                                └────────────────── transform ──────────────────────────┘
//! ```
//!
//! The published models were trained on images that Pillow and torchvision processed, so every step reproduces the arithmetic of
//! these libraries: [`mod@decode`] equals Pillow's `convert("RGB")` (up to about one level for lossy formats), [`mod@resize`] equals
//! Pillow's bicubic filter, [`augment`] equals Pillow's image operations, and [`transform`] draws crops from the distribution of
//! torchvision's random crop. The transforms of classifiers follow timm 0.3.2, with its augmentation policies ([`augment::Policy`]).
//! Tests compare with recorded outputs (`tests/golden/{images,augment}`).
//!
//! [`decode_with`] reads images with another [`Reading`]: transparent pixels over a colour, the image turned as its orientation tag says.
//! [`check`] finds image files that the original's preprocessing rejects; [`sheet`] draws contact sheets.

pub mod augment;
pub mod check;
pub mod decode;
pub mod encode;
mod error;
mod limits;
mod memory;
pub mod normalise;
mod reading;
pub mod resize;
pub mod sheet;
pub mod transform;

/// Keeps the memory of an image for the next image that this thread decodes.
pub fn recycle(image: RgbImage) {
    memory::give_back(image.into_raw());
}

#[cfg(test)]
mod parity;

pub use decode::{Decoded, EXTENSIONS, FOREIGN_EXTENSIONS, decode, decode_with, is_image_extension};
pub use encode::{encode_jpeg, encode_png, encode_png_with_alpha};
pub use error::{ImageError, Result};
pub use image::{Rgb, RgbImage, Rgba, RgbaImage};
pub use limits::{MAX_PIXELS, MAX_SIDE};
pub use normalise::Normalisation;
pub use reading::{Background, Orientation, Reading};
pub use resize::{CropBox, resize, resized_crop};
pub use transform::{
    ClassificationAugment, ColourAugment, ImageFormat, StageTimes, Transform, TransformKind, TransformSpec,
};
