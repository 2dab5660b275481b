//! From the results to the report's data.

use super::evaluation::Evaluation;
use super::examples::Examples;
use crate::{Chart, Curve, Metric, NumberFormat, ReportData};
use serde_json::Value;
use std::path::Path;
use vlct_train::config::Config;
use vlct_train::error::{Result, TrainError};
use vlct_train::trainer::Finished;

/// Collects everything that the page shows.
pub fn assemble(
    config: &Config,
    run: &Path,
    finished: &Finished,
    e: Evaluation,
    examples: Examples,
    timings: Vec<(String, f64)>,
) -> Result<ReportData> {
    let records = records(run)?;
    let captions = e.held_out.len();
    Ok(ReportData {
        title: "VLC quickstart".into(),
        summary: format!(
            "A vision-language transformer of {} blocks, trained from random weights on generated pictures and their captions \
             alone: {} steps of {} samples in {:.0} seconds.",
            config.depth.unwrap_or_default(),
            finished.steps,
            config.batch_size,
            finished.seconds
        ),
        metrics: metrics(&e, &records),
        baseline: format!(
            "The text-only baseline sees the captions without the pictures: interpolated counts of the words on both sides of \
             the hidden one, over all training captions, at the same {} hidden positions of {captions} held-out captions.",
            e.mlm.total()
        ),
        charts: charts(&records, e.text_only.share()),
        reconstructions: examples.reconstructions,
        fill_in: examples.fill_in,
        heat_maps: examples.heat_maps,
        retrieval: examples.retrieval,
        dataset: vec![
            ("Held-out pictures".into(), e.held_out.rows().to_string()),
            ("Held-out captions".into(), captions.to_string()),
            ("Words".into(), e.tokenizer.len().to_string()),
        ],
        timings,
        config: config.to_toml(),
    })
}

fn metrics(e: &Evaluation, records: &[Value]) -> Vec<Metric> {
    let percent =
        |key: &str, name: &str, value: f64, chance: Option<f64>, baseline: Option<f64>, explanation: String| Metric {
            key: key.into(),
            name: name.into(),
            value,
            format: NumberFormat::Percent,
            chance,
            baseline,
            explanation,
        };
    let candidates = e.captions.len();
    let chance = Some(1.0 / candidates as f64);
    let early = curve(records, "mae/train/loss")
        .into_iter()
        .find(|(step, _)| *step >= 100.0)
        .map(|(_, loss)| loss);
    vec![
        percent(
            "itm/accuracy",
            "Image-text matching",
            e.itm.share(),
            Some(0.5),
            None,
            "How often the model tells whether a caption belongs to a picture.".into(),
        ),
        percent(
            "itm/accuracy_masked",
            "Image-text matching, patches hidden",
            e.itm_masked.share(),
            Some(0.5),
            None,
            "The same while seeing only part of each picture, as in training.".into(),
        ),
        percent(
            "mlm/accuracy",
            "Masked words",
            e.mlm.share(),
            None,
            Some(e.text_only.share()),
            "How often the model guesses a hidden word of a caption with the picture in view.".into(),
        ),
        percent(
            "retrieval/ir_r1",
            "Caption to picture, first try",
            e.recalls.ir_r1,
            chance,
            None,
            format!("How often the right one of {candidates} held-out pictures comes first for its caption."),
        ),
        percent(
            "retrieval/tr_r1",
            "Picture to caption, first try",
            e.recalls.tr_r1,
            chance,
            None,
            format!("How often the right one of {candidates} captions comes first for its picture."),
        ),
        percent(
            "retrieval/ir_r10",
            "Caption to picture, first ten",
            e.recalls.ir_r10,
            chance.map(|c| 10.0 * c),
            None,
            "How often the right picture is among the first ten.".into(),
        ),
        percent(
            "retrieval/tr_r10",
            "Picture to caption, first ten",
            e.recalls.tr_r10,
            chance.map(|c| 10.0 * c),
            None,
            "How often the right caption is among the first ten.".into(),
        ),
        Metric {
            key: "mae/loss".into(),
            name: "Masked patches: error".into(),
            value: e.mae.mean(),
            format: NumberFormat::Number,
            chance: Some(1.0),
            baseline: early,
            explanation:
                "Squared error of the repainted patches on held-out pictures; 1 is what grey patches reach, the \
                          baseline is the training error at step 100."
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
                points: smooth(curve(records, key)),
            })
            .collect(),
        reference,
    };
    vec![
        chart(
            "Masked words: loss",
            "Surprise at the hidden words; lower is better.",
            &[("mlm/train/loss", "training loss, words")],
            None,
        ),
        chart(
            "Masked words: accuracy",
            "Above the line, the model uses the picture.",
            &[("mlm/train/accuracy", "training accuracy, words")],
            Some(("text alone".into(), text_only)),
        ),
        chart(
            "Matching: accuracy",
            "Whether caption and picture belong together.",
            &[("itm/train/accuracy", "training accuracy, matching")],
            Some(("chance".into(), 0.5)),
        ),
        chart(
            "Masked patches: loss",
            "Error of the repainted patches; lower is better.",
            &[("mae/train/loss", "training loss, patches")],
            None,
        ),
        chart(
            "Matching and alignment: loss",
            "The matching loss, and the alignment term, which grows negative as words find their patches.",
            &[
                ("itm/train/loss", "training loss, matching"),
                ("itm/train/wpa_loss", "alignment term"),
            ],
            None,
        ),
    ]
}

/// The headline metrics as lines for the terminal.
pub fn headline(data: &ReportData) -> Vec<String> {
    data.metrics
        .iter()
        .map(|m| {
            let show = |v: f64| match m.format {
                NumberFormat::Percent => format!("{:.1} %", v * 100.0),
                NumberFormat::Number => format!("{v:.3}"),
            };
            let compared = [("chance", m.chance), ("baseline", m.baseline)]
                .into_iter()
                .filter_map(|(name, v)| Some(format!("{name} {}", show(v?))))
                .collect::<Vec<_>>()
                .join(", ");
            format!("{:<38} {:>8}   ({compared})", m.name, show(m.value))
        })
        .collect()
}

fn records(run: &Path) -> Result<Vec<Value>> {
    let path = run.join(vlct_train::logs::metrics::FILE_NAME);
    let text = std::fs::read_to_string(&path).map_err(|source| TrainError::Io { path, source })?;
    Ok(text
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect())
}

fn curve(records: &[Value], key: &str) -> Vec<(f64, f64)> {
    records
        .iter()
        .filter_map(|r| Some((r["step"].as_f64()?, r.get(key)?.as_f64()?)))
        .collect()
}

/// Means of neighbouring points, so that at most about a hundred remain.
fn smooth(points: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    let group = points.len().div_ceil(100).max(1);
    points
        .chunks(group)
        .map(|c| {
            let n = c.len() as f64;
            (
                c.iter().map(|p| p.0).sum::<f64>() / n,
                c.iter().map(|p| p.1).sum::<f64>() / n,
            )
        })
        .collect()
}
