//! The state of a run other than weights and moments. A resumed run restores it, so that its results equal those of an uninterrupted
//! run bit for bit.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use vlct_data::datasets::FileIdentity;
use vlct_data::loader::Position;
use vlct_tasks::Tally;
use vlct_tensor::Precision;

use crate::error::{Result, TrainError};
use crate::plan::{Plan, Window};
use crate::published::EpochRecord;
use crate::spec::ComputeSpec;
use vlct_checkpoint::{Checkpoint, MOMENT_PREFIX, STEP_KEY};

/// The state of a run other than weights and moments.
///
/// The state changes only at the end of an accumulation window. A resumed run repeats the micro-batches of an incomplete window,
/// with the same result.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct RunState {
    /// Epoch of the next micro-batch, from 0.
    pub epoch: u64,
    /// Index of the next micro-batch in the epoch.
    pub batch: u64,
    /// Number of completed optimiser steps.
    pub global_step: u64,
    /// Number of updates of each parameter.
    pub parameter_steps: Vec<u64>,
    /// Sums of the metrics of the current epoch.
    #[serde(default)]
    pub metrics: Tally,
    /// Best value of the metric that selects the best checkpoint; `None` before the first validation, and if all values are NaN.
    pub best_metric: Option<f64>,
    /// Number of optimiser steps completed when the best value was measured.
    pub best_step: Option<u64>,
    /// Number of validations since the best value was measured.
    #[serde(default)]
    pub validations_since_best: u64,
    /// Whether the current weights must be validated. If a run stops before or during a validation, the validation is done after
    /// resuming.
    pub validation_due: bool,
    /// Number of unreadable images that were replaced.
    pub replaced: u64,
    /// Seconds of training.
    pub seconds: f64,
    /// The configuration, as TOML.
    pub config: String,
    /// How the run was computed last; `None` if the checkpoint is of a version that did not record it.
    #[serde(default)]
    pub computed: Option<Computed>,
    /// What identifies the files of the data; empty if the checkpoint is of a version that did not record it.
    #[serde(default)]
    pub data: DataIdentity,
    /// The training of the last epoch of an image classifier, until it is logged with the validation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch_record: Option<EpochRecord>,
}

/// How a run was computed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Computed {
    /// The model of the device.
    pub device: String,
    /// The number format.
    pub precision: Precision,
}

impl Computed {
    pub fn new(compute: &ComputeSpec) -> Self {
        Self {
            device: compute.device.model().to_owned(),
            precision: compute.precision,
        }
    }
}

impl std::fmt::Display for Computed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let format = match self.precision {
            Precision::F32 => "float32",
            Precision::Bf16 => "bfloat16",
        };
        write!(f, "{} in {format}", self.device)
    }
}

/// What identifies the files of a run's data.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DataIdentity {
    /// The files of the training split, in reading order.
    pub train: Vec<FileIdentity>,
    /// The files of the validation split, in reading order.
    pub val: Vec<FileIdentity>,
}

impl RunState {
    /// Returns the state at the beginning of an epoch, from 0, of a run with this plan. `parameter_steps` is the number of updates of each
    /// parameter.
    pub fn at_epoch(epoch: u64, plan: &Plan, parameter_steps: &[u64]) -> Self {
        Self {
            epoch,
            global_step: epoch.saturating_mul(plan.steps_per_epoch),
            parameter_steps: parameter_steps.to_vec(),
            ..Self::default()
        }
    }

    /// Reads the state of a checkpoint.
    pub fn read(file: &Checkpoint, path: &Path) -> Result<Self> {
        let state = match file.format() {
            1 => upgrade_from_format_1(file.state().clone()),
            _ => file.state().clone(),
        };
        let has_moments = file.names().any(|name| name.starts_with(MOMENT_PREFIX));
        serde_json::from_value(state).map_err(|source| match has_moments {
            true => TrainError::NotATrainingRun {
                path: path.to_path_buf(),
                source,
            },
            false => TrainError::NotResumable {
                path: path.to_path_buf(),
            },
        })
    }

    /// Returns the state as JSON, as stored in a checkpoint.
    pub fn to_json(&self) -> Result<serde_json::Value> {
        serde_json::to_value(self).map_err(TrainError::StateNotWritten)
    }

