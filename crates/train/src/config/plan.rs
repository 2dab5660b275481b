//! How a run is cut into micro-batches, optimiser steps, epochs and validations. Numbers only; the trainer follows them.

use super::error::ConfigError;
use super::setting::{ValCheckInterval, Warmup};
use super::table::Config;

/// Micro-batches per optimiser step: `batch_size / (per_gpu_batchsize × devices × nodes)`, rounded down.
///
/// # Errors
/// If `per_gpu_batchsize` is not set, or a micro-batch of all devices is larger than `batch_size`.
pub fn grad_steps(batch_size: u64, per_gpu_batchsize: u64, devices: u64, nodes: u64) -> Result<u64, ConfigError> {
    if per_gpu_batchsize == 0 {
        return Err(ConfigError::Contradiction(
            "per_gpu_batchsize is not set: give the number of samples that fit into memory at once, such as \
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

/// Optimiser steps in an epoch of `batches` micro-batches. A last, shorter window of fewer than `grad_steps`
/// micro-batches makes a step too.
pub fn steps_per_epoch(batches: u64, grad_steps: u64) -> u64 {
    batches.div_ceil(grad_steps.max(1))
}

/// Whether an optimiser step follows micro-batch `batch` (from 0) of an epoch of `batches`.
pub fn closes_window(batch: u64, batches: u64, grad_steps: u64) -> bool {
    (batch + 1).is_multiple_of(grad_steps.max(1)) || batch + 1 == batches
}

/// Optimiser steps that the learning-rate schedule is laid out for: `max_steps`, else `batches × max_epoch / grad_steps`
/// rounded down once over the whole run.
pub fn schedule_steps(max_steps: Option<u64>, batches: u64, max_epoch: u64, grad_steps: u64) -> u64 {
    max_steps.unwrap_or_else(|| batches.saturating_mul(max_epoch) / grad_steps.max(1))
}

/// Warm-up in optimiser steps; a fraction of all steps is rounded down.
pub fn warmup_steps(warmup: Warmup, schedule_steps: u64) -> u64 {
    match warmup {
        Warmup::Steps(steps) => steps,
        // The conversion of a float to an integer drops its fraction.
        Warmup::Fraction(part) => (schedule_steps as f64 * part) as u64,
    }
}

/// Micro-batches between validations in an epoch of `batches`: at least 1.
///
/// # Errors
/// If an interval given in micro-batches is longer than the epoch, so that no validation would ever run.
pub fn validation_interval(interval: ValCheckInterval, batches: u64) -> Result<u64, ConfigError> {
    match interval {
        ValCheckInterval::Fraction(part) => Ok(((batches as f64 * part) as u64).max(1)),
        ValCheckInterval::Batches(n) if n <= batches => Ok(n.max(1)),
        ValCheckInterval::Batches(n) => Err(ConfigError::Contradiction(format!(
            "val_check_interval={n} is longer than an epoch of {batches} micro-batches: use at most {batches}, or a float \
             such as 1.0 for a part of an epoch"
        ))),
    }
}

/// Whether a validation follows micro-batch `batch` (from 0, counted within the epoch).
pub fn validates_after(batch: u64, interval: u64) -> bool {
    (batch + 1).is_multiple_of(interval.max(1))
}

/// The numbers of one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Micro-batches per epoch and process, the last one possibly smaller.
    pub batches_per_epoch: u64,
    /// Micro-batches per optimiser step. Every micro-batch's loss is divided by it, also in a shorter last window.
    pub grad_steps: u64,
    /// Samples of a full optimiser step, over all processes.
    pub batch_size: u64,
    /// Optimiser steps per epoch.
    pub steps_per_epoch: u64,
    /// Optimiser steps after which training stops.
    pub total_steps: u64,
    /// Epochs begun until then.
    pub epochs: u64,
    /// Optimiser steps that the schedule is laid out for. May be a little less than `total_steps` when the run is counted
    /// in epochs: a shorter window at the end of an epoch is a step, but only part of one for the schedule.
    pub schedule_steps: u64,
    /// Warm-up in optimiser steps.
    pub warmup_steps: u64,
    /// Micro-batches between validations.
    pub validation_interval: u64,
}

impl Plan {
    /// The plan of a run whose epochs have `batches` micro-batches.
    ///
    /// With `max_steps` training stops after exactly that many optimiser steps, in the middle of an epoch if need be, and
    /// `max_epoch` is ignored; without it, after `max_epoch` epochs.
    ///
    /// # Errors
    /// If there is no micro-batch, and as [`grad_steps`] and [`validation_interval`].
    pub fn new(config: &Config, batches: u64) -> Result<Self, ConfigError> {
        if batches == 0 {
            return Err(ConfigError::Contradiction(format!(
                "the training split of datasets={:?} is empty: nothing to train on",
                config.datasets
            )));
        }
        let devices = config.num_gpus.count().unwrap_or(1);
        let grad_steps = grad_steps(config.batch_size, config.per_gpu_batchsize, devices, config.num_nodes)?;
        let steps_per_epoch = steps_per_epoch(batches, grad_steps);
        let schedule_steps = schedule_steps(config.max_steps, batches, config.max_epoch, grad_steps);
        let total_steps = config
            .max_steps
            .unwrap_or_else(|| steps_per_epoch.saturating_mul(config.max_epoch));
        Ok(Self {
            batches_per_epoch: batches,
            grad_steps,
            batch_size: grad_steps * config.per_gpu_batchsize * devices.max(1) * config.num_nodes,
            steps_per_epoch,
            total_steps,
            epochs: total_steps.div_ceil(steps_per_epoch),
            schedule_steps,
            warmup_steps: warmup_steps(config.warmup_steps, schedule_steps),
            validation_interval: validation_interval(config.val_check_interval, batches)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::grammar::resolve;
    use super::*;
    use proptest::prelude::*;

    fn plan(words: &[&str], batches: u64) -> Result<Plan, ConfigError> {
        Plan::new(&resolve(words).unwrap().config, batches)
    }

    #[test]
    fn accumulation_rounds_down_and_refuses_nonsense() {
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
    fn a_run_counted_in_epochs() {
        // 10 micro-batches by 4: steps after 4, 8 and 10; the schedule sees 10 × 3 / 4 = 7 steps, the run takes 9.
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
        let closing: Vec<u64> = (0..10).filter(|b| closes_window(*b, 10, 4)).collect();
        assert_eq!(closing, [3, 7, 9]);
    }

    #[test]
    fn a_run_counted_in_steps_ignores_epochs() {
        let p = plan(
            &["max_steps=10", "max_epoch=1", "batch_size=8", "per_gpu_batchsize=8"],
            4,
        )
        .unwrap();
        assert_eq!((p.total_steps, p.schedule_steps, p.epochs), (10, 10, 3));
        assert_eq!(p.warmup_steps, 2500);
    }

    #[test]
    fn validation_points() {
        let points = |word: &str, batches: u64| -> Vec<u64> {
            let interval = plan(&[word, "per_gpu_batchsize=1"], batches)
                .unwrap()
                .validation_interval;
            (0..batches).filter(|b| validates_after(*b, interval)).collect()
        };
        assert_eq!(points("val_check_interval=1.0", 5), [4]);
        assert_eq!(points("val_check_interval=0.5", 5), [1, 3]);
        assert_eq!(points("val_check_interval=0.1", 5), [0, 1, 2, 3, 4]);
        assert_eq!(points("val_check_interval=1", 3), [0, 1, 2]);
        assert_eq!(points("val_check_interval=3", 3), [2]);
        let message = plan(&["val_check_interval=4", "per_gpu_batchsize=1"], 3)
            .unwrap_err()
            .to_string();
        assert!(message.contains("longer than an epoch of 3"), "{message}");
        assert!(plan(&["per_gpu_batchsize=1"], 0).is_err());
    }

    proptest! {
        #[test]
        fn steps_of_an_epoch_are_the_closed_windows(batches in 1u64..200, grad_steps in 1u64..50) {
            let closed = (0..batches).filter(|b| closes_window(*b, batches, grad_steps)).count() as u64;
            prop_assert_eq!(closed, steps_per_epoch(batches, grad_steps));
        }

        #[test]
        fn the_schedule_is_never_longer_than_the_run(batches in 1u64..1000, epochs in 1u64..50, grad in 1u64..100) {
            prop_assert!(schedule_steps(None, batches, epochs, grad) <= steps_per_epoch(batches, grad) * epochs);
        }
    }
}
