//! Visual question answering: a classifier over the answers that are frequent in training.

use crate::batch::{Batch, Sample, Target, Text};
use crate::metrics::{Phase, Report, Tally};
use crate::sample::{SampleCx, SampleError};
use crate::task::{Outcome, Task};
use vlct_data::datasets::{Answer, Contents};
use vlct_data::random::Purpose;
use vlct_model::{Sequence, Vlc};
use vlct_tensor::{Device, Tape, Tensor};

/// The task of answering questions about images.
#[derive(Clone, Copy, Debug)]
pub struct Vqa;

impl Task for Vqa {
    fn contents(&self) -> Contents {
        Contents::Questions
    }

    fn sample(&self, cx: &mut SampleCx<'_>) -> Result<Sample, SampleError> {
        let image = cx.image(0, &mut cx.rng(Purpose::Augmentation))?;
        let target = match cx.answer() {
            Answer::Scored { answers, .. } => Target::Scores(
                answers
                    .iter()
                    .map(|(_, id, score)| (*id as u32, *score as f32))
                    .collect(),
            ),
            Answer::None | Answer::Truth(_) => Target::None,
        };
        Ok(Sample {
            item: cx.item(),
            images: vec![image],
            texts: vec![Text::plain(cx.tokens())],
            sequences: vec![Sequence {
                group: 0,
                text: Some(0),
                image: Some(0),
                token_type: 1,
                mask: None,
            }],
            target,
        })
    }

    /// Logits `[questions, answers]`; the loss is binary cross-entropy, summed over the answers, averaged over the questions.
    ///
    /// # Panics
    /// If the model has no head for answers or the id of an answer is outside it.
    fn forward(&self, model: &Vlc, tape: &Tape, batch: &Batch) -> Outcome {
        let pooled = model.read(tape, &batch.inputs(), batch.dropout);
        let logits = model.vqa_logits(tape, &pooled);
        let mut outcome = Outcome {
            logits: Some(logits.clone()),
            ..Outcome::default()
        };
        if let Some(targets) = scores(tape.device(), &batch.targets, logits.columns()) {
            let score = tape.score_at_argmax(&logits, &targets);
            let loss = tape.binary_cross_entropy(&logits, targets);
            outcome = outcome
                .with_loss("vqa/loss", &loss, 1.0)
                .with_sum("vqa/score", score, batch.len());
            outcome.loss = Some(loss);
        }
        outcome
    }

    fn report(&self, phase: Phase, tally: &Tally) -> Report {
        Report::of(phase, tally, &["vqa/loss", "vqa/score"], &["vqa/score"])
    }
}

/// Scores `[samples, answers]`, 0 for answers that are not named; `None` if a sample has no target.
fn scores(device: Device, targets: &[Target], answers: usize) -> Option<Tensor> {
    let mut rows = vec![0f32; targets.len() * answers];
    for (row, target) in rows.chunks_exact_mut(answers).zip(targets) {
        let Target::Scores(scores) = target else { return None };
        for (answer, score) in scores {
            row[*answer as usize] = *score;
        }
    }
    Some(device.tensor(targets.len(), answers, &rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_an_answer_named_twice_the_later_score_counts() {
        let named = |scores: &[(u32, f32)]| Target::Scores(scores.to_vec());
        let targets = [named(&[(2, 0.3), (0, 1.0), (2, 0.9)]), named(&[]), named(&[(1, 0.6)])];
        let rows = scores(Device::default(), &targets, 3).unwrap();
        assert_eq!(*rows.to_host(), [1.0, 0.0, 0.9, 0.0, 0.0, 0.0, 0.0, 0.6, 0.0]);
        assert!(scores(Device::default(), &[named(&[]), Target::None], 3).is_none());
    }
}
