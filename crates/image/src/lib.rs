//! Pictures: from the bytes of a file to the normalised tensor that the model sees, and back.
//!
//! ```text
//! bytes ── decode ──▶ RgbImage ── augment ──▶ RgbImage ── resize ──▶ [S, S] ── normalise ──▶ f32 [3, S, S]
//!                                └────────────────── transform ──────────────────────────┘
//! ```
//!
//! The models were trained on what Pillow and torchvision produce, so every step is defined by those libraries'
//! arithmetic: [`mod@decode`] gives Pillow's `convert("RGB")`, [`mod@resize`] its bicubic filter, [`augment`] its
//! image operations, [`transform`] torchvision's random crop. Reference outputs decide (`tests/golden/augment`).

pub mod augment;
pub mod check;
pub mod decode;
pub mod encode;
mod error;
mod memory;
pub mod normalise;
pub mod resize;
pub mod sheet;
pub mod transform;

/// Takes back the memory of a picture that is no longer needed, for the next one that this thread decodes.
pub fn recycle(picture: RgbImage) {
    memory::give_back(picture.into_raw());
}

#[cfg(test)]
mod parity;

pub use decode::{MAX_PIXELS, MAX_SIDE, decode};
pub use encode::{encode_jpeg, encode_png};
pub use error::{ImageError, Result};
pub use image::RgbImage;
pub use normalise::{MEAN, STD, denormalise};
pub use resize::{CropBox, resize, resized_crop};
pub use transform::{StageTimes, Transform, TransformKind};
