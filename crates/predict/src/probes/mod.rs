//! What a model sees and predicts inside an input: masked words, the patches of a word, masked patches.
//!
//! These are functions of a model, token ids and pixels, so that predictions and the report of a run share them.

pub mod alignment;
pub mod reconstruction;
pub mod words;

use vlct_data::loader::Pixels;
use vlct_model::{Encoded, Inputs, PatchMask, Sequence, Vlc};
use vlct_tasks::planes;
use vlct_tensor::Tape;

/// Encodes one text with one image. Without a mask, all patches are visible.
fn encode(model: &Vlc, tape: &Tape, text: &[u32], pixels: &Pixels, mask: Option<&PatchMask>) -> Encoded {
    let sequence = Sequence {
        mask: mask.cloned(),
        ..Sequence::FIRST_PAIR
    };
    let inputs = Inputs {
        images: vec![planes(pixels)],
        texts: vec![text],
        sequences: &[sequence],
    };
    model.encode(tape, &inputs, None)
}
