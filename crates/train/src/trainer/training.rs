//! The loop: micro-batches, accumulation windows, validation, checkpoints, logs.

use super::evaluate::Recall;
use super::setup::{self, Use};
use super::state::{self, RunState};
use super::{Control, Finished, batch, evaluate};
use crate::checkpoint;
use crate::config::Config;
use crate::error::{Result, TrainError};
use crate::logs::RunLog;
use crate::logs::progress::{Progress, Update};
use crate::metrics::{Phase, PretrainMetrics, step_values};
use crate::objectives::Outcome;
use crate::plan::{Plan, Window};
use crate::schedule::LearningRate;
use log::{info, warn};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use vlct_data::datasets::{CaptionDataset, Split};
use vlct_data::loader::{Batch, Loader, SampleId};
use vlct_data::text::Tokenizer;
use vlct_model::Vlc;
use vlct_tensor::optimizer::{Optimizer, Setting};
use vlct_tensor::{Gradients, Tape};
use vlct_util::lock::{Lock, try_lock};

/// A run of training.
pub(super) struct Trainer<'a> {
    config: &'a Config,
    control: &'a Control<'a>,
    tokenizer: Tokenizer,
    training: Arc<CaptionDataset>,
    validation: Arc<CaptionDataset>,
    plan: Plan,
    rate: LearningRate,
    /// For each parameter the factor of the learning rate and the weight decay.
    settings: Vec<Setting>,
    /// Learning-rate factor of each group, in order.
    group_scales: Vec<f64>,
    model: Vlc,
    optimizer: Optimizer,
    gradients: Gradients,
    run: Option<PathBuf>,
    /// Held as long as this run writes there.
    _locked: Option<File>,
    log: Option<RunLog>,
    progress: Progress,
    state: RunState,
    /// The state that the last checkpoint was written with.
    saved: Option<RunState>,
    last_validation: Vec<(String, f64)>,
}

impl<'a> Trainer<'a> {
    pub fn new(config: &'a Config, control: &'a Control<'a>) -> Result<Self> {
        let tokenizer = setup::tokenizer(config)?;
        let training = setup::dataset(config, Split::Train)?;
        let validation = setup::dataset(config, Split::Val)?;
        let batches = (training.len() as u64).div_ceil(config.per_gpu_batchsize.max(1));
        let plan = Plan::new(config, batches)?;
        evaluate::check_recalls(config)?;
        // A resumption replaces every weight.
        let mut model = match config.resume_from {
            Some(_) => setup::empty_model(config)?,
            None => setup::fresh_model(config)?,
        };
        if config.resume_from.is_none() {
            setup::load_weights(&mut model, config)?;
        }
        let mut optimizer = Optimizer::new(setup::rule(config).0, model.parameters());
        let state = RunState {
            epoch: 0,
            batch: 0,
            global_step: 0,
            parameter_steps: optimizer.steps().to_vec(),
            metrics: PretrainMetrics::default(),
            best_metric: None,
            best_step: None,
            validation_due: false,
            replaced: 0,
            seconds: 0.0,
            config: config.to_toml(),
        };
        let mut locked = None;
        let (state, run) = match &config.resume_from {
            Some(from) => {
                let path = state::find(from)?;
                if let Some(run) = state::run_directory(&path).filter(|_| config.fast_dev_run.0 == 0) {
                    locked = lock(&run)?;
                }
                let file = checkpoint::load(&path)?;
                let restored = state::restore(&file, &path, &mut model, &mut optimizer)?;
                state::warn_of_changes(&restored.config, config)?;
                info!("resuming {} at step {}", path.display(), restored.global_step);
                (
                    RunState {
                        config: state.config,
                        ..restored
                    },
                    state::run_directory(&path),
                )
            }
            None => (state, None),
        };
        let (settings, group_scales) = setup::settings(config, &model);
        let show = control.progress && config.fast_dev_run.0 == 0;
        let new_progress = || match show {
            true => Progress::new("step", plan.total_steps, state.global_step),
            false => Progress::quiet(),
        };
        let (mut log, mut progress) = (None, Progress::quiet());
        let run = if config.fast_dev_run.0 > 0 {
            progress = new_progress();
            None
        } else {
            let resumed = run.is_some();
            let run = match (run, &control.run_directory) {
                (Some(run), _) => run,
                (None, Some(run)) => run.clone(),
                (None, None) => {
                    let experiment = config.experiment_dir();
                    config.claim_run_dir().map_err(|source| TrainError::Io {
                        path: experiment,
                        source,
                    })?
                }
            };
            if locked.is_none() {
                locked = lock(&run)?;
            }
            log = Some(match resumed {
                true => RunLog::resume(&run, state.global_step, state.seconds, new_progress())?,
                false => RunLog::create(&run, new_progress())?,
            });
            let path = run.join("config.toml");
            std::fs::write(&path, &state.config).map_err(|source| TrainError::Io { path, source })?;
            info!("run directory: {}", run.display());
            Some(run)
        };
        Ok(Self {
            rate: LearningRate::new(config, &plan),
            gradients: Gradients::new(model.parameters()),
            saved: None,
            last_validation: Vec::new(),
            config,
            control,
            tokenizer,
            training,
            validation,
            plan,
            settings,
            group_scales,
            model,
            optimizer,
            run,
            _locked: locked,
            log,
            progress,
            state,
        })
    }

