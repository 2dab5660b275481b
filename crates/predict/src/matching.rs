//! Whether a text belongs to an image.

use vlct_tasks::probabilities::softmax;
use vlct_tensor::Tape;

use crate::item::{Item, pooled, rows};
use crate::{Head, Predictor, Result};

/// Classifies whether texts belong to images.
pub struct Matching<'p> {
    predictor: &'p Predictor,
}

impl<'p> Matching<'p> {
    /// The head that the predictor must have.
    pub const HEAD: Head = Head::Matching;

    /// Makes the task.
    ///
    /// # Errors
    /// Returns an error if the model has no matching head.
    pub fn new(predictor: &'p Predictor) -> Result<Self> {
        predictor.require(&[Self::HEAD])?;
        Ok(Self { predictor })
    }

    /// Computes the two logits of each item: that the text does not belong to the image, and that it does. Every item must have an image.
    pub fn logits(&self, items: &[Item]) -> Vec<[f32; 2]> {
        let model = self.predictor.model();
        let tape = Tape::inference(model.compute());
        let logits = model.itm_logits(&tape, &pooled(model, &tape, items));
        rows(&logits).into_iter().map(|row| [row[0], row[1]]).collect()
    }

    /// Returns the probability that the text belongs to the image, given the logits.
    pub fn probability(logits: [f32; 2]) -> f32 {
        softmax(&logits)[1]
    }
}
