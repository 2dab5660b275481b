//! Visual question answering: a classifier over the answers that are frequent in the training data.

use crate::batch::{Batch, Sample, Target, Text};
use crate::metrics::{Phase, Report, Tally};
use crate::sample::{SampleContext, SampleError};
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

    fn sample(&self, cx: &mut SampleContext<'_>) -> Result<Sample, SampleError> {
        let image = cx.image(0, &mut cx.rng(Purpose::Augmentation))?;
        let target = match cx.answer() {
            Answer::Scored { answers, .. } => Target::Scores(
                answers
                    .iter()
                    .map(|(_, id, score)| (*id as u32, *score as f32))
                    .collect(),
            ),
            Answer::None | Answer::Truth(_) | Answer::Labels(_) => Target::None,
        };
        Ok(Sample {
            item: cx.item(),
            images: vec![image],
            texts: vec![Text::unmasked(cx.tokens())],
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

    /// Computes logits `[questions, answers]`; the loss is binary cross-entropy, summed over answers, averaged over questions.
    ///
    /// # Panics
    /// Panics if the model has no question-answering head, or an answer's id is not less than the number of answers of the head.
    fn forward(&self, model: &Vlc, tape: &Tape, batch: &Batch) -> Outcome {
        let pooled = model.encode_pooled(tape, &batch.inputs(), batch.dropout);
        let logits = model.vqa_logits(tape, &pooled);
        let mut outcome = Outcome {
            logits: Some(logits.clone()),
            ..Outcome::default()
        };
        if let Some(targets) = target_scores(tape.device(), &batch.targets, logits.columns()) {
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
        Report::from_tally(phase, tally, &["vqa/loss", "vqa/score"], &["vqa/score"])
    }
}

/// Returns target scores `[samples, answers]`, 0 for answers that a target does not list; `None` if a sample has no target.
fn target_scores(device: Device, targets: &[Target], answers: usize) -> Option<Tensor> {
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
    fn the_later_score_of_a_repeated_answer_counts() {
        let target = |scores: &[(u32, f32)]| Target::Scores(scores.to_vec());
        let targets = [
            target(&[(2, 0.3), (0, 1.0), (2, 0.9)]),
            target(&[]),
            target(&[(1, 0.6)]),
        ];
        let rows = target_scores(Device::default(), &targets, 3).unwrap();
        assert_eq!(*rows.to_host(), [1.0, 0.0, 0.9, 0.0, 0.0, 0.0, 0.0, 0.6, 0.0]);
        assert!(target_scores(Device::default(), &[target(&[]), Target::None], 3).is_none());
    }
}
