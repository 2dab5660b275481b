//! The quickstart: generates synthetic data, pre-trains on it, evaluates the model, fine-tunes it and writes a report.

mod classes;
mod error;
mod evaluation;
mod fine_tuning;
mod predictions;
mod report;

use log::info;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use vlct_checkpoint::last_path;
use vlct_config::{Config, resolve};
use vlct_model::Model;
use vlct_model::files::Scope;
use vlct_synthetic::{self as synthetic, Shape, SyntheticConfig};
use vlct_train::TrainError;
use vlct_train::spec::{self, RunSpec};
use vlct_train::trainer::{self, Control, Finished};
use vlct_train::weights;
use vlct_util::at;

use crate::examples::make_examples;
pub use error::{QuickstartError, Result};
pub use predictions::{Trial, TrialTask};
use vlct_util::text::counted;

/// Options of the quickstart.
#[derive(Clone, Debug)]
pub struct QuickstartOptions {
    /// Directory of all files that the quickstart writes.
    pub out: PathBuf,
    /// Approximate total time in minutes.
    pub minutes: f64,
    /// Whether an image classifier is fine-tuned too, in a twentieth of `minutes` in addition.
    pub with_imagenet: bool,
    /// Values of configuration keys (`KEY=VALUE`), which replace those of the recipe.
    pub updates: Vec<String>,
}

/// Result of the quickstart.
#[derive(Clone, Debug)]
pub struct QuickstartResult {
    /// Path of the report.
    pub report: PathBuf,
    /// One line per metric: name, value, and values to compare with.
    pub metric_lines: Vec<String>,
    /// Held-out inputs on which the trained models can be tried.
    pub trials: Vec<Trial>,
}

/// Fraction of the total time for pre-training. The fine-tuning runs have the shares in [`fine_tuning::TASKS`]; the rest is for data,
/// evaluation and report.
const PRETRAINING_SHARE: f64 = 0.36;

/// Returns the configuration of the dataset, which has more images than a short run can memorise. Statements about two images need the most
/// data: each is one bit.
fn synthetic_config(image_size: usize) -> SyntheticConfig {
    // Larger than the model's input, for the random crops of training.
    let side = (image_size * 9 / 8) as u32;
    SyntheticConfig {
        side,
        vqa_train: 10_000,
        vqa_val: 2 * HELD_OUT,
        nlvr2_train: 20_000,
        nlvr2_dev: HELD_OUT,
        labels_test: HELD_OUT,
        class_train: 0,
        test: HELD_OUT,
        ..SyntheticConfig::default()
    }
}

/// Number of held-out images of each task.
const HELD_OUT: usize = 400;

