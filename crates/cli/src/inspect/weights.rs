//! Description of weight files and checkpoints.

use std::fmt::Write;
use std::path::Path;

use vlct_checkpoint as checkpoint;
use vlct_image::{ImageFormat, TransformSpec};
use vlct_model::ModelConfig;
use vlct_model::config::Positions;
use vlct_model::files::mapping::abbreviate;
use vlct_model::files::{self, FileError, NonFinite, Problem, WeightIndex};
use vlct_model::sizes::GivenHeads;
use vlct_predict::Head;
use vlct_tasks::description::DescribedWeights;
use vlct_tasks::{Description, TaskSpec};
use vlct_util::text::{self, escape_control};

use crate::output::{Failure, format_bytes, print, with_thousands_separators};

/// Maximum number of characters printed of each entry (other than tensors) of a weight file.
const MAX_ENTRY_CHARS: usize = 160;

/// Describes a checkpoint of a run or another weight file.
///
/// # Errors
/// Returns an error if the file cannot be read or is damaged. If values of tensors have changed, or weights are NaN or infinite, prints
/// the description and returns an error.
pub(super) fn describe(path: &Path, list_tensors: bool) -> Result<String, Failure> {
    let checkpoint = match path.extension().is_some_and(|e| e == "safetensors") {
        true => checkpoint::inspect(path).ok(),
        false => None,
    };
    if let Some(damage) = checkpoint.as_ref().and_then(|summary| summary.damage.as_ref()) {
        return Err(Failure::Failed(format!("{}: {damage}", path.display())));
    }
    let files = files::map(path)?;
    let index = files::index(&files).map_err(|error| match error {
        FileError {
            problem: Problem::Unrecognised(what),
            path,
        } => Failure::Failed(format!(
            "{}: {what}; inspect describes Arrow files, tars, weight files (.ckpt, .pth, .safetensors) and run directories",
            path.display()
        )),
        error => error.into(),
    })?;
    let mut text = match &checkpoint {
        Some(summary) => {
            let model = match Description::of_file(path) {
                Ok(description) => description.as_ref().map(describe_model).unwrap_or_default(),
                Err(error) => format!("  the kind of model is not known: {error}\n"),
            };
            describe_checkpoint(summary) + &model
        }
        None => describe_weights(&index, path) + &describe_undescribed(&index, files.path()),
    };
    if list_tensors && checkpoint.is_none() {
        for (name, shape, dtype) in index.shapes() {
            let _ = writeln!(text, "    {} {dtype} {shape:?}", escape_control(name));
        }
    }
    let NonFinite { of_model, others } = index.non_finite();
    if !others.is_empty() {
        let _ = writeln!(
            text,
            "  NaN or infinite, but not weights of the model: {}",
            counted(&others)
        );
    }
    let damaged = index.damaged();
    let fault = if !damaged.is_empty() {
        Problem::Checksums(abbreviate(&damaged)).to_string()
    } else if !of_model.is_empty() {
        format!("weights are NaN or infinite: {}", counted(&of_model))
    } else {
        text.push_str(match (&checkpoint, index.summary.has_checksums) {
            (Some(_), _) => "  intact: the checksum matches\n",
            (None, true) => "  intact: the checksums of all tensors match\n",
            (None, false) => "  complete; the file has no checksums, so changed values would not be found\n",
        });
        return Ok(text);
    };
    print(&text)?;
    Err(Failure::Failed(format!("{}: {fault}", path.display())))
}

/// Returns names with numbers of values.
fn counted(tensors: &[(String, usize)]) -> String {
    let of_one = |(name, count): &(String, usize)| {
        let values = text::counted(with_thousands_separators(*count as u64), "value");
        format!("{} ({values})", escape_control(name))
    };
    abbreviate(&tensors.iter().map(of_one).collect::<Vec<_>>())
}

fn describe_weights(index: &WeightIndex, path: &Path) -> String {
    let mut text = format!("{}\n", path.display());
    let values = index
        .shapes()
        .map(|(_, shape, _)| shape.iter().product::<usize>() as u64)
        .sum();
    let _ = match index.summary.hugging_face {
        true => writeln!(
            text,
            "  {}, Hugging Face names, read as {} names",
            index.format, index.style
        ),
        false => writeln!(text, "  {}, {} names", index.format, index.style),
    };
    let _ = writeln!(
        text,
        "  {}, {}",
        text::counted(index.tensors.len(), "tensor"),
        text::counted(with_thousands_separators(values), "value")
    );
    let summary = &index.summary;
    if !summary.removed_prefixes.is_empty() {
        let prefixes = summary.removed_prefixes.join(" and ");
        let _ = writeln!(
            text,
            "  names in the file have the prefix {}",
            escape_control(&prefixes)
        );
    }
    if let Some(key) = &summary.weights_under {
        let _ = writeln!(text, "  weights under {key:?}");
    }
    if let Some(epoch) = summary.epoch {
        let _ = writeln!(text, "  epoch {epoch}");
    }
    if let Some(step) = summary.global_step {
        let _ = writeln!(text, "  optimiser step {step}");
    }
    for (key, value) in &summary.entries {
        if key != "epoch" && key != "global_step" {
            let _ = writeln!(text, "  also holds {}: {}", escape_control(key), truncated(value));
        }
    }
    if !summary.skipped.is_empty() {
        let skipped = summary.skipped.join(", ");
        let _ = writeln!(text, "  not tensors, left out: {}", escape_control(&skipped));
    }
    for (name, problem) in &index.unreadable {
        let _ = writeln!(text, "  cannot be read: {} {problem}", escape_control(name));
    }
    text
}

