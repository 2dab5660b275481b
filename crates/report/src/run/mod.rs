//! The report of any run directory: curves, held-out numbers and examples of its validation split.

mod examples;

use std::path::{Path, PathBuf};

use log::{info, warn};
use serde_json::Value;
use vlct_checkpoint::{self as checkpoint, best_path, last_path};
use vlct_tasks::confusion::Confusion;
use vlct_tasks::predictions::{PREDICTIONS_FILE, read_confusion};
use vlct_train::imagenet::{RunSettings, Settings, Sizes};
use vlct_train::trainer::{self, Threads};
use vlct_util::text::counted;

use crate::quickstart::{QuickstartError, Result};
use crate::records::{Records, curve, records, thin};
use crate::{Chart, Curve, Metric, NumberFormat, ReportData};
use examples::{add_classifier_examples, add_examples};

/// Name of the file with the values of the page.
const JSON_NAME: &str = "report.json";

/// Options of a report.
#[derive(Clone, Debug)]
pub struct RunReportOptions {
    /// The run directory.
    pub run: PathBuf,
    /// The directory to write `report.html` and `report.json` to; `None` means the run directory.
    pub out: Option<PathBuf>,
    /// Whether to leave out examples, which need the data and the weights of the run.
    pub without_examples: bool,
}

/// A report that was written.
#[derive(Clone, Debug)]
pub struct WrittenReport {
    /// The page.
    pub page: PathBuf,
    /// What is damaged or missing in the run directory, one sentence each. The page has them too.
    pub faults: Vec<String>,
}

/// Writes the report of a run. What is damaged is left out, and named on the page.
///
/// # Errors
/// Returns an error if the directory is not a run directory or the report cannot be written. If the data cannot be read, the page has no
/// examples, and a message says so.
pub fn report(options: &RunReportOptions) -> Result<WrittenReport> {
    let run = &options.run;
    let settings = RunSettings::read(run)?;
    let mut faults = Vec::new();
    let Records { values, damaged } = records(run).unwrap_or_else(|error| {
        faults.push(error.to_string());
        Records::default()
    });
    let mut page = ReportData {
        title: title(&settings, run),
        summary: summary(&settings, &values),
        baseline:
            "The numbers of the last validation. Recalls and accuracies are fractions; losses have no upper limit."
                .into(),
        charts: charts(&values),
        classes: classes(&settings, run, &mut faults),
        config: match &settings {
            RunSettings::Keys(config) => config.to_toml(),
            RunSettings::Classifier(settings) => settings.to_toml()?,
        },
        ..ReportData::default()
    };
    page.dataset.extend(best_checkpoint(run));
    let mut metrics = metrics(&values);
    if !options.without_examples {
        let checkpoint = sound_checkpoint(run, &mut faults);
        let checkpoint = checkpoint.as_deref();
        let added = match &settings {
            RunSettings::Keys(config) => {
                trainer::use_threads(Threads::from_config(config))?;
                add_examples(&mut page, &mut metrics, config, checkpoint)
            }
            RunSettings::Classifier(settings) => {
                trainer::use_threads(Threads::default())?;
                add_classifier_examples(&mut page, &mut metrics, settings, checkpoint)
            }
        };
        match added {
            Ok(()) => {}
            Err(error) => info!("the page has no examples: {error}"),
        }
    }
    page.metrics = metrics;
    page.faults.clone_from(&faults);
    // A run that was killed may have a truncated last line, so this is not a failure.
    if damaged > 0 {
        let path = run.join(vlct_logs::metrics::FILE_NAME);
        let lines = counted(damaged, "line");
        let note = format!("{}: {lines} left out, not JSON", path.display());
        warn!("{note}");
        page.faults.push(note);
    }
    let out = options.out.as_deref().unwrap_or(run);
    let page = page.write_as(out, JSON_NAME).map_err(QuickstartError::from)?;
    Ok(WrittenReport { page, faults })
}

