//! The forecast of a run: the time of a step, measured before the first step, the end of the run, its memory, and warnings about lengths
//! that do not suit the data.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Instant;

use chrono::{Local, TimeDelta};
use log::{info, warn};
use vlct_tasks::metrics::accuracy_margin;
use vlct_tasks::{Loader, PendingMeasures};
use vlct_tensor::optimizer::{Hyperparameters, Optimizer};

use super::Trainer;
use crate::data;
use crate::error::Result;
use crate::memory;
use crate::plan::Plan;
use vlct_logs::duration_text;
use vlct_util::text::counted;

/// Smallest number of remaining micro-batches for which a run measures its speed: the measurement takes the time of two.
const MEASURED_FROM: u64 = 20;
/// Longest optimiser step without a warning, in seconds.
const LONG_STEP: f64 = 600.0;
/// Longest warm-up without a warning, in epochs.
const LONG_WARMUP: u64 = 20;
/// Number of validation items below which an accuracy says little.
const FEW_VALIDATION_ITEMS: u64 = 100;
/// Largest share of the machine's memory without a warning.
const MUCH_MEMORY: f64 = 0.9;
/// Time of a micro-batch of a validation, as a share of that of training: the forward pass is a third of forward and backward pass.
const VALIDATION_SHARE: f64 = 1.0 / 3.0;

/// Measured times in seconds.
#[derive(Clone, Copy)]
struct Measured {
    /// Preparation, forward and backward pass of a micro-batch, divided by the number of ranks, which compute at the same time.
    micro_batch: f64,
    /// Update of the weights; 0 if it was not measured.
    update: f64,
}

/// What is known of a run before its first step.
struct Forecast {
    plan: Plan,
    /// Number of completed optimiser steps.
    done: u64,
    /// Number of items of the training split.
    items: u64,
    /// Micro-batches of a validation.
    validation_batches: u64,
    measured: Measured,
    /// Expected memory in bytes: on a GPU that of the GPU, else that of the process.
    memory: u64,
    /// Memory of the GPU or of the machine in bytes.
    machine_memory: Option<u64>,
}

impl Trainer<'_> {
    /// Measures a micro-batch and logs the forecast; on rank 0 only. Nothing of the run's state changes. Runs of less than [`MEASURED_FROM`]
    /// micro-batches are not measured.
    pub(super) fn log_forecast(&mut self) -> Result<()> {
        if !self.is_first() {
            return Ok(());
        }
        let items = self.data.train.len() as u64;
        length_warnings(&self.plan, self.state.global_step, items)
            .iter()
            .for_each(|warning| warn!("{warning}"));
        validation_warnings(self.data.val.len() as u64)
            .iter()
            .for_each(|warning| warn!("{warning}"));
        if !self.data.val.is_empty() && !self.validates() {
            info!(
                "the run ends before its first validation and saves no best checkpoint; val_check_interval and check_val_every_n_epoch set \
                 when it validates"
            );
        }
        let left = self.plan.total_steps.saturating_sub(self.state.global_step);
        if left.saturating_mul(self.plan.grad_steps) < MEASURED_FROM {
            return Ok(());
        }
        let Some(measured) = self.measure()? else {
            return Ok(());
        };
        let batches = (self.data.val.len() as u64).div_ceil(self.spec.length.micro_batch);
        let own_memory = self.spec.compute.device.own_memory();
        let forecast = Forecast {
            plan: self.plan,
            done: self.state.global_step,
            items,
            validation_batches: match self.spec.validation.batches {
                0 => batches,
                limit => batches.min(limit),
            },
            measured,
            memory: own_memory.map_or_else(memory::peak_resident, |memory| memory.peak),
            machine_memory: own_memory.map_or_else(memory::total, |memory| Some(memory.total)),
        };
        forecast.lines().iter().for_each(|line| info!("{line}"));
        forecast.warnings().iter().for_each(|warning| warn!("{warning}"));
        Ok(())
    }

    /// Returns whether the rest of the run has a validation.
    fn validates(&self) -> bool {
        let (mut position, mut step) = (self.state.position(), self.state.global_step);
        while let Some(window) = self.plan.window_at(position, step) {
            if self.plan.validates(&window) {
                return true;
            }
            (position, step) = (window.next_position(), window.step + 1);
        }
        self.state.best_step.is_some() || self.state.validation_due
    }

    /// Measures a micro-batch and, if the run begins, an update. Returns `None` if the stop flag is set before the end.
    fn measure(&mut self) -> Result<Option<Measured>> {
        let mut loader = Loader::new(
            Arc::clone(&self.task),
            self.data.train.clone(),
            Arc::clone(&self.data.inputs),
            data::training_loader(&self.spec, &self.plan, self.share()),
            self.state.position(),
        )?;
        let start = Instant::now();
        let Some(batch) = loader.next().transpose()? else {
            return Ok(None);
        };
        // A batch is made by one thread, while others compute.
        let preparation = start.elapsed().as_secs_f64() / rayon::current_num_threads() as f64;
        drop(loader);
        let mut pass = 0.0;
        // The first pass takes longer, because it touches new memory.
        for _ in 0..2 {
            self.weights.gradients.clear();
            if self.is_stopped() {
                return Ok(None);
            }
            let start = Instant::now();
            self.run_micro_batch(&batch, &mut PendingMeasures::default());
            pass = start.elapsed().as_secs_f64();
        }
        let update = match self.state.global_step {
            0 => self.seconds_per_update(),
            // The moments of a resumed run must not change.
            _ => 0.0,
        };
        self.weights.gradients.clear();
        Ok(Some(Measured {
            micro_batch: (pass + preparation) / self.collectives.ranks() as f64,
            update,
        }))
    }

    /// Returns the seconds of an update with learning rate 0, which changes the moments only. They begin again with 0.
    fn seconds_per_update(&mut self) -> f64 {
        let weights = &mut self.weights;
        let start = Instant::now();
        weights
            .optimizer
            .step(weights.model.parameters_mut(), &weights.gradients, None, |_| {
                Hyperparameters {
                    learning_rate: 0.0,
                    weight_decay: 0.0,
                }
            });
        let seconds = start.elapsed().as_secs_f64();
        weights.optimizer = Optimizer::new(self.spec.optimizer.rule, weights.model.parameters());
        seconds
    }
}

