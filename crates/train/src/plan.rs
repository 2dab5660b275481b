//! The division of a run into epochs, accumulation windows and validations, in integers.
//!
//! A *micro-batch* is `per_gpu_batchsize` samples. With several ranks, all numbers count the micro-batches of all ranks together. A *window*
//! is the micro-batches of one optimiser step. A window is within one
//! epoch: the last window of an epoch may be shorter.

use std::ops::Range;

use serde::{Deserialize, Serialize};
use vlct_data::loader::Position;

use vlct_config::{ConfigError, ValCheckInterval, Warmup};

/// Returns the number of micro-batches per optimiser step: `batch_size / (per_gpu_batchsize × devices × nodes)`, rounded down.
///
/// # Errors
/// Returns an error if `per_gpu_batchsize` is 0, or the micro-batches of all devices together are larger than `batch_size`.
pub fn grad_steps(batch_size: u64, per_gpu_batchsize: u64, devices: u64, nodes: u64) -> Result<u64, ConfigError> {
    if per_gpu_batchsize == 0 {
        return Err(ConfigError::Contradiction(
            "per_gpu_batchsize is not set: set it to the number of samples that fit into memory, such as \
             per_gpu_batchsize=8"
                .into(),
        ));
    }
    let micro_batch = per_gpu_batchsize
        .saturating_mul(devices.max(1))
        .saturating_mul(nodes.max(1));
    match batch_size / micro_batch {
        0 => Err(ConfigError::Contradiction(format!(
            "batch_size={batch_size} is smaller than one micro-batch of {micro_batch} (per_gpu_batchsize × num_gpus × \
             num_nodes): lower per_gpu_batchsize or raise batch_size"
        ))),
        steps => Ok(steps),
    }
}

/// Returns the number of optimiser steps in an epoch of `batches` micro-batches. A last window with fewer micro-batches counts as a step.
pub fn steps_per_epoch(batches: u64, grad_steps: u64) -> u64 {
    batches.div_ceil(grad_steps.max(1))
}

/// Returns the length of the learning-rate schedule in optimiser steps: `max_steps` if set, else
/// `batches × max_epoch / grad_steps`, rounded down. `batches` is the number of micro-batches per epoch.
pub fn schedule_steps(max_steps: Option<u64>, batches: u64, max_epoch: u64, grad_steps: u64) -> u64 {
    max_steps.unwrap_or_else(|| batches.saturating_mul(max_epoch) / grad_steps.max(1))
}

/// Returns the length of the warm-up in optimiser steps. A fraction of `schedule_steps` is rounded down.
pub fn warmup_steps(warmup: Warmup, schedule_steps: u64) -> u64 {
    match warmup {
        Warmup::Steps(steps) => steps,
        Warmup::Fraction(fraction) => (schedule_steps as f64 * fraction) as u64,
    }
}

/// Returns the interval between validations in micro-batches, at least 1. `batches` is the number of micro-batches per epoch.
///
/// # Errors
/// Returns an error if an interval in micro-batches is longer than the epoch, because the run would never validate.
pub fn validation_interval(interval: ValCheckInterval, batches: u64) -> Result<u64, ConfigError> {
    match interval {
        ValCheckInterval::Fraction(fraction) => Ok(((batches as f64 * fraction) as u64).max(1)),
        ValCheckInterval::Batches(n) if n <= batches => Ok(n.max(1)),
        ValCheckInterval::Batches(n) => Err(ConfigError::Contradiction(format!(
            "val_check_interval={n} is longer than an epoch of {batches} micro-batches: use at most {batches}, or a float \
             such as 1.0 for a fraction of an epoch"
        ))),
    }
}

/// The configured lengths of a run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Length {
    /// Samples per optimiser step, before rounding down to a multiple of `micro_batch`.
    pub batch_size: u64,
    /// Samples per micro-batch.
    pub micro_batch: u64,
    /// Number of optimiser steps of the run; `None` means `max_epoch` epochs.
    pub max_steps: Option<u64>,
    /// Number of epochs of the run if `max_steps` is `None`.
    pub max_epoch: u64,
    /// Warm-up of the learning rate.
    pub warmup: Warmup,
    /// Interval between validations.
    pub validation: ValCheckInterval,
    /// Number of epochs of which only the last has validations.
    pub validation_epochs: u64,
    /// Whether an epoch leaves out the samples after the last whole micro-batch, and the micro-batches after the last whole window, as in
    /// ImageNet fine-tuning.
    #[serde(default)]
    pub whole_windows: bool,
}

