//! Why a file of a supported format has no pixels.

use std::fmt::Display;

use image::ImageFormat;

use crate::ImageError;

/// Why a file of a supported format has no pixels.
#[derive(Debug)]
pub(super) enum Fault {
    /// Pillow rejects the file too: it is damaged or of no known layout.
    Damaged(String),
    /// Pillow may read the file.
    Unsupported(String),
    /// The image has too many pixels, or a side that is too long: width and height.
    TooLarge(u32, u32),
}

pub(super) fn damaged(reason: impl Display) -> Fault {
    Fault::Damaged(one_line(reason))
}

pub(super) fn unsupported(reason: impl Display) -> Fault {
    Fault::Unsupported(one_line(reason))
}

/// Messages of some decoders have several lines.
fn one_line(reason: impl Display) -> String {
    reason.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}

impl Fault {
    /// Returns the error of a file of this format.
    pub(super) fn of(self, format: ImageFormat) -> ImageError {
        match self {
            Self::Damaged(reason) => ImageError::Decode(format!("damaged {format:?} data: {reason}")),
            Self::Unsupported(reason) => ImageError::Unsupported(format!("{format:?}: {reason}")),
            Self::TooLarge(width, height) => ImageError::TooLarge { width, height },
        }
    }
}
