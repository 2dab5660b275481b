//! Fine-tuning for retrieval: the model learns to rank an image's caption above captions drawn at random.

use serde::{Deserialize, Serialize};

use crate::batch::{Batch, Sample, Target, Text};
use crate::metrics::{Phase, Report, Tally};
use crate::rows::Rows;
use crate::sample::{SampleContext, SampleError};
use crate::task::{Outcome, Task};
use vlct_data::datasets::Contents;
use vlct_data::random::Purpose;
use vlct_model::{Model, Sequence};
use vlct_tensor::Tape;

/// Settings of the task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetrievalSpec {
    /// Number of false captions per image.
    pub false_texts: usize,
}

/// The task of ranking the true caption of an image above false captions.
#[derive(Clone, Copy, Debug)]
pub struct Retrieval {
    /// The settings.
    pub spec: RetrievalSpec,
}

impl Task for Retrieval {
    fn contents(&self) -> Contents {
        Contents::Captions
    }

    fn sample(&self, cx: &mut SampleContext<'_>) -> Result<Sample, SampleError> {
        let image = cx.image(0, &mut cx.rng(Purpose::Augmentation))?;
        let mut texts = vec![Text::unmasked(cx.tokens())];
        let mut rng = cx.rng(Purpose::FalseText);
        for _ in 0..self.spec.false_texts {
            texts.push(Text::unmasked(cx.peer_tokens(&mut rng)?));
        }
        let sequence = |text| Sequence {
            text: Some(text),
            ..Sequence::FIRST_PAIR
        };
        Ok(Sample {
            item: cx.item(),
            images: vec![image],
            sequences: (0..texts.len() as u32).map(sequence).collect(),
            texts,
            target: Target::Class(0),
        })
    }

    /// Computes logits `[images, 1 + false_texts]`, the true caption first; the loss is the cross-entropy.
    ///
    /// # Panics
    /// Panics if an image does not have `1 + false_texts` captions, or the model has neither a ranking nor a matching head.
    fn forward(&self, model: &Model, tape: &Tape, batch: &Batch) -> Outcome {
        let model = model.vlc();
        let captions = 1 + self.spec.false_texts;
        assert_eq!(
            batch.sequences.len(),
            batch.len() * captions,
            "number of captions of each image"
        );
        let pooled = model.encode_pooled(tape, &batch.inputs(), batch.dropout);
        let scores = tape.reshape(&model.rank_scores(tape, &pooled), batch.len(), captions);
        let loss = tape.cross_entropy(&scores, vec![0; batch.len()]);
        let mut outcome = Outcome::default().with_loss("irtr/irtr_loss", &loss, 1.0);
        (outcome.loss, outcome.logits) = (Some(loss), Some(scores));
        outcome
    }

    fn report(&self, phase: Phase, tally: &Tally, _rows: &Rows) -> Report {
        Report::from_tally(phase, tally, &["irtr/irtr_loss"], &[])
    }
}