/// The micro-batches of one optimiser step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// Number of optimiser steps completed before this window.
    pub step: u64,
    /// Epoch, from 0.
    pub epoch: u64,
    /// Indices of the micro-batches in the epoch. Never empty.
    pub batches: Range<u64>,
    /// Whether this is the last window of the epoch.
    pub ends_epoch: bool,
}

impl Window {
    /// Returns the position of the next window.
    pub fn next_position(&self) -> Position {
        if self.ends_epoch {
            Position {
                epoch: self.epoch + 1,
                batch: 0,
            }
        } else {
            Position {
                epoch: self.epoch,
                batch: self.batches.end,
            }
        }
    }
}

/// The division of a run into epochs, windows and validations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Micro-batches per epoch that are trained on. The last micro-batch of an epoch may be smaller.
    pub batches_per_epoch: u64,
    /// Micro-batches per epoch, with those after the last whole window that are left out.
    pub loaded_batches: u64,
    /// Micro-batches per optimiser step. The loss of every micro-batch is divided by this number, even in a shorter last window.
    pub grad_steps: u64,
    /// Samples per optimiser step, except for a shorter last window.
    pub batch_size: u64,
    /// Optimiser steps per epoch.
    pub steps_per_epoch: u64,
    /// Optimiser steps of the run.
    pub total_steps: u64,
    /// Epochs of the run, rounded up.
    pub epochs: u64,
    /// Length of the learning-rate schedule in optimiser steps. It can be less than `total_steps` if the length of the run is in
    /// epochs: a shorter last window is a whole step of the run, but only a fraction of a step of the schedule.
    pub schedule_steps: u64,
    /// Length of the warm-up in optimiser steps.
    pub warmup_steps: u64,
    /// Micro-batches between validations, counted from the beginning of each epoch; `None` means no validations.
    pub validation_interval: Option<u64>,
    /// Number of epochs of which only the last has validations.
    pub validation_epochs: u64,
}

impl Plan {
    /// Makes the plan of a run. `batches` is the number of micro-batches per epoch, at least 1, and `ranks` the number of ranks, which divides
    /// the number of micro-batches of a whole window.
    ///
    /// With `max_steps` training stops after exactly `max_steps` optimiser steps, possibly within an epoch, and `max_epoch` is
    /// ignored. Without `max_steps` training stops after `max_epoch` epochs.
    ///
    /// # Errors
    /// Returns the errors of [`grad_steps`] and [`validation_interval`].
    pub fn new(length: &Length, batches: u64, ranks: u64) -> Result<Self, ConfigError> {
        let grad_steps = ranks * grad_steps(length.batch_size, length.micro_batch, ranks, 1)?;
        let loaded_batches = batches;
        let batches = match length.whole_windows {
            true => batches / grad_steps * grad_steps,
            false => batches,
        };
        if batches == 0 {
            return Err(ConfigError::Contradiction(format!(
                "the training data have fewer samples than an optimiser step of {}: lower the batch size or the accumulation",
                grad_steps * length.micro_batch
            )));
        }
        let steps_per_epoch = steps_per_epoch(batches, grad_steps);
        let schedule_steps = schedule_steps(length.max_steps, batches, length.max_epoch, grad_steps);
        let total_steps = length
            .max_steps
            .unwrap_or_else(|| steps_per_epoch.saturating_mul(length.max_epoch));
        Ok(Self {
            batches_per_epoch: batches,
            loaded_batches,
            grad_steps,
            batch_size: grad_steps * length.micro_batch,
            steps_per_epoch,
            total_steps,
            epochs: total_steps.div_ceil(steps_per_epoch),
            schedule_steps,
            warmup_steps: warmup_steps(length.warmup, schedule_steps),
            validation_interval: Some(validation_interval(length.validation, batches)?),
            validation_epochs: length.validation_epochs.max(1),
        })
    }

    /// Returns the plan of the same run without validations.
    pub fn without_validation(self) -> Self {
        Self {
            validation_interval: None,
            ..self
        }
    }

    /// Returns the plan of a trial run: the first `batches` micro-batches of one epoch, without validations, with the learning rates
    /// of the full run.
    pub fn trial(self, batches: u64) -> Self {
        let batches_per_epoch = batches.min(self.batches_per_epoch);
        let steps_per_epoch = steps_per_epoch(batches_per_epoch, self.grad_steps);
        Self {
            batches_per_epoch,
            steps_per_epoch,
            total_steps: steps_per_epoch.min(self.total_steps),
            validation_interval: None,
            ..self
        }
    }

