//! Settings for preparing images and texts.

use vlct_image::{ImageFormat, TransformSpec};
use vlct_text::Tokenizer;

/// The purpose of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Training: shuffled, augmented, with dropout.
    Train,
    /// Evaluation: in order, without dropout.
    Evaluate,
}

/// A limit of the number of patches of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaxPatches {
    /// Number of patches.
    pub count: usize,
    /// Side of a patch in pixels.
    pub patch_size: usize,
}

/// Settings for preparing images and texts.
#[derive(Clone)]
pub struct InputSpec {
    /// Sizes and values of images.
    pub format: ImageFormat,
    /// Cropping and augmentation of images in training.
    pub train_transform: TransformSpec,
    /// Cropping of images in evaluation.
    pub eval_transform: TransformSpec,
    /// The tokeniser.
    pub tokenizer: Tokenizer,
    /// The largest number of patches that the encoder sees; `None` means all.
    pub max_patches: Option<MaxPatches>,
    /// Maximum number of tokens of a text, including `[CLS]` and `[SEP]`.
    pub max_text_len: usize,
}

impl InputSpec {
    /// Returns the image transform for `mode`.
    pub fn transform(&self, mode: Mode) -> &TransformSpec {
        match mode {
            Mode::Train => &self.train_transform,
            Mode::Evaluate => &self.eval_transform,
        }
    }
}
