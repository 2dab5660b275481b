//! NLVR2: whether a statement about two images is true.

use serde::{Deserialize, Serialize};

use crate::batch::{Batch, Sample, Target, Text};
use crate::metrics::{Phase, Ratio, Report, Tally};
use crate::rows::{Row, Rows, Subset};
use crate::sample::{SampleContext, SampleError};
use crate::task::{Outcome, Task};
use vlct_data::datasets::{Answer, Contents, Dataset};
use vlct_data::random::Purpose;
use vlct_model::{Model, Sequence};
use vlct_tensor::Tape;

/// Group of the statements with the left images.
const LEFT: u8 = 0;
/// Group of the statements with the right images.
const RIGHT: u8 = 1;

/// Settings of the task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nlvr2Spec {
    /// The subset whose accuracy selects the best checkpoint. The original selects by `test1`.
    pub selection: Subset,
}

/// The task of classifying statements about two images as true or false.
#[derive(Clone, Copy, Debug)]
pub struct Nlvr2 {
    /// The settings.
    pub spec: Nlvr2Spec,
}

impl Task for Nlvr2 {
    fn contents(&self) -> Contents {
        Contents::Pairs
    }

    /// Makes two sequences: the statement with the left image, and the statement with the right image. Both images are augmented
    /// from one random stream.
    fn sample(&self, cx: &mut SampleContext<'_>) -> Result<Sample, SampleError> {
        let mut rng = cx.rng(Purpose::Augmentation);
        let images = vec![cx.image(0, &mut rng)?, cx.image(1, &mut rng)?];
        let target = match cx.answer() {
            Answer::Truth(is_true) => Target::Class(u32::from(*is_true)),
            _ => Target::None,
        };
        let sequence = |group, image, token_type| Sequence {
            group,
            text: Some(0),
            image: Some(image),
            token_type,
            mask: None,
        };
        Ok(Sample {
            item: cx.item(),
            images,
            texts: vec![Text::unmasked(cx.tokens())],
            sequences: vec![sequence(LEFT, 0, 1), sequence(RIGHT, 1, 2)],
            target,
        })
    }

    /// Computes logits `[statements, 2]`; the loss is the cross-entropy.
    ///
    /// # Panics
    /// Panics if the model has no head for pairs of images, or fewer than three token types.
    fn forward(&self, model: &Model, tape: &Tape, batch: &Batch) -> Outcome {
        let model = model.vlc();
        let pooled = model.encode_pooled(tape, &batch.inputs(), batch.dropout);
        let logits = model.nlvr2_logits(tape, &pooled);
        let mut outcome = Outcome {
            logits: Some(logits.clone()),
            ..Outcome::default()
        };
        if let Some(targets) = batch.classes() {
            let hits = tape.hits(&logits, &targets);
            let loss = tape.cross_entropy(&logits, targets);
            outcome = outcome
                .with_loss("nlvr2/loss", &loss, 1.0)
                .with_sum("nlvr2/accuracy", hits, batch.len());
            outcome.loss = Some(loss);
        }
        outcome
    }

    fn record(&self, data: &dyn Dataset, batch: &Batch, outcome: &Outcome, rows: &mut Rows) -> vlct_data::Result<()> {
        let (Some(logits), Some(targets)) = (&outcome.logits, batch.classes()) else {
            return Ok(());
        };
        let logits = logits.tensor().to_host();
        for ((item, target), logits) in batch.items.iter().zip(targets).zip(logits.chunks_exact(2)) {
            let Some(subset) = Subset::of_file(data.subset(*item)) else {
                continue;
            };
            let (own, other) = (logits[target as usize], logits[1 - target as usize]);
            let row = Row::Statement {
                subset,
                loss: softplus(other - own),
                // Of equal logits, the first class is the prediction.
                is_correct: own > other || (own == other && target == 0),
            };
            rows.insert(*item, row);
        }
        Ok(())
    }

    /// Reports loss and accuracy of each subset, under the original's names; in training of all statements. Each is the mean over
    /// statements; in the original it is the mean over batches.
    fn report(&self, phase: Phase, tally: &Tally, rows: &Rows) -> Report {
        if phase == Phase::Train {
            return Report::from_tally(phase, tally, &["nlvr2/accuracy", "nlvr2/loss"], &["nlvr2/accuracy"]);
        }
        let mut report = Report::default();
        for subset in [Subset::Dev, Subset::Test] {
            let (mut accuracy, mut mean_loss) = (Ratio::default(), Ratio::default());
            for row in rows.values() {
                match row {
                    Row::Statement {
                        subset: of_row,
                        loss,
                        is_correct,
                    } if *of_row == subset => {
                        accuracy.add(Ratio::new(f64::from(u8::from(*is_correct)), 1));
                        mean_loss.add(Ratio::new(f64::from(*loss), 1));
                    }
                    _ => {}
                }
            }
            if accuracy.count() == 0 {
                continue;
            }
            let name = subset.name();
            report.values.extend([
                (format!("nlvr2/{name}/accuracy_epoch"), accuracy.mean()),
                (format!("nlvr2/{name}/loss_epoch"), mean_loss.mean()),
            ]);
            if subset == self.spec.selection {
                report.selection.push(accuracy.mean());
            }
        }
        report
    }
}

/// Returns `ln(1 + exp(x))` without overflow.
fn softplus(x: f32) -> f32 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_each_subset_and_selects_by_one() {
        let row = |subset, loss, is_correct| Row::Statement {
            subset,
            loss,
            is_correct,
        };
        let rows = Rows::from([
            (0, row(Subset::Dev, 1.0, true)),
            (1, row(Subset::Dev, 2.0, false)),
            (2, row(Subset::Test, 0.5, true)),
        ]);
        for (selection, metric) in [(Subset::Test, 1.0), (Subset::Dev, 0.5)] {
            let task = Nlvr2 {
                spec: Nlvr2Spec { selection },
            };
            let report = task.report(Phase::Val, &Tally::default(), &rows);
            assert_eq!(report.the_metric(), metric);
            let values = [
                ("nlvr2/dev/accuracy_epoch", 0.5),
                ("nlvr2/dev/loss_epoch", 1.5),
                ("nlvr2/test/accuracy_epoch", 1.0),
                ("nlvr2/test/loss_epoch", 0.5),
            ];
            assert_eq!(report.values, values.map(|(name, value)| (name.to_string(), value)));
        }
    }

    #[test]
    fn softplus_is_finite_for_large_values() {
        assert_eq!((softplus(-200.0), softplus(200.0)), (0.0, 200.0));
        assert!((softplus(0.0) - std::f32::consts::LN_2).abs() < 1e-7);
    }
}
