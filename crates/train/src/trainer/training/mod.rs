//! The training loop over accumulation windows: gradients, updates, logs, validations, checkpoints.

mod batches;
mod data_changes;
mod forecast;
mod measure;
mod ranks;
mod resume;
mod window;

pub(crate) use measure::{seconds_per_micro_batch, take_step};

use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use log::{info, warn};
use vlct_data::datasets::Split;
use vlct_data::loader::Share;
use vlct_tasks::description::WeightsKind;
use vlct_tasks::evaluate::SplitEvaluator;
use vlct_tasks::metrics::short_name;
use vlct_tasks::predictions;
use vlct_tasks::scoring::{RecallEvaluator, ScorePlace};
use vlct_tasks::{Description, Loader, Phase, Rows, Task, TaskSpec};
use vlct_tensor::{Collectives, DeviceName, Tensor};

use self::batches::Batches;
use super::evaluate::{self, Evaluated, RecallRun};
use crate::data::{self, Data};
use crate::error::{Result, TrainError};
use crate::imagenet::classes;
use crate::plan::Plan;
use crate::published::{self, EpochRecord, TestRecord};
use crate::run::{self, RunDirectory};
use crate::schedule::Schedule;
use crate::spec::RunSpec;
use crate::state::RunState;
use crate::weights::Weights;
use vlct_checkpoint as checkpoint;
use vlct_logs::progress::Update;
use vlct_util::text::counted;

/// The result of a run.
#[derive(Clone, Debug)]
pub struct Finished {
    /// The run directory; `None` for trial runs and evaluations of the test split.
    pub run: Option<PathBuf>,
    /// Number of completed optimiser steps.
    pub steps: u64,
    /// Whether the run stopped before its end because [`Control::stop`] was set.
    pub interrupted: bool,
    /// Seconds of training.
    pub seconds: f64,
    /// The metrics of the last validation or of the test split.
    pub metrics: Vec<(String, f64)>,
    /// Best value of the metric that selects the best checkpoint, and its optimiser step.
    pub best: Option<(f64, u64)>,
    /// The metrics of the validation that selected the best checkpoint; empty if it was before the run was resumed.
    pub best_metrics: Vec<(String, f64)>,
}

/// The caller's control of a run.
pub struct Control<'a> {
    /// When this flag is set, for instance by a signal handler, the run saves a checkpoint and ends.
    pub stop: &'a AtomicBool,
    /// Whether to show progress.
    pub progress: bool,
    /// The run directory; `None` means a new one in `log_dir`.
    pub run_directory: Option<PathBuf>,
    /// The device of this rank; `None` means that of the configuration. Runs of image classifiers have it in their settings.
    pub device: Option<DeviceName>,
}

/// A training run.
pub(super) struct Trainer<'a> {
    spec: RunSpec,
    plan: Plan,
    task: Arc<dyn Task>,
    data: Data,
    validation: SplitEvaluator,
    recall: Option<RecallEvaluator>,
    weights: Weights,
    state: RunState,
    /// `None` in a trial run, which writes no files, and on all ranks but rank 0.
    run: Option<RunDirectory>,
    stop: &'a AtomicBool,
    /// Whether the stop flag of any rank was set during a window, which ends the run.
    stopped: bool,
    /// The ranks of the run. Rank 0 writes all files and logs; the others have no run directory.
    collectives: &'a dyn Collectives,
    /// Whether to show the progress of validations.
    shows_progress: bool,
    last_validation: Vec<(String, f64)>,
    best_validation: Vec<(String, f64)>,
}

/// A training run before its first step.
pub(super) enum Begun<'a> {
    /// There are steps to take or a validation to do.
    Training(Box<Trainer<'a>>),
    /// The resumed run is complete. Nothing has been written; kept checkpoints beyond `keep_checkpoints` have been removed.
    Complete(Finished),
}