/// Runs the quickstart and returns the path of the report and the lines for the terminal.
///
/// `stop` ends the training early; evaluation and report follow.
///
/// # Errors
/// Returns [`QuickstartError::Stopped`] if `stop` is set before the first step, [`QuickstartError::FixedKey`] if an update sets a
/// fixed key, and other errors if a file cannot be read or written.
pub fn run(options: &QuickstartOptions, stop: &AtomicBool) -> Result<QuickstartResult> {
    let start = Instant::now();
    let mut timings = Vec::new();
    let data = options.out.join("data");
    let config = quickstart_config(&data, options)?;
    trainer::use_threads(trainer::Threads::from_config(&config))?;

    info!("1/5  generating images with captions, questions, statements and labels");
    let image_count = synthetic::write(&data, &synthetic_config(config.image_size), &mut |_, _| ())?;
    timings.push(("data".to_string(), start.elapsed().as_secs_f64()));
    info!(
        "     {image_count} images in {:.1} s: {}",
        start.elapsed().as_secs_f64(),
        data.display()
    );

    if stop.load(Ordering::Relaxed) {
        return Err(QuickstartError::Stopped);
    }
    info!("2/5  pre-training: masked words, masked patches, image-text matching");
    let training = Instant::now();
    let seconds = options.minutes * 60.0;
    let fixed_steps = config.max_steps.filter(|_| sets_max_steps(&options.updates));
    let length = match fixed_steps {
        Some(steps) => RunLength::Steps(steps),
        None => RunLength::Seconds(seconds * PRETRAINING_SHARE),
    };
    let config = length.plan(config, 100, stop)?;
    let run_directory = fresh_directory(&options.out)?;
    let control = Control {
        stop,
        progress: true,
        run_directory: Some(run_directory.clone()),
        device: None,
    };
    let finished: Finished = trainer::run(&config, &control)?;
    if finished.interrupted && finished.steps == 0 {
        return Err(QuickstartError::Stopped);
    }
    timings.push(("pre-training".to_string(), training.elapsed().as_secs_f64()));

    info!("3/5  evaluating on held-out images");
    let evaluating = Instant::now();
    let spec = RunSpec::resolve(&trainer::read_config(&run_directory)?)?;
    let model = load_last(&run_directory, &spec)?;
    // An interrupted run is evaluated too, and its report shows the metrics of the last weights.
    let results = evaluation::evaluate(&model, &spec)?;
    timings.push(("evaluation".to_string(), evaluating.elapsed().as_secs_f64()));

    info!("4/5  fine-tuning, from the pre-trained weights and from scratch");
    let tuning = Instant::now();
    let mut fine_tuned = Vec::new();
    for task in fine_tuning::TASKS {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let directory = with_suffix(&run_directory, task.name);
        let control = Control {
            stop,
            progress: true,
            run_directory: None,
            device: None,
        };
        let length = match fixed_steps {
            Some(steps) => RunLength::Steps((steps as f64 * task.steps) as u64),
            None => RunLength::Seconds(seconds * task.share),
        };
        match task.run(&config, &run_directory, directory, length, &control) {
            Ok(result) => fine_tuned.push(result),
            // What was reached is reported.
            Err(QuickstartError::Stopped) => break,
            Err(error) => return Err(error),
        }
    }
    let mut classifier = None;
    if options.with_imagenet && !stop.load(Ordering::Relaxed) {
        let length = match fixed_steps {
            Some(steps) => RunLength::Steps((steps as f64 * classes::STEPS) as u64),
            None => RunLength::Seconds(seconds * classes::SHARE),
        };
        let control = Control {
            stop,
            progress: true,
            run_directory: None,
            device: None,
        };
        let directory = with_suffix(&run_directory, "classes");
        match classes::run(&config, &run_directory, &directory, length, &control) {
            Ok(result) => classifier = Some(result),
            Err(QuickstartError::Stopped) => {}
            Err(error) => return Err(error),
        }
    }
    timings.push(("fine-tuning".to_string(), tuning.elapsed().as_secs_f64()));

    info!("5/5  writing the report");
    let writing = Instant::now();
    let examples = make_examples(model.vlc(), &config, &results.candidates, &first_shape)?;
    timings.push(("report".to_string(), writing.elapsed().as_secs_f64()));
    let fine_tuned_metrics = fine_tuned.iter().map(|result| result.metric());
    let fine_tuned_metrics = fine_tuned_metrics
        .chain(classifier.as_ref().map(|result| result.metric()))
        .collect();
    let data = report::assemble(
        &config,
        &run_directory,
        &finished,
        results,
        examples,
        fine_tuned_metrics,
        timings,
    )?;
    let metric_lines = report::metric_lines(&data);
    let report = data.write(&options.out)?;
    let pretrained = (&config, run_directory.as_path());
    let trials = predictions::trials(
        &options.out.join("examples"),
        pretrained,
        &fine_tuned,
        classifier.as_ref(),
    )?;
    Ok(QuickstartResult {
        report,
        metric_lines,
        trials,
    })
}

/// Loads the last checkpoint of a run directory.
fn load_last(run_directory: &Path, spec: &RunSpec) -> Result<Model> {
    let mut model = weights::fresh_model(spec);
    let path = last_path(run_directory);
    weights::load_file(&mut model, &path, Scope::Model, spec.weights.skip_heads)?;
    Ok(model)
}

