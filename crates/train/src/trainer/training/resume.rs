//! Resuming of a run from a checkpoint.

use std::fs::File;
use std::path::{Path, PathBuf};

use log::{info, warn};
use vlct_checkpoint as checkpoint;
use vlct_model::{ModelConfig, files};
use vlct_tasks::{Description, TaskSpec};

use super::{Control, Finished, is_out_of_patience};
use crate::data::Data;
use crate::error::{Result, TrainError};
use crate::imagenet;
use crate::paths;
use crate::plan::Plan;
use crate::run::{self, RunDirectory};
use crate::spec::{self, RunSpec};
use crate::state::{Computed, DataIdentity, RunState};
use crate::weights::{Weights, names_of_classes};
use vlct_config::{AUTO, Config, KEYS};
use vlct_logs::progress::Progress;
use vlct_util::text::counted;

/// The state and run directory of the checkpoint from which a run continues.
pub(super) struct Resumed {
    /// The checkpoint.
    pub path: PathBuf,
    pub state: RunState,
    /// The run directory of the checkpoint; `None` if the checkpoint is elsewhere.
    pub directory: Option<PathBuf>,
    /// The lock of `directory`.
    lock: Option<File>,
}

impl Resumed {
    /// Returns the result of a run that has nothing left to do.
    pub fn finished(&self) -> Finished {
        let state = &self.state;
        Finished {
            run: self.directory.clone(),
            steps: state.global_step,
            interrupted: false,
            seconds: state.seconds,
            metrics: Vec::new(),
            best: state.best_metric.zip(state.best_step),
            best_metrics: Vec::new(),
        }
    }
}

/// Returns the reason why a resumed run has nothing left to do; `None` if it has steps or a validation left.
pub(super) fn nothing_left(state: &RunState, spec: &RunSpec, plan: &Plan, data: &Data) -> Option<String> {
    if state.validation_due && !data.val.is_empty() {
        return None;
    }
    let steps = state.global_step;
    if is_out_of_patience(spec, state) {
        let validations = state.validations_since_best;
        return Some(format!(
            "nothing left to do: the run ended at step {steps}, after {} without improvement; a larger patience continues it",
            counted(validations, "validation")
        ));
    }
    if plan.window_at(state.position(), steps).is_some() {
        return None;
    }
    let total = plan.total_steps;
    let key = match (spec.length.max_steps, &spec.model) {
        (Some(_), _) => "max_steps",
        (None, ModelConfig::Vlc(_)) => "max_epoch",
        (None, ModelConfig::Vit(_)) => "epochs",
    };
    Some(match steps > total {
        true => format!(
            "nothing left to do: the run has taken {}, more than the {total} of {key}; a larger {key} continues it",
            counted(steps, "step")
        ),
        false if steps == 1 => format!("nothing left to do: the run has taken its 1 step; a larger {key} continues it"),
        false => format!("nothing left to do: the run has taken all {steps} steps; a larger {key} continues it"),
    })
}

/// Restores the weights from the checkpoint that `from` names. Returns the checkpoint's state and its run directory, which rank 0 locks
/// unless the run is a trial.
pub(super) fn resume(
    from: &str,
    spec: &RunSpec,
    plan: &Plan,
    control: &Control,
    is_first: bool,
    weights: &mut Weights,
) -> Result<Resumed> {
    let path = paths::find_checkpoint(from)?;
    if spec.published.is_some() && checkpoint::read_description(&path)?.is_none() {
        return resume_published(path, spec, plan, control, is_first, weights);
    }
    let directory = paths::directory_of(&path);
    let lock = match directory.as_ref().filter(|_| spec.trial.is_none() && is_first) {
        Some(directory) => run::lock(directory)?,
        None => None,
    };
    let file = checkpoint::load(&path).map_err(|error| {
        // A weight file of another kind is not damaged.
        let is_weight_file = files::map(&path).is_ok_and(|file| files::index(&file).is_ok());
        match is_weight_file {
            true => TrainError::NotResumable { path: path.clone() },
            false => error.into(),
        }
    })?;
    check_kind(&path, spec)?;
    let state = RunState::read(&file, &path)?;
    weights.restore(&file, &path, &state.parameter_steps)?;
    if let Some(change) = change_of_device(state.computed.as_ref(), &Computed::new(&spec.compute)) {
        warn!("{change}");
    }
    match spec.data.classes {
        None => warn_of_changes(&state, &spec.config, file.description().is_some())?,
        Some(_) => {
            imagenet::warn_of_changes(&state.config, &spec.config, true)?;
            check_classes(&path, spec)?;
        }
    }
    Ok(Resumed {
        path,
        state,
        directory,
        lock,
    })
}

