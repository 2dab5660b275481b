//! Answers to questions about images.

use std::path::Path;

use vlct_data::answers::Vocabulary;
use vlct_tasks::TaskSpec;
use vlct_tasks::probabilities::sigmoid;
use vlct_tasks::vqa::VqaSpec;
use vlct_tensor::Tape;

use crate::item::{Item, pooled, rows};
use crate::scores::{Scored, best};
use crate::{Head, PredictError, Predictor, Result};

/// Answers questions.
pub struct Vqa<'p> {
    predictor: &'p Predictor,
    spec: VqaSpec,
}

impl<'p> Vqa<'p> {
    /// The head that the predictor must have.
    pub const HEAD: Head = Head::Vqa;

    /// Makes the task. `answers` is a file with the names of the answers, see [`Vocabulary::open`]; without it, the names are those in the
    /// checkpoint.
    ///
    /// # Errors
    /// Returns an error if the model has no head for questions, the file cannot be read, there are no names, or their number is not that of
    /// the head.
    pub fn new(predictor: &'p Predictor, answers: Option<&Path>) -> Result<Self> {
        predictor.require(&[Self::HEAD])?;
        let expected = predictor.model().config().heads.vqa.unwrap_or_default();
        let count_error = |path: &Path, found: usize| PredictError::NameCount {
            path: path.to_path_buf(),
            what: "answers",
            found,
            expected,
        };
        let spec = match (answers, predictor.task()) {
            (Some(path), _) => {
                let vocabulary = Vocabulary::open(path)?;
                if vocabulary.len() != expected {
                    return Err(count_error(path, vocabulary.len()));
                }
                let answer = |id| vocabulary.answer(id).map(str::to_owned);
                VqaSpec {
                    answers: (0..expected as u32).map(answer).collect(),
                }
            }
            // A head may have more classes than there are answers.
            (None, Some(TaskSpec::Vqa(spec))) if spec.answers.len() > expected => {
                return Err(count_error(predictor.path(), spec.answers.len()));
            }
            (None, Some(TaskSpec::Vqa(spec))) if !spec.answers.is_empty() => spec.clone(),
            (None, _) => {
                return Err(PredictError::NoNames {
                    path: predictor.path().to_path_buf(),
                    what: "answers",
                    count: expected,
                });
            }
        };
        Ok(Self { predictor, spec })
    }

    /// Computes the logits of all answers for each question. Every item must have an image.
    pub fn logits(&self, items: &[Item]) -> Vec<Vec<f32>> {
        let model = self.predictor.model();
        let tape = Tape::inference(model.compute());
        rows(&model.vqa_logits(&tape, &pooled(model, &tape, items)))
    }

    /// Returns the `count` most probable answers, given the logits of a question. The probability is the sigmoid of the logit, because the
    /// model is trained on every answer separately; probabilities do not sum to 1. Classes without a name are left out.
    pub fn answers(&self, logits: &[f32], count: usize) -> Vec<Scored> {
        let names = self.spec.answers.iter().zip(logits);
        let named: Vec<(&str, f32)> = names
            .filter_map(|(name, logit)| Some((name.as_deref()?, *logit)))
            .collect();
        let logits: Vec<f32> = named.iter().map(|(_, logit)| *logit).collect();
        best(&sigmoid(&logits), count, |i| named[i].0.to_owned())
    }
}