impl Forecast {
    /// Seconds of an optimiser step.
    fn step(&self) -> f64 {
        self.measured.micro_batch * self.plan.grad_steps.min(self.plan.batches_per_epoch) as f64 + self.measured.update
    }

    /// Seconds of the rest of the run with its validations, without retrieval recalls.
    fn rest(&self) -> f64 {
        let left = self.plan.total_steps.saturating_sub(self.done) as f64;
        let validations = match self.plan.validation_interval {
            None => 0.0,
            Some(interval) => {
                let micro_batches = left * self.plan.batches_per_epoch as f64 / self.plan.steps_per_epoch as f64;
                (micro_batches / interval as f64).min(left) / self.plan.validation_epochs as f64
            }
        };
        left * self.step() + validations * self.validation_batches as f64 * self.measured.micro_batch * VALIDATION_SHARE
    }

    fn lines(&self) -> [String; 2] {
        let rest = self.rest();
        let mut end = format!("about {}", duration_text(rest));
        if let Some(time) =
            TimeDelta::try_milliseconds((rest * 1e3) as i64).and_then(|t| Local::now().checked_add_signed(t))
        {
            let _ = write!(end, ", until {}", time.format("%Y-%m-%d %H:%M"));
        }
        let machine = match self.machine_memory {
            Some(total) => format!(" of {:.1}", gib(total)),
            None => String::new(),
        };
        let epochs = self.plan.total_steps as f64 / self.plan.steps_per_epoch as f64;
        [
            format!(
                "measured: an optimiser step takes about {}, the run {:.1}{machine} GiB of memory",
                duration_text(self.step()),
                gib(self.memory),
            ),
            format!(
                "{}, {} of {}: {end}",
                counted(self.plan.total_steps - self.done.min(self.plan.total_steps), "step"),
                match epochs {
                    e if e < 0.95 => format!("{e:.2} epochs"),
                    e if e < 10.0 => format!("{e:.1} epochs"),
                    e => format!("{e:.0} epochs"),
                },
                counted(self.items, "item")
            ),
        ]
    }

    fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.step() > LONG_STEP {
            warnings.push(format!(
                "an optimiser step takes {}: a smaller batch_size has more steps in the same time",
                duration_text(self.step())
            ));
        }
        match self.machine_memory {
            Some(total) if self.memory as f64 > MUCH_MEMORY * total as f64 => warnings.push(format!(
                "the run needs {:.1} of {:.1} GiB of memory: lower per_gpu_batchsize, or set activation_recompute=True",
                gib(self.memory),
                gib(total)
            )),
            _ => {}
        }
        warnings
    }
}

