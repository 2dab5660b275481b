//! Errors of this crate.

use vlct_util::IoError;

/// An error of this crate. The message is one line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// A file or directory cannot be read.
    #[error(transparent)]
    Io(#[from] IoError),
    /// The bytes are not a complete image file. Pillow rejects such files too.
    #[error("image cannot be decoded: {0}")]
    Decode(String),
    /// An image with more pixels than [`MAX_PIXELS`](crate::MAX_PIXELS), or a side above [`MAX_SIDE`](crate::MAX_SIDE).
    #[error(
        "image cannot be decoded: {width}x{height} pixels are too many (at most {} in all and {} on a side)",
        crate::limits::MAX_PIXELS,
        crate::limits::MAX_SIDE
    )]
    TooLarge {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
    },
    /// The bytes may be a good image file, but of a format or layout that this crate does not read.
    #[error("image cannot be read here: {0}")]
    Unsupported(String),
    /// An image that a file format cannot hold.
    #[error("an image of {width}x{height} pixels cannot be written as {format}: {reason}")]
    Encode {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// The file format.
        format: &'static str,
        /// The message of the encoder.
        reason: String,
    },
    /// A JPEG quality that is not in 1..=100.
    #[error("JPEG quality {0} is not in 1..=100")]
    Quality(u8),
    /// A name that no transform has.
    #[error("unknown image transform {name:?}: use one of {known}")]
    UnknownTransform {
        /// The name.
        name: String,
        /// The names of the transforms, separated by commas.
        known: String,
    },
    /// A text that names no [`Background`](crate::Background).
    #[error("unknown background {0:?}: use keep, white, black or #rrggbb")]
    UnknownBackground(String),
    /// A text that names no [`Orientation`](crate::Orientation).
    #[error("unknown orientation {0:?}: use as_stored or upright")]
    UnknownOrientation(String),
    /// A text that is no [`Policy`](crate::augment::Policy).
    #[error("augmentation policy {text:?}: {reason}")]
    Policy {
        /// The text.
        text: String,
        /// What is wrong, and what is right.
        reason: String,
    },
    /// Settings of [`Erasing`](crate::augment::Erasing) that are out of range.
    #[error("random erasing: {0}")]
    Erasing(String),
    /// A strength of [`Jitter`](crate::augment::Jitter) that is out of range.
    #[error("colour jitter {0} is not a number of at least 0")]
    Jitter(f64),
    /// A side length, in pixels, that is out of range.
    #[error("image size {size} is not in 1..={max}")]
    Size {
        /// The side length.
        size: usize,
        /// The maximum side length.
        max: usize,
    },
    /// A shorter side that is less than the number of which sides are multiples.
    #[error("the image size {size} is less than {multiple}, of which the sides of images are multiples")]
    Multiple {
        /// The shorter side.
        size: usize,
        /// The number.
        multiple: usize,
    },
    /// An image whose proportions are so unequal that it cannot be resized.
    #[error(
        "an image of {width}x{height} pixels is too long and narrow: its longer side may be {limit:.1} times as long as the other one"
    )]
    TooLong {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// The largest ratio of the sides.
        limit: f64,
    },
    /// A mean that is not finite, or a standard deviation that is not a positive number.
    #[error("images cannot be normalised with the mean {mean:?} and the standard deviation {deviation:?}")]
    Normalisation {
        /// Mean of each channel.
        mean: [f32; 3],
        /// Standard deviation of each channel.
        deviation: [f32; 3],
    },
    /// A resize from or to an image without pixels. Sizes are (width, height) in pixels.
    #[error("cannot resize {}x{} pixels to {}x{}", from.0, from.1, to.0, to.1)]
    NoPixels {
        /// Size of the crop.
        from: (u32, u32),
        /// Size of the result.
        to: (u32, u32),
    },
    /// A crop that is not inside its image. Sizes are (width, height) and positions (left, top), in pixels.
    #[error(
        "cannot cut {}x{} pixels at ({}, {}) out of an image of {}x{}",
        size.0, size.1, position.0, position.1, image.0, image.1
    )]
    Crop {
        /// Size of the crop.
        size: (u32, u32),
        /// Top left corner of the crop.
        position: (u32, u32),
        /// Size of the image.
        image: (u32, u32),
    },
    /// A buffer whose length does not fit the size of the image.
    #[error("an image of {width}x{height} pixels needs {expected} values, the buffer has {found}")]
    Length {
        /// Width in pixels.
        width: usize,
        /// Height in pixels.
        height: usize,
        /// Required length: `3 · width · height`.
        expected: u64,
        /// Length of the buffer.
        found: usize,
    },
}

/// Result whose error type is [`ImageError`] by default.
pub type Result<T, E = ImageError> = std::result::Result<T, E>;