/// Returns the best checkpoint of a run, or the last if the best is damaged or does not exist. Verifies both, and adds the damage of each to
/// `faults`.
fn sound_checkpoint(run: &Path, faults: &mut Vec<String>) -> Option<PathBuf> {
    let paths = [best_path(run), last_path(run)]
        .into_iter()
        .filter(|path| path.is_file());
    let mut sound = None;
    for path in paths {
        match checkpoint::load(&path) {
            Ok(_) => sound = sound.or(Some(path)),
            Err(error) => faults.push(error.to_string()),
        }
    }
    match &sound {
        Some(path) if *path == last_path(run) && best_path(run).is_file() => {
            info!("the examples are those of {}", path.display())
        }
        Some(_) => {}
        None => info!("the page has no examples: the run has no sound checkpoint"),
    }
    sound
}

/// Reads the predictions of a classifier that its run has written.
fn classes(settings: &RunSettings, run: &Path, faults: &mut Vec<String>) -> Option<Confusion> {
    if let RunSettings::Keys(_) = settings {
        return None;
    }
    let path = run.join(PREDICTIONS_FILE);
    if !path.is_file() {
        info!(
            "the page has no classes: there is no {}, which an evaluation with this output directory writes",
            path.display()
        );
        return None;
    }
    let confusion = read_confusion(&path);
    confusion.map_err(|error| faults.push(error.to_string())).ok()
}

/// Returns the position of the best checkpoint; `None` if there is none, or it cannot be read.
fn best_checkpoint(run: &Path) -> Option<(String, String)> {
    let state = checkpoint::read_state(&best_path(run)).ok()??;
    let number = |key: &str| state.get(key).and_then(Value::as_u64);
    let (step, epoch) = (number(checkpoint::STEP_KEY)?, number(checkpoint::EPOCH_KEY)?);
    let metric = state.get(checkpoint::METRIC_KEY).and_then(Value::as_f64);
    let metric = metric.map_or(String::new(), |metric| format!(", val/the_metric {metric:.4}"));
    Some(("Best checkpoint".into(), format!("step {step}, epoch {epoch}{metric}")))
}

fn title(settings: &RunSettings, run: &Path) -> String {
    match settings {
        RunSettings::Keys(config) => format!("Run {}", config.exp_name),
        RunSettings::Classifier(_) => {
            let run = std::path::absolute(run).unwrap_or_else(|_| run.to_path_buf());
            let name = run.file_name().unwrap_or_default().to_string_lossy().into_owned();
            format!("Image classifier {name}")
        }
    }
}

fn summary(settings: &RunSettings, records: &[Value]) -> String {
    let (subject, batch_size) = match settings {
        RunSettings::Keys(config) => {
            let tasks: Vec<&str> = config.loss_names.active().collect();
            let subject = format!("Trained for {} on {}", tasks.join(", "), config.datasets.join(", "));
            (subject, config.batch_size)
        }
        RunSettings::Classifier(settings) => {
            let subject = classifier(settings);
            (subject, settings.samples_per_step())
        }
    };
    let last = |key: &str| records.iter().rev().find_map(|record| record[key].as_f64());
    let steps = last("step").unwrap_or(0.0);
    let seconds = last("time").unwrap_or(0.0);
    format!(
        "{subject}: {} of {} in {}.",
        counted(format!("{steps:.0}"), "optimiser step"),
        counted(batch_size, "sample"),
        counted(format!("{seconds:.0}"), "second")
    )
}

/// Says which classifier was trained, from what, on which images.
fn classifier(settings: &Settings) -> String {
    let Sizes {
        patch_size,
        width,
        depth,
        heads,
        ..
    } = settings.sizes;
    let sizes = [
        ("patches of", patch_size),
        ("width", width),
        ("depth", depth),
        ("heads", heads),
    ];
    let sizes: Vec<String> = sizes
        .into_iter()
        .filter_map(|(name, size)| Some(format!("{name} {}", size?)))
        .collect();
    let model = match sizes.is_empty() {
        true => settings.model.clone(),
        false => format!("a vision transformer ({})", sizes.join(", ")),
    };
    let images = settings.data_path.display();
    match &settings.finetune {
        Some(weights) => format!("Fine-tuned {model} from {} on {images}", weights.display()),
        None => format!("Trained {model} from random weights on {images}"),
    }
}

