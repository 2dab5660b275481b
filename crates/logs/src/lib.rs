//! Logs: `metrics.jsonl`, TensorBoard events, progress.
//!
//! [`RunLog`] owns the three logs. In `metrics.jsonl` and in TensorBoard, scalars have the original's names (`mlm/train/loss`,
//! `val/the_metric`, …).

mod append;
mod duration;
pub mod metrics;
pub mod progress;
pub mod tensorboard;

use std::{fs, io, path::Path, time::Instant};

use append::log_error;

pub use append::{LogError, Result};
pub use duration::duration_text;
pub use metrics::MetricsWriter;
pub use progress::Progress;
pub use tensorboard::EventWriter;

/// The logs of a training run.
pub struct RunLog {
    metrics: MetricsWriter,
    events: EventWriter,
    progress: Progress,
    started: Instant,
    /// Seconds of training before the run was resumed; 0 for a new run.
    seconds_before: f64,
}

impl RunLog {
    /// Starts the logs of a new run in the directory `run`, which is created if it is missing.
    ///
    /// # Errors
    /// Returns an error if the directory already contains records of a run, or if a file cannot be created. Existing records are not
    /// changed.
    pub fn create(run: &Path, progress: Progress) -> Result<Self> {
        let path = run.join(metrics::FILE_NAME);
        fs::create_dir_all(run).map_err(|source| log_error(run, "started", source))?;
        if fs::metadata(&path).is_ok_and(|file| file.len() > 0) {
            let source = io::Error::new(
                io::ErrorKind::AlreadyExists,
                "the file has the records of another run; resume that run or choose another directory",
            );
            return Err(log_error(&path, "started", source));
        }
        Self::open(run, None, 0.0, progress)
    }

    /// Continues the logs of a run that is resumed after `step` optimiser steps and `seconds` of training. Records of
    /// later steps are removed from `metrics.jsonl`, and TensorBoard does not show events of later steps.
    ///
    /// # Errors
    /// Returns an error if a file cannot be read or written.
    pub fn resume(run: &Path, step: u64, seconds: f64, progress: Progress) -> Result<Self> {
        fs::create_dir_all(run).map_err(|source| log_error(run, "started", source))?;
        metrics::truncate_after(run, step)?;
        Self::open(run, Some(step), seconds, progress)
    }

    fn open(run: &Path, resumed_at: Option<u64>, seconds_before: f64, progress: Progress) -> Result<Self> {
        let mut events = EventWriter::create(run)?;
        if let Some(step) = resumed_at {
            events.restart(step)?;
        }
        Ok(Self {
            metrics: MetricsWriter::open(run)?,
            events,
            progress,
            started: Instant::now(),
            seconds_before,
        })
    }

    /// Writes `values` of optimiser step `step` to `metrics.jsonl` and the TensorBoard events, without buffering.
    ///
    /// # Errors
    /// Returns an error if a file cannot be written, for instance on a full disk. Partial records are removed.
    pub fn log(&mut self, step: u64, epoch: u64, values: &[(&str, f64)]) -> Result<()> {
        self.metrics.write(step, epoch, self.seconds(), values)?;
        self.events.append_scalars(step, epoch, values)
    }

    /// Returns the seconds of training, including those before interruptions.
    pub fn seconds(&self) -> f64 {
        self.seconds_before + self.started.elapsed().as_secs_f64()
    }

    /// Returns the progress display.
    pub fn progress(&mut self) -> &mut Progress {
        &mut self.progress
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    #[test]
    fn existing_logs_are_rejected_by_create_and_continued_by_resume() {
        let directory = TempDir::new().unwrap();
        let run = directory.path().join("run");
        let mut log = RunLog::create(&run, Progress::quiet()).unwrap();
        for step in 1..=3 {
            log.log(step, 0, &[("mlm/train/loss", 1.0 / step as f64)]).unwrap();
        }
        drop(log);
        let error = RunLog::create(&run, Progress::quiet()).err().unwrap().to_string();
        assert!(
            error.contains(metrics::FILE_NAME) && error.contains("choose another directory"),
            "{error}"
        );

        let mut log = RunLog::resume(&run, 2, 100.0, Progress::quiet()).unwrap();
        assert!(log.seconds() >= 100.0);
        log.log(3, 1, &[("mlm/train/loss", 0.25)]).unwrap();
        let text = fs::read_to_string(run.join(metrics::FILE_NAME)).unwrap();
        let records: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let steps: Vec<_> = records.iter().map(|record| record["step"].as_u64().unwrap()).collect();
        assert_eq!(steps, [1, 2, 3]);
        assert_eq!(records[2]["mlm/train/loss"], 0.25);
        assert!(records[2]["time"].as_f64().unwrap() >= 100.0);
        assert_eq!(
            fs::read_dir(&run).unwrap().count(),
            3,
            "two event files and the metrics"
        );
    }
}