/// Returns warnings about a batch or a warm-up that does not suit `items` items.
fn length_warnings(plan: &Plan, done: u64, items: u64) -> Vec<String> {
    let mut warnings = Vec::new();
    if plan.batch_size > items {
        warnings.push(format!(
            "a batch of {} is larger than the training data of {items}: an epoch is one optimiser step of {}, whose gradient is \
             divided by {}; set batch_size to at most {items}",
            counted(plan.batch_size, "sample"),
            counted(items, "sample"),
            plan.batch_size
        ));
    }
    let warmup = plan.warmup_steps / plan.steps_per_epoch;
    if warmup > LONG_WARMUP && done < plan.warmup_steps {
        let end = match plan.warmup_steps >= plan.total_steps {
            true => ", and the run ends before it",
            false => "",
        };
        warnings.push(format!(
            "the warm-up of {} is {warmup} epochs of this data{end}: warmup_steps=0.1 means a tenth of the run",
            counted(plan.warmup_steps, "step")
        ));
    }
    warnings
}

/// Returns warnings about validation data of `items` items.
fn validation_warnings(items: u64) -> Vec<String> {
    match items {
        0 => Vec::new(),
        1 => {
            vec!["the validation data has one item: its accuracies say nothing, and the best checkpoint is any".into()]
        }
        items if items < FEW_VALIDATION_ITEMS => vec![format!(
            "the validation data has only {items} items: an accuracy of 50 % on them is known within {:.0} %",
            100.0 * accuracy_margin(0.5, items)
        )],
        _ => Vec::new(),
    }
}

fn gib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1u32 << 30)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::RunSpec;
    use vlct_config::resolve;

    fn plan(words: &[&str], batches: u64) -> Plan {
        let words = [&["per_gpu_batchsize=8"], words].concat();
        let spec = RunSpec::resolve(&resolve(&words).unwrap().config).unwrap();
        Plan::new(&spec.length, batches, 1).unwrap()
    }

    fn forecast(plan: Plan) -> Forecast {
        Forecast {
            plan,
            done: 0,
            items: 1000,
            validation_batches: 30,
            measured: Measured {
                micro_batch: 2.0,
                update: 0.0,
            },
            memory: 3 << 30,
            machine_memory: Some(24 << 30),
        }
    }

    #[test]
    fn the_published_recipe_on_few_captions_is_warned_of() {
        // 1,000 captions: an epoch of 125 micro-batches is a single step of at most 512 micro-batches.
        let plan = plan(&[], 125);
        let warnings = length_warnings(&plan, 0, 1000);
        assert!(
            warnings[0].contains("a batch of 4096 samples is larger than the training data of 1000"),
            "{warnings:?}"
        );
        assert!(warnings[1].contains("2500 steps is 2500 epochs"), "{warnings:?}");
        assert!(!warnings[1].contains("ends before"), "{warnings:?}");
        assert_eq!(length_warnings(&plan, 2500, 1000).len(), 1, "the warm-up is over");
    }

    #[test]
    fn suitable_lengths_are_not_warned_of() {
        let plan = plan(&["batch_size=64", "warmup_steps=0.1", "max_steps=1000"], 125);
        assert_eq!(length_warnings(&plan, 0, 1000), [""; 0]);
        assert_eq!(forecast(plan).warnings(), [""; 0]);
    }

    #[test]
    fn few_validation_items_are_warned_of() {
        assert_eq!([0, 100, 5000].map(|items| validation_warnings(items).len()), [0, 0, 0]);
        assert!(validation_warnings(1)[0].contains("say nothing"));
        assert!(
            validation_warnings(21)[0].contains("within 20 %"),
            "{:?}",
            validation_warnings(21)
        );
    }

    #[test]
    fn time_counts_windows_and_validations() {
        // 16 steps per epoch of 8 micro-batches of 2 s, but an epoch has 125 micro-batches.
        let f = forecast(plan(&["batch_size=64", "warmup_steps=0", "max_steps=160"], 125));
        assert_eq!(f.step(), 16.0);
        let validations = 10.0 * 30.0 * 2.0 / 3.0;
        assert!((f.rest() - (160.0 * 16.0 + validations)).abs() < 1e-6, "{}", f.rest());
        let [speed, length] = f.lines();
        assert!(
            speed.contains("step takes about 16 seconds, the run 3.0 of 24.0 GiB"),
            "{speed}"
        );
        assert!(
            length.starts_with("160 steps, 10 epochs of 1000 items: about 46 minutes, until 2"),
            "{length}"
        );
        let rest = Forecast { done: 150, ..f };
        assert!(rest.lines()[1].starts_with("10 steps, 10 epochs"), "{:?}", rest.lines());
    }

    #[test]
    fn long_steps_and_much_memory_are_warned_of() {
        let f = Forecast {
            memory: 23 << 30,
            ..forecast(plan(&[], 10_000))
        };
        let warnings = f.warnings();
        assert!(
            warnings[0].contains("an optimiser step takes 17 minutes"),
            "{warnings:?}"
        );
        assert!(warnings[1].contains("23.0 of 24.0 GiB"), "{warnings:?}");
    }
}
