//! The training loop: accumulation windows, validation, checkpoints, logs, resumption.

pub mod batch;
pub mod evaluate;
pub mod setup;
mod state;
mod threads;
mod training;

use crate::config::Config;
use crate::error::{Result, TrainError};
use log::{info, warn};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use vlct_data::datasets::Split;

pub use threads::{Threads, use_threads};

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Finished {
    /// The run directory; none for trial runs and tests.
    pub run: Option<PathBuf>,
    /// Optimiser steps completed.
    pub steps: u64,
    /// Whether it was asked to stop before its end.
    pub interrupted: bool,
    /// Seconds of training.
    pub seconds: f64,
    /// The metrics of the last validation or of the test.
    pub metrics: Vec<(String, f64)>,
    /// Best value of the monitored metric and the step it was reached at.
    pub best: Option<(f64, u64)>,
}

/// What a run is told from outside.
pub struct Control<'a> {
    /// Set from outside (a signal): the run saves and ends.
    pub stop: &'a AtomicBool,
    /// Whether to show progress.
    pub progress: bool,
    /// Where the run directory is to be, instead of under `log_dir`.
    pub run_directory: Option<PathBuf>,
}

/// Runs what a configuration describes: training, or with `test_only` one pass over the test split.
///
/// # Errors
/// If the configuration contradicts itself, data or weights cannot be read, a loss is not finite, or something cannot be
/// saved.
pub fn run(config: &Config, control: &Control) -> Result<Finished> {
    for warning in config.validate()? {
        warn!("{warning}");
    }
    setup::check_tasks(config)?;
    use_threads(Threads::of(config))?;
    match config.test_only {
        true => test(config, control),
        false => training::Trainer::new(config, control)?.train(),
    }
}

/// One pass over the test split: the values under the original's names.
fn test(config: &Config, control: &Control) -> Result<Finished> {
    let tokenizer = setup::tokenizer(config)?;
    let dataset = setup::dataset(config, Split::Test)?;
    if dataset.is_empty() {
        let names = config.datasets.join(", ");
        return Err(TrainError::Invalid(format!(
            "there is no test split of {names}: name coco, f30k or gcc"
        )));
    }
    let mut model = setup::fresh_model(config)?;
    setup::load_weights(&mut model, config)?;
    info!(
        "evaluating {} captions of {} pictures, {}",
        dataset.len(),
        dataset.rows(),
        setup::arithmetic(model.compute())
    );
    let metrics = evaluate::evaluate(&model, config, &dataset, &tokenizer, 0, control.stop)?;
    let recalls = evaluate::measure_recalls(config, &model, Split::Test, &tokenizer, control.stop)?;
    let values = evaluate::with_recalls(&metrics, recalls);
    let interrupted = control.stop.load(Ordering::Relaxed);
    Ok(Finished {
        run: None,
        steps: 0,
        interrupted,
        seconds: 0.0,
        metrics: values,
        best: None,
    })
}
