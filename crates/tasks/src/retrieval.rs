//! Fine-tuning for retrieval: an image's caption is to be ranked above captions of other images.

use crate::batch::{Batch, Sample, Target, Text};
use crate::metrics::{Phase, Report, Tally};
use crate::sample::{SampleCx, SampleError};
use crate::task::{Outcome, Task};
use vlct_data::datasets::Contents;
use vlct_data::random::Purpose;
use vlct_model::{Sequence, Vlc};
use vlct_tensor::Tape;

/// The task of ranking captions.
#[derive(Clone, Copy, Debug)]
pub struct Retrieval {
    /// False captions of each image.
    pub false_texts: usize,
}

impl Task for Retrieval {
    fn contents(&self) -> Contents {
        Contents::Captions
    }

    fn sample(&self, cx: &mut SampleCx<'_>) -> Result<Sample, SampleError> {
        let image = cx.image(0, &mut cx.rng(Purpose::Augmentation))?;
        let mut texts = vec![Text::plain(cx.tokens())];
        let mut rng = cx.rng(Purpose::FalseText);
        for _ in 0..self.false_texts {
            texts.push(Text::plain(cx.peer_tokens(&mut rng)?));
        }
        let sequence = |text| Sequence {
            group: 0,
            text: Some(text),
            image: Some(0),
            token_type: 1,
            mask: None,
        };
        Ok(Sample {
            item: cx.item(),
            images: vec![image],
            sequences: (0..texts.len() as u32).map(sequence).collect(),
            texts,
            target: Target::Class(0),
        })
    }

    /// Logits `[images, captions of each]`, the right caption first; the loss is their cross-entropy.
    ///
    /// # Panics
    /// If images have different numbers of captions, or the model cannot rank.
    fn forward(&self, model: &Vlc, tape: &Tape, batch: &Batch) -> Outcome {
        let captions = 1 + self.false_texts;
        assert_eq!(
            batch.sequences.len(),
            batch.len() * captions,
            "as many captions for each image"
        );
        let pooled = model.read(tape, &batch.inputs(), batch.dropout);
        let scores = tape.reshape(&model.rank_scores(tape, &pooled), batch.len(), captions);
        let loss = tape.cross_entropy(&scores, vec![0; batch.len()]);
        let mut outcome = Outcome::default().with_loss("irtr/irtr_loss", &loss, 1.0);
        (outcome.loss, outcome.logits) = (Some(loss), Some(scores));
        outcome
    }

    fn report(&self, phase: Phase, tally: &Tally) -> Report {
        Report::of(phase, tally, &["irtr/irtr_loss"], &[])
    }
}
