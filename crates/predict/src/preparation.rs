//! Preparation of image files and texts for a model.

use std::path::Path;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use vlct_data::loader::Pixels;
use vlct_image::{Reading, RgbImage, Transform, decode_with};
use vlct_text::Tokenizer;
use vlct_util::read_at_most;

use crate::{PredictError, Result};

/// Maximum size of an image file in bytes.
pub(crate) const MAX_IMAGE_BYTES: u64 = 1 << 30;
/// Maximum number of characters of a text in an error message.
const SHOWN_CHARACTERS: usize = 40;

/// Prepares image files and texts for a model, on any thread.
#[derive(Clone, Debug)]
pub struct Preparation {
    pub(crate) transform: Transform,
    pub(crate) reading: Reading,
    pub(crate) tokenizer: Tokenizer,
    pub(crate) max_text_len: usize,
    pub(crate) truncate: bool,
}

/// A decoded image and the input of the model that is made of it.
#[derive(Clone, Debug, PartialEq)]
pub struct LoadedImage {
    /// The image in its own size.
    pub image: RgbImage,
    /// Normalised values.
    pub values: Pixels,
}

impl Preparation {
    /// Returns the tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Returns the side of the model's images in pixels, or their shorter side if they keep their proportions.
    pub fn image_size(&self) -> usize {
        self.transform.size()
    }

    /// Converts normalised values to an image.
    ///
    /// # Errors
    /// Returns [`ImageError::Size`](vlct_image::ImageError::Size) if a side is too long for an image.
    pub fn denormalise(&self, values: &Pixels) -> vlct_image::Result<RgbImage> {
        self.transform.format().normalisation.denormalise(values, values.size())
    }

    /// How image files become pixels.
    pub fn reading(&self) -> Reading {
        self.reading
    }

    /// Decodes an image file and transforms it as in evaluation: resized and normalised.
    ///
    /// # Errors
    /// Returns an error that names the file if it cannot be read or is not an image.
    pub fn image(&self, path: &Path) -> Result<LoadedImage> {
        let bytes = read_at_most(path, MAX_IMAGE_BYTES, "an image file")?;
        self.image_from_bytes(path, &bytes)
    }

    /// Does the same as [`Self::image`] with the content of a file. `path` is for messages.
    ///
    /// # Errors
    /// Returns [`PredictError::Image`] if the bytes are not an image.
    pub fn image_from_bytes(&self, path: &Path, bytes: &[u8]) -> Result<LoadedImage> {
        // The transform of evaluation draws nothing.
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let loaded = decode_with(bytes, self.reading).and_then(|decoded| {
            let image = decoded.image;
            let (values, _) = self.transform.apply_to(&mut image.clone(), &mut rng, Pixels::zeros)?;
            Ok(LoadedImage { image, values })
        });
        loaded.map_err(|source| PredictError::Image {
            path: path.to_path_buf(),
            source,
        })
    }

    /// Returns the token ids of a text, from `[CLS]` to `[SEP]`.
    ///
    /// # Errors
    /// Returns [`PredictError::TextTooLong`] if the text has more tokens than the model reads, unless texts are truncated.
    pub fn text(&self, text: &str) -> Result<Vec<u32>> {
        // One more token than the limit shows whether the text is too long.
        let mut ids = self.tokenizer.encode(text, self.max_text_len + 1);
        if ids.len() > self.max_text_len {
            if !self.truncate {
                return Err(PredictError::TextTooLong {
                    limit: self.max_text_len,
                    text: text.chars().take(SHOWN_CHARACTERS).collect(),
                });
            }
            ids = self.tokenizer.encode(text, self.max_text_len);
        }
        Ok(ids)
    }
}
