//! The directory of a run: lock, `config.toml`, logs and checkpoints.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use log::info;
use serde_json::Value;
use vlct_util::lock::{Lock, try_lock};
use vlct_util::{at, atomic};

use crate::error::{Result, TrainError};
use crate::paths::CONFIG_FILE;
use crate::spec::RunSpec;
use crate::state::RunState;
use crate::weights::Weights;
use vlct_checkpoint as checkpoint;
use vlct_logs::{Progress, RunLog};
use vlct_tasks::Description;
use vlct_tasks::description::WeightsKind;

/// The directory of a run, locked by this process.
pub(crate) struct RunDirectory {
    path: PathBuf,
    log: RunLog,
    /// The description of the model for the checkpoints.
    description: Description,
    /// Number of checkpoints of the latest validations that are kept.
    kept_checkpoints: u64,
    /// The state in the last checkpoint that this process has written.
    saved: Option<RunState>,
    /// The open directory, which holds the lock.
    _lock: Option<File>,
}

impl RunDirectory {
    /// Begins a run in `directory`; `None` means a new directory `version_{k}` of the experiment.
    pub fn create(
        spec: &RunSpec,
        directory: Option<PathBuf>,
        description: &Description,
        progress: Progress,
    ) -> Result<Self> {
        let path = match directory {
            Some(path) => path,
            None => create_version(&spec.experiment).map_err(at::<TrainError>(&spec.experiment))?,
        };
        // A directory that does not exist cannot be locked.
        std::fs::create_dir_all(&path).map_err(at::<TrainError>(&path))?;
        let lock = lock(&path)?;
        let log = RunLog::create(&path, progress)?;
        Self::begin(path, lock, log, &spec.config, description, spec.keep_checkpoints)
    }

    /// Continues the run in `path` from the state of a checkpoint. Removes records and kept checkpoints of later steps.
    pub fn resume(
        path: PathBuf,
        lock: Option<File>,
        state: &RunState,
        description: &Description,
        kept_checkpoints: u64,
        progress: Progress,
    ) -> Result<Self> {
        let log = RunLog::resume(&path, state.global_step, state.seconds, progress)?;
        let run = Self::begin(path, lock, log, &state.config, description, kept_checkpoints)?;
        remove_checkpoints(&run.path, state.global_step, kept_checkpoints)?;
        Ok(run)
    }

    fn begin(
        path: PathBuf,
        lock: Option<File>,
        log: RunLog,
        config: &str,
        description: &Description,
        kept_checkpoints: u64,
    ) -> Result<Self> {
        let file = path.join(CONFIG_FILE);
        std::fs::write(&file, config).map_err(at::<TrainError>(&file))?;
        info!("run directory: {}", path.display());
        Ok(Self {
            path,
            log,
            description: description.clone(),
            kept_checkpoints,
            saved: None,
            _lock: lock,
        })
    }

    /// Returns the path of the directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the seconds of training, including those before interruptions.
    pub fn seconds(&self) -> f64 {
        self.log.seconds()
    }

    /// Returns the progress display.
    pub fn progress(&mut self) -> &mut Progress {
        self.log.progress()
    }

    /// Writes the values of an optimiser step to the logs.
    pub fn log<N: AsRef<str>>(&mut self, step: u64, epoch: u64, values: &[(N, f64)]) -> Result<()> {
        let values: Vec<(&str, f64)> = values.iter().map(|(name, value)| (name.as_ref(), *value)).collect();
        Ok(self.log.log(step, epoch, &values)?)
    }

    /// Writes the last checkpoint, unless this process has already written the same state.
    pub fn save_last(&mut self, weights: &Weights, state: &RunState) -> Result<()> {
        let state = self.state_to_save(weights, state);
        // States that differ only in `seconds` are the same.
        let is_same = |saved: &RunState| {
            RunState {
                seconds: saved.seconds,
                ..state.clone()
            } == *saved
        };
        if !self.saved.as_ref().is_some_and(is_same) {
            self.check_weights(weights, state.global_step)?;
            let description = self.description(WeightsKind::Raw)?;
            weights.save(&checkpoint::last_path(&self.path), &state.to_json()?, &description)?;
            self.saved = Some(state);
        }
        Ok(())
    }

