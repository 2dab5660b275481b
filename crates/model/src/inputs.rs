//! The inputs of the encoder: images, texts, and sequences that refer to them by index.

use crate::mask::PatchMask;
use vlct_tensor::Planes;

/// A sequence of tokens: the tokens of a text, then the class token and the visible patches of an image. Tokens attend only to
/// tokens of the same sequence.
///
/// Several sequences may index the same image. If they have no mask, the patch embeddings of the image are computed once.
#[derive(Clone, Debug, PartialEq)]
pub struct Sequence {
    /// A number by which a task selects sequences. A batch orders its sequences by (group, sample).
    pub group: u8,
    /// Index into [`Inputs::texts`]; `None` if the sequence has no text.
    pub text: Option<u32>,
    /// Index into [`Inputs::images`]; `None` if the sequence has no image, and so no class token.
    pub image: Option<u32>,
    /// Row of the modality table for the image tokens: 1, or 2 for the second image of a pair. Text tokens have row 0.
    pub token_type: u32,
    /// Patch mask; with `None` all patches are visible, in row-major order.
    pub mask: Option<PatchMask>,
}

impl Sequence {
    /// The sequence of text 0 and image 0, all patches visible.
    pub const FIRST_PAIR: Self = Self {
        group: 0,
        text: Some(0),
        image: Some(0),
        token_type: 1,
        mask: None,
    };

    /// The sequence of image 0 alone, all patches visible, as the tasks of image classifiers have it.
    pub const FIRST_IMAGE: Self = Self {
        group: 0,
        text: None,
        image: Some(0),
        token_type: 0,
        mask: None,
    };
}

/// One batch for [`Vlc::encode`](crate::Vlc::encode).
#[derive(Clone, Debug)]
pub struct Inputs<'a> {
    /// Normalised values of each image. Sides are multiples of the side of a patch.
    pub images: Vec<Planes<'a>>,
    /// Token ids of each text, from `[CLS]` to `[SEP]`, without padding.
    pub texts: Vec<&'a [u32]>,
    /// The sequences, in the order of their rows in the packed matrix.
    pub sequences: &'a [Sequence],
}

impl<'a> Inputs<'a> {
    /// Returns the token ids of the sequence's text, an empty slice if it has no text.
    ///
    /// # Panics
    /// Panics if the index is out of range.
    pub fn text(&self, sequence: &Sequence) -> &'a [u32] {
        sequence.text.map_or(&[], |text| self.texts[text as usize])
    }
}
