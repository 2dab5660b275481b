//! Training: accumulation windows, validation, checkpoints, logs, resumption.

pub mod evaluate;
mod neighbours;
mod scoring_log;
mod test;
mod threads;
mod training;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use log::{info, warn};
use vlct_data::datasets::{Dataset, Published};
use vlct_tasks::{Phase, Report, Rows};
use vlct_tensor::{Device, F32Products, Precision};

use crate::data::Data;
use crate::error::Result;
use crate::paths;
use crate::plan::grad_steps;
use crate::spec::{self, RunSpec};
use crate::weights;
use vlct_config::{AUTO, Config};

pub use crate::paths::{CONFIG_FILE, read_config};
pub use neighbours::neighbours_spec;
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
    let mut spec = RunSpec::resolve(&resolve_f32_products(config.clone())?)?;
    log_splits(&spec);
    spec.resolve_names()?;
    match spec.test_only {
        true => test::run(&spec, control),
        false => train(spec, control),
    }
}

/// Trains a run whose names are resolved, such as that of [`imagenet::Settings`](crate::imagenet::Settings).
///
/// # Errors
/// Returns the errors of [`run`].
pub fn run_spec(spec: RunSpec, control: &Control) -> Result<Finished> {
    use_threads(Threads::from_spec(&spec.compute))?;
    train(spec, control)
}

/// The evaluation of a split.
pub struct Evaluation {
    /// The metrics.
    pub report: Report,
    /// The split.
    pub data: Arc<dyn Dataset>,
    /// The results of the items of `data`. Images that cannot be read have a result, too.
    pub rows: Rows,
}

/// Evaluates the weights of `load_path` of such a run on its validation split. Returns `None` if `stop` is set before the end.
///
/// # Errors
/// Returns an error if the data or the weights cannot be read, or a tensor of the model is not in the file. An image that cannot be read
/// is a result in [`Evaluation::rows`].
pub fn evaluate_spec(spec: &RunSpec, stop: &AtomicBool) -> Result<Option<Evaluation>> {
    // Every tensor comes from the file.
    let spec = &RunSpec {
        test_only: true,
        ..spec.clone()
    };
    use_threads(Threads::from_spec(&spec.compute))?;
    let data = Data::open(spec)?;
    data.check_validation(spec)?;
    let mut model = weights::fresh_model(spec);
    if let Some(report) = weights::load_and_log(&mut model, spec)? {
        test::check_complete(spec, &report)?;
    }
    let mut split = evaluate::split_evaluator(spec, data.val.clone(), &data.inputs)?;
    split.loader.replaces_unreadable = true;
    let results = split.tally(&model, stop, &mut |_| ())?;
    Ok(results.map(|(tally, rows)| Evaluation {
        report: split.task.report(Phase::Val, &tally, &rows),
        data: data.val,
        rows,
    }))
}

fn train(spec: RunSpec, control: &Control) -> Result<Finished> {
    match training::Trainer::begin(spec, control)? {
        training::Begun::Training(trainer) => trainer.train(),
        training::Begun::Complete(finished) => Ok(finished),
    }
}

/// Measures the seconds of an optimiser step on this machine: with the loader, without validations. Trains a few micro-batches from random
/// weights and writes nothing. Returns `None` if `stop` is set before the end.
///
/// # Errors
/// Returns the errors of [`run`], except those of weight files, which are not read.
pub fn seconds_per_step(config: &Config, stop: &AtomicBool) -> Result<Option<f64>> {
    spec::validate(config)?;
    use_threads(Threads::from_spec(&spec::compute(config)))?;
    let mut spec = RunSpec::resolve(&resolve_f32_products(config.clone())?)?;
    spec.resolve_names()?;
    // The speed does not depend on the weights.
    (spec.weights.load_path, spec.weights.pretrain_path) = (None, None);
    let micro_batches = grad_steps(config.batch_size, config.per_gpu_batchsize, 1, 1)?;
    let seconds = training::seconds_per_micro_batch(&spec, stop)?;
    Ok(seconds.map(|seconds| seconds * micro_batches as f64))
}

/// Logs whether validation uses data that the original also trains or tests on.
fn log_splits(spec: &RunSpec) {
    if spec.test_only {
        return;
    }
    let published = spec.data.datasets.iter().filter_map(|name| Published::find(name));
    let honest: Vec<_> = published.filter_map(|dataset| dataset.honest.as_ref()).collect();
    if honest.is_empty() {
        return;
    }
    if spec.data.rules.honest_validation {
        info!("validation is separate from training and test (honest_validation=True)");
    } else {
        for honest in honest {
            info!(
                "as published, {}; honest_validation=True separates validation from training and test",
                honest.difference
            );
        }
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
            _ if config.test_only => paths::find_weights(Path::new(&config.load_path)).ok(),
            Some(from) => Some(paths::find_checkpoint(from)?),
            None => None,
        };
        config.f32_products = match checkpoint.and_then(|path| paths::config_of(&path)) {
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