impl<'a> Trainer<'a> {
    /// Opens the weights of a run on `data`, and begins the run directory unless a resumed run has nothing left to do.
    pub fn begin(
        spec: RunSpec,
        data: Data,
        control: &Control<'a>,
        collectives: &'a dyn Collectives,
    ) -> Result<Begun<'a>> {
        let (plan, is_first) = (plan(&spec, &data, collectives.ranks())?, collectives.rank() == 0);
        // The evaluators are made before training, so that an unsuitable dataset is an error now and not at the first validation.
        let recall = match spec.trial {
            None => evaluate::recall_evaluator(&spec, Split::Val, &data.inputs)?,
            Some(_) => None,
        };
        let validation = evaluate::split_evaluator(&spec, data.val.clone(), &data.inputs)?;
        let mut weights = Weights::new(&spec)?;
        let identity = data.identity.clone();
        let resumed = match &spec.weights.resume_from {
            Some(from) => Some(resume::resume(from, &spec, &plan, control, is_first, &mut weights)?),
            None => None,
        };
        let state = resumed.as_ref().map(|resumed| &resumed.state);
        ranks::agree(collectives, &spec, &plan, &identity, state, &mut weights)?;
        if let Some(resumed) = resumed.as_ref().filter(|_| is_first) {
            let changes = data_changes::describe(&resumed.state.data, &identity);
            changes.iter().for_each(|change| warn!("{change}"));
        }
        if let Some(resumed) = &resumed
            && spec.trial.is_none()
            && let Some(reason) = resume::nothing_left(&resumed.state, &spec, &plan, &data)
        {
            if !is_first {
                return Ok(Begun::Complete(resumed.finished()));
            }
            info!("{}: {reason}", resumed.path.display());
            // If the run was killed after its last checkpoint, surplus kept ones remain.
            if let Some(directory) = &resumed.directory
                && checkpoint::last_path(directory) == resumed.path
            {
                run::remove_checkpoints(directory, resumed.state.global_step, spec.keep_checkpoints)?;
            }
            return Ok(Begun::Complete(resumed.finished()));
        }
        let description = Description::new(&spec.model, &spec.task, &data.inputs, data.reading, WeightsKind::Raw);
        let (state, run) = resume::initial_state(
            &spec,
            &plan,
            &weights,
            &description,
            identity,
            resumed,
            control,
            is_first,
        )?;
        Ok(Begun::Training(Box::new(Self {
            task: spec.task.build(&spec.model)?,
            validation,
            recall,
            spec,
            plan,
            data,
            weights,
            state,
            run,
            stop: control.stop,
            stopped: false,
            collectives,
            shows_progress: control.progress && is_first,
            last_validation: Vec::new(),
            best_validation: Vec::new(),
        })))
    }

    /// Trains until the end of the run.
    pub fn train(mut self) -> Result<Finished> {
        self.log_run_summary();
        if self.data.val.is_empty() {
            self.plan = self.plan.without_validation();
            self.state.validation_due = false;
        }
        if let Some(batches) = self.spec.trial {
            self.run_trial(batches)?;
            return Ok(self.finish());
        }
        if self.data.val.is_empty() {
            self.log_no_validation();
        } else if self.spec.validation.sanity_batches > 0 && self.state.global_step == 0 {
            self.evaluate(false, self.spec.validation.sanity_batches)?;
        }
        self.log_forecast()?;
        match self.train_windows() {
            Ok(()) => self.save_last()?,
            Err(error @ (TrainError::NonFinite { .. } | TrainError::NonFiniteWeights { .. })) => return Err(error),
            Err(error) => {
                // If saving fails too, the first error is returned.
                let _ = self.save_last();
                return Err(error);
            }
        }
        Ok(self.finish())
    }

    /// Trains and validates a few batches without writing files.
    fn run_trial(&mut self, batches: u64) -> Result<()> {
        let first_step = self.state.global_step;
        (self.state.validation_due, self.state.validations_since_best) = (false, 0);
        let trial_plan = self.plan.trial(batches);
        let full_plan = std::mem::replace(&mut self.plan, trial_plan);
        self.train_windows()?;
        self.plan = full_plan;
        if let Some(Evaluated { report, .. }) = self.evaluate(false, trial_plan.batches_per_epoch)? {
            let steps = self.state.global_step - first_step;
            let batches = (steps * trial_plan.grad_steps).min(trial_plan.batches_per_epoch);
            let values = if self.data.val.is_empty() {
                "there is no validation data".into()
            } else {
                format_metrics(&report.values(Phase::Val))
            };
            if self.is_first() {
                info!("trial run passed after {}: {values}", counted(batches, "batch"));
            }
        }
        Ok(())
    }

    /// Trains window by window until the end of the run, until validations have not improved for too long, or until the stop flag is set.
    fn train_windows(&mut self) -> Result<()> {
        if self.state.validation_due {
            self.validate_and_save()?;
        }
        if self.is_out_of_patience() {
            return Ok(());
        }
        let start = self.state.position();
        let loader = Loader::new(
            Arc::clone(&self.task),
            self.data.train.clone(),
            Arc::clone(&self.data.inputs),
            data::training_loader(&self.spec, &self.plan, self.share()),
            start,
        )?;
        let mut batches = Batches::new(loader, self.spec.compute.device);
        let mut waited_before = batches.wait_time();
        while let Some(window) = self.plan.window_at(self.state.position(), self.state.global_step) {
            let Some(result) = self.accumulate(&window, &mut batches)? else {
                return Ok(());
            };
            let gradient_norm = self.weights.update(window.step, self.schedule().at(window.step));
            let model = &mut self.weights.model;
            result
                .statistics
                .iter()
                .for_each(|batch| model.update_statistics(batch));
            let validates = self.plan.validates(&window);
            self.state
                .advance(&window, result.epoch_sums, result.replaced, validates);
            self.log_step(window.epoch, &result.values, gradient_norm.as_ref())?;
            let total_wait = batches.wait_time();
            self.show_progress(&result.values, result.samples, total_wait - waited_before);
            waited_before = total_wait;
            if window.ends_epoch {
                self.log_epoch(window.epoch)?;
            }
            if self.state.validation_due {
                self.validate_and_save()?;
            }
            let every = self.spec.checkpoint_every;
            if every > 0 && self.state.global_step.is_multiple_of(every) {
                self.save_last()?;
            }
            if self.is_out_of_patience() {
                break;
            }
        }
        Ok(())
    }

    /// Returns whether the run ends early, because the value that selects the best checkpoint has not improved for `patience` validations.
    fn is_out_of_patience(&self) -> bool {
        is_out_of_patience(&self.spec, &self.state)
    }

    fn schedule(&self) -> Schedule {
        Schedule::new(&self.spec.optimizer, &self.plan)
    }

    /// Whether the stop flag of this rank is set, or the run has ended because of that of another.
    fn is_stopped(&self) -> bool {
        self.stopped || self.stop.load(Ordering::Relaxed)
    }

    /// Whether this is rank 0, which writes files and logs.
    fn is_first(&self) -> bool {
        self.collectives.rank() == 0
    }

    /// The micro-batches of each epoch that this rank computes.
    fn share(&self) -> Share {
        Share::of_rank(self.collectives.rank(), self.collectives.ranks())
    }

    /// Evaluates the first `batches` batches of the validation split, all if 0, and recalls if `with_recalls` is set and the run has them.
    /// Returns `None` if the stop flag is set before the end.
    fn evaluate(&mut self, with_recalls: bool, batches: u64) -> Result<Option<Evaluated>> {
        let recall = self.recall.as_ref().filter(|_| with_recalls);
        let split = SplitEvaluator {
            limit: batches,
            ..self.validation.clone()
        };
        let place = match &self.run {
            Some(run) => ScorePlace::Temporary(run.path()),
            None => ScorePlace::OtherRank,
        };
        let recall = recall.map(|evaluator| RecallRun {
            evaluator,
            place,
            progress: self.shows_progress,
            all_images: self.spec.validation.recalls.is_some_and(|recalls| recalls.limit == 0),
        });
        let (stop, collectives) = (self.stop, self.collectives);
        self.weights
            .with_evaluated(|weights, _| evaluate::evaluate(recall, &split, &weights.model, collectives, stop))
    }

    /// Validates the weights. Saves the last checkpoint, and the best checkpoint if the value that selects it is the best of the run; beside
    /// the best checkpoint of an image classifier, its predictions.
    fn validate_and_save(&mut self) -> Result<()> {
        let Some(Evaluated { report, rows, .. }) = self.evaluate(true, self.spec.validation.batches)? else {
            return Ok(()); // The validation is incomplete, so `validation_due` remains set.
        };
        // Training cannot reuse the buffers of evaluation, because they have other sizes.
        self.weights.model.compute().device.release_unused();
        let (step, epoch) = (self.state.global_step, self.state.last_epoch());
        let values = report.values(Phase::Val);
        if let Some(run) = &mut self.run {
            run.log(step, epoch, &[&values[..], &report.details].concat())?;
        }
        if self.is_first() {
            info!("step {step}: {}", format_metrics(&values));
        }
        if let (Some(run), Some(record)) = (&self.run, self.state.epoch_record.take()) {
            let test = TestRecord {
                loss: metric(&values, "images/val/loss_epoch"),
                accuracy: metric(&values, "images/val/accuracy_epoch"),
                top5: metric(&values, "images/val/top5_epoch"),
            };
            let parameters = self.weights.model.parameters().trainable_values();
            published::log(run.path(), &record, test, parameters)?;
        }
        self.last_validation = values;
        let is_best = self.state.validated(report.the_metric());
        if is_best {
            self.best_validation.clone_from(&self.last_validation);
        }
        if let Some(run) = &mut self.run {
            if is_best {
                run.save_best(&mut self.weights, &self.state)?;
                if let TaskSpec::Images(images) = &self.spec.task {
                    classes::warn_of_unreadable(&images.names, &rows);
                    predictions::write(run.path(), &images.names, &*self.data.val, &rows)?;
                }
            }
            run.save_validated(&self.weights, &self.state)?;
            run.progress().skip_pause();
        }
        Ok(())
    }

    fn save_last(&mut self) -> Result<()> {
        match &mut self.run {
            Some(run) => run.save_last(&self.weights, &self.state),
            None => Ok(()),
        }
    }

    fn log_no_validation(&self) {
        if !self.is_first() {
            return;
        }
        info!("there is no validation data: the run does not validate and saves no best checkpoint");
        if self.spec.validation.patience.is_some() || self.spec.keep_checkpoints > 0 {
            warn!("patience and keep_checkpoints have no effect without validations");
        }
    }

    fn log_run_summary(&self) {
        if !self.is_first() {
            return;
        }
        let parameters = self.weights.model.parameters();
        info!(
            "{}, {}, {} of {} ({} each), {}",
            self.data.size,
            counted(parameters.trainable_values(), "trainable parameter"),
            counted(self.plan.total_steps, "step"),
            counted(self.plan.batch_size, "sample"),
            counted(self.plan.grad_steps, "micro-batch"),
            self.spec.compute.describe(),
        );
        if let Some(parts) = self.spec.freeze.describe() {
            info!("not trained: {parts}");
        }
        if let Some(cut) = &self.data.cut_texts {
            warn!("{cut}");
        }
    }

    /// Logs the values of a step, the norm of its gradients if they are clipped, and the learning rate of each parameter group.
    fn log_step(
        &mut self,
        epoch: u64,
        values: &[(Cow<'static, str>, f64)],
        gradient_norm: Option<&Tensor>,
    ) -> Result<()> {
        let step = self.state.global_step;
        if !step.is_multiple_of(self.spec.log_every) {
            return Ok(());
        }
        // The schedule counts completed steps, so the update of this step used the rate at `step - 1`.
        let rate = self.schedule().at(step - 1);
        let Some(run) = &mut self.run else { return Ok(()) };
        let optimizer = self.spec.optimizer.name();
        let groups = self.weights.groups.iter().enumerate();
        let rates = groups.map(|(i, group)| (format!("lr-{optimizer}/pg{}", i + 1), rate * group.learning_rate_scale));
        let values = values
            .iter()
            .map(|(key, value)| (Phase::Train.metric_name(key), *value));
        let norm = gradient_norm.map(|norm| ("grad_norm".to_owned(), f64::from(norm.item())));
        let all: Vec<(String, f64)> = values.chain(norm).chain(rates).collect();
        run.log(step, epoch, &all)
    }

    fn log_epoch(&mut self, epoch: u64) -> Result<()> {
        let sums = std::mem::take(&mut self.state.metrics);
        let report = self.task.report(Phase::Train, &sums, &Rows::new());
        let values = report.values(Phase::Train);
        let (step, schedule) = (self.state.global_step, self.schedule());
        let Some(run) = &mut self.run else { return Ok(()) };
        run.log(step, epoch, &values)?;
        let Some(published) = self.spec.published else {
            return Ok(());
        };
        // As in the script, the weights are saved before the validation.
        let rate = schedule.at(step.saturating_sub(1));
        let optimizer = &self.spec.optimizer;
        published::save(run.path(), &self.weights, optimizer.rule, epoch, rate, published.keep)?;
        let steps = self.plan.steps_per_epoch;
        let rates = (step - steps.min(step)..step).map(|step| schedule.at(step));
        let scales = self.weights.groups.iter().map(|group| group.learning_rate_scale);
        let largest = scales.fold(0.0, f64::max);
        self.state.epoch_record = Some(EpochRecord {
            epoch,
            learning_rate: largest * rates.sum::<f64>() / steps as f64,
            loss: metric(&values, "images/train/loss_epoch"),
        });
        Ok(())
    }

    /// Updates the progress display.
    fn show_progress(&mut self, values: &[(Cow<'static, str>, f64)], samples: u64, waited: Duration) {
        let Some(run) = &mut self.run else { return };
        let losses: Vec<(&str, f64)> = values
            .iter()
            .filter(|(key, _)| key.ends_with("loss"))
            // The only loss of an image classifier needs no other name.
            .map(|(key, value)| (if key == "images/loss" { "loss" } else { short_name(key) }, *value))
            .collect();
        run.progress().update(Update {
            step: self.state.global_step,
            samples,
            waited,
            losses: &losses,
        });
    }

    fn finish(mut self) -> Finished {
        if let Some(run) = &mut self.run {
            run.finish();
        }
        let ends_early = self.is_out_of_patience() && self.state.global_step < self.plan.total_steps;
        if ends_early && self.is_first() {
            let best = match (self.state.best_metric, self.state.best_step) {
                (Some(value), Some(step)) => format!("the best value of val/the_metric is {value:.4}, of step {step}"),
                _ => "val/the_metric has always been NaN".into(),
            };
            info!(
                "the run ends early, at step {}, after {} without improvement (patience={}); {best}",
                self.state.global_step,
                counted(self.state.validations_since_best, "validation"),
                self.spec.validation.patience.unwrap_or_default()
            );
        }
        Finished {
            steps: self.state.global_step,
            interrupted: self.is_stopped() && !ends_early && self.state.global_step < self.plan.total_steps,
            seconds: self.run.as_ref().map_or(0.0, RunDirectory::seconds),
            metrics: self.last_validation,
            best_metrics: self.best_validation,
            best: self.state.best_metric.zip(self.state.best_step),
            run: self.run.map(|run| run.path().to_path_buf()),
        }
    }
}

fn is_out_of_patience(spec: &RunSpec, state: &RunState) -> bool {
    let patience = spec.validation.patience;
    patience.is_some_and(|patience| state.validations_since_best >= patience)
}

fn plan(spec: &RunSpec, data: &Data, ranks: usize) -> Result<Plan> {
    let (items, micro_batch) = (data.train.len() as u64, spec.length.micro_batch.max(1));
    if items == 0 {
        return Err(TrainError::EmptyTraining {
            datasets: spec.data.datasets.clone(),
        });
    }
    let batches = match spec.length.whole_windows {
        true => items / micro_batch,
        false => items.div_ceil(micro_batch),
    };
    Ok(Plan::new(&spec.length, batches, ranks as u64)?)
}

/// Returns the value of a metric, NaN if there is none.
fn metric(values: &[(String, f64)], name: &str) -> f64 {
    let found = values.iter().find(|(key, _)| key == name);
    found.map_or(f64::NAN, |(_, value)| *value)
}

/// Formats metrics in one line.
fn format_metrics(values: &[(String, f64)]) -> String {
    let values: Vec<String> = values
        .iter()
        .map(|(name, value)| format!("{name} {value:.4}"))
        .collect();
    values.join("  ")
}