    pub fn train(mut self) -> Result<Finished> {
        self.log_run_summary();
        if self.validation.is_empty() {
            self.plan = self.plan.without_validation();
            self.state.validation_due = false;
        }
        if self.config.fast_dev_run.0 > 0 {
            self.trial(self.config.fast_dev_run.0)?;
            return self.finish();
        }
        if self.validation.is_empty() {
            info!("there is no validation data: nothing is validated, and of the checkpoints only the last is kept");
        } else if self.config.sanity_steps > 0 && self.state.global_step == 0 {
            self.validate(self.config.sanity_steps)?;
        }
        match self.windows() {
            Ok(()) => self.save_last()?,
            Err(error @ (TrainError::NonFinite { .. } | TrainError::NonFiniteWeights { .. })) => return Err(error),
            Err(error) => {
                // If saving fails too, the first error is the one to report.
                let _ = self.save_last();
                return Err(error);
            }
        }
        self.finish()
    }

    /// Trains and validates a few batches without writing anything.
    fn trial(&mut self, batches: u64) -> Result<()> {
        let begin = self.state.global_step;
        self.plan = self.plan.trial(batches);
        self.windows()?;
        let batches = batches.min(self.plan.batches_per_epoch);
        let metrics = self.validate(batches)?;
        if !self.stopping() {
            let steps = self.state.global_step - begin;
            let micro = (steps * self.plan.grad_steps).min(self.plan.batches_per_epoch);
            let values = if self.validation.is_empty() {
                "there is no validation data".into()
            } else {
                format_metrics(&evaluate::with_recalls(&metrics, Recall::NotAsked))
            };
            info!("trial run passed after {micro} batches: {values}");
        }
        Ok(())
    }

    /// Trains window by window until the end of the run or a signal.
    fn windows(&mut self) -> Result<()> {
        if self.state.validation_due {
            self.validated_checkpoint()?;
        }
        let start = self.state.position();
        let mut loader = setup::loader(self.config, &self.training, &self.tokenizer, Use::Training, start)?;
        let mut waited = loader.wait_time();
        while let Some(window) = self.plan.window_at(self.state.position(), self.state.global_step) {
            let Some(pass) = self.accumulate(&window, &mut loader)? else {
                return Ok(());
            };
            self.optimizer_step();
            let validates = self.plan.validates(&window);
            self.state.advance(&window, pass.epoch_sums, pass.replaced, validates);
            self.log_step(window.epoch, &pass.values)?;
            let now = loader.wait_time();
            self.show(&pass.values, pass.samples, now - waited);
            waited = now;
            if window.ends_epoch {
                self.end_epoch(window.epoch)?;
            }
            if self.state.validation_due {
                self.validated_checkpoint()?;
            }
            let every = self.config.checkpoint_every;
            if every > 0 && self.state.global_step.is_multiple_of(every) {
                self.save_last()?;
            }
        }
        Ok(())
    }

