//! Finds checkpoints, and the run directories to which they belong.

use std::path::{Path, PathBuf};

use vlct_checkpoint as checkpoint;
use vlct_model::files;
use vlct_util::at;

use crate::error::{Result, TrainError};
use vlct_config::Config;

/// Name of the file with the configuration in a run directory.
pub const CONFIG_FILE: &str = "config.toml";

/// Finds the checkpoint file of `resume_from`, which is a file, a directory with a checkpoint, or a run directory.
pub fn find_checkpoint(resume_from: &str) -> Result<PathBuf> {
    // The path must be absolute, so that `directory_of` finds the parent directories.
    let path = &std::path::absolute(resume_from).map_err(at::<TrainError>(resume_from))?;
    let candidates = [
        path.to_path_buf(),
        path.join(checkpoint::FILE_NAME),
        checkpoint::last_path(path),
    ];
    candidates
        .into_iter()
        .find(|p| p.is_file())
        .ok_or_else(|| TrainError::NoCheckpoint {
            resume_from: resume_from.into(),
        })
}

/// Returns the weight file of `load_path` (see [`files::find`]).
pub fn find_weights(load_path: &Path) -> Result<PathBuf> {
    Ok(files::find(load_path)?)
}

/// Returns the name of the experiment to whose run a checkpoint or run directory belongs; `None` for other paths.
pub(crate) fn experiment_of(load_path: &Path) -> Option<String> {
    let path = std::path::absolute(find_weights(load_path).ok()?).ok()?;
    Some(config_of(&path)?.exp_name)
}

/// Returns the run directory of a checkpoint, `<run>` of `<run>/last/checkpoint.safetensors`; `None` if `<run>` has no
/// `config.toml`.
pub(crate) fn directory_of(checkpoint: &Path) -> Option<PathBuf> {
    let run = checkpoint.parent()?.parent()?;
    run.join(CONFIG_FILE).is_file().then(|| run.to_path_buf())
}

/// Returns the run directory to which a path belongs: the directory itself, a file `checkpoint-{epoch}.pth` in it, or a checkpoint or its
/// directory; `None` if there is no run.
pub fn run_of(path: &Path) -> Option<PathBuf> {
    let absolute = std::path::absolute(path).ok()?;
    let levels = absolute
        .ancestors()
        .zip(path.ancestors().map(Some).chain(std::iter::repeat(None)));
    // The run is named as the path names it, if the path has its name.
    let (run, shown) = levels.take(3).find(|(run, _)| run.join(CONFIG_FILE).is_file())?;
    Some(match shown.filter(|shown| !shown.as_os_str().is_empty()) {
        Some(shown) => shown.to_path_buf(),
        None => run.to_path_buf(),
    })
}

/// Returns the configuration of a checkpoint's run directory; `None` if the directory has no readable configuration.
pub fn config_of(checkpoint: &Path) -> Option<Config> {
    read_config(&directory_of(checkpoint)?).ok()
}

/// Reads the configuration that a run of `vlct run` wrote to its directory.
///
/// # Errors
/// Returns an error if `config.toml` cannot be read or is not a configuration.
pub fn read_config(run: &Path) -> Result<Config> {
    Ok(Config::from_toml(&read_text(run)?)?)
}

/// Reads the text of `config.toml` in a run directory.
pub(crate) fn read_text(run: &Path) -> Result<String> {
    let path = run.join(CONFIG_FILE);
    if !path.exists() {
        return Err(TrainError::NotARun {
            path: run.to_path_buf(),
        });
    }
    std::fs::read_to_string(&path).map_err(at::<TrainError>(&path))
}
