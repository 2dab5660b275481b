//! Prepared inputs of a model.

use vlct_data::loader::Pixels;
use vlct_model::{Inputs, Sequence, Vlc};
use vlct_tasks::planes;
use vlct_tensor::{Tape, Var};

/// An image with a text. The image may be missing.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// Normalised values of the image.
    pub image: Option<Pixels>,
    /// Token ids of the text, from `[CLS]` to `[SEP]`.
    pub text: Vec<u32>,
}

/// Two images with a statement.
#[derive(Clone, Debug, PartialEq)]
pub struct PairItem {
    /// Normalised values of the left and the right image.
    pub images: [Pixels; 2],
    /// Token ids of the statement, from `[CLS]` to `[SEP]`.
    pub text: Vec<u32>,
}

/// Calls `encode` with a batch of one sequence for each item.
pub(crate) fn with_inputs<T>(items: &[Item], encode: impl FnOnce(&Inputs) -> T) -> T {
    let mut images = Vec::with_capacity(items.len());
    let mut sequences = Vec::with_capacity(items.len());
    for (i, item) in items.iter().enumerate() {
        sequences.push(Sequence {
            text: Some(i as u32),
            image: item.image.as_ref().map(|_| images.len() as u32),
            ..Sequence::FIRST_PAIR
        });
        images.extend(item.image.as_ref().map(planes));
    }
    encode(&Inputs {
        images,
        texts: items.iter().map(|item| item.text.as_slice()).collect(),
        sequences: &sequences,
    })
}

/// Returns the pooled features of items, `[items, width]`.
pub(crate) fn pooled(model: &Vlc, tape: &Tape, items: &[Item]) -> Var {
    with_inputs(items, |inputs| model.encode_pooled(tape, inputs, None))
}

/// Returns the rows of a matrix.
pub(crate) fn rows(matrix: &Var) -> Vec<Vec<f32>> {
    let values = matrix.tensor().to_host();
    values
        .chunks_exact(matrix.columns().max(1))
        .map(<[f32]>::to_vec)
        .collect()
}
