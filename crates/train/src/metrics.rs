//! Metrics that accumulate over an epoch or a validation run.

use crate::objectives::Outcome;
use serde::{Deserialize, Serialize};

/// Unweighted mean over batches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Scalar {
    sum: f64,
    count: u64,
}

impl Scalar {
    /// Adds the value of a batch.
    pub fn add(&mut self, value: f32) {
        self.sum += value as f64;
        self.count += 1;
    }

    /// The mean; NaN of nothing.
    pub fn mean(&self) -> f64 {
        self.sum / self.count as f64
    }
}

/// Share of right decisions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Accuracy {
    right: u64,
    total: u64,
}

impl Accuracy {
    /// Adds (right, total) of a batch.
    pub fn add(&mut self, (right, total): (usize, usize)) {
        self.right += right as u64;
        self.total += total as u64;
    }

    /// The share; NaN of nothing.
    pub fn share(&self) -> f64 {
        self.right as f64 / self.total as f64
    }

    /// Decisions counted.
    pub fn total(&self) -> u64 {
        self.total
    }
}

/// Training or validation, as they stand in the names of metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Training.
    Train,
    /// Validation; test runs use the same names, as in the original.
    Val,
}

impl Phase {
    fn name(self) -> &'static str {
        match self {
            Phase::Train => "train",
            Phase::Val => "val",
        }
    }
}

/// Metrics of the pre-training objectives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PretrainMetrics {
    mlm_loss: Scalar,
    mlm_accuracy: Accuracy,
    mae_loss: Scalar,
    itm_loss: Scalar,
    itm_wpa_loss: Scalar,
    itm_accuracy: Accuracy,
}

impl PretrainMetrics {
    /// Adds the results of a batch.
    pub fn add(&mut self, outcome: &Outcome) {
        let losses = outcome.losses;
        for (metric, loss) in [
            (&mut self.mlm_loss, losses.mlm),
            (&mut self.mae_loss, losses.mae),
            (&mut self.itm_loss, losses.itm),
            (&mut self.itm_wpa_loss, losses.wpa),
        ] {
            if let Some(loss) = loss {
                metric.add(loss);
            }
        }
        self.mlm_accuracy.add(outcome.mlm_hits);
        self.itm_accuracy.add(outcome.itm_hits);
    }

    /// Mean losses and accuracies under the original's names, with `_epoch` at the end, and `{phase}/the_metric`: the sum of
    /// the accuracies, by which the best checkpoint is chosen. `extra` is added to it (retrieval recalls).
    pub fn epoch_values(&self, phase: Phase, extra: f64) -> Vec<(String, f64)> {
        let phase_name = phase.name();
        let mut values = Vec::new();
        let mut the_metric = extra;
        let mut push = |name: String, value: f64| values.push((name, value));
        if self.itm_loss.count > 0 {
            the_metric += self.itm_accuracy.share();
            push(format!("itm/{phase_name}/accuracy_epoch"), self.itm_accuracy.share());
            push(format!("itm/{phase_name}/loss_epoch"), self.itm_loss.mean());
            push(format!("itm/{phase_name}/wpa_loss_epoch"), self.itm_wpa_loss.mean());
        }
        if self.mlm_loss.count > 0 {
            // An epoch without a single masked token has no accuracy; it counts as 0 in the choice of the best.
            if self.mlm_accuracy.total > 0 {
                the_metric += self.mlm_accuracy.share();
                push(format!("mlm/{phase_name}/accuracy_epoch"), self.mlm_accuracy.share());
            }
            push(format!("mlm/{phase_name}/loss_epoch"), self.mlm_loss.mean());
        }
        if self.mae_loss.count > 0 {
            push(format!("mae/{phase_name}/loss_epoch"), self.mae_loss.mean());
        }
        push(format!("{phase_name}/the_metric"), the_metric);
        values
    }

    /// Image-text matching accuracy so far.
    pub fn itm_accuracy(&self) -> Accuracy {
        self.itm_accuracy
    }

    /// Masked-language accuracy so far.
    pub fn mlm_accuracy(&self) -> Accuracy {
        self.mlm_accuracy
    }

    /// Mean masked-autoencoding loss so far.
    pub fn mae_loss(&self) -> Scalar {
        self.mae_loss
    }
}

/// Values of one training step under the original's names.
pub fn step_values(outcome: &Outcome) -> Vec<(&'static str, f64)> {
    let losses = outcome.losses;
    let share = |(right, total): (usize, usize)| (total > 0).then(|| right as f64 / total as f64);
    [
        ("mlm/train/loss", losses.mlm.map(f64::from)),
        ("mlm/train/accuracy", share(outcome.mlm_hits)),
        ("mae/train/loss", losses.mae.map(f64::from)),
        ("itm/train/loss", losses.itm.map(f64::from)),
        ("itm/train/wpa_loss", losses.wpa.map(f64::from)),
        ("itm/train/accuracy", share(outcome.itm_hits)),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name, value?)))
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_and_shares() {
        let (mut scalar, mut accuracy) = (Scalar::default(), Accuracy::default());
        assert!(scalar.mean().is_nan() && accuracy.share().is_nan());
        [1.0, 2.0, 6.0].iter().for_each(|v| scalar.add(*v));
        accuracy.add((1, 4));
        accuracy.add((2, 2));
        assert_eq!((scalar.mean(), accuracy.share()), (3.0, 0.5));
    }

    #[test]
    fn the_metric_is_the_sum_of_the_accuracies() {
        let mut metrics = PretrainMetrics::default();
        metrics.itm_loss.add(0.5);
        metrics.itm_accuracy.add((3, 4));
        metrics.mlm_loss.add(2.0);
        metrics.mlm_accuracy.add((1, 4));
        let values = metrics.epoch_values(Phase::Val, 0.25);
        assert_eq!(values.last(), Some(&("val/the_metric".to_string(), 1.25)));
        assert!(values.contains(&("itm/val/accuracy_epoch".to_string(), 0.75)));
        assert!(!values.iter().any(|(name, _)| name.starts_with("mae")));
        let text = serde_json::to_string(&metrics).expect("serialises");
        assert_eq!(serde_json::from_str::<PretrainMetrics>(&text).expect("reads"), metrics);
    }
}