    /// Returns the window that begins at `position` after `step` optimiser steps; `None` at the end of the run.
    ///
    /// A position beyond the last micro-batch of an epoch means the beginning of the next epoch. A position within a window gives
    /// the rest of the window; a run can be resumed within a window if `batch_size` was changed.
    pub fn window_at(&self, position: Position, step: u64) -> Option<Window> {
        if step >= self.total_steps {
            return None;
        }
        let (epoch, first) = if position.batch < self.batches_per_epoch {
            (position.epoch, position.batch)
        } else {
            (position.epoch + 1, 0)
        };
        let end = self.window_end(first);
        Some(Window {
            step,
            epoch,
            batches: first..end,
            ends_epoch: end == self.batches_per_epoch,
        })
    }

    /// Returns the end of the window that contains micro-batch `batch` of an epoch.
    fn window_end(&self, batch: u64) -> u64 {
        let end = (batch / self.grad_steps + 1).saturating_mul(self.grad_steps);
        end.min(self.batches_per_epoch)
    }

    /// Returns whether the run validates after this window.
    ///
    /// A validation point is a multiple of `validation_interval`, in micro-batches since the beginning of the epoch. Weights change
    /// only at the ends of windows. For a validation point within a window, the run therefore validates at the end of the previous
    /// window, where the weights are the same; for several points within one window it validates once. There is no validation for
    /// points before the first update or after the end of the run.
    pub fn validates(&self, window: &Window) -> bool {
        let Some(interval) = self.validation_interval else {
            return false;
        };
        let has_validations = |epoch: u64| (epoch + 1).is_multiple_of(self.validation_epochs);
        let end = window.batches.end;
        let ends_at_point = has_validations(window.epoch) && end.is_multiple_of(interval);
        if ends_at_point || window.step + 1 >= self.total_steps {
            return ends_at_point;
        }
        // Otherwise the run validates if the next validation point is before the end of the next window.
        if window.ends_epoch {
            has_validations(window.epoch + 1) && interval < self.window_end(0)
        } else {
            has_validations(window.epoch) && end.next_multiple_of(interval) < self.window_end(end)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use vlct_config::resolve;

    fn plan(words: &[&str], batches: u64) -> Result<Plan, ConfigError> {
        let config = resolve(words).unwrap().config;
        let length = Length {
            batch_size: config.batch_size,
            micro_batch: config.per_gpu_batchsize,
            max_steps: config.max_steps,
            max_epoch: config.max_epoch,
            warmup: config.warmup_steps,
            validation: config.val_check_interval,
            validation_epochs: config.check_val_every_n_epoch,
            whole_windows: false,
        };
        Plan::new(&length, batches, 1)
    }

    #[test]
    fn grad_steps_rounds_down_and_rejects_impossible_sizes() {
        assert_eq!(grad_steps(4096, 8, 4, 2), Ok(64));
        assert_eq!(grad_steps(100, 30, 1, 1), Ok(3));
        assert_eq!(grad_steps(30, 30, 0, 1), Ok(1));
        assert!(
            grad_steps(4096, 0, 1, 1)
                .unwrap_err()
                .to_string()
                .contains("per_gpu_batchsize is not set")
        );
        assert!(
            grad_steps(4, 8, 1, 1)
                .unwrap_err()
                .to_string()
                .contains("smaller than one micro-batch of 8")
        );
        assert!(grad_steps(1, u64::MAX, 3, 3).is_err());
    }

    #[test]
    fn the_run_counts_shorter_windows_as_whole_steps_and_the_schedule_does_not() {
        // An epoch of 10 micro-batches has windows of 4, 4 and 2. The schedule has 10 × 3 / 4 = 7 steps, the run has 9.
        let p = plan(
            &[
                "max_steps=None",
                "max_epoch=3",
                "batch_size=35",
                "per_gpu_batchsize=8",
                "warmup_steps=0.3",
            ],
            10,
        )
        .unwrap();
        assert_eq!((p.grad_steps, p.batch_size, p.steps_per_epoch), (4, 32, 3));
        assert_eq!(
            (p.schedule_steps, p.total_steps, p.epochs, p.warmup_steps),
            (7, 9, 3, 2)
        );
        let ends: Vec<u64> = windows(&p).iter().map(|w| w.batches.end).collect();
        assert_eq!(ends, [4, 8, 10, 4, 8, 10, 4, 8, 10]);
    }

    #[test]
    fn a_window_has_the_same_number_of_micro_batches_for_each_rank() {
        let words = ["batch_size=56", "per_gpu_batchsize=4", "max_steps=5"];
        let alone = plan(&words, 30).unwrap();
        let of_ranks = |ranks| {
            let config = resolve(&words).unwrap().config;
            let length = Length {
                batch_size: config.batch_size,
                micro_batch: config.per_gpu_batchsize,
                max_steps: config.max_steps,
                max_epoch: config.max_epoch,
                warmup: config.warmup_steps,
                validation: config.val_check_interval,
                validation_epochs: config.check_val_every_n_epoch,
                whole_windows: false,
            };
            Plan::new(&length, 30, ranks)
        };
        assert_eq!((alone.grad_steps, alone.batch_size), (14, 56));
        assert_eq!(of_ranks(1).unwrap(), alone);
        assert_eq!(of_ranks(2).unwrap(), alone);
        // 14 micro-batches cannot be divided by 4.
        let four = of_ranks(4).unwrap();
        assert_eq!((four.grad_steps, four.batch_size, four.steps_per_epoch), (12, 48, 3));
        let message = of_ranks(15).unwrap_err().to_string();
        assert!(message.contains("smaller than one micro-batch of 60"), "{message}");
    }

    #[test]
    fn max_steps_overrides_max_epoch() {
        let p = plan(
            &["max_steps=10", "max_epoch=1", "batch_size=8", "per_gpu_batchsize=8"],
            4,
        )
        .unwrap();
        assert_eq!((p.total_steps, p.schedule_steps, p.epochs), (10, 10, 3));
        assert_eq!(p.warmup_steps, 2500);
    }

    /// Returns all windows of a run.
    fn windows(plan: &Plan) -> Vec<Window> {
        let (mut position, mut step) = (Position::default(), 0);
        let mut windows = Vec::new();
        while let Some(window) = plan.window_at(position, step) {
            (position, step) = (window.next_position(), window.step + 1);
            windows.push(window);
        }
        windows
    }

    /// Returns the ends of the windows with a validation, in micro-batches since the beginning of the run.
    fn validated_ends(plan: &Plan) -> Vec<u64> {
        let windows = windows(plan);
        let validated = windows.iter().filter(|w| plan.validates(w));
        validated
            .map(|w| w.epoch * plan.batches_per_epoch + w.batches.end)
            .collect()
    }

    #[test]
    fn without_accumulation_the_run_validates_at_each_validation_point() {
        let points = |word: &str, batches: u64| {
            let words = [
                word,
                "per_gpu_batchsize=1",
                "batch_size=1",
                "max_steps=None",
                "max_epoch=1",
            ];
            validated_ends(&plan(&words, batches).unwrap())
        };
        assert_eq!(points("val_check_interval=1.0", 5), [5]);
        assert_eq!(points("val_check_interval=0.5", 5), [2, 4]);
        assert_eq!(points("val_check_interval=0.1", 5), [1, 2, 3, 4, 5]);
        assert_eq!(points("val_check_interval=1", 3), [1, 2, 3]);
        assert_eq!(points("val_check_interval=3", 3), [3]);
        let message = plan(&["val_check_interval=4", "per_gpu_batchsize=1"], 3)
            .unwrap_err()
            .to_string();
        assert!(message.contains("longer than an epoch of 3"), "{message}");
    }

    #[test]
    fn with_accumulation_the_run_validates_at_the_window_end_before_each_validation_point() {
        // Windows of an epoch end at 4, 8 and 10; validation points are 3, 6 and 9.
        let words = |length: &'static str| ["per_gpu_batchsize=1", "batch_size=4", "val_check_interval=3", length];
        let p = plan(&words("max_steps=6"), 10).unwrap();
        // Point 3 is before the first update, so there is no validation. The second epoch has points 13, 16 and 19: for 13 the
        // run validates at the end of the first epoch, 10.
        assert_eq!(validated_ends(&p), [4, 8, 10, 14, 18]);
        // A run that ends at 14 does not reach 16.
        let p = plan(&words("max_steps=4"), 10).unwrap();
        assert_eq!(validated_ends(&p), [4, 8, 10]);
        assert_eq!(validated_ends(&p.without_validation()), [0; 0]);
    }

    #[test]
    fn only_the_last_of_several_epochs_has_validations() {
        let words = |interval: &'static str| {
            let words = [
                "per_gpu_batchsize=1",
                "batch_size=4",
                "max_steps=18",
                "check_val_every_n_epoch=3",
                interval,
            ];
            validated_ends(&plan(&words, 10).unwrap())
        };
        // Epochs of 10 micro-batches end at 10, 20, …; windows end after 4, 8 and 10.
        assert_eq!(words("val_check_interval=1.0"), [30, 60]);
        assert_eq!(words("val_check_interval=5"), [24, 30, 54, 60]);
        // Point 3 of an epoch is before its first update, so the run validates at the end of the epoch before.
        assert_eq!(words("val_check_interval=3"), [20, 24, 28, 50, 54, 58]);
    }

    #[test]
    fn trial_runs_may_end_with_a_shorter_window() {
        let p = plan(&["per_gpu_batchsize=1", "batch_size=4", "max_steps=9"], 10).unwrap();
        let batches = |p: &Plan| windows(p).into_iter().map(|w| w.batches).collect::<Vec<_>>();
        assert_eq!(batches(&p.trial(6)), [0..4, 4..6]);
        assert_eq!(batches(&p.trial(99)), [0..4, 4..8, 8..10]);
        assert_eq!(p.trial(6).schedule_steps, 9);
    }

    #[test]
    fn window_at_accepts_positions_within_windows_and_beyond_epochs() {
        let p = plan(&["per_gpu_batchsize=1", "batch_size=4", "max_steps=9"], 10).unwrap();
        let window = |epoch, batch| p.window_at(Position { epoch, batch }, 5).map(|w| (w.epoch, w.batches));
        assert_eq!(window(1, 6), Some((1, 6..8)), "within a window");
        assert_eq!(window(1, 10), Some((2, 0..4)), "beyond an epoch");
        assert_eq!(p.window_at(Position::default(), 9), None);
    }

    /// Makes a plan from the values that determine its windows and validations.
    fn small_plan(batches: u64, grad_steps: u64, total_steps: u64, interval: u64) -> Plan {
        let steps_per_epoch = steps_per_epoch(batches, grad_steps);
        Plan {
            batches_per_epoch: batches,
            loaded_batches: batches,
            grad_steps,
            batch_size: grad_steps,
            steps_per_epoch,
            total_steps,
            epochs: total_steps.div_ceil(steps_per_epoch),
            schedule_steps: total_steps,
            warmup_steps: 0,
            validation_interval: Some(interval),
            validation_epochs: 1,
        }
    }

    proptest! {
        /// Windows contain each micro-batch once and in order. Each has `grad_steps` micro-batches, except the last of an epoch.
        #[test]
        fn windows_partition_the_run(batches in 1u64..60, grad_steps in 1u64..20, total in 1u64..40) {
            let plan = small_plan(batches, grad_steps, total, 1);
            let windows = windows(&plan);
            prop_assert_eq!(windows.len() as u64, total);
            let mut next = 0;
            for (i, w) in windows.iter().enumerate() {
                prop_assert_eq!(w.step, i as u64);
                prop_assert_eq!(w.epoch * batches + w.batches.start, next);
                let length = w.batches.end - w.batches.start;
                prop_assert_eq!(w.ends_epoch, w.batches.end == batches);
                prop_assert!(length == grad_steps || (w.ends_epoch && 0 < length && length < grad_steps));
                next = w.epoch * batches + w.batches.end;
            }
            let epochs = windows.iter().filter(|w| w.ends_epoch).count() as u64;
            prop_assert_eq!(epochs, total / plan.steps_per_epoch);
        }

        #[test]
        fn the_run_validates_at_the_latest_window_end_up_to_each_validation_point(
            batches in 1u64..40, grad_steps in 1u64..15, total in 1u64..30, interval in 1u64..40
        ) {
            let plan = small_plan(batches, grad_steps, total, interval.min(batches));
            let interval = interval.min(batches);
            let ends: Vec<u64> = windows(&plan).iter().map(|w| w.epoch * batches + w.batches.end).collect();
            let run_end = *ends.last().expect("at least one window");
            let mut expected: Vec<u64> = (1..=run_end)
                .filter(|p| {
                    let in_epoch = (p - 1) % batches + 1;
                    in_epoch.is_multiple_of(interval)
                })
                .filter_map(|p| ends.iter().copied().rfind(|end| *end <= p))
                .collect();
            expected.dedup();
            prop_assert_eq!(validated_ends(&plan), expected);
        }

        #[test]
        fn an_epoch_has_one_step_per_window(batches in 1u64..200, grad_steps in 1u64..50) {
            let steps = steps_per_epoch(batches, grad_steps);
            let windows = windows(&small_plan(batches, grad_steps, steps, 1));
            prop_assert!(windows.iter().all(|w| w.epoch == 0) && windows[windows.len() - 1].ends_epoch);
        }

        #[test]
        fn the_schedule_is_never_longer_than_the_run(batches in 1u64..1000, epochs in 1u64..50, grad in 1u64..100) {
            prop_assert!(schedule_steps(None, batches, epochs, grad) <= steps_per_epoch(batches, grad) * epochs);
        }
    }
}