/// Checks that the images of a run have the classes of its checkpoint, in the same order.
///
/// # Errors
/// Returns [`TrainError::OtherClasses`] if they differ.
fn check_classes(path: &Path, spec: &RunSpec) -> Result<()> {
    let TaskSpec::Images(images) = &spec.task else {
        return Ok(());
    };
    match names_of_classes(path)? {
        Some(names) if names != images.names => Err(TrainError::OtherClasses {
            path: path.to_path_buf(),
            difference: imagenet::classes::difference(&names, &images.names),
        }),
        _ => Ok(()),
    }
}

/// Restores the weights, and the optimiser if there is one, from the PyTorch checkpoint `path` of an epoch. The run continues in its output
/// directory if that has a run, and begins one there otherwise.
fn resume_published(
    path: PathBuf,
    spec: &RunSpec,
    plan: &Plan,
    control: &Control,
    is_first: bool,
    weights: &mut Weights,
) -> Result<Resumed> {
    if let Some(before) = path.parent().and_then(|run| paths::read_text(run).ok()) {
        imagenet::warn_of_changes(&before, &spec.config, false)?;
    }
    let epoch = match weights.restore_published(&path)? {
        Some(epoch) => epoch.saturating_add(1),
        None => {
            warn!(
                "{} has no state of an optimiser: the run begins with its weights at epoch {}",
                path.display(),
                spec.start_epoch
            );
            spec.start_epoch
        }
    };
    let directory = control.run_directory.clone();
    let directory = directory.filter(|run| run.join(paths::CONFIG_FILE).is_file());
    let lock = match directory.as_ref().filter(|_| is_first) {
        Some(directory) => run::lock(directory)?,
        None => None,
    };
    Ok(Resumed {
        path,
        state: RunState::at_epoch(epoch, plan, weights.optimizer.steps()),
        directory,
        lock,
    })
}

/// Checks that a checkpoint is of the run's kind of model.
fn check_kind(path: &Path, spec: &RunSpec) -> Result<()> {
    let Some(description) = Description::of_file(path)? else {
        return Ok(());
    };
    let is_classifier = |model: &ModelConfig| matches!(model, ModelConfig::Vit(_));
    match is_classifier(&description.model) == is_classifier(&spec.model) {
        true => Ok(()),
        false => Err(TrainError::OtherModelKind {
            path: path.to_path_buf(),
            is_classifier: is_classifier(&description.model),
        }),
    }
}

/// Returns the state at the beginning of a run on `data`, and on rank 0 the run directory unless the run is a trial.
#[allow(clippy::too_many_arguments)]
pub(super) fn initial_state(
    spec: &RunSpec,
    plan: &Plan,
    weights: &Weights,
    description: &Description,
    data: DataIdentity,
    resumed: Option<Resumed>,
    control: &Control,
    is_first: bool,
) -> Result<(RunState, Option<RunDirectory>)> {
    let (state, directory, lock) = match resumed {
        Some(Resumed {
            path,
            state,
            directory,
            lock,
        }) => {
            if is_first {
                info!("resuming {} at step {}", path.display(), state.global_step);
            }
            (state, directory, lock)
        }
        None => {
            let steps = vec![0; weights.optimizer.steps().len()];
            (RunState::at_epoch(spec.start_epoch, plan, &steps), None, None)
        }
    };
    let state = RunState {
        config: spec.config.clone(),
        computed: Some(Computed::new(&spec.compute)),
        data,
        ..state
    };
    if spec.trial.is_some() || !is_first {
        return Ok((state, None));
    }
    let progress = if control.progress {
        Progress::new("step", plan.total_steps, state.global_step)
    } else {
        Progress::quiet()
    };
    let run = match directory {
        Some(directory) => RunDirectory::resume(directory, lock, &state, description, spec.keep_checkpoints, progress)?,
        None => RunDirectory::create(spec, control.run_directory.clone(), description, progress)?,
    };
    Ok((state, Some(run)))
}

