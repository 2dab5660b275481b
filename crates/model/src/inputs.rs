//! What the encoder reads: pools of images and texts, and sequences that index them.

use crate::mask::PatchMask;

/// A text and an image that attention reads as one: the text's tokens, then the image's class token and visible patches.
///
/// Several sequences may index the same image; without a mask it is embedded once for all of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Sequence {
    /// The part of a step that reads this sequence. A batch orders its sequences by (group, sample).
    pub group: u8,
    /// Index into [`Inputs::texts`]; `None`: no text tokens.
    pub text: Option<u32>,
    /// Index into [`Inputs::images`]; `None`: no image tokens, not even the class token.
    pub image: Option<u32>,
    /// Row of the modality table for the image tokens: 1, or 2 for the second image of a pair. Text tokens have row 0.
    pub token_type: u32,
    /// The visible patches; `None`: all, in order.
    pub mask: Option<PatchMask>,
}

impl Sequence {
    /// The first text with the first image of the pools, all patches visible.
    pub const FIRST_PAIR: Self = Self {
        group: 0,
        text: Some(0),
        image: Some(0),
        token_type: 1,
        mask: None,
    };
}

/// One batch for [`Vlc::encode`](crate::Vlc::encode).
#[derive(Clone, Debug)]
pub struct Inputs<'a> {
    /// Normalised values `[3, image_size, image_size]` of each image.
    pub images: Vec<&'a [f32]>,
    /// Token ids of each text, from `[CLS]` to `[SEP]`, without padding.
    pub texts: Vec<&'a [u32]>,
    /// The sequences, in the order of their rows in the packed matrix.
    pub sequences: &'a [Sequence],
}

impl<'a> Inputs<'a> {
    /// Token ids of a sequence; empty if it has no text.
    ///
    /// # Panics
    /// Panics if the index is not in the pool.
    pub fn text(&self, sequence: &Sequence) -> &'a [u32] {
        sequence.text.map_or(&[], |text| self.texts[text as usize])
    }
}
