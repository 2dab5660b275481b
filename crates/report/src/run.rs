//! The report of any run directory: curves, held-out numbers and examples of its validation split.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use log::{info, warn};
use serde_json::Value;
use vlct_checkpoint::{self as checkpoint, best_path, last_path};
use vlct_classes::ClassDataset;
use vlct_config::Config;
use vlct_data::datasets::{Answer, Dataset, Split, TableDataset};
use vlct_data::loader::Position;
use vlct_model::Planes;
use vlct_model::files::Scope;
use vlct_model::{Model, Vlc};
use vlct_tasks::confusion::Confusion;
use vlct_tasks::evaluate::evaluate_batches;
use vlct_tasks::images::ImagesSpec;
use vlct_tasks::labels::Labels;
use vlct_tasks::predictions::{PREDICTIONS_FILE, read_confusion};
use vlct_tasks::probabilities::{sigmoid, softmax, top};
use vlct_tasks::scoring::RetrievalScorer;
use vlct_tasks::text_baseline::baseline_scores;
use vlct_tasks::{Description, InputSpec, Loader, LoaderSpec, Mode, TaskSpec};
use vlct_train::imagenet::{RunSettings, Settings, Sizes};
use vlct_train::spec::{self, RunSpec};
use vlct_train::trainer::{self, Threads};
use vlct_train::{TrainError, data, weights};
use vlct_util::text::counted;

use crate::examples::{Candidates, Examples, make_examples};
use crate::quickstart::{QuickstartError, Result};
use crate::records::{Records, curve, records, thin};
use crate::{AnswerExample, Chart, Curve, Metric, NumberFormat, ReportData};

/// Name of the file with the values of the page.
const JSON_NAME: &str = "report.json";
/// Number of examples of predictions.
const EXAMPLES: usize = 9;
/// Number of images, and of captions, of the retrieval examples.
const CANDIDATES: usize = 40;
/// Number of predictions of an example.
const PREDICTIONS: usize = 3;

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
                trainer::use_threads(Threads::from_spec(&spec::compute(config)))?;
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

/// Adds baselines of the metrics, and examples of the validation split with the weights of `checkpoint`.
fn add_examples(
    page: &mut ReportData,
    metrics: &mut [Metric],
    config: &Config,
    checkpoint: Option<&Path>,
) -> Result<()> {
    let mut spec = RunSpec::resolve(config)?;
    spec.resolve_names()?;
    let held_out = data::open(&spec, Split::Val)?;
    if held_out.is_empty() {
        return Ok(());
    }
    page.dataset.extend(size_of(&*held_out));
    let train = data::open(&spec, Split::Train)?;
    let baselines = baseline_scores(&spec.task, &*train, &*held_out).map_err(TrainError::from)?;
    let compared = [
        "vqa/val/score_epoch",
        "nlvr2/dev/accuracy_epoch",
        "labels/val/macro_f1_epoch",
    ];
    for metric in metrics.iter_mut().filter(|metric| compared.contains(&&metric.key[..])) {
        metric.chance = baselines.map(|b| b.most_frequent);
        metric.baseline = baselines.map(|b| b.text_only);
    }
    if baselines.is_some() {
        page.baseline += " Chance is always predicting the most frequent class of the training split; the baseline predicts from the text \
                          alone.";
    }
    let Some(checkpoint) = checkpoint else {
        return Ok(());
    };
    let model = read_model(&spec, checkpoint)?;
    let inputs = data::inputs_of_checkpoint(&spec, checkpoint)?;
    match &spec.task {
        TaskSpec::Pretrain(_) | TaskSpec::Retrieval(_) => {
            let candidates = candidates(model.vlc(), &spec, &inputs, &held_out)?;
            let Examples {
                reconstructions,
                masked_captions,
                heat_maps,
                retrieval,
            } = make_examples(model.vlc(), config, &candidates, &longest_word)?;
            page.reconstructions = reconstructions;
            page.masked_captions = masked_captions;
            page.heat_maps = heat_maps;
            page.retrieval = retrieval;
        }
        _ => page.answers = answers(&model, &spec, &inputs, held_out)?,
    }
    Ok(())
}

