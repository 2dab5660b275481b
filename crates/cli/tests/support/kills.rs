//! Runs that are killed at random moments and resumed.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rand::{Rng, RngExt};
use vlct_checkpoint as checkpoint;

use super::{assert_same_checkpoint, assert_success, vlct, vlct_in};

/// A training command whose runs are killed.
pub struct KilledRun<'a> {
    /// The working directory.
    pub directory: &'a Path,
    /// Returns the words after `vlct` that start a run in this `log_dir`.
    pub arguments: &'a dyn Fn(&str) -> Vec<String>,
    /// Returns the run directory of the first run in this `log_dir`, as it will be named.
    pub run_directory: &'a dyn Fn(&str) -> PathBuf,
    /// Returns the words that continue the run in a directory.
    pub resume: &'a dyn Fn(&Path) -> Vec<String>,
    /// Range of the milliseconds after which a run is killed.
    pub milliseconds: std::ops::Range<u64>,
}

/// Returns the words that start `vlct run with` these arguments.
pub fn run_words(arguments: Vec<String>) -> Vec<String> {
    ["run", "with"].map(String::from).into_iter().chain(arguments).collect()
}

/// Returns the words that continue a run of `vlct run with`.
pub fn resume_words(run: &Path) -> Vec<String> {
    vec![format!("resume_from={}", run.display())]
}

impl KilledRun<'_> {
    /// Kills runs at random moments, `kills` times in all, and resumes each run until it ends. Panics unless every run ends with the
    /// checkpoint of an uninterrupted run, bit for bit. Returns the run directories, first that of the uninterrupted run.
    pub fn assert_same_weights(&self, name: &str, kills: u32, random: &mut impl Rng) -> Vec<PathBuf> {
        let uninterrupted = format!("uninterrupted-{name}");
        let arguments = (self.arguments)(&uninterrupted);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        assert_success(&vlct_in(self.directory, &arguments));
        let last = |log_dir: &str| checkpoint::last_path(&(self.run_directory)(log_dir));
        let (mut killed, mut rounds) = (0, 0);
        let mut runs = vec![(self.run_directory)(&uninterrupted)];
        while killed < kills {
            let log_dir = format!("killed{rounds}-{name}");
            while !self.run_until_killed(&log_dir, killed < kills, random) {
                killed += 1;
            }
            assert_same_checkpoint(&last(&uninterrupted), &last(&log_dir));
            runs.push((self.run_directory)(&log_dir));
            rounds += 1;
        }
        runs
    }

    /// Starts or resumes the run in `log_dir` and kills it after a random time if `kill` is set. Returns whether the run ended by itself.
    fn run_until_killed(&self, log_dir: &str, kill: bool, random: &mut impl Rng) -> bool {
        let run = (self.run_directory)(log_dir);
        let mut arguments = (self.arguments)(log_dir);
        if checkpoint::last_path(&run).is_file() {
            arguments.extend((self.resume)(&run));
        } else {
            // The run is new, or it was killed before its first checkpoint: start from the beginning.
            let _ = std::fs::remove_dir_all(&run);
        }
        let mut child = vlct()
            .current_dir(self.directory)
            .args(&arguments)
            .stderr(Stdio::null())
            .spawn()
            .expect("the program starts");
        // After the last kill, the run has time to end.
        let timeout = match kill {
            true => Duration::from_millis(random.random_range(self.milliseconds.clone())),
            false => Duration::from_secs(600),
        };
        let start = Instant::now();
        while start.elapsed() < timeout {
            if let Some(status) = child.try_wait().expect("waiting") {
                assert!(status.success(), "{status}");
                return true;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        child.kill().expect("SIGKILL");
        child.wait().expect("waiting");
        assert!(kill, "a run takes more than ten minutes");
        false
    }
}
