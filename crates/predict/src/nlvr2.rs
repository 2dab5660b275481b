//! Whether a statement is true of two images.

use vlct_model::{Inputs, Sequence};
use vlct_tasks::planes;
use vlct_tasks::probabilities::softmax;
use vlct_tensor::Tape;

use crate::item::{PairItem, rows};
use crate::{Head, Predictor, Result};

/// Classifies statements about pairs of images.
pub struct Nlvr2<'p> {
    predictor: &'p Predictor,
}

impl<'p> Nlvr2<'p> {
    /// The head that the predictor must have.
    pub const HEAD: Head = Head::Nlvr2;

    /// Makes the task.
    ///
    /// # Errors
    /// Returns an error if the model has no head for pairs of images.
    pub fn new(predictor: &'p Predictor) -> Result<Self> {
        predictor.require(&[Self::HEAD])?;
        Ok(Self { predictor })
    }

    /// Computes the two logits of each statement: that it is false, and that it is true.
    pub fn logits(&self, items: &[PairItem]) -> Vec<[f32; 2]> {
        let model = self.predictor.model();
        // The sequences of all left images, then those of all right images, as in training.
        let sequences: Vec<Sequence> = (0..2u32)
            .flat_map(|side| {
                (0..items.len() as u32).map(move |i| Sequence {
                    group: side as u8,
                    text: Some(i),
                    image: Some(2 * i + side),
                    token_type: 1 + side,
                    mask: None,
                })
            })
            .collect();
        let inputs = Inputs {
            images: items.iter().flat_map(|item| &item.images).map(planes).collect(),
            texts: items.iter().map(|item| item.text.as_slice()).collect(),
            sequences: &sequences,
        };
        let tape = Tape::inference(model.compute());
        let logits = model.nlvr2_logits(&tape, &model.encode_pooled(&tape, &inputs, None));
        rows(&logits).into_iter().map(|row| [row[0], row[1]]).collect()
    }

    /// Returns the probability that the statement is true, given the logits.
    pub fn probability(logits: [f32; 2]) -> f32 {
        softmax(&logits)[1]
    }
}
