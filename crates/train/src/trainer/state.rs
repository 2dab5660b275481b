//! Everything a run needs to continue bit for bit, to and from a checkpoint.

use super::setup;
use crate::checkpoint::{self, Checkpoint, TensorRef};
use crate::config::{Config, KEYS};
use crate::error::{Result, TrainError};
use crate::metrics::PretrainMetrics;
use crate::plan::Window;
use log::warn;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use vlct_data::loader::Position;
use vlct_model::Vlc;
use vlct_tensor::optimizer::Optimizer;

/// The state of a run besides weights and running averages.
///
/// It changes only when an accumulation window ends. The micro-batches of an incomplete window are gone through again after a
/// resumption, with the same result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct RunState {
    /// Epoch of the next micro-batch, from 0.
    pub epoch: u64,
    /// Next micro-batch within the epoch.
    pub batch: u64,
    /// Optimiser steps completed.
    pub global_step: u64,
    /// How often each parameter was updated.
    pub parameter_steps: Vec<u64>,
    /// Metrics of the epoch so far.
    pub metrics: PretrainMetrics,
    /// Best value of the monitored metric.
    pub best_metric: Option<f64>,
    /// Optimiser steps completed when it was reached.
    pub best_step: Option<u64>,
    /// Whether these weights are still to be validated. A run that is stopped before or in a validation makes up for it when it
    /// is resumed.
    #[serde(default)]
    pub validation_due: bool,
    /// Pictures that could not be read and were replaced.
    pub replaced: u64,
    /// Seconds of training so far.
    pub seconds: f64,
    /// The configuration, as TOML.
    pub config: String,
}

impl RunState {
    /// Moves behind a window after its optimiser step.
    pub fn advance(&mut self, window: &Window, epoch_sums: PretrainMetrics, replaced: u64, validation_due: bool) {
        let next = window.next_position();
        (self.epoch, self.batch) = (next.epoch, next.batch);
        self.global_step = window.step + 1;
        self.metrics = epoch_sums;
        self.replaced = replaced;
        self.validation_due = validation_due;
    }

    /// Epoch of the last micro-batch, from 0.
    pub fn last_epoch(&self) -> u64 {
        if self.batch == 0 {
            self.epoch.saturating_sub(1)
        } else {
            self.epoch
        }
    }

    pub fn position(&self) -> Position {
        Position {
            epoch: self.epoch,
            batch: self.batch,
        }
    }
}

/// Writes weights, running averages and state to `path`.
pub(super) fn save(path: &Path, model: &Vlc, optimizer: &Optimizer, state: &RunState) -> Result<u64> {
    let parameters = model.parameters();
    let mut owned = Vec::new();
    for (id, parameter) in parameters.iter() {
        owned.push((parameter.name.clone(), &parameter.shape, parameters.tensor(id)));
    }
    let weights: Vec<_> = owned
        .iter()
        .map(|(name, shape, t)| (name.as_str(), *shape, t.to_host()))
        .collect();
    let averages: Vec<(String, &Vec<usize>, &[f32])> = optimizer
        .moment_names()
        .iter()
        .enumerate()
        .flat_map(|(m, average)| {
            let trainable = parameters.iter().filter(|(_, p)| p.trainable);
            trainable.map(move |(id, p)| {
                (
                    format!("optimizer.{average}.{}", p.name),
                    &p.shape,
                    optimizer.moment(parameters, m, id),
                )
            })
        })
        .collect();
    let tensors: Vec<TensorRef> = weights
        .iter()
        .map(|(name, shape, data)| TensorRef { name, shape, data })
        .chain(
            averages
                .iter()
                .map(|(name, shape, data)| TensorRef { name, shape, data }),
        )
        .collect();
    let state = serde_json::to_value(state).map_err(|e| TrainError::Invalid(format!("state of the run: {e}")))?;
    Ok(checkpoint::save(path, &tensors, &state)?)
}

