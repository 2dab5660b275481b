//! Class labels of an image with a text, where the image or the text may be missing: one label per item, or several.

use serde::{Deserialize, Serialize};

use crate::batch::{Batch, Sample, Target, Text, target_scores};
use crate::metrics::{Phase, Report, Tally};
use crate::probabilities::{sigmoid, softmax};
use crate::ranking::{auroc, average_precision, macro_f1};
use crate::rows::{Row, Rows};
use crate::sample::{SampleContext, SampleError};
use crate::task::{Outcome, Task};
use std::collections::HashMap;
use vlct_data::datasets::{Answer, Contents, Dataset};
use vlct_data::random::Purpose;
use vlct_model::{Model, Sequence};
use vlct_tensor::Tape;

/// Settings of the task.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabelsSpec {
    /// The name of each label, by id.
    pub names: Vec<String>,
    /// Whether an item has any number of labels. Otherwise it has exactly one.
    pub several: bool,
}

/// The task of predicting labels.
#[derive(Clone, Debug)]
pub struct Labels {
    spec: LabelsSpec,
    ids: HashMap<String, u32>,
}

impl Labels {
    /// Makes the task.
    pub fn new(spec: LabelsSpec) -> Self {
        let ids = (0..).zip(&spec.names).map(|(id, name)| (name.clone(), id)).collect();
        Self { spec, ids }
    }

    /// Returns the probability of each label: a softmax over the labels, or a sigmoid for each if an item may have several.
    pub fn probabilities(&self, logits: &[f32]) -> Vec<f32> {
        if self.spec.several {
            sigmoid(logits)
        } else {
            softmax(logits)
        }
    }
}

impl Task for Labels {
    fn contents(&self) -> Contents {
        Contents::Labels
    }

    /// Makes one sequence: the text, or `[CLS] [SEP]` if there is none, with the image if there is one.
    fn sample(&self, cx: &mut SampleContext<'_>) -> Result<Sample, SampleError> {
        let images = match cx.has_image(0) {
            true => vec![cx.image(0, &mut cx.rng(Purpose::Augmentation))?],
            false => Vec::new(),
        };
        let target = match cx.answer() {
            Answer::Labels(names) => {
                let mut labels = Vec::with_capacity(names.len());
                for name in names {
                    match self.ids.get(name) {
                        Some(id) => labels.push(*id),
                        None => return Err(cx.fatal(&format!("label {name:?} is not one of the model's labels"))),
                    }
                }
                match (self.spec.several, labels.as_slice()) {
                    (true, _) => Target::Scores(labels.into_iter().map(|id| (id, 1.0)).collect()),
                    (false, [id]) => Target::Class(*id),
                    (false, _) => return Err(cx.fatal(&format!("{} labels instead of one", labels.len()))),
                }
            }
            _ => Target::None,
        };
        Ok(Sample {
            item: cx.item(),
            sequences: vec![Sequence {
                group: 0,
                text: Some(0),
                image: (!images.is_empty()).then_some(0),
                token_type: 1,
                mask: None,
            }],
            images,
            texts: vec![Text::unmasked(cx.tokens())],
            target,
        })
    }

    /// Computes logits `[items, labels]`. With one label per item the loss is the cross-entropy, else binary cross-entropy, summed
    /// over labels and averaged over items.
    ///
    /// # Panics
    /// Panics if the model has no label head.
    fn forward(&self, model: &Model, tape: &Tape, batch: &Batch) -> Outcome {
        let model = model.vlc();
        let pooled = model.encode_pooled(tape, &batch.inputs(), batch.dropout);
        let logits = model.labels_logits(tape, &pooled);
        let mut outcome = Outcome {
            logits: Some(logits.clone()),
            ..Outcome::default()
        };
        if self.spec.several {
            if let Some(targets) = target_scores(tape.device(), &batch.targets, logits.columns(), 0.0) {
                let loss = tape.binary_cross_entropy(&logits, targets);
                outcome = outcome.with_loss("labels/loss", &loss, 1.0);
                outcome.loss = Some(loss);
            }
        } else if let Some(targets) = batch.classes() {
            let hits = tape.hits(&logits, &targets);
            let loss = tape.cross_entropy(&logits, targets);
            outcome = outcome
                .with_loss("labels/loss", &loss, 1.0)
                .with_sum("labels/accuracy", hits, batch.len());
            outcome.loss = Some(loss);
        }
        outcome
    }

