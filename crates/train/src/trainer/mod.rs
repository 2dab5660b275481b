//! Training: accumulation windows, validation, checkpoints, logs, resumption.

pub mod classifiers;
pub mod evaluate;
mod scoring_log;
mod shortage;
mod test;
mod threads;
mod training;

use std::path::Path;
use std::sync::atomic::AtomicBool;

use log::{info, warn};
use vlct_data::datasets::Published;
use vlct_tasks::gather;
use vlct_tensor::collectives::Single;
use vlct_tensor::{Collectives, DeviceName, F32Products, Precision};

use crate::data::Data;
use crate::error::Result;
use crate::paths;
use crate::plan::grad_steps;
use crate::spec::{self, RunSpec};
use vlct_config::{AUTO, Config, ConfigError, NumGpus};

pub use crate::memory::free_space;
pub use crate::paths::{CONFIG_FILE, read_config, run_of};
pub use threads::{Threads, use_threads};
pub use training::{Control, Finished};

/// Trains, or with `test_only` evaluates the test split.
///
/// # Errors
/// Returns an error if values of the configuration contradict each other, data or weights cannot be read, a loss is not finite, or
/// a file cannot be written.
pub fn run(config: &Config, control: &Control) -> Result<Finished> {
    let ranks = spec::ranks_of(config)?;
    if ranks > 1 {
        return Err(ConfigError::Contradiction(format!(
            "num_gpus and num_nodes mean {ranks} ranks, but this command computes in one process: use num_gpus=1"
        ))
        .into());
    }
    run_rank(config, control, &Single)
}

/// Runs one rank of a run, as [`run`] does with a single rank. All ranks call this function with the same configuration, each in a thread or
/// process of its own, and return together. The micro-batches of an optimiser step, and the batches of an evaluation, are divided among
/// them. Rank 0 writes all files, and the run continues with any number of ranks from the checkpoints. If the stop flag of one rank is set,
/// all stop at the same step.
///
/// # Errors
/// Returns the errors of [`run`]. If a rank fails, the others return [`TrainError::Collective`](crate::TrainError::Collective) with its
/// message.
pub fn run_rank(given: &Config, control: &Control, collectives: &dyn Collectives) -> Result<Finished> {
    together(collectives, || {
        let is_first = collectives.rank() == 0;
        let mut config = with_device(given, control.device);
        for warning in spec::validate_of_ranks(&config, collectives.ranks())?
            .iter()
            .filter(|_| is_first)
        {
            warn!("{warning}");
        }
        use_threads(Threads::from_config(&config))?;
        if is_first {
            config = resolve_f32_products(config)?;
        }
        // The ranks could measure that different methods are faster.
        config.f32_products = gather::from_first(collectives, Some(config.f32_products.clone()))?;
        let mut spec = RunSpec::resolve(&config)?;
        // The run directory records the devices of all ranks.
        spec.config = spec::recorded(&Config {
            device: given.device.clone(),
            num_gpus: given.num_gpus.clone(),
            num_nodes: given.num_nodes,
            ..config
        });
        if is_first {
            log_splits(&spec);
        }
        spec.resolve_names()?;
        match spec.test_only {
            true => test::run(&spec, control, collectives),
            false => {
                let data = Data::open(&spec)?;
                train(spec, data, control, collectives)
            }
        }
    })
}

/// Runs one rank of a run, as [`run_rank`] does, with the configuration that rank 0 chooses. Returns `None` if it chooses none, because it
/// was stopped.
///
/// # Errors
/// Returns the errors of `choose` and of [`run_rank`].
pub fn run_chosen(
    control: &Control,
    collectives: &dyn Collectives,
    choose: impl FnOnce() -> Result<Option<Config>>,
) -> Result<Option<Finished>> {
    let mut config = None;
    let chosen = together(collectives, || {
        if collectives.rank() == 0 {
            config = choose()?;
        }
        let text = gather::from_first(collectives, Some(config.as_ref().map(Config::to_toml)))?;
        match (&config, text) {
            (None, Some(text)) => Ok(Some(Config::from_toml(&text)?)),
            _ => Ok(config.take()),
        }
    })?;
    chosen.map(|config| run_rank(&config, control, collectives)).transpose()
}

/// Returns the configuration of a rank with this device.
fn with_device(config: &Config, device: Option<DeviceName>) -> Config {
    match device {
        Some(device) => Config {
            device: device.to_string(),
            num_gpus: NumGpus::Count(1),
            num_nodes: 1,
            ..config.clone()
        },
        None => config.clone(),
    }
}

/// Runs the work of a rank. Tells the other ranks of an error, and returns when all ranks have done their work.
fn together<T>(collectives: &dyn Collectives, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let result = work().and_then(|result| {
        collectives.barrier()?;
        Ok(result)
    });
    if let Err(error) = &result {
        collectives.fail(&error.to_string());
    }
    result
}

fn train(spec: RunSpec, data: Data, control: &Control, collectives: &dyn Collectives) -> Result<Finished> {
    shortage::explained(&spec, &data, control.stop, || {
        match training::Trainer::begin(spec.clone(), data.clone(), control, collectives)? {
            training::Begun::Training(trainer) => trainer.train(),
            training::Begun::Complete(finished) => Ok(finished),
        }
    })
}

/// Measures the seconds of a micro-batch of a run on this machine, as [`seconds_per_step`] does.
///
/// # Errors
/// Returns the errors of [`classifiers::train`], except those of weight files, which are not read.
pub fn seconds_per_micro_batch(spec: &RunSpec, stop: &AtomicBool) -> Result<Option<f64>> {
    let mut spec = spec.clone();
    // The speed does not depend on the weights.
    (spec.weights.load_path, spec.weights.pretrain_path) = (None, None);
    training::seconds_per_micro_batch(&spec, stop)
}

/// Measures the seconds of an optimiser step on this machine: with the loader, without validations. Several ranks of the configuration
/// divide the time of one, which must compute with the threads or the device of one of them. Trains a few micro-batches from random
/// weights and writes nothing. Returns `None` if `stop` is set before the end.
///
/// # Errors
/// Returns the errors of [`run`], except those of weight files, which are not read.
pub fn seconds_per_step(config: &Config, stop: &AtomicBool) -> Result<Option<f64>> {
    spec::validate(config)?;
    use_threads(Threads::from_config(config))?;
    let mut spec = RunSpec::resolve(&resolve_f32_products(config.clone())?)?;
    spec.resolve_names()?;
    let ranks = spec::ranks_of(config)?;
    // Those of one rank.
    let micro_batches = grad_steps(config.batch_size, config.per_gpu_batchsize, ranks as u64, 1)?;
    let seconds = seconds_per_micro_batch(&spec, stop)?;
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
/// Replaces `f32_products='bf16x3'` by FMA if the device has no AMX.
fn resolve_f32_products(mut config: Config) -> Result<Config> {
    let compute = spec::compute(&config)?;
    if compute.precision != Precision::F32 {
        return Ok(config);
    }
    let device = compute.device;
    let has_bf16x3 = device.supports_f32_products(F32Products::Bf16x3);
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
            None => device.fastest_f32_products().name().into(),
        };
    }
    if config.f32_products == F32Products::Bf16x3.name() && !has_bf16x3 {
        warn!("f32_products='bf16x3' is computed by FMA: the device has no AMX");
        config.f32_products = F32Products::Fma.name().into();
    }
    Ok(config)
}