/// The checkpoint file that `resume_from` means: the file itself, or the last one of a run directory.
pub(super) fn find(resume_from: &str) -> Result<PathBuf> {
    // Absolute, so that the run directory above it can be found.
    let path = &std::path::absolute(resume_from).map_err(|source| TrainError::Io {
        path: PathBuf::from(resume_from),
        source,
    })?;
    let candidates = [
        path.to_path_buf(),
        path.join(checkpoint::FILE_NAME),
        checkpoint::last_path(path),
    ];
    candidates.into_iter().find(|p| p.is_file()).ok_or_else(|| {
        TrainError::Invalid(format!(
            "resume_from={resume_from}: no checkpoint there; name a run directory (…/version_0) or its last/{}",
            checkpoint::FILE_NAME
        ))
    })
}

/// The run directory that a checkpoint `<run>/last/checkpoint.safetensors` lies in.
pub(super) fn run_directory(checkpoint: &Path) -> Option<PathBuf> {
    let run = checkpoint.parent()?.parent()?;
    run.join("config.toml").is_file().then(|| run.to_path_buf())
}

/// Takes over weights and running averages, strictly by name and shape, and gives the state.
pub(super) fn restore(file: &Checkpoint, path: &Path, model: &mut Vlc, optimizer: &mut Optimizer) -> Result<RunState> {
    let state: RunState = serde_json::from_value(file.state().clone())
        .map_err(|e| TrainError::Invalid(format!("{}: not the state of a training run: {e}", path.display())))?;
    let list: Vec<_> = model.parameters().iter().map(|(id, p)| (id, p.clone())).collect();
    if state.parameter_steps.len() != list.len() {
        return Err(TrainError::Invalid(format!(
            "{}: a model of {} parameters, this configuration has {}",
            path.display(),
            state.parameter_steps.len(),
            list.len()
        )));
    }
    let mut values = Vec::new();
    for (id, parameter) in list {
        values.resize(parameter.len(), 0.0);
        file.copy_to(&parameter.name, &parameter.shape, &mut values)?;
        model.parameters_mut().set(id, &values);
        if parameter.trainable {
            for (m, average) in optimizer.moment_names().iter().enumerate() {
                file.copy_to(
                    &format!("optimizer.{average}.{}", parameter.name),
                    &parameter.shape,
                    &mut values,
                )?;
                optimizer.set_moment(model.parameters(), m, id, &values);
            }
        }
    }
    optimizer.set_steps(&state.parameter_steps);
    Ok(state)
}

/// Warns of settings that differ from those of the run that is continued: its result will not be the same.
pub(super) fn warn_of_changes(before: &str, config: &Config) -> Result<()> {
    let before = Config::from_toml(before)?;
    // The position in an epoch is counted in micro-batches.
    if before.per_gpu_batchsize != config.per_gpu_batchsize {
        return Err(TrainError::Invalid(format!(
            "per_gpu_batchsize was {} when the run began and is {} now: resume with the same, or start a new run from its \
             weights with load_path",
            before.per_gpu_batchsize, config.per_gpu_batchsize
        )));
    }
    const HARMLESS: [&str; 10] = [
        "resume_from",
        "threads",
        "pin_threads",
        "activation_recompute",
        "num_workers",
        "log_dir",
        "log_every",
        "checkpoint_every",
        "load_path",
        "pretrain_path",
    ];
    // None and the format that it stands for here are the same.
    let same_format = setup::compute(&before).precision == setup::compute(config).precision;
    let harmless = |name: &str| HARMLESS.contains(&name) || (name == "precision" && same_format);
    for key in KEYS.iter().filter(|k| !harmless(k.name)) {
        let (old, new) = ((key.get)(&before), (key.get)(config));
        if old != new {
            warn!("{} was {old} when the run began and is {new} now", key.name);
        }
    }
    Ok(())
}