    /// Moves the position to the end of `window` and stores the results of its optimiser step.
    pub fn advance(&mut self, window: &Window, epoch_sums: Tally, replaced: u64, validation_due: bool) {
        let next = window.next_position();
        (self.epoch, self.batch) = (next.epoch, next.batch);
        self.global_step = window.step + 1;
        self.metrics = epoch_sums;
        self.replaced = replaced;
        self.validation_due = validation_due;
    }

    /// Stores the result of a validation, the value that selects the best checkpoint (higher is better). Returns whether it is the best of
    /// the run.
    pub fn validated(&mut self, value: f64) -> bool {
        self.validation_due = false;
        // NaN is lower than every other value. It is stored as `None`, because JSON has no NaN.
        let value = (!value.is_nan()).then_some(value);
        let is_best = self.best_step.is_none() || value > self.best_metric;
        if is_best {
            (self.best_metric, self.best_step) = (value, Some(self.global_step));
            self.validations_since_best = 0;
        } else {
            self.validations_since_best += 1;
        }
        is_best
    }

    /// Returns the position of the next micro-batch.
    pub fn position(&self) -> Position {
        Position {
            epoch: self.epoch,
            batch: self.batch,
        }
    }

    /// Returns the epoch of the last completed micro-batch, from 0.
    pub fn last_epoch(&self) -> u64 {
        if self.batch == 0 {
            self.epoch.saturating_sub(1)
        } else {
            self.epoch
        }
    }
}

/// Converts a state of format 1 to format 2. `validation_due` is true if a validation was interrupted and at least one optimiser step
/// was completed. The sums of the epoch are lost.
fn upgrade_from_format_1(mut state: Value) -> Value {
    if let Some(entries) = state.as_object_mut() {
        let interrupted = entries
            .get("pending_validation")
            .is_some_and(|position| !position.is_null());
        let has_steps = entries.get(STEP_KEY).and_then(Value::as_u64) > Some(0);
        entries.insert("validation_due".into(), (interrupted && has_steps).into());
        entries.remove("metrics");
    }
    state
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn validations_since_the_best_are_counted() {
        let mut state = RunState::default();
        let mut counts = Vec::new();
        let values = [f64::NAN, f64::NAN, -0.5, 0.5, 0.5, f64::NAN, 0.75, 0.25];
        for (step, value) in values.into_iter().enumerate() {
            // Saving the state does not change it.
            state = serde_json::from_value(state.to_json().unwrap()).unwrap();
            (state.global_step, state.validation_due) = (step as u64, true);
            let is_best = state.validated(value);
            assert!(!state.validation_due);
            counts.push((is_best, state.validations_since_best));
        }
        let best = [true, false, true, true, false, false, true, false];
        assert_eq!(
            counts,
            best.into_iter().zip([0, 1, 0, 0, 1, 2, 0, 1]).collect::<Vec<_>>()
        );
        assert_eq!((state.best_metric, state.best_step), (Some(0.75), Some(6)));
    }

    #[test]
    fn a_state_of_format_1_is_read_with_empty_epoch_sums() {
        let state = |step: u64, pending: Value| {
            let old = json!({
                "epoch": 1, "batch": 8, "global_step": step, "parameter_steps": [4, 4], "metrics": {"mlm_loss": [1.0, 2]},
                "best_metric": 0.5, "best_step": 3, "validated": [1, 6], "pending_validation": pending, "replaced": 2,
                "seconds": 1.5, "config": "seed = 1",
            });
            serde_json::from_value::<RunState>(upgrade_from_format_1(old)).unwrap()
        };
        let read = state(4, json!([1, 9]));
        assert_eq!(
            (read.global_step, read.position()),
            (4, Position { epoch: 1, batch: 8 })
        );
        assert_eq!(
            (read.best_metric, read.replaced, &read.config[..]),
            (Some(0.5), 2, "seed = 1")
        );
        assert_eq!(read.metrics, Tally::default());
        assert!(read.validation_due);
        assert!(!state(4, Value::Null).validation_due);
        assert!(
            !state(0, json!([0, 1])).validation_due,
            "before the first optimiser step"
        );
    }
}