/// Adds the results of random guessing to the metrics of a classifier, and examples of its validation images with the weights of
/// `checkpoint`, which has the names of the classes.
fn add_classifier_examples(
    page: &mut ReportData,
    metrics: &mut [Metric],
    settings: &Settings,
    checkpoint: Option<&Path>,
) -> Result<()> {
    let Some(checkpoint) = checkpoint else {
        return Ok(());
    };
    let description = Description::of_file(checkpoint).map_err(TrainError::from)?;
    let Some(TaskSpec::Images(ImagesSpec { names, .. })) = description.map(|description| description.task) else {
        return Ok(());
    };
    for (key, guesses) in [("images/val/accuracy_epoch", 1), ("images/val/top5_epoch", 5)] {
        if let Some(metric) = metrics.iter_mut().find(|metric| metric.key == key) {
            metric.chance = Some(guesses.min(names.len()) as f64 / names.len() as f64);
        }
    }
    page.baseline += " Chance is a guess among all classes.";
    let held_out = ClassDataset::open(&settings.data_path, Split::Val, &settings.rules())?;
    if held_out.is_empty() {
        return Ok(());
    }
    page.dataset.extend(size_of(&held_out));
    page.dataset.push(("Classes".into(), names.len().to_string()));
    let spec = settings.run_spec(names)?;
    let model = read_model(&spec, checkpoint)?;
    page.answers = answers(&model, &spec, &data::inputs(&spec)?, Arc::new(held_out))?;
    Ok(())
}

/// Returns the facts about the size of the validation split.
fn size_of(held_out: &dyn Dataset) -> [(String, String); 2] {
    [
        ("Held-out rows".into(), held_out.rows().to_string()),
        ("Held-out items".into(), held_out.len().to_string()),
    ]
}

/// Reads the weights of the model from a checkpoint.
fn read_model(spec: &RunSpec, checkpoint: &Path) -> Result<Model> {
    let mut model = weights::fresh_model(spec);
    weights::load_file(&mut model, checkpoint, Scope::Model, false)?;
    Ok(model)
}

/// Returns the index of the longest word of at least three letters.
fn longest_word(tokens: &[String]) -> Option<usize> {
    let words = (0..tokens.len()).filter(|i| tokens[*i].len() > 2 && tokens[*i].chars().all(char::is_alphabetic));
    words.max_by_key(|i| (tokens[*i].len(), std::cmp::Reverse(*i)))
}

/// Returns the first images of the split with their first captions, scored against each other if the model can score.
fn candidates(model: &Vlc, spec: &RunSpec, inputs: &Arc<InputSpec>, data: &Arc<TableDataset>) -> Result<Candidates> {
    let mut captions = Vec::new();
    let count = data.rows().min(CANDIDATES);
    for row in 0..count {
        let first = data.items_of(row).map_err(TrainError::from)?.start;
        captions.push(
            data.text(first)
                .map_err(TrainError::from)?
                .unwrap_or_default()
                .into_owned(),
        );
    }
    let encode = |caption: &String| inputs.tokenizer.encode(caption, inputs.max_text_len);
    let texts: Vec<Vec<u32>> = captions.iter().map(encode).collect();
    let mut images = Vec::new();
    let scorer = RetrievalScorer::new(data.clone(), Arc::clone(inputs), texts.clone(), spec.data.workers);
    let no_stop = AtomicBool::new(false);
    let scores = scorer.scores(model, count, &no_stop, &mut |image| images.push(image.clone()));
    Ok(Candidates {
        tokenizer: inputs.tokenizer.clone(),
        images,
        normalisation: inputs.format.normalisation,
        captions,
        texts,
        scores: scores.map_err(TrainError::from)?.unwrap_or_default(),
    })
}