/// Whether the record name `name` is a number of a validation.
fn is_held_out(name: &str) -> bool {
    name.contains("/val/")
        || name.starts_with("recalls")
        || name.starts_with("nlvr2/dev/")
        || name.starts_with("nlvr2/test/")
}

/// Whether the record name `name` is a number of a single label or class.
fn is_detail(name: &str) -> bool {
    const DETAILS: [&str; 3] = [
        "labels/val/auroc/",
        "labels/val/average_precision/",
        "images/val/accuracy/",
    ];
    DETAILS.iter().any(|prefix| name.starts_with(prefix))
}

/// Whether larger values of the metric are better and its range is 0 to 1.
fn is_fraction(name: &str) -> bool {
    !name.contains("loss")
}

/// Returns the numbers of the last validation, without those of single labels.
fn metrics(records: &[Value]) -> Vec<Metric> {
    let has_held_out = |record: &&Value| {
        record
            .as_object()
            .is_some_and(|values| values.keys().any(|name| is_held_out(name)))
    };
    let Some(last) = records.iter().rev().find(has_held_out).and_then(Value::as_object) else {
        return Vec::new();
    };
    let shown = last.iter().filter(|(name, _)| is_held_out(name) && !is_detail(name));
    shown
        .filter_map(|(name, value)| {
            Some(Metric {
                key: name.clone(),
                name: short_title(name),
                value: value.as_f64()?,
                format: if is_fraction(name) {
                    NumberFormat::Percent
                } else {
                    NumberFormat::Number
                },
                chance: None,
                baseline: None,
                from_scratch: None,
                explanation: format!("{name}, at step {}.", last["step"]),
            })
        })
        .collect()
}

/// Returns a chart of each quantity of training with its held-out counterpart, of the norm of the gradients, and of each held-out quantity
/// without a counterpart in training.
fn charts(records: &[Value]) -> Vec<Chart> {
    let mut names: Vec<&str> = Vec::new();
    for name in records
        .iter()
        .filter_map(Value::as_object)
        .flat_map(|record| record.keys())
    {
        let is_charted = (name.contains("/train/") && !name.ends_with("_epoch")) || name == "grad_norm";
        if is_charted && !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    let held_out = held_out_names(records);
    let of_training: Vec<String> = names.iter().map(|name| held_out_name(name)).collect();
    names.extend(held_out.into_iter().filter(|name| {
        let is_measured_again = curve(records, name).len() > 1;
        is_measured_again && !of_training.iter().any(|paired| paired == name)
    }));
    let chart = |name: &&str| {
        let mut curves = vec![Curve {
            name: (*name).to_string(),
            points: thin(curve(records, name)),
        }];
        let held_out = held_out_name(name);
        let points = curve(records, &held_out);
        if points.len() > 1 && held_out != *name {
            curves.push(Curve { name: held_out, points });
        }
        Chart {
            title: short_title(name),
            explanation: match *name {
                "grad_norm" => "The norm of all gradients, before clipping.".into(),
                name if is_fraction(name) => "Higher is better.".into(),
                _ => "Lower is better.".into(),
            },
            x_label: "step".into(),
            curves,
            reference: None,
        }
    };
    names.iter().map(chart).collect()
}

/// Returns the names of the means over held-out data, in the order in which they occur.
fn held_out_names(records: &[Value]) -> Vec<&str> {
    let mut names: Vec<&str> = Vec::new();
    for record in records.iter().filter_map(Value::as_object) {
        for name in record.keys() {
            let is_mean = name.contains("/val/") && name.ends_with("_epoch") && !is_detail(name);
            if is_mean && !names.contains(&name.as_str()) {
                names.push(name);
            }
        }
    }
    names
}

/// Returns the name of the held-out counterpart of a quantity of training; other names as they are.
fn held_out_name(name: &str) -> String {
    match name.contains("/train/") {
        true => format!("{}_epoch", name.replace("/train/", "/val/")),
        false => name.to_string(),
    }
}

/// Returns the title of a quantity: `vqa: score` for `vqa/val/score_epoch`.
fn short_title(name: &str) -> String {
    let name = name.trim_end_matches("_epoch");
    name.replace("/train/", ": ").replace("/val/", ": ").replace('_', " ")
}

#[cfg(test)]
mod tests;
