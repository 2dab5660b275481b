//! Objectives. Pre-training: masked language modelling, masked autoencoding, image-text matching with word-patch alignment.
//! Fine-tuning: visual question answering, retrieval.

mod irtr;
mod pretrain;
mod vqa;

pub use irtr::{IrtrOutcome, IrtrStep};
pub use pretrain::{Losses, Matching, Modelling, Objectives, Outcome, PretrainStep};
pub use vqa::{VqaOutcome, VqaStep};

use vlct_model::{PatchMask, Picture, Sequence};

/// Row of the modality table for pictures.
const IMAGE_TYPE: u32 = 1;

/// Texts and pictures, one by one; `masks` says which patches are visible, `None`: all.
pub(crate) fn pairs<'a>(
    texts: &[&'a [u32]],
    pictures: &[&'a [f32]],
    masks: Option<&'a [PatchMask]>,
) -> Vec<Sequence<'a>> {
    let pair = |(i, (text, pixels)): (usize, (&&'a [u32], &&'a [f32]))| Sequence {
        text,
        picture: Picture {
            pixels,
            kept: masks.map(|m| m[i].kept.as_slice()),
            token_type: IMAGE_TYPE,
        },
    };
    texts.iter().zip(pictures).enumerate().map(pair).collect()
}

/// Position of the largest value, the first of equals.
fn argmax(row: &[f32]) -> usize {
    row.iter()
        .enumerate()
        .fold(0, |best, (i, v)| if *v > row[best] { i } else { best })
}
