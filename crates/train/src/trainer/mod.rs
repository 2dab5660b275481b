//! Training: accumulation windows, validation, checkpoints, logs, resumption.

pub mod evaluate;
mod threads;
mod training;

use std::sync::atomic::Ordering;

use log::{info, warn};
use vlct_data::datasets::{Dataset, Split};

use crate::config::Config;
use crate::data;
use crate::error::{Result, TrainError};
use crate::spec::{self, RunSpec};
use crate::weights;

pub use threads::{Threads, use_threads};
pub use training::{Control, Finished};

/// Runs what a configuration describes: training, or with `test_only` one pass over the test split.
///
/// # Errors
/// Returns an error if the configuration contradicts itself, data or weights cannot be read, a loss is not finite, or something
/// cannot be saved.
pub fn run(config: &Config, control: &Control) -> Result<Finished> {
    for warning in spec::validate(config)? {
        warn!("{warning}");
    }
    let spec = RunSpec::resolve(config)?;
    use_threads(Threads::of(&spec.compute))?;
    if spec.test_only {
        test(&spec, control)
    } else {
        training::Trainer::new(spec, control)?.train()
    }
}

/// One pass over the test split: the values under the original's names.
fn test(spec: &RunSpec, control: &Control) -> Result<Finished> {
    let inputs = data::inputs(spec)?;
    let dataset = data::open(&spec.data, Split::Test)?;
    if dataset.is_empty() {
        return Err(TrainError::NoTestSplit {
            datasets: spec.data.datasets.clone(),
        });
    }
    let mut model = weights::fresh_model(spec);
    weights::load_and_log(&mut model, &spec.weights)?;
    info!(
        "evaluating {} captions of {} pictures, {}",
        dataset.len(),
        dataset.rows(),
        spec.compute.describe()
    );
    let recall = evaluate::recall(spec, Split::Test, &inputs)?;
    let pass = evaluate::split_pass(spec, dataset, &inputs)?;
    let values = evaluate::evaluate(recall.as_ref(), &pass, &model, control.stop)?;
    Ok(Finished {
        run: None,
        steps: 0,
        interrupted: values.is_none() || control.stop.load(Ordering::Relaxed),
        seconds: 0.0,
        metrics: values.unwrap_or_default(),
        best: None,
    })
}
