//! The model card: a README with metadata that the Hub of Hugging Face reads, and how the model is used.

use std::fmt::Write;
use std::path::Path;

use serde_json::{Map, Value};
use vlct_model::files::{ViltHead, WeightIndex};
use vlct_util::read_at_most;
use vlct_util::text::one_line;

use super::Model;

/// Metrics of a test, in the directory of its run.
const METRICS_FILE: &str = "metrics.json";
/// Maximum size of [`METRICS_FILE`] in bytes.
const MAX_METRICS: u64 = 1 << 20;
/// The line of a run's configuration with its datasets.
const DATASETS: &str = "datasets = ";

/// What a run has recorded about its model.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Facts {
    /// Names of the datasets of the training.
    pub datasets: Vec<String>,
    /// Number of optimiser steps.
    pub steps: Option<u64>,
    /// Names and values of metrics.
    pub metrics: Vec<(String, f64)>,
}

impl Facts {
    /// Finds what the checkpoint in the path `source` and the files of its run say.
    pub fn find(source: &Path, index: &WeightIndex) -> Self {
        let state: Value = index
            .summary
            .entry("state")
            .and_then(|json| serde_json::from_str(json).ok())
            .unwrap_or_default();
        let mut metrics: Vec<(String, f64)> = Vec::new();
        if let Some(best) = state.get("best_metric").and_then(Value::as_f64) {
            metrics.push((
                "best value in validation, by which the checkpoint was chosen".into(),
                best,
            ));
        }
        metrics.extend(measured(source));
        Self {
            datasets: state.get("config").and_then(Value::as_str).map_or(Vec::new(), datasets),
            steps: index.summary.global_step.filter(|steps| *steps > 0),
            metrics,
        }
    }
}

/// Returns the datasets of a configuration, which is TOML.
fn datasets(config: &str) -> Vec<String> {
    let line = config.lines().find_map(|line| line.strip_prefix(DATASETS));
    line.and_then(|list| serde_json::from_str(list).ok())
        .unwrap_or_default()
}

/// Returns the metrics of a test in a run directory.
fn measured(run: &Path) -> Vec<(String, f64)> {
    let content = read_at_most(&run.join(METRICS_FILE), MAX_METRICS, "metrics").ok();
    let values: Option<Map<String, Value>> = content.and_then(|content| serde_json::from_slice(&content).ok());
    let values = values.into_iter().flatten();
    values
        .filter_map(|(name, value)| Some((name, value.as_f64()?)))
        .collect()
}

/// Returns the model card. `left_out` are the tensors of the input that the model does not have, and `notes` the differences.
pub(super) fn card(model: &Model, facts: &Facts, left_out: &str, notes: &[String]) -> String {
    let mut text = metadata(model, facts);
    let what = match model.head {
        ViltHead::Vqa => "answers questions about images",
        ViltHead::Nlvr2 => "says whether a statement is true of two images",
        ViltHead::Ranking => "scores how well a text belongs to an image, for retrieval",
        ViltHead::MaskedWords => "fills masked words of the caption of an image",
        ViltHead::Labels => "labels an image with a text",
    };
    let b = &model.config.backbone;
    let _ = writeln!(
        text,
        "\n# Vision-language transformer\n\n\
         A transformer over words and image patches (of the family of ViLT, arXiv 2102.03334, and VLC, arXiv 2205.09256) that {what}: \
         width {}, {} blocks, {} attention heads, patches of {} x {} pixels. Converted by `vlct`.\n",
        b.width, b.depth, b.heads, b.patch_size, b.patch_size
    );
    match model.license {
        Some(license) => text.push_str(&format!("License of the weights: {license}.\n\n")),
        None => text.push_str(
            "**The license of the weights is not known**: the converted file does not state it. Find it out before you publish or use them, and \
             replace `license: other` above.\n\n",
        ),
    }
    write_training(&mut text, facts);
    write_usage(&mut text, model);
    text.push_str("\n## Differences from the converted file\n\n");
    if !left_out.is_empty() {
        let _ = writeln!(
            text,
            "- Left out, because {} has no such parts: {}.",
            model.head.architecture(),
            one_line(&left_out)
        );
    }
    for note in notes {
        let _ = writeln!(text, "- {}.", one_line(note));
    }
    if left_out.is_empty() && notes.is_empty() {
        text.push_str("None.\n");
    }
    text
}