/// Truncates a text after [`MAX_ENTRY_CHARS`] characters.
fn truncated(text: &str) -> String {
    match text.char_indices().nth(MAX_ENTRY_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.into(),
    }
}

/// Describes kind, task and sizes of a model.
fn describe_model(
    Description {
        model, task, inputs, ..
    }: &Description,
) -> String {
    let several = |count: Option<usize>, noun: &str| text::counted(count.unwrap_or(0), noun);
    let (kind, patch_size, width, depth, heads) = match model {
        ModelConfig::Vit(vit) => {
            let input = match vit.global_pool {
                true => "the mean of the patches",
                false => "the class token",
            };
            let kind = format!(
                "image classifier with {} that reads {input}",
                text::counted(vit.classes, "class")
            );
            (kind, vit.patch_size, vit.width, vit.depth, vit.heads)
        }
        ModelConfig::Vlc(vlc) => {
            let task = match task {
                TaskSpec::Pretrain(_) => "pre-training".into(),
                TaskSpec::Vqa(_) => format!("questions, with {}", several(vlc.heads.vqa, "answer")),
                TaskSpec::Nlvr2(_) => "statements about pairs of images".into(),
                TaskSpec::Retrieval(_) => "retrieval".into(),
                TaskSpec::Labels(_) | TaskSpec::Images(_) => several(vlc.heads.labels, "label"),
            };
            let b = &vlc.backbone;
            let kind = format!("vision-language model for {task}");
            (kind, b.patch_size, b.width, b.depth, b.heads)
        }
    };
    format!(
        "  {kind}\n  {} in patches of {patch_size}; width {width}, {}, {}\n",
        images(&inputs.eval_transform, &inputs.format()),
        text::counted(depth, "block"),
        text::counted(heads, "attention head")
    )
}

/// Describes a vision-language model in a file without a description; empty for other files.
fn describe_undescribed(index: &WeightIndex, path: &Path) -> String {
    if !index.tensors.contains_key("text_embeddings.word_embeddings.weight") {
        return String::new();
    }
    let described = match DescribedWeights::read(path, index, GivenHeads::default()) {
        Ok(described) => described,
        Err(error) => return format!("  the kind of model is not known: {error}\n"),
    };
    let model = &described.model;
    let backbone = &model.backbone;
    let kind = match model.variant.positions {
        Positions::Fixed => "VLC",
        Positions::Learned => "ViLT",
    };
    let heads: Vec<Head> = Head::ALL.into_iter().filter(|head| head.is_in(model)).collect();
    let mut text = format!(
        "  {kind}, heads: {}\n  {} in patches of {}; width {}, {}, {}; text of at most {} tokens of {}\n",
        Head::list(&heads),
        images(&described.transform, &described.format),
        backbone.patch_size,
        backbone.width,
        text::counted(backbone.depth, "block"),
        text::counted(backbone.heads, "attention head"),
        described.max_text_len,
        with_thousands_separators(model.vocab_size as u64)
    );
    let assumptions = described.assumptions.iter().map(ToString::to_string);
    for note in assumptions.chain(described.notes) {
        let _ = writeln!(text, "  {}", escape_control(&note));
    }
    text
}

/// Describes the images of a model.
fn images(transform: &TransformSpec, format: &ImageFormat) -> String {
    let ImageFormat { size, multiple, .. } = format;
    match transform.keeps_proportions() {
        true => format!("images with a shorter side of {size} pixels and sides of multiples of {multiple}"),
        false => format!("images of {size} x {size} pixels"),
    }
}

fn describe_checkpoint(summary: &checkpoint::Summary) -> String {
    let mut text = format!("{}\n", summary.path.display());
    let _ = writeln!(
        text,
        "  checkpoint of {} with {}, {}, {}{}",
        format_bytes(summary.bytes),
        text::counted(summary.tensors, "tensor"),
        text::counted(with_thousands_separators(summary.parameters), "value"),
        if summary.optimizer {
            "and the optimiser's state"
        } else {
            "without the optimiser's state"
        },
        if summary.averages {
            ", and averages of the weights"
        } else {
            ""
        }
    );
    let mut position = Vec::new();
    position.extend(summary.step.map(|step| format!("step {step}")));
    position.extend(summary.epoch.map(|epoch| format!("epoch {epoch}")));
    position.extend(summary.metric.map(|metric| format!("best metric {metric}")));
    if !position.is_empty() {
        let _ = writeln!(text, "  {}", position.join(", "));
    }
    text
}