    fn record(&self, _data: &dyn Dataset, batch: &Batch, outcome: &Outcome, rows: &mut Rows) -> vlct_data::Result<()> {
        let Some(logits) = &outcome.logits else { return Ok(()) };
        let (columns, values) = (logits.columns(), logits.tensor().to_host());
        let samples = batch.items.iter().zip(&batch.targets);
        for ((item, target), logits) in samples.zip(values.chunks_exact(columns)) {
            let labels = match target {
                Target::Class(id) => vec![*id],
                Target::Scores(scores) => scores.iter().map(|(id, _)| *id).collect(),
                Target::None => continue,
            };
            let scores = self.probabilities(logits);
            rows.insert(*item, Row::Labels { scores, labels });
        }
        Ok(())
    }

    /// Reports loss and accuracy and, in evaluation, macro F1, and AUROC and average precision of each label with their means. The
    /// accuracy of several labels per item is the fraction of correct decisions at the threshold 0.5. A label that no item or
    /// every item has has no AUROC, and is left out of the mean. The best checkpoint is selected by accuracy, or by the mean average
    /// precision if an item may have several labels.
    fn report(&self, phase: Phase, tally: &Tally, rows: &Rows) -> Report {
        let selection: &[&str] = if self.spec.several { &[] } else { &["labels/accuracy"] };
        let mut report = Report::from_tally(phase, tally, &["labels/accuracy", "labels/loss"], selection);
        if phase == Phase::Train || rows.is_empty() {
            return report;
        }
        let scores = |label: usize| -> Vec<(f32, bool)> {
            let of_row = |row: &Row| match row {
                Row::Labels { scores, labels } => Some((scores[label], labels.contains(&(label as u32)))),
                _ => None,
            };
            rows.values().filter_map(of_row).collect()
        };
        let metric = |name: &str| phase.metric_name(&format!("labels/{name}"));
        let all: Vec<Vec<(f32, bool)>> = (0..self.spec.names.len()).map(scores).collect();
        if self.spec.several {
            let decisions = all.iter().flatten();
            let correct = decisions
                .clone()
                .filter(|(score, is_label)| (*score > 0.5) == *is_label);
            let accuracy = correct.count() as f64 / decisions.count() as f64;
            report.values.push((metric("accuracy_epoch"), accuracy));
        }
        let f1 = macro_f1(rows, self.spec.names.len(), self.spec.several);
        report.values.push((metric("macro_f1_epoch"), f1));
        let (mut aurocs, mut precisions) = (Vec::new(), Vec::new());
        for (name, scores) in self.spec.names.iter().zip(&all) {
            if let Some(value) = auroc(scores) {
                report.details.push((metric(&format!("auroc/{name}")), value));
                aurocs.push(value);
            }
            if let Some(value) = average_precision(scores) {
                let name = metric(&format!("average_precision/{name}"));
                report.details.push((name, value));
                precisions.push(value);
            }
        }
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        if !aurocs.is_empty() {
            report.values.push((metric("mean_auroc_epoch"), mean(&aurocs)));
        }
        if !precisions.is_empty() {
            let value = mean(&precisions);
            report.values.push((metric("mean_average_precision_epoch"), value));
            if self.spec.several {
                report.selection.push(value);
            }
        }
        report
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(several: bool) -> Labels {
        Labels::new(LabelsSpec {
            names: vec!["cat".into(), "dog".into()],
            several,
        })
    }

    fn rows(all: &[([f32; 2], &[u32])]) -> Rows {
        let row = |(scores, labels): &([f32; 2], &[u32])| Row::Labels {
            scores: scores.to_vec(),
            labels: labels.to_vec(),
        };
        all.iter().map(row).enumerate().collect()
    }

    #[test]
    fn reports_means_in_values_and_single_labels_in_details() {
        let rows = rows(&[([0.9, 0.2], &[0]), ([0.2, 0.7], &[1]), ([0.6, 0.9], &[0, 1])]);
        let report = labels(true).report(Phase::Val, &Tally::default(), &rows);
        let value = |name: &str| report.values.iter().find(|(n, _)| n == name).map(|(_, value)| *value);
        assert_eq!(value("labels/val/accuracy_epoch"), Some(1.0));
        assert_eq!(value("labels/val/macro_f1_epoch"), Some(1.0));
        assert_eq!(value("labels/val/mean_auroc_epoch"), Some(1.0));
        assert_eq!(report.the_metric(), 1.0);
        assert_eq!(report.details.len(), 4);
        assert_eq!(report.details[0].0, "labels/val/auroc/cat");
    }

    #[test]
    fn probabilities_of_one_label_sum_to_one() {
        let one: f32 = labels(false).probabilities(&[3.0, 1.0]).iter().sum();
        assert!((one - 1.0).abs() < 1e-6);
        assert_eq!(labels(true).probabilities(&[0.0, 0.0]), [0.5, 0.5]);
    }
}