/// Returns the metadata, which is YAML. Texts are written as JSON, which is YAML too.
fn metadata(model: &Model, facts: &Facts) -> String {
    let quoted = |text: &str| Value::from(text).to_string();
    let mut text = format!(
        "---\nlicense: {}\nlibrary_name: transformers\n",
        model.license.map_or("other".into(), quoted)
    );
    if model.head == ViltHead::Vqa {
        text.push_str("pipeline_tag: visual-question-answering\n");
    }
    text.push_str("tags:\n- vilt\n- vision-language\n- vlct\n");
    if !facts.datasets.is_empty() {
        text.push_str("datasets:\n");
        for name in &facts.datasets {
            let _ = writeln!(text, "- {}", quoted(name));
        }
    }
    let metric = match model.head {
        ViltHead::Vqa | ViltHead::Nlvr2 | ViltHead::Labels => "accuracy",
        ViltHead::Ranking => "recall",
        ViltHead::MaskedWords => "perplexity",
    };
    if !facts.metrics.is_empty() {
        let _ = writeln!(text, "metrics:\n- {metric}");
    }
    text.push_str("---\n");
    text
}

/// Writes what is known about training and results.
fn write_training(text: &mut String, facts: &Facts) {
    if !facts.datasets.is_empty() {
        let _ = writeln!(text, "Trained on {}.\n", one_line(&facts.datasets.join(", ")));
    }
    if let Some(steps) = facts.steps {
        let _ = writeln!(text, "Optimiser steps: {steps}.\n");
    }
    if !facts.metrics.is_empty() {
        text.push_str("| metric | value |\n|---|---|\n");
        for (name, value) in &facts.metrics {
            let _ = writeln!(text, "| {} | {value:.4} |", one_line(&name).replace('|', "\\|"));
        }
        text.push('\n');
    }
}

/// Writes how the model is loaded and run.
fn write_usage(text: &mut String, model: &Model) {
    let architecture = model.head.architecture();
    let forward = match model.head {
        ViltHead::Nlvr2 => {
            "pixels = prepare.image_processor([left, right], return_tensors=\"pt\")\n\
             inputs = prepare.tokenizer(text, truncation=True, max_length=LENGTH, return_tensors=\"pt\")\n\
             inputs[\"pixel_values\"] = pixels[\"pixel_values\"].unsqueeze(0)\n"
        }
        _ => "inputs = prepare(images=image, text=text, truncation=True, max_length=LENGTH, return_tensors=\"pt\")\n",
    };
    let mask = match model.described.transform.keeps_proportions() && model.head == ViltHead::Nlvr2 {
        true => "inputs[\"pixel_mask\"] = pixels[\"pixel_mask\"].unsqueeze(0)\n",
        false => "",
    };
    let forward = forward.replace("LENGTH", &model.described.max_text_len.to_string());
    let names = match model.names {
        Some(_) => "print(model.config.id2label[int(logits[0].argmax())])\n",
        None => "",
    };
    let _ = write!(
        text,
        "## Use\n\nWith transformers, images in RGB:\n\n```python\n\
         from transformers import AutoProcessor, {architecture}\n\n\
         prepare = AutoProcessor.from_pretrained(\"DIRECTORY\")\n\
         model = {architecture}.from_pretrained(\"DIRECTORY\").eval()\n\
         {forward}{mask}logits = model(**inputs).logits\n{names}```\n\n\
         Texts have at most {} tokens, so they are truncated. Version 5 of transformers resizes images by other code unless `AutoProcessor` \
         gets `backend=\"pil\"`.\n\n\
         `vlct` takes the directory wherever it takes weights, for predictions, training and conversion.\n",
        model.described.max_text_len
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datasets_are_those_of_the_configuration() {
        assert_eq!(
            datasets("seed = 0\ndatasets = [\"coco\", \"vg\"]\nx = 1"),
            ["coco", "vg"]
        );
        for config in ["", "datasets = coco", "datasets = [1]", "x = \"datasets = []\""] {
            assert_eq!(datasets(config), [""; 0], "{config}");
        }
    }

    #[test]
    fn metrics_are_those_of_a_test() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(measured(directory.path()), []);
        std::fs::write(
            directory.path().join(METRICS_FILE),
            r#"{"vqa/score": 0.5, "note": "x"}"#,
        )
        .unwrap();
        assert_eq!(measured(directory.path()), [("vqa/score".to_owned(), 0.5)]);
    }
}
