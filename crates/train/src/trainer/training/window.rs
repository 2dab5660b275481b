//! The micro-batches of one optimiser step: gradients and measures of this rank, and their exchange with the other ranks.

use std::borrow::Cow;

use log::warn;
use serde::{Deserialize, Serialize};
use vlct_model::BatchStatistics;
use vlct_tasks::metrics::{Values, means};
use vlct_tasks::{Batch, NonFinite, PendingMeasures, Tally, Unreadable, gather};
use vlct_tensor::Tape;

use super::Trainer;
use super::batches::Batches;
use crate::error::{Result, TrainError};
use crate::plan::Window;
use crate::run;

/// The results of the micro-batches of a window on all ranks, without the gradients.
pub(super) struct WindowResult {
    /// Sums of the metrics of the epoch, including this window.
    pub epoch_sums: Tally,
    /// Number of images replaced in the run, including this window.
    pub replaced: u64,
    /// Number of samples of the window.
    pub samples: u64,
    /// Metrics of the last micro-batch, for the log.
    pub values: Vec<(Cow<'static, str>, f64)>,
    /// Statistics of the micro-batches for the running statistics of the model.
    pub statistics: Vec<BatchStatistics>,
}

/// What a rank tells the others about its micro-batches of a window.
#[derive(Serialize, Deserialize)]
struct Part {
    /// Whether the stop flag was set before the end of the window.
    stopped: bool,
    /// The first micro-batch with a loss that is not finite.
    non_finite: Option<NonFinite>,
    micro_batches: Vec<MicroBatch>,
    /// Whether each parameter has a gradient.
    gradients: Vec<bool>,
}

/// The results of a micro-batch, without the gradients.
#[derive(Default, Serialize, Deserialize)]
struct MicroBatch {
    /// Index in the epoch.
    batch: u64,
    samples: u64,
    /// Number of replaced images.
    replaced: u64,
    values: Values,
    statistics: Option<BatchStatistics>,
}

impl Trainer<'_> {
    /// Accumulates the gradients of a window: those of the micro-batches of this rank, then their sum over all ranks. Returns `None` if the
    /// stop flag of a rank is set before the end of the window.
    pub(super) fn accumulate(&mut self, window: &Window, batches: &mut Batches) -> Result<Option<WindowResult>> {
        let part = self.accumulate_share(window, batches)?;
        let parts = gather::all(self.collectives, part)?;
        if parts.iter().any(|part| part.stopped) {
            self.stopped = true;
            return Ok(None);
        }
        let non_finite = parts.iter().filter_map(|part| part.non_finite.as_ref());
        if let Some(first) = non_finite.min_by_key(|loss| loss.batch) {
            return Err(self.non_finite_error(first.clone()));
        }
        let mut present = vec![false; self.weights.model.parameters().count()];
        for part in &parts {
            present
                .iter_mut()
                .zip(&part.gradients)
                .for_each(|(any, own)| *any |= own);
        }
        self.weights.sum_gradients(self.collectives, &present)?;
        let mut micro_batches: Vec<MicroBatch> = parts.into_iter().flat_map(|part| part.micro_batches).collect();
        // The order of a single rank, which determines the bits of the sums.
        micro_batches.sort_by_key(|micro_batch| micro_batch.batch);
        let mut result = WindowResult {
            epoch_sums: self.state.metrics.clone(),
            replaced: self.state.replaced,
            samples: 0,
            values: micro_batches.last().map(|last| means(&last.values)).unwrap_or_default(),
            statistics: Vec::new(),
        };
        for micro_batch in micro_batches {
            result.epoch_sums.add_values(&micro_batch.values);
            result.replaced += micro_batch.replaced;
            result.samples += micro_batch.samples;
            result.statistics.extend(micro_batch.statistics);
        }
        Ok(Some(result))
    }

    /// Accumulates the gradients of the micro-batches of this rank.
    fn accumulate_share(&mut self, window: &Window, batches: &mut Batches) -> Result<Part> {
        let mut part = Part {
            stopped: false,
            non_finite: None,
            micro_batches: Vec::new(),
            gradients: Vec::new(),
        };
        let mut meters = PendingMeasures::default();
        let (share, mut replaced) = (self.share(), self.state.replaced);
        let has_next_window = self.plan.window_at(window.next_position(), window.step + 1).is_some();
        for index in window.batches.clone().filter(|batch| share.has(*batch)) {
            let uploaded = match self.is_stopped() {
                true => None,
                false => batches.next()?,
            };
            let Some(uploaded) = uploaded else {
                part.stopped = true;
                return Ok(part);
            };
            let batch = &uploaded.batch;
            log_replacements(batch, replaced);
            let micro_batch = MicroBatch {
                batch: index,
                samples: batch.len() as u64,
                replaced: batch.unreadable.len() as u64,
                statistics: self.run_micro_batch(batch, &mut meters),
                ..MicroBatch::default()
            };
            replaced += micro_batch.replaced;
            part.micro_batches.push(micro_batch);
            // A GPU still computes.
            if index + 1 < window.batches.end || has_next_window {
                batches.load_ahead();
            }
        }
        match meters.read() {
            Ok(values) => {
                let values = values.into_iter().map(|(_, values)| values);
                let micro_batches = part.micro_batches.iter_mut().zip(values);
                micro_batches.for_each(|(micro_batch, values)| micro_batch.values = values);
            }
            Err(non_finite) => part.non_finite = Some(non_finite),
        }
        part.gradients = self.weights.gradients.present();
        Ok(part)
    }

    /// Runs the forward and backward pass of one micro-batch. Returns its statistics.
    pub(super) fn run_micro_batch(&mut self, batch: &Batch, meters: &mut PendingMeasures) -> Option<BatchStatistics> {
        let model = &self.weights.model;
        let tape = Tape::new(model.compute());
        let outcome = self.task.forward(model, &tape, batch);
        let scale = 1.0 / self.plan.grad_steps as f32;
        tape.backward(outcome.total(), scale, &mut self.weights.gradients);
        meters.add(batch, outcome.measures);
        outcome.statistics
    }

    fn non_finite_error(&self, non_finite: NonFinite) -> TrainError {
        let NonFinite { loss, value, items, .. } = non_finite;
        let rows: Vec<String> = items.iter().map(|item| self.data.train.describe(*item)).collect();
        TrainError::NonFinite {
            loss,
            value,
            step: self.state.global_step,
            rows: rows.join(", "),
            checkpoint: run::describe_last_checkpoint(self.run.as_ref()),
        }
    }
}

/// Warns of images of a batch that were replaced, because they are unreadable or too long and narrow. `before` is the number of earlier
/// replacements that this rank knows of: those of other ranks in the same window are not among them.
fn log_replacements(batch: &Batch, before: u64) {
    /// Number of images that are reported one by one. After that, only the total is reported, each time it reaches or passes a power
    /// of two.
    const REPORTED: u64 = 20;
    let replaced = before + batch.unreadable.len() as u64;
    if replaced > before && replaced > REPORTED {
        if replaced.ilog2() > before.max(1).ilog2() {
            warn!("{replaced} images that cannot be used have been replaced");
        }
        return;
    }
    for (number, Unreadable { reason, .. }) in (before + 1..).zip(&batch.unreadable) {
        warn!("replaced an image that cannot be used ({number} in this run): {reason}");
    }
}
