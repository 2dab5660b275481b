//! Assembles the report from the results.

use super::evaluation::Evaluation;
use crate::examples::Examples;
use crate::records::{curve, records, thin};
use crate::{Chart, Curve, Metric, NumberFormat, ReportData};
use serde_json::Value;
use std::path::Path;
use vlct_config::Config;
use vlct_data::datasets::Dataset;
use vlct_train::error::Result;
use vlct_train::trainer::Finished;
use vlct_util::text::counted;

/// Assembles the report of a finished run.
///
/// # Errors
/// Returns [`TrainError::Io`] if the metrics of `run_directory` cannot be read.
pub fn assemble(
    config: &Config,
    run_directory: &Path,
    finished: &Finished,
    e: Evaluation,
    examples: Examples,
    fine_tuned: Vec<Metric>,
    timings: Vec<(String, f64)>,
) -> Result<ReportData> {
    let records = records(run_directory)?.values;
    let captions = e.held_out.len();
    Ok(ReportData {
        classes: None,
        faults: Vec::new(),
        title: "VLC quickstart".into(),
        summary: format!(
            "A vision-language transformer of {} blocks, trained from random weights on synthetic images and their captions \
             alone: {} of {} in {:.0} seconds.",
            config.depth.unwrap_or_default(),
            counted(finished.steps, "step"),
            counted(config.batch_size, "sample"),
            finished.seconds
        ),
        metrics: metrics(&e, &records).into_iter().chain(fine_tuned).collect(),
        baseline: format!(
            "Chance is the expected value of random guessing. The text-only baseline predicts a masked word from the words beside \
             it, without the image, by interpolated n-gram counts over all training captions. Like the model, it is evaluated at the \
             {} masked positions of {captions} held-out captions.",
            e.mlm.count()
        ),
        charts: charts(&records, e.text_only.mean()),
        reconstructions: examples.reconstructions,
        masked_captions: examples.masked_captions,
        heat_maps: examples.heat_maps,
        retrieval: examples.retrieval,
        answers: Vec::new(),
        dataset: vec![
            ("Held-out images".into(), e.held_out.rows().to_string()),
            ("Held-out captions".into(), captions.to_string()),
            ("Vocabulary".into(), e.candidates.tokenizer.len().to_string()),
        ],
        timings,
        config: config.to_toml(),
    })
}

fn metrics(e: &Evaluation, records: &[Value]) -> Vec<Metric> {
    let percent_metric =
        |key: &str, name: &str, value: f64, chance: Option<f64>, baseline: Option<f64>, explanation: String| Metric {
            key: key.into(),
            name: name.into(),
            value,
            format: NumberFormat::Percent,
            chance,
            baseline,
            from_scratch: None,
            explanation,
        };
    let candidates = e.candidates.captions.len();
    let chance = Some(1.0 / candidates as f64);
    let early_loss = curve(records, "mae/train/loss")
        .into_iter()
        .find(|(step, _)| *step >= 100.0)
        .map(|(_, loss)| loss);
    vec![
        percent_metric(
            "itm/accuracy",
            "Image-text matching",
            e.itm.mean(),
            Some(0.5),
            None,
            "Accuracy of classifying whether a caption belongs to an image.".into(),
        ),
        percent_metric(
            "itm/accuracy_masked",
            "Image-text matching, masked",
            e.itm_masked.mean(),
            Some(0.5),
            None,
            "Accuracy of the same classification when patches are masked as in training.".into(),
        ),
        percent_metric(
            "mlm/accuracy",
            "Masked words",
            e.mlm.mean(),
            None,
            Some(e.text_only.mean()),
            "Accuracy of predicting the masked words of a caption from the image and the other words.".into(),
        ),
        percent_metric(
            "retrieval/ir_r1",
            "Text-to-image retrieval, recall at 1",
            e.recalls.ir_r1,
            chance,
            None,
            format!("How often the image of a caption ranks first among {candidates} held-out images."),
        ),
        percent_metric(
            "retrieval/tr_r1",
            "Image-to-text retrieval, recall at 1",
            e.recalls.tr_r1,
            chance,
            None,
            format!("How often the caption of an image ranks first among {candidates} held-out captions."),
        ),
        percent_metric(
            "retrieval/ir_r10",
            "Text-to-image retrieval, recall at 10",
            e.recalls.ir_r10,
            chance.map(|c| 10.0 * c),
            None,
            "How often the image of a caption ranks among the first ten.".into(),
        ),
        percent_metric(
            "retrieval/tr_r10",
            "Image-to-text retrieval, recall at 10",
            e.recalls.tr_r10,
            chance.map(|c| 10.0 * c),
            None,
            "How often the caption of an image ranks among the first ten.".into(),
        ),
        Metric {
            key: "mae/loss".into(),
            name: "Masked patches, squared error".into(),
            value: e.mae.mean(),
            format: NumberFormat::Number,
            chance: Some(1.0),
            baseline: early_loss,
            from_scratch: None,
            explanation:
                "Mean squared error of the reconstructed patches of held-out images. Each patch is normalised to \
                 variance 1. Chance is predicting one colour for the whole patch; the baseline is the training loss at step 100."
                    .into(),
        },
    ]
}

fn charts(records: &[Value], text_only: f64) -> Vec<Chart> {
    let chart = |title: &str, explanation: &str, names: &[(&str, &str)], reference: Option<(String, f64)>| Chart {
        title: title.into(),
        explanation: explanation.into(),
        x_label: "step".into(),
        curves: names
            .iter()
            .map(|(key, name)| Curve {
                name: name.to_string(),
                points: thin(curve(records, key)),
            })
            .collect(),
        reference,
    };
    vec![
        chart(
            "Masked words: loss",
            "Cross-entropy of the masked words; lower is better.",
            &[("mlm/train/loss", "training loss, words")],
            None,
        ),
        chart(
            "Masked words: accuracy",
            "Accuracy above the line requires the image.",
            &[("mlm/train/accuracy", "training accuracy, words")],
            Some(("text-only baseline".into(), text_only)),
        ),
        chart(
            "Matching: accuracy",
            "Fraction of image-caption pairs that are classified correctly.",
            &[("itm/train/accuracy", "training accuracy, matching")],
            Some(("chance".into(), 0.5)),
        ),
        chart(
            "Masked patches: loss",
            "Mean squared error of the reconstructed patches; lower is better.",
            &[("mae/train/loss", "training loss, patches")],
            None,
        ),
        chart(
            "Matching and alignment: loss",
            "The matching loss and the word-patch alignment loss, which becomes negative as words align with their patches.",
            &[
                ("itm/train/loss", "training loss, matching"),
                ("itm/train/wpa_loss", "alignment term"),
            ],
            None,
        ),
    ]
}

/// Formats the metrics as lines for the terminal.
pub fn metric_lines(data: &ReportData) -> Vec<String> {
    data.metrics
        .iter()
        .map(|m| {
            let format_value = |v: f64| match m.format {
                NumberFormat::Percent => format!("{:.1} %", v * 100.0),
                NumberFormat::Number => format!("{v:.3}"),
            };
            let comparisons = m
                .comparisons()
                .map(|(name, value)| format!("{name} {}", format_value(value)))
                .collect::<Vec<_>>()
                .join(", ");
            format!("{:<54} {:>8}   ({comparisons})", m.name, format_value(m.value))
        })
        .collect()
}
