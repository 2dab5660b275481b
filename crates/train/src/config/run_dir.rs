//! Where a run keeps its files: `{log_dir}/{exp_name}_seed{seed}_from_{tag}/version_{k}`.

use std::io;
use std::path::{Path, PathBuf};

use super::table::Config;

/// Endings of weight files. Only these are cut off: a dot may as well be part of a directory's name.
const WEIGHT_ENDINGS: [&str; 5] = [".ckpt", ".pth", ".pt", ".bin", ".safetensors"];

/// The short name of the weights in `load_path`: the last part of the path without the ending of a weight file; empty
/// for an empty path. Part of the run directory's name and of the name of a VQA submission.
pub fn tag(load_path: &str) -> &str {
    let name = Path::new(load_path)
        .file_name()
        .and_then(|n| n.to_str())
        .unwrap_or_default();
    WEIGHT_ENDINGS
        .iter()
        .find_map(|ending| name.strip_suffix(ending))
        .unwrap_or(name)
}

impl Config {
    /// The folder of all versions of this experiment: `{log_dir}/{exp_name}_seed{seed}_from_{tag}`.
    pub fn experiment_dir(&self) -> PathBuf {
        Path::new(&self.log_dir).join(format!(
            "{}_seed{}_from_{}",
            self.exp_name,
            self.seed,
            tag(&self.load_path)
        ))
    }

    /// Creates the next run directory (see [`Config::next_run_dir`]); of several runs that begin at once each gets its own.
    ///
    /// # Errors
    /// If a folder cannot be created or read.
    pub fn claim_run_dir(&self) -> io::Result<PathBuf> {
        std::fs::create_dir_all(self.experiment_dir())?;
        loop {
            let run = self.next_run_dir()?;
            match std::fs::create_dir(&run) {
                Ok(()) => return Ok(run),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// The directory that the next run of this experiment would take: `version_{k}`, where k is one more than the highest
    /// that exists, and 0 if there is none. Creates nothing.
    ///
    /// # Errors
    /// If the experiment's folder exists but cannot be read.
    pub fn next_run_dir(&self) -> io::Result<PathBuf> {
        let folder = self.experiment_dir();
        let mut next = 0u64;
        match std::fs::read_dir(&folder) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
            Ok(entries) => {
                for entry in entries {
                    let name = entry?.file_name();
                    let version = name
                        .to_str()
                        .and_then(|n| n.strip_prefix("version_"))
                        .and_then(|k| k.parse::<u64>().ok());
                    next = next.max(version.map_or(0, |k| k.saturating_add(1)));
                }
            }
        }
        Ok(folder.join(format!("version_{next}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_that_begin_at_once_get_directories_of_their_own() {
        let folder = tempfile::tempdir().unwrap();
        let config = Config {
            log_dir: folder.path().display().to_string(),
            ..Config::default()
        };
        let claimed: std::collections::HashSet<PathBuf> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| config.claim_run_dir().unwrap()))
                .collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        assert_eq!(claimed.len(), 8);
        assert!(claimed.iter().all(|run| run.is_dir()));
    }

    #[test]
    fn tags() {
        for (path, expected) in [
            ("", ""),
            ("/w/vlc_baseset.ckpt", "vlc_baseset"),
            ("epoch=3-step=99.ckpt", "epoch=3-step=99"),
            ("/w/checkpoint-200.pth", "checkpoint-200"),
            ("model.safetensors", "model"),
            ("result/run/version_0/best/", "best"),
            ("weights.v2", "weights.v2"),
            ("/", ""),
        ] {
            assert_eq!(tag(path), expected, "{path}");
        }
    }

    #[test]
    fn versions_count_up() {
        let folder = tempfile::tempdir().unwrap();
        let config = Config {
            log_dir: folder.path().to_str().unwrap().into(),
            load_path: "a/b.ckpt".into(),
            seed: 3,
            ..Config::default()
        };
        let experiment = folder.path().join("vlc_seed3_from_b");
        assert_eq!(config.next_run_dir().unwrap(), experiment.join("version_0"));
        for name in ["version_0", "version_7", "version_x", "other"] {
            std::fs::create_dir_all(experiment.join(name)).unwrap();
        }
        assert_eq!(config.next_run_dir().unwrap(), experiment.join("version_8"));
    }
}