    /// Adds up the gradients of a window; `None` if told to stop within it.
    fn accumulate(&mut self, window: &Window, loader: &mut Loader) -> Result<Option<WindowPass>> {
        let mut pass = WindowPass {
            epoch_sums: self.state.metrics,
            replaced: self.state.replaced,
            samples: 0,
            values: Vec::new(),
        };
        for _ in window.batches.clone() {
            if self.stopping() {
                return Ok(None);
            }
            let Some(batch) = loader.next().transpose()? else {
                return Ok(None);
            };
            pass.samples += batch.len() as u64;
            self.log_replacements(&batch, pass.replaced);
            pass.replaced += batch.replaced as u64;
            pass.values = self.micro_batch(&batch, &mut pass.epoch_sums)?;
            loader.recycle(batch);
        }
        Ok(Some(pass))
    }

    fn log_run_summary(&self) {
        let parameters = self.model.parameters();
        info!(
            "{} captions of {} pictures, {} trainable parameters, {} steps of {} samples ({} micro-batches each), {}",
            self.training.len(),
            self.training.rows(),
            parameters.trainable_values(),
            self.plan.total_steps,
            self.plan.batch_size,
            self.plan.grad_steps,
            setup::arithmetic(self.model.compute()),
        );
    }

    fn stopping(&self) -> bool {
        self.control.stop.load(Ordering::Relaxed)
    }

    fn log_replacements(&self, batch: &Batch, before: u64) {
        let replaced = before + batch.replaced as u64;
        /// Pictures that are told of one by one; then only the count is told, each time it has doubled.
        const TOLD: u64 = 20;
        if batch.replaced > 0 && replaced > TOLD {
            if replaced.ilog2() > before.max(1).ilog2() {
                warn!("{replaced} unreadable pictures were replaced so far");
            }
            return;
        }
        for warning in &batch.warnings {
            warn!("replaced an unreadable picture ({replaced} so far): {warning}");
        }
    }

    /// Forward and backward pass of one micro-batch; its values for the log.
    fn micro_batch(&mut self, batch: &Batch, epoch_sums: &mut PretrainMetrics) -> Result<Vec<(&'static str, f64)>> {
        let tape = Tape::new(self.model.compute());
        let patches = self.model.config().patches();
        let step = batch::step(batch, self.config, patches, true);
        let outcome = step.run(&self.model, &tape, setup::objectives(self.config));
        self.check_finite(&outcome, batch)?;
        epoch_sums.add(&outcome);
        let values = step_values(&outcome);
        tape.backward(&outcome.total, 1.0 / self.plan.grad_steps as f32, &mut self.gradients);
        Ok(values)
    }

    fn check_finite(&self, outcome: &Outcome, batch: &Batch) -> Result<()> {
        let l = outcome.losses;
        let parts = [("mlm", l.mlm), ("mae", l.mae), ("itm", l.itm), ("wpa", l.wpa)];
        let Some((loss, value)) = parts
            .into_iter()
            .find_map(|(n, v)| v.filter(|v| !v.is_finite()).map(|v| (n, v)))
        else {
            return Ok(());
        };
        let tables: Vec<&str> = self.training.tables().map(|(name, _)| name).collect();
        let row = |s: &SampleId| format!("{} {}", tables[s.location.table], s.location.row);
        let rows: Vec<String> = batch.samples.iter().map(row).collect();
        let checkpoint = self.last_good();
        let step = self.state.global_step;
        Err(TrainError::NonFinite {
            loss,
            value,
            step,
            rows: rows.join(", "),
            checkpoint,
        })
    }

    /// Where the last good checkpoint is, for error messages.
    fn last_good(&self) -> String {
        match &self.run {
            Some(run) if checkpoint::last_path(run).is_file() => {
                format!("the last good checkpoint is {}", checkpoint::last_path(run).display())
            }
            _ => "there is no checkpoint yet".to_string(),
        }
    }