/// Returns the predictions of items at equal distances in the split, so that a split that is sorted by class shows several classes. An
/// image that cannot be read is replaced.
fn answers(
    model: &Model,
    spec: &RunSpec,
    inputs: &Arc<InputSpec>,
    data: Arc<dyn Dataset>,
) -> Result<Vec<AnswerExample>> {
    let task = spec.task.build(&spec.model).map_err(TrainError::from)?;
    let loader_spec = LoaderSpec {
        batch_size: 1,
        prefetch: 1,
        replaces_unreadable: true,
        ..data::loader_spec(spec, Mode::Evaluate)
    };
    let count = EXAMPLES.min(data.len());
    let batch_at = |example: usize| {
        let start = Position {
            epoch: 0,
            batch: (example * data.len() / count) as u64,
        };
        Loader::new(task.clone(), data.clone(), Arc::clone(inputs), loader_spec, start)?
            .next()
            .transpose()
    };
    let batches = (0..count).filter_map(|example| batch_at(example).transpose());
    let mut examples = Vec::new();
    let mut failure = None;
    let no_stop = AtomicBool::new(false);
    let normalisation = inputs.format.normalisation;
    evaluate_batches(&*task, model, batches, &no_stop, &mut |batch, outcome| {
        let Some(logits) = &outcome.logits else { return Ok(()) };
        let (columns, values) = (logits.columns(), logits.tensor().to_host());
        let images_of = |sample: usize| -> Vec<Planes> {
            let own = batch
                .sequences
                .iter()
                .enumerate()
                .filter(|(i, _)| i % batch.len() == sample);
            own.filter_map(|(_, sequence)| batch.image_of(sequence)).collect()
        };
        for (sample, (item, logits)) in batch.items.iter().zip(values.chunks_exact(columns)).enumerate() {
            let example = data.example(*item)?;
            let images: vlct_image::Result<Vec<_>> = images_of(sample)
                .iter()
                .map(|image| normalisation.denormalise(image.values, [image.height, image.width]))
                .collect();
            match images {
                Ok(images) => examples.push(AnswerExample {
                    images,
                    text: example.text.unwrap_or_default().into_owned(),
                    predictions: predictions(&spec.task, logits),
                    truth: truth(&example.answer),
                }),
                Err(error) => failure = Some(error),
            }
        }
        Ok(())
    })
    .map_err(TrainError::from)?;
    match failure {
        Some(error) => Err(TrainError::from(error).into()),
        None => Ok(examples),
    }
}

/// Returns the most probable classes of a row of logits.
fn predictions(task: &TaskSpec, logits: &[f32]) -> Vec<(String, f64)> {
    let (probabilities, name): (Vec<f32>, Box<dyn Fn(usize) -> String>) = match task {
        TaskSpec::Vqa(vqa) => (sigmoid(logits), Box::new(|id| vqa.answer(id as u32).to_owned())),
        TaskSpec::Labels(labels) => {
            let probabilities = Labels::new(labels.clone()).probabilities(logits);
            (probabilities, Box::new(|id| labels.names[id].clone()))
        }
        TaskSpec::Images(images) => (softmax(logits), Box::new(|id| images.names[id].clone())),
        _ => (
            softmax(logits),
            Box::new(|id| if id == 1 { "true".into() } else { "false".into() }),
        ),
    };
    let best = top(&probabilities, PREDICTIONS);
    best.into_iter()
        .map(|id| (name(id), f64::from(probabilities[id])))
        .collect()
}

/// Returns the correct classes of an item.
fn truth(answer: &Answer) -> Vec<String> {
    match answer {
        Answer::None => Vec::new(),
        Answer::Truth(is_true) => vec![is_true.to_string()],
        Answer::Labels(labels) => labels.clone(),
        Answer::Question { answers, .. } => {
            let answers = answers.iter().flatten();
            answers.map(|(answer, _, _)| answer.clone()).collect()
        }
    }
}

#[cfg(test)]
mod tests;
