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

/// Trains, or with `test_only` evaluates the test split.
///
/// # Errors
/// Returns an error if values of the configuration contradict each other, data or weights cannot be read, a loss is not finite, or
/// a file cannot be written.
pub fn run(config: &Config, control: &Control) -> Result<Finished> {
    for warning in spec::validate(config)? {
        warn!("{warning}");
    }
    use_threads(Threads::from_spec(&spec::compute(config)))?;
    let spec = RunSpec::resolve(&resolve_f32_products(config.clone())?)?;
    if spec.test_only {
        evaluate_test_split(&spec, control)
    } else {
        training::Trainer::new(spec, control)?.train()
    }
}

/// Replaces `f32_products='auto'` by the method of the run that is resumed or tested, else by the method that is measured to be faster.
/// Replaces `f32_products='bf16x3'` by FMA if this CPU has no AMX.
fn resolve_f32_products(mut config: Config) -> Result<Config> {
    if spec::compute(&config).precision != Precision::F32 {
        return Ok(config);
    }
    let has_bf16x3 = Device::default().supports_f32_products(F32Products::Bf16x3);
    if config.f32_products == AUTO {
        let checkpoint = match &config.resume_from {
            _ if config.test_only => Some(PathBuf::from(&config.load_path)),
            Some(from) => Some(run::find_checkpoint(from)?),
            None => None,
        };
        config.f32_products = match checkpoint.and_then(|path| run::config_of(&path)) {
            // Before this key was added, the program used bf16x3 on CPUs with AMX.
            Some(saved) if saved.f32_products == AUTO && has_bf16x3 => F32Products::Bf16x3.name().into(),
            Some(saved) if saved.f32_products == AUTO => F32Products::Fma.name().into(),
            Some(saved) => saved.f32_products,
            None => Device::default().fastest_f32_products().name().into(),
        };
    }
    if config.f32_products == F32Products::Bf16x3.name() && !has_bf16x3 {
        warn!("f32_products='bf16x3' is computed by FMA: this CPU has no AMX");
        config.f32_products = F32Products::Fma.name().into();
    }
    Ok(config)
}

/// Evaluates the test split with the weights of `load_path` and `pretrain_path`.
fn evaluate_test_split(spec: &RunSpec, control: &Control) -> Result<Finished> {
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
    let recall = evaluate::recall_evaluator(spec, Split::Test, &inputs)?;
    let split = evaluate::split_evaluator(spec, dataset, &inputs)?;
    let values = evaluate::evaluate(recall.as_ref(), &split, &model, control.stop)?;
    Ok(Finished {
        run: None,
        steps: 0,
        interrupted: values.is_none() || control.stop.load(Ordering::Relaxed),
        seconds: 0.0,
        metrics: values.unwrap_or_default(),
        best: None,
    })
}