    /// Writes the last checkpoint after a validation, and keeps it if `keep_checkpoints` is set. Then removes the oldest kept checkpoints.
    pub fn save_validated(&mut self, weights: &Weights, state: &RunState) -> Result<()> {
        if self.kept_checkpoints == 0 {
            return self.save_last(weights, state);
        }
        let state = self.state_to_save(weights, state);
        self.check_weights(weights, state.global_step)?;
        let (kept, last) = (
            checkpoint::step_path(&self.path, state.global_step),
            checkpoint::last_path(&self.path),
        );
        // The last checkpoint comes second: if the process is killed in between, the resumed run removes and writes the first again.
        weights.save(&kept, &state.to_json()?, &self.description(WeightsKind::Raw)?)?;
        atomic::link(&kept, &last).map_err(at::<TrainError>(&last))?;
        remove_checkpoints(&self.path, state.global_step, self.kept_checkpoints)?;
        self.saved = Some(state);
        Ok(())
    }

    /// Writes the best checkpoint. If validations use averages, it has only these, as the weights of the model.
    pub fn save_best(&self, weights: &mut Weights, state: &RunState) -> Result<()> {
        let path = checkpoint::best_path(&self.path);
        let state = self.state_to_save(weights, state);
        weights.with_evaluated(|weights, kind| {
            self.check_weights(weights, state.global_step)?;
            match kind {
                WeightsKind::Raw => weights.save(&path, &state.to_json()?, &self.description(kind)?),
                WeightsKind::Ema => weights.save_model(&path, &state.to_json()?, &self.description(kind)?),
            }
        })
    }

    /// Returns the description of a checkpoint with weights of this kind, as JSON.
    fn description(&self, weights: WeightsKind) -> Result<Value> {
        let description = Description {
            weights,
            ..self.description.clone()
        };
        serde_json::to_value(description).map_err(TrainError::StateNotWritten)
    }

    /// Returns the state to save: `state` with the number of updates of each parameter and the seconds of training.
    fn state_to_save(&self, weights: &Weights, state: &RunState) -> RunState {
        RunState {
            parameter_steps: weights.optimizer.steps().to_vec(),
            seconds: self.seconds(),
            ..state.clone()
        }
    }

    /// Returns an error if weights are not finite, so that a checkpoint with finite weights is not overwritten.
    fn check_weights(&self, weights: &Weights, step: u64) -> Result<()> {
        match weights.model.parameters().first_non_finite() {
            None => Ok(()),
            Some(parameter) => Err(TrainError::NonFiniteWeights {
                name: parameter.name.clone(),
                step,
                checkpoint: describe_last_checkpoint(Some(self)),
            }),
        }
    }

    /// Ends the progress display and logs the path of the last checkpoint.
    pub fn finish(&mut self) {
        self.progress().finish();
        if let Some(saved) = &self.saved {
            let path = checkpoint::last_path(&self.path);
            info!("saved step {}: {}", saved.global_step, path.display());
        }
    }
}

/// Removes kept checkpoints of a run directory: those of steps after `step`, incomplete ones, and all but the latest `kept` of the others,
/// if `kept` is not 0.
pub(crate) fn remove_checkpoints(run: &Path, step: u64, kept: u64) -> Result<()> {
    let steps = checkpoint::steps(run).map_err(at::<TrainError>(run))?;
    let is_valid = |s: &u64| *s <= step && checkpoint::step_path(run, *s).is_file();
    let (valid, mut removed): (Vec<u64>, Vec<u64>) = steps.into_iter().partition(is_valid);
    if kept > 0 {
        let surplus = valid.len().saturating_sub(kept as usize);
        removed.extend(&valid[..surplus]);
    }
    for step in removed {
        let path = checkpoint::step_path(run, step);
        remove_checkpoint(&path).map_err(at::<TrainError>(&path))?;
    }
    Ok(())
}

