//! How images and texts become what the model reads.

use vlct_data::text::Tokenizer;
use vlct_image::TransformKind;

/// What batches are made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Training: shuffled, augmented, with dropout; unreadable images are replaced.
    Train,
    /// Evaluation: in order, without dropout; an unreadable image is an error.
    Evaluate,
}

/// How images and texts become what the model reads.
#[derive(Clone)]
pub struct InputSpec {
    /// Side of the images in pixels.
    pub image_size: usize,
    /// How images of training are cropped and augmented.
    pub train_transform: TransformKind,
    /// How images of evaluation are cropped.
    pub eval_transform: TransformKind,
    /// From words to token ids.
    pub tokenizer: Tokenizer,
    /// Longest token sequence, `[CLS]` and `[SEP]` included.
    pub max_text_len: usize,
}

impl InputSpec {
    /// The transform of a mode.
    pub fn transform(&self, mode: Mode) -> TransformKind {
        match mode {
            Mode::Train => self.train_transform,
            Mode::Evaluate => self.eval_transform,
        }
    }
}