/// Returns the index of the first token that names a shape.
fn first_shape(tokens: &[String]) -> Option<usize> {
    let names_shape = |token: &String| Shape::ALL.iter().any(|s| s.word() == token || s.plural() == token);
    tokens.iter().position(names_shape)
}

/// Returns the configuration of the recipe `quickstart` with the data directory and the user's updates.
fn quickstart_config(data: &Path, options: &QuickstartOptions) -> Result<Config> {
    if let Some(key) = fixed_key(&options.updates) {
        return Err(QuickstartError::FixedKey { key: key.to_string() });
    }
    let mut words = vec!["quickstart".to_string()];
    words.extend(options.updates.iter().cloned());
    let mut config = resolve(&words)?.config;
    if config.loss_names.itm < 1.0 || config.loss_names.mlm < 1.0 {
        return Err(QuickstartError::MissingLosses);
    }
    config.data_root = data.display().to_string();
    config.tokenizer = data.join("vocab.txt").display().to_string();
    config.vocab_size = config.vocab_size.min(SMALL_VOCABULARY);
    spec::validate(&config)?;
    Ok(config)
}

/// Returns the first key in `updates` (`KEY=VALUE`) that a quickstart does not accept.
pub fn fixed_key(updates: &[String]) -> Option<&str> {
    updates
        .iter()
        .map(|update| update.split('=').next().unwrap_or_default().trim())
        .find(|key| FIXED_KEYS.contains(key))
}

/// Keys that the quickstart sets itself, or that would prevent the evaluation.
const FIXED_KEYS: [&str; 7] = [
    "data_root",
    "tokenizer",
    "vocab_size",
    "datasets",
    "fast_dev_run",
    "test_only",
    "resume_from",
];

/// Maximum number of rows of the word embedding. The synthetic captions have fewer words.
const SMALL_VOCABULARY: usize = 256;

/// Whether the user sets the number of optimiser steps.
fn sets_max_steps(updates: &[String]) -> bool {
    updates
        .iter()
        .any(|update| update.trim_start().starts_with("max_steps"))
}

/// The length of a run.
#[derive(Clone, Copy, Debug)]
enum RunLength {
    /// Number of optimiser steps.
    Steps(u64),
    /// Approximate time in seconds.
    Seconds(f64),
}

impl RunLength {
    /// Returns the configuration with `max_steps` set, to at least `min_steps`.
    ///
    /// # Errors
    /// Returns [`QuickstartError::Stopped`] if `stop` is set, and the errors of the timed runs.
    fn plan(self, mut config: Config, min_steps: u64, stop: &AtomicBool) -> Result<Config> {
        let steps = match self {
            Self::Steps(steps) => steps,
            Self::Seconds(seconds) => {
                let per_step = trainer::seconds_per_step(&config, stop)?.ok_or(QuickstartError::Stopped)?;
                let steps = (seconds / per_step) as u64;
                info!(
                    "     one step takes about {:.0} ms on this machine: {}",
                    per_step * 1e3,
                    counted(steps.max(min_steps), "step")
                );
                steps
            }
        };
        config.max_steps = Some(steps.max(min_steps));
        Ok(config)
    }
}

/// Returns the path `{directory}-{suffix}`.
fn with_suffix(directory: &Path, suffix: &str) -> PathBuf {
    let mut path = directory.to_path_buf().into_os_string();
    path.push(format!("-{suffix}"));
    path.into()
}

/// Returns `out/run`, or `out/run-2`, … if earlier runs exist.
fn fresh_directory(out: &Path) -> Result<PathBuf> {
    let candidates = std::iter::once(out.join("run")).chain((2..).map(|i| out.join(format!("run-{i}"))));
    for path in candidates {
        if !path.try_exists().map_err(at::<TrainError>(&path))? {
            return Ok(path);
        }
    }
    unreachable!("the list of names does not end")
}
