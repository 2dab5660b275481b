//! Examples of predictions for the validation split of a run.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use vlct_classes::ClassDataset;
use vlct_config::Config;
use vlct_data::datasets::{Answer, Dataset, Split, TableDataset};
use vlct_data::loader::Position;
use vlct_model::files::Scope;
use vlct_model::{Model, Planes, Vlc};
use vlct_tasks::evaluate::evaluate_batches;
use vlct_tasks::images::ImagesSpec;
use vlct_tasks::labels::Labels;
use vlct_tasks::probabilities::{sigmoid, softmax, top};
use vlct_tasks::scoring::RetrievalScorer;
use vlct_tasks::text_baseline::baseline_scores;
use vlct_tasks::{Description, InputSpec, Loader, LoaderSpec, Mode, TaskSpec};
use vlct_train::imagenet::Settings;
use vlct_train::spec::RunSpec;
use vlct_train::{TrainError, data, weights};

use crate::examples::{Candidates, Examples, make_examples};
use crate::quickstart::Result;
use crate::{AnswerExample, Metric, ReportData};

/// Number of examples of predictions.
const EXAMPLES: usize = 9;
/// Number of images, and of captions, of the retrieval examples.
const CANDIDATES: usize = 40;
/// Number of predictions of an example.
const PREDICTIONS: usize = 3;

/// Adds baselines of the metrics, and examples of the validation split with the weights of `checkpoint`.
pub(super) fn add_examples(
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
pub(super) fn add_classifier_examples(
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
mod tests {
    use super::*;

    #[test]
    fn chooses_the_longest_word() {
        let tokens = ["a", "striped", "##s", "square", "42424242"].map(str::to_owned);
        assert_eq!(longest_word(&tokens), Some(1));
        assert_eq!(longest_word(&[]), None);
    }
}
