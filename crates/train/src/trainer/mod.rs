//! Training: accumulation windows, validation, checkpoints, logs, resumption.

pub mod evaluate;
mod threads;
mod training;

use std::path::PathBuf;
use std::sync::atomic::Ordering;

use log::{info, warn};
use vlct_data::datasets::{Dataset, Split};
use vlct_tensor::{Device, F32Products, Precision};

use crate::config::{AUTO, Config};
use crate::data;
use crate::error::{Result, TrainError};
use crate::run;
use crate::spec::{self, RunSpec};
use crate::weights;

pub use crate::run::read_config;
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
    use_threads(Threads::of(&spec::compute(config)))?;
    let spec = RunSpec::resolve(&with_f32_products(config.clone())?)?;
    if spec.test_only {
        test(&spec, control)
    } else {
        training::Trainer::new(spec, control)?.train()
    }
}

/// Decides how f32 products are computed where the configuration leaves it open: as in the run that is resumed or tested, else by
/// timing both methods.
fn with_f32_products(mut config: Config) -> Result<Config> {
    if spec::compute(&config).precision != Precision::F32 {
        return Ok(config);
    }
    let available = Device::default().has_f32_products(F32Products::Bf16x3);
    if config.f32_products == AUTO {
        let checkpoint = match &config.resume_from {
            _ if config.test_only => Some(PathBuf::from(&config.load_path)),
            Some(from) => Some(run::find_checkpoint(from)?),
            None => None,
        };
        config.f32_products = match checkpoint.and_then(|path| run::config_of(&path)) {
            // Versions without this key took bf16x3 where there is AMX.
            Some(saved) if saved.f32_products == AUTO && available => F32Products::Bf16x3.name().into(),
            Some(saved) if saved.f32_products == AUTO => F32Products::Fma.name().into(),
            Some(saved) => saved.f32_products,
            None => Device::default().fastest_f32_products().name().into(),
        };
    }
    if config.f32_products == F32Products::Bf16x3.name() && !available {
        warn!("f32_products='bf16x3' is computed by FMA: this CPU has no AMX");
        config.f32_products = F32Products::Fma.name().into();
    }
    Ok(config)
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
        "evaluating {} captions of {} images, {}",
        dataset.len(),
        dataset.rows(),
        spec.compute.describe()
    );
    let recall = evaluate::recall(spec, Split::Test, &inputs)?;
    let pass = evaluate::split_evaluator(spec, dataset, &inputs)?;
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