/// Returns a warning if a run was computed on another device, or in another number format.
fn change_of_device(before: Option<&Computed>, now: &Computed) -> Option<String> {
    let before = before.filter(|before| *before != now)?;
    Some(format!(
        "the checkpoint was computed on {before}, and the run continues on {now}: results differ by rounding errors"
    ))
}

/// Warns of settings that have changed since the run began and affect its result. `state` is that of the checkpoint, and `has_vocabulary`
/// says whether the checkpoint contains its vocabulary.
///
/// # Errors
/// Returns [`TrainError::OtherMicroBatchSize`] if the size of micro-batches differs.
fn warn_of_changes(state: &RunState, now: &str, has_vocabulary: bool) -> Result<()> {
    let (before, now) = (Config::from_toml(&state.config)?, Config::from_toml(now)?);
    // The position in an epoch is counted in micro-batches, so their size must not change.
    if before.per_gpu_batchsize != now.per_gpu_batchsize {
        return Err(TrainError::OtherMicroBatchSize {
            before: before.per_gpu_batchsize,
            now: now.per_gpu_batchsize,
        });
    }
    // The device itself is compared (`change_of_device`).
    const WITHOUT_EFFECT_ON_RESULT: [&str; 16] = [
        "resume_from",
        "device",
        "num_gpus",
        "num_nodes",
        "threads",
        "pin_threads",
        "activation_recompute",
        "num_workers",
        "log_dir",
        "log_every",
        "checkpoint_every",
        "load_path",
        "load_ema",
        "load_partial",
        "keep_checkpoints",
        "pretrain_path",
    ];
    // If the checkpoint does not say how it was computed, a precision of `None` is compared as the format that it selects on this machine.
    let is_same_format = match &state.computed {
        Some(_) => true,
        None => spec::compute(&before)?.precision == spec::compute(&now)?.precision,
    };
    let keeps_result = |name: &str| match name {
        "precision" => is_same_format,
        // A configuration from before this key was added has the base value, which does not say which method was used.
        "f32_products" => before.f32_products == AUTO,
        // The tokens themselves are compared.
        "tokenizer" => has_vocabulary,
        // The files themselves are compared.
        "data_root" => state.data != DataIdentity::default(),
        name => WITHOUT_EFFECT_ON_RESULT.contains(&name),
    };
    for key in KEYS.iter().filter(|k| !keeps_result(k.name)) {
        let (old, new) = ((key.get)(&before), (key.get)(&now));
        if old != new {
            warn!("{} was {old} when the run began and is {new} now", key.name);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use vlct_tensor::Precision;

    #[test]
    fn a_change_of_the_device_or_the_format_is_named() {
        let computed = |device: &str, precision| Computed {
            device: device.into(),
            precision,
        };
        let (cpu, gpu) = (
            computed("CPU", Precision::F32),
            computed("NVIDIA H200", Precision::Bf16),
        );
        assert_eq!(change_of_device(None, &gpu), None);
        assert_eq!(change_of_device(Some(&cpu), &cpu), None);
        let change = change_of_device(Some(&cpu), &gpu).unwrap();
        assert!(
            change.contains("computed on CPU in float32") && change.contains("continues on NVIDIA H200 in bfloat16"),
            "{change}"
        );
        assert!(change_of_device(Some(&cpu), &computed("CPU", Precision::Bf16)).is_some());
    }
}
