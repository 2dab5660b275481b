//! Evaluation of the test split (`test_only=True`), with a record in a run directory and the submission file of VQA.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use log::{info, warn};
use serde_json::{Map, Value};
use vlct_checkpoint as checkpoint;
use vlct_data::datasets::{Dataset, Split, VqaTest};
use vlct_model::files::LoadReport;
use vlct_tasks::description::WeightsKind;
use vlct_tasks::scoring::ScorePlace;
use vlct_tasks::{Description, Phase, Report};
use vlct_tensor::Collectives;
use vlct_util::{at, atomic};

use super::evaluate::{self, Evaluated, RecallRun};
use super::training::{Control, Finished};
use crate::data;
use crate::error::{Result, TrainError};
use crate::paths;
use crate::run::RunDirectory;
use crate::spec::RunSpec;
use crate::weights;
use vlct_logs::Progress;

/// The directory of submission files in the working directory, as in the original.
const SUBMISSIONS: &str = "result";

/// Name of the file with all metrics in the run directory of a test.
const METRICS_FILE: &str = "metrics.json";

/// Evaluates the test split with the weights of `load_path` and `pretrain_path`. Writes the metrics to a new run directory, and the
/// answers to the questions of VQA to `result/vqa_submit_{tag}.json`; with several ranks, on rank 0.
pub(super) fn run(spec: &RunSpec, control: &Control, collectives: &dyn Collectives) -> Result<Finished> {
    let is_first = collectives.rank() == 0;
    let inputs = data::inputs(spec)?;
    let dataset = data::open(spec, Split::Test)?;
    if dataset.is_empty() {
        return Err(TrainError::NoTestSplit {
            datasets: spec.data.datasets.clone(),
        });
    }
    let mut model = weights::fresh_model(spec);
    if let Some(report) = weights::load_and_log(&mut model, spec)? {
        check_complete(spec, &report)?;
    }
    // A directory that cannot be created is an error before the evaluation, not after it.
    if control.run_directory.is_none() && is_first {
        std::fs::create_dir_all(&spec.experiment).map_err(at::<TrainError>(&spec.experiment))?;
    }
    if is_first {
        info!("evaluating {}, {}", dataset.describe_size(), spec.compute.describe());
    }
    let recall = evaluate::recall_evaluator(spec, Split::Test, &inputs)?;
    let reading = data::custom_reading(&dataset);
    let split = evaluate::split_evaluator(spec, dataset, &inputs)?;
    let recall = recall.as_ref().map(|evaluator| RecallRun {
        evaluator,
        place: match is_first {
            true => ScorePlace::Resumable(&spec.experiment),
            false => ScorePlace::OtherRank,
        },
        progress: control.progress && is_first,
        all_images: spec.validation.recalls.is_some_and(|recalls| recalls.limit == 0),
    });
    let evaluated = evaluate::evaluate(recall, &split, &model, collectives, control.stop)?;
    let mut finished = Finished {
        run: None,
        steps: step_of(&spec.weights.load_path)?,
        interrupted: evaluated.is_none() || control.stop.load(Ordering::Relaxed),
        seconds: 0.0,
        metrics: Vec::new(),
        best: None,
        best_metrics: Vec::new(),
    };
    if let Some(Evaluated { report, scores, .. }) = evaluated {
        finished.metrics = report.values(Phase::Val);
        if !is_first {
            return Ok(finished);
        }
        let description = Description::new(&spec.model, &spec.task, &inputs, reading, WeightsKind::Raw);
        let directory = control.run_directory.clone();
        let mut run = RunDirectory::create(spec, directory, &description, Progress::quiet())?;
        record(&mut run, finished.steps, &report)?;
        write_files(spec, run.path(), &report)?;
        // Only now, so that an interruption before costs no scores.
        if let Some(scores) = scores {
            scores.remove()?;
        }
        finished.run = Some(run.path().to_path_buf());
    }
    Ok(finished)
}

/// Checks that the weights of `load_path` have all tensors of the model, so that no random values are evaluated.
pub(super) fn check_complete(spec: &RunSpec, report: &LoadReport) -> Result<()> {
    match report.missing.first() {
        None => Ok(()),
        Some(name) => Err(TrainError::IncompleteWeights {
            path: spec.weights.load_path.clone().unwrap_or_default(),
            name: name.clone(),
            count: report.missing.len(),
        }),
    }
}

/// Returns the number of optimiser steps of the checkpoint `load_path`; 0 for other weights.
fn step_of(load_path: &Option<PathBuf>) -> Result<u64> {
    let Some(path) = load_path else { return Ok(0) };
    let path = paths::find_weights(path)?;
    Ok(checkpoint::read_state(&path)?
        .and_then(|state| state.get(checkpoint::STEP_KEY)?.as_u64())
        .unwrap_or(0))
}

/// Writes all metrics to the logs and to `metrics.json`.
fn record(run: &mut RunDirectory, step: u64, report: &Report) -> Result<()> {
    let values: Vec<(String, f64)> = report
        .values(Phase::Val)
        .into_iter()
        .chain(report.details.iter().cloned())
        .collect();
    run.log(step, 0, &values)?;
    let metrics: Map<String, Value> = values.into_iter().map(|(name, value)| (name, value.into())).collect();
    write_json(&run.path().join(METRICS_FILE), &Value::Object(metrics))
}

/// Writes the files of a report to the run directory. A submission to the evaluation server is also written to the directory `result`.
fn write_files(spec: &RunSpec, run: &Path, report: &Report) -> Result<()> {
    for file in &report.files {
        let name = format!("{}_{}.json", file.stem, spec.tag);
        write_json(&run.join(&name), &file.content)?;
        if spec.data.rules.vqa_test == VqaTest::RestVal {
            info!("answers: {}", run.join(&name).display());
            continue;
        }
        let directory = Path::new(SUBMISSIONS);
        std::fs::create_dir_all(directory).map_err(at::<TrainError>(directory))?;
        let path = directory.join(&name);
        if path.exists() {
            warn!("{} is replaced", path.display());
        }
        write_json(&path, &file.content)?;
        info!("answers: {}", path.display());
    }
    Ok(())
}

/// Writes JSON with an indentation of 4 spaces, as the original does. The file appears when it is complete.
fn write_json(path: &Path, value: &Value) -> Result<()> {
    let mut text = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut text, formatter);
    serde::Serialize::serialize(value, &mut serializer).map_err(TrainError::StateNotWritten)?;
    text.push(b'\n');
    atomic::write(path, |out| std::io::Write::write_all(out, &text)).map_err(at::<TrainError>(path))
}