    /// Refuses to replace good weights by broken ones.
    fn check_weights(&self) -> Result<()> {
        match self.model.parameters().first_non_finite() {
            None => Ok(()),
            Some(parameter) => Err(TrainError::NonFiniteWeights {
                name: parameter.name.clone(),
                step: self.state.global_step,
                checkpoint: self.last_good(),
            }),
        }
    }

    fn optimizer_step(&mut self) {
        let rate = self.rate.at(self.state.global_step);
        let settings = &self.settings;
        self.optimizer.step(self.model.parameters_mut(), &self.gradients, |id| {
            let setting = settings[id.index()];
            Setting {
                learning_rate: rate * setting.learning_rate,
                ..setting
            }
        });
        self.gradients.clear();
        self.state.global_step += 1;
    }

    fn log_step(&mut self, epoch: u64, values: &[(&'static str, f64)]) -> Result<()> {
        let step = self.state.global_step;
        if !step.is_multiple_of(self.config.log_every) {
            return Ok(());
        }
        let Some(log) = &mut self.log else { return Ok(()) };
        // The rate that this step used: the schedule counts completed steps.
        let rate = self.rate.at(step - 1);
        let (_, optimizer) = setup::rule(self.config);
        let rates: Vec<(String, f64)> = self
            .group_scales
            .iter()
            .enumerate()
            .map(|(i, scale)| (format!("lr-{optimizer}/pg{}", i + 1), rate * scale))
            .collect();
        let all: Vec<(&str, f64)> = values
            .iter()
            .copied()
            .chain(rates.iter().map(|(name, value)| (name.as_str(), *value)))
            .collect();
        Ok(log.log(step, epoch, &all)?)
    }

    fn show(&mut self, values: &[(&'static str, f64)], samples: u64, waited: Duration) {
        const SHORT: [(&str, &str); 4] = [
            ("mlm/train/loss", "mlm"),
            ("mae/train/loss", "mae"),
            ("itm/train/loss", "itm"),
            ("itm/train/wpa_loss", "wpa"),
        ];
        let losses: Vec<(&str, f64)> = SHORT
            .iter()
            .filter_map(|(long, short)| Some((*short, values.iter().find(|(name, _)| name == long)?.1)))
            .collect();
        let update = Update {
            step: self.state.global_step,
            samples,
            waited,
            losses: &losses,
        };
        match &mut self.log {
            Some(log) => log.progress().update(update),
            None => self.progress.update(update),
        }
    }

    /// Metrics over at most `batches` batches of the validation split (0: all).
    fn validate(&mut self, batches: u64) -> Result<PretrainMetrics> {
        evaluate::evaluate(
            &self.model,
            self.config,
            &self.validation,
            &self.tokenizer,
            batches,
            self.control.stop,
        )
    }

    /// Recalls of the validation split, if they are asked for.
    fn recalls(&mut self) -> Result<Recall> {
        evaluate::measure_recalls(self.config, &self.model, Split::Val, &self.tokenizer, self.control.stop)
    }

    /// Validates the weights, keeps the best checkpoint and the last.
    fn validated_checkpoint(&mut self) -> Result<()> {
        let metrics = self.validate(self.config.limit_val_batches)?;
        if self.stopping() {
            return Ok(()); // The validation is incomplete and stays due.
        }
        let recalls = match self.recalls()? {
            Recall::Stopped => return Ok(()),
            recalls => recalls,
        };
        // Evaluation works with sizes of its own, whose memory training would not use.
        vlct_tensor::buffer::release_unused();
        self.state.validation_due = false;
        let values = evaluate::with_recalls(&metrics, recalls);
        let score = values.last().map_or(
            f64::NEG_INFINITY,
            |(_, v)| if v.is_nan() { f64::NEG_INFINITY } else { *v },
        );
        if let Some(log) = &mut self.log {
            let listed: Vec<(&str, f64)> = values.iter().map(|(name, value)| (name.as_str(), *value)).collect();
            log.log(self.state.global_step, self.state.last_epoch(), &listed)?;
        }
        info!("step {}: {}", self.state.global_step, format_metrics(&values));
        self.last_validation = values;
        let improves = self.state.best_metric.is_none_or(|best| score > best);
        if improves {
            (self.state.best_metric, self.state.best_step) = (Some(score), Some(self.state.global_step));
        }
        self.check_weights()?;
        if let (true, Some(run)) = (improves, &self.run) {
            state::save(
                &checkpoint::best_path(run),
                &self.model,
                &self.optimizer,
                &self.current_state(),
            )?;
        }
        self.save_last()?;
        if let Some(log) = &mut self.log {
            log.progress().skip_pause();
        }
        Ok(())
    }

    fn end_epoch(&mut self, epoch: u64) -> Result<()> {
        let values = std::mem::take(&mut self.state.metrics).epoch_values(Phase::Train, 0.0);
        if let Some(log) = &mut self.log {
            let listed: Vec<(&str, f64)> = values.iter().map(|(name, value)| (name.as_str(), *value)).collect();
            log.log(self.state.global_step, epoch, &listed)?;
        }
        Ok(())
    }

    /// The state as it is saved.
    fn current_state(&self) -> RunState {
        RunState {
            parameter_steps: self.optimizer.steps().to_vec(),
            seconds: self.log.as_ref().map_or(0.0, RunLog::seconds),
            ..self.state.clone()
        }
    }

    /// Writes the last checkpoint, unless it is there already.
    fn save_last(&mut self) -> Result<()> {
        let state = self.current_state();
        let same = |saved: &RunState| {
            RunState {
                seconds: saved.seconds,
                ..state.clone()
            } == *saved
        };
        if let Some(run) = self.run.as_ref().filter(|_| !self.saved.as_ref().is_some_and(same)) {
            self.check_weights()?;
            state::save(&checkpoint::last_path(run), &self.model, &self.optimizer, &state)?;
            self.saved = Some(state);
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Finished> {
        let interrupted = self.stopping() && self.state.global_step < self.plan.total_steps;
        if let Some(log) = &mut self.log {
            log.progress().finish();
        }
        if let (Some(run), Some(step)) = (&self.run, self.saved.as_ref().map(|s| s.global_step)) {
            info!("saved step {step}: {}", checkpoint::last_path(run).display());
        }
        Ok(Finished {
            steps: self.state.global_step,
            interrupted,
            seconds: self.log.as_ref().map_or(0.0, RunLog::seconds),
            metrics: self.last_validation,
            best: self.state.best_metric.zip(self.state.best_step),
            run: self.run,
        })
    }
}

/// What the micro-batches of a window give besides gradients.
struct WindowPass {
    /// Metrics of the epoch, this window's included.
    epoch_sums: PretrainMetrics,
    /// Replaced pictures of the run, this window's included.
    replaced: u64,
    /// Samples of the window.
    samples: u64,
    /// Values of the last micro-batch for the log.
    values: Vec<(&'static str, f64)>,
}

/// Metrics in one line.
fn format_metrics(values: &[(String, f64)]) -> String {
    let values: Vec<String> = values
        .iter()
        .map(|(name, value)| format!("{name} {value:.4}"))
        .collect();
    values.join("  ")
}

/// Locks a run directory for this process, as long as the returned file is open. The lock is on the directory itself, so that
/// nothing is left behind. `None` if the directory cannot be opened as a file.
fn lock(run: &Path) -> Result<Option<File>> {
    let Ok(directory) = File::open(run) else {
        return Ok(None);
    };
    match try_lock(&directory) {
        Lock::Acquired => Ok(Some(directory)),
        Lock::HeldElsewhere => Err(TrainError::Invalid(format!(
            "{}: another process trains in this run directory; wait for it, or stop it first",
            run.display()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rejects_a_run_directory_that_another_process_trains_in() {
        let run = tempfile::tempdir().expect("a directory");
        let held = lock(run.path()).expect("nobody has it");
        let refused = lock(run.path()).expect_err("it is taken").to_string();
        assert!(
            refused.contains("another process trains in this run directory"),
            "{refused}"
        );
        drop(held);
        assert!(lock(run.path()).is_ok());
    }
}