/// Removes a kept checkpoint, its temporary files and its directory. A directory with other files remains.
fn remove_checkpoint(path: &Path) -> io::Result<()> {
    atomic::remove_leftovers(path)?;
    if path.is_file() {
        std::fs::remove_file(path)?;
    }
    match path.parent().map(std::fs::remove_dir) {
        Some(Err(e)) if e.kind() != io::ErrorKind::DirectoryNotEmpty => Err(e),
        _ => Ok(()),
    }
}

/// Returns a clause with the path of the last checkpoint, for error messages.
pub(crate) fn describe_last_checkpoint(run: Option<&RunDirectory>) -> String {
    let path = run.map(|run| checkpoint::last_path(&run.path));
    match path.filter(|path| path.is_file()) {
        Some(path) => format!("the last good checkpoint is {}", path.display()),
        None => "there is no checkpoint yet".to_string(),
    }
}

/// Locks a run directory until the returned file is closed. The lock is on the directory, so no lock file remains. Returns `None` if
/// the directory cannot be opened as a file.
pub(crate) fn lock(run: &Path) -> Result<Option<File>> {
    let Ok(directory) = File::open(run) else {
        return Ok(None);
    };
    match try_lock(&directory) {
        Lock::Acquired => Ok(Some(directory)),
        Lock::HeldElsewhere => Err(TrainError::RunInUse {
            path: run.to_path_buf(),
        }),
    }
}

/// Creates a new directory `version_{k}` of an experiment. Concurrent runs get different directories.
fn create_version(experiment: &Path) -> io::Result<PathBuf> {
    std::fs::create_dir_all(experiment)?;
    loop {
        let run = next_version(experiment)?;
        match std::fs::create_dir(&run) {
            Ok(()) => return Ok(run),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e),
        }
    }
}

/// Returns the path `version_{k}` in `experiment`. `k` is one more than the largest existing number, or 0.
fn next_version(experiment: &Path) -> io::Result<PathBuf> {
    let mut next = 0u64;
    for entry in std::fs::read_dir(experiment)? {
        let name = entry?.file_name();
        let version = name
            .to_str()
            .and_then(|n| n.strip_prefix("version_"))
            .and_then(|k| k.parse::<u64>().ok());
        next = next.max(version.map_or(0, |k| k.saturating_add(1)));
    }
    Ok(experiment.join(format!("version_{next}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn rejects_a_locked_run_directory() {
        let run = tempfile::tempdir().expect("a directory");
        let held = lock(run.path()).expect("not locked");
        let error = lock(run.path()).expect_err("locked").to_string();
        assert!(
            error.contains("another process trains in this run directory"),
            "{error}"
        );
        drop(held);
        assert!(lock(run.path()).is_ok());
    }

    #[test]
    fn concurrent_runs_get_different_directories() {
        let directory = tempfile::tempdir().unwrap();
        let experiment = directory.path().join("experiment");
        let created: HashSet<PathBuf> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| create_version(&experiment).unwrap()))
                .collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        assert_eq!(created.len(), 8);
        assert!(created.iter().all(|run| run.is_dir()));
    }

    #[test]
    fn next_version_is_one_more_than_the_largest() {
        let experiment = tempfile::tempdir().unwrap();
        let experiment = experiment.path();
        assert_eq!(next_version(experiment).unwrap(), experiment.join("version_0"));
        for name in ["version_0", "version_7", "version_x", "other"] {
            std::fs::create_dir_all(experiment.join(name)).unwrap();
        }
        assert_eq!(next_version(experiment).unwrap(), experiment.join("version_8"));
    }
}
