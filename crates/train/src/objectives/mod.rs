//! Objectives. Pre-training: masked language modelling, masked autoencoding, image-text matching with word-patch alignment.
//! Fine-tuning: visual question answering, retrieval.

mod irtr;
mod pretrain;
mod vqa;

pub use irtr::{IrtrOutcome, IrtrStep};
pub use pretrain::{Losses, Matching, Modelling, Objectives, Outcome, PretrainStep};
pub use vqa::{VqaOutcome, VqaStep};

use vlct_model::{Inputs, PatchMask, Sequence};

/// Row of the modality table for images.
const IMAGE_TYPE: u32 = 1;

/// Pools and sequences of a step. The same slice is one image of the pool, however often it is shown.
#[derive(Default)]
pub(crate) struct Pools<'a> {
    images: Vec<&'a [f32]>,
    texts: Vec<&'a [u32]>,
    sequences: Vec<Sequence>,
}

impl<'a> Pools<'a> {
    /// Appends a sequence per text, with the image and the mask at the same position; without masks all patches are visible.
    pub fn extend(&mut self, group: u8, texts: &[&'a [u32]], images: &[&'a [f32]], masks: Option<&[PatchMask]>) {
        for (i, (text, image)) in texts.iter().zip(images).enumerate() {
            let known = self.images.iter().position(|known| std::ptr::eq(*known, *image));
            let image = known.unwrap_or_else(|| {
                self.images.push(image);
                self.images.len() - 1
            });
            self.texts.push(text);
            self.sequences.push(Sequence {
                group,
                text: Some(self.texts.len() as u32 - 1),
                image: Some(image as u32),
                token_type: IMAGE_TYPE,
                mask: masks.map(|masks| masks[i].clone()),
            });
        }
    }

    /// What the encoder reads.
    pub fn inputs(&self) -> Inputs<'_> {
        Inputs {
            images: self.images.clone(),
            texts: self.texts.clone(),
            sequences: &self.sequences,
        }
    }
}

/// Position of the largest value, the first of equals.
fn argmax(row: &[f32]) -> usize {
    row.iter()
        .enumerate()
        .fold(0, |best, (i, v)| if *v > row[best] { i } else { best })
}
