//! Writing of a model as a directory that Hugging Face's transformers loads: weights, configuration, preparation of images, tokenizer and a
//! model card. [`super::hugging_face`] reads such directories.

mod card;
mod settings;

use std::io;
use std::path::{Path, PathBuf};

use vlct_image::ImageFormat;
use vlct_model::config::{Backbone, Heads, Positions};
use vlct_model::files::mapping::{AdaptError, abbreviate};
use vlct_model::files::{self, Exported, FileError, ViltHead, WeightIndex};
use vlct_model::sizes::{GivenHeads, Part};
use vlct_model::{Vlc, VlcConfig};
use vlct_text::Tokenizer;
use vlct_util::atomic;

use super::error::WeightsError;
use super::hugging_face::{CONFIG, IMAGE_SETTINGS, TOKENIZER_SETTINGS, VOCABULARY};
use super::weights::DescribedWeights;
use crate::spec::TaskSpec;

/// The weights in a directory of transformers.
const WEIGHTS: &str = "model.safetensors";
/// The special tokens of the tokenizer.
const SPECIAL_TOKENS: &str = "special_tokens_map.json";
/// The model card.
const CARD: &str = "README.md";

/// What the caller knows about a model, and chooses.
#[derive(Clone, Debug, Default)]
pub struct ExportOptions {
    /// The head; `None` means that of the task in the description, or else the only one.
    pub head: Option<ViltHead>,
    /// The tokenizer; `None` means that of the weights.
    pub tokenizer: Option<Tokenizer>,
    /// The text of each answer or label, by id; `None` means those of the weights.
    pub names: Option<Vec<Option<String>>>,
    /// The license of the weights, an identifier such as `apache-2.0`; `None` if it is not known.
    pub license: Option<String>,
    /// Numbers of attention heads, for files that do not state them.
    pub heads: GivenHeads,
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportReport {
    /// The weight file that was read.
    pub input: PathBuf,
    /// The class in transformers.
    pub architecture: &'static str,
    /// Number of tensors.
    pub tensors: usize,
    /// Number of values.
    pub parameters: usize,
    /// Tensors of the input that were left out, because models of the class do not have them.
    pub left_out: Vec<String>,
    /// Differences from the input, and what was assumed, as sentences.
    pub notes: Vec<String>,
}

/// The reason why a model cannot be written for transformers.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// A weight file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file is not that of a vision-language model, or its sizes or inputs are not known.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The weights do not fit the sizes of the model.
    #[error("{path}: {source}", path = path.display())]
    Tensors {
        /// The weight file.
        path: PathBuf,
        /// The reason.
        source: AdaptError,
    },
    /// The output exists.
    #[error("{path}: exists and is not an empty directory; name another directory", path = path.display())]
    Exists {
        /// The output.
        path: PathBuf,
    },
    /// The output cannot be written.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The output.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The model has no head of transformers, or not the one that was chosen.
    #[error("{path}: the model has no head for {wanted}; of the heads that ViLT has in transformers it has: {found}", path = path.display())]
    NoHead {
        /// The weight file.
        path: PathBuf,
        /// The head that was chosen, or all that there could be.
        wanted: String,
        /// The heads that the model has.
        found: String,
    },
    /// The model has several heads, and the file does not say which is that of its task.
    #[error("{path}: a model in transformers has one head, and this one has several: {found}; choose one", path = path.display())]
    SeveralHeads {
        /// The weight file.
        path: PathBuf,
        /// The heads that the model has.
        found: String,
    },
    /// The tokenizer has more tokens than the model has word embeddings.
    #[error("{path}: the tokenizer has {tokens} tokens, but the model has {rows} word embeddings", path = path.display())]
    TokenizerSize {
        /// The weight file.
        path: PathBuf,
        /// Number of tokens.
        tokens: usize,
        /// Number of word embeddings.
        rows: usize,
    },
    /// There are more names than classes.
    #[error("{path}: there are {names} names of answers, but the head has {classes}", path = path.display())]
    NameCount {
        /// The weight file.
        path: PathBuf,
        /// Number of names.
        names: usize,
        /// Number of classes.
        classes: usize,
    },
    /// The preparation of images has no counterpart in transformers.
    #[error("{path}: {reason}", path = path.display())]
    Images {
        /// The weight file.
        path: PathBuf,
        /// What has no counterpart.
        reason: String,
    },
}

/// A model to write, with one head.
struct Model<'m> {
    described: &'m DescribedWeights,
    /// Sizes, with the one head.
    config: &'m VlcConfig,
    head: ViltHead,
    tokenizer: &'m Tokenizer,
    /// The text of each class, by id; `None` for heads without classes.
    names: Option<Vec<String>>,
    license: Option<&'m str>,
}

/// Writes the model in the weights of the path `source` (see [`files::find`]) as a directory. The directory appears under its name when it
/// is complete.
///
/// # Errors
/// Returns an error if `source` is not a vision-language model, has not the head, or contradicts `options`, or if `directory` is not empty
/// or cannot be written.
pub fn export(source: &Path, directory: &Path, options: &ExportOptions) -> Result<ExportReport, ExportError> {
    check_new(directory)?;
    let mapped = files::map(source)?;
    let path = mapped.path();
    let index = files::index(&mapped)?;
    let described = DescribedWeights::read(path, &index, options.heads)?;
    let head = choose_head(path, &described, options.head)?;
    let config = config(path, &described, head)?;
    let tokenizer = options.tokenizer.as_ref().unwrap_or(&described.tokenizer);
    if tokenizer.len() > config.vocab_size {
        return Err(ExportError::TokenizerSize {
            path: path.to_path_buf(),
            tokens: tokenizer.len(),
            rows: config.vocab_size,
        });
    }
    // The decoder is left out.
    let assumptions = described
        .assumptions
        .iter()
        .filter(|assumption| assumption.part == Part::Encoder);
    let mut notes: Vec<String> = assumptions.map(ToString::to_string).collect();
    notes.extend(described.notes.iter().cloned());
    let names = names(path, &described, head, options.names.as_deref(), &mut notes)?;
    let (model, report) = Vlc::read(config.clone(), &index).map_err(|source| ExportError::Tensors {
        path: path.to_path_buf(),
        source,
    })?;
    notes.extend(report.resized.iter().map(|change| format!("resized {change}")));
    let Exported { state, .. } = files::export(model.state_dict(), head);
    drop(model);
    let left_out = left_out(&index, &config);
    let exported = Model {
        described: &described,
        config: &config,
        head,
        tokenizer,
        names,
        license: options.license.as_deref(),
    };
    notes.extend(settings::notes(&exported));
    let facts = card::Facts::find(source, &index);
    let texts = [
        (CONFIG, settings::json(&settings::config(&exported))),
        (IMAGE_SETTINGS[0], settings::json(&settings::images(&exported))),
        (TOKENIZER_SETTINGS, settings::json(&settings::tokenizer(&exported))),
        (SPECIAL_TOKENS, settings::json(&settings::special_tokens())),
        (VOCABULARY, settings::vocabulary(tokenizer)),
        (CARD, card::card(&exported, &facts, &abbreviate(&left_out), &notes)),
    ];
    atomic::write_directory(directory, |temporary| -> Result<(), ExportError> {
        files::write_plain(&temporary.join(WEIGHTS), &state)?;
        for (name, text) in &texts {
            let written = atomic::write(&temporary.join(name), |out| io::Write::write_all(out, text.as_bytes()));
            written.map_err(|source| io_error(directory, source))?;
        }
        Ok(())
    })
    .map_err(|error| match error {
        // The file with the error is in the directory under its temporary name.
        ExportError::File(FileError {
            problem: files::Problem::Io(source),
            ..
        }) => io_error(directory, source),
        ExportError::Io { source, .. } => io_error(directory, source),
        error => error,
    })?;
    Ok(ExportReport {
        input: path.to_path_buf(),
        architecture: head.architecture(),
        tensors: state.len(),
        parameters: state.parameters(),
        left_out,
        notes,
    })
}

impl From<io::Error> for ExportError {
    fn from(source: io::Error) -> Self {
        io_error(Path::new(""), source)
    }
}

fn io_error(path: &Path, source: io::Error) -> ExportError {
    ExportError::Io {
        path: path.to_path_buf(),
        source,
    }
}

/// Checks that there is nothing under a name, or an empty directory.
fn check_new(directory: &Path) -> Result<(), ExportError> {
    let is_new = match std::fs::read_dir(directory) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    };
    match is_new {
        true => Ok(()),
        false => Err(ExportError::Exists {
            path: directory.to_path_buf(),
        }),
    }
}

/// Returns the head to write.
fn choose_head(path: &Path, described: &DescribedWeights, chosen: Option<ViltHead>) -> Result<ViltHead, ExportError> {
    let heads = &described.model.heads;
    let found: Vec<ViltHead> = ViltHead::ALL.into_iter().filter(|head| head.is_in(heads)).collect();
    let list = |heads: &[ViltHead]| heads.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let of_task = described.task.as_ref().and_then(|task| match task {
        TaskSpec::Pretrain(_) => Some(ViltHead::MaskedWords),
        TaskSpec::Vqa(_) => Some(ViltHead::Vqa),
        TaskSpec::Nlvr2(_) => Some(ViltHead::Nlvr2),
        TaskSpec::Retrieval(_) => Some(ViltHead::Ranking),
        TaskSpec::Labels(_) => Some(ViltHead::Labels),
        TaskSpec::Images(_) => None,
    });
    let no_head = |wanted: String| {
        Err(ExportError::NoHead {
            path: path.to_path_buf(),
            wanted,
            found: match found.as_slice() {
                [] => "none".into(),
                found => list(found),
            },
        })
    };
    match (chosen, of_task.filter(|head| found.contains(head)), found.as_slice()) {
        (Some(head), ..) if found.contains(&head) => Ok(head),
        (Some(head), ..) => no_head(head.to_string()),
        (None, Some(head), _) => Ok(head),
        (None, None, [head]) => Ok(*head),
        (None, None, []) => no_head(list(&ViltHead::ALL).replacen(", labels", " or labels", 1)),
        (None, None, found) => Err(ExportError::SeveralHeads {
            path: path.to_path_buf(),
            found: list(found),
        }),
    }
}

/// Returns the sizes of the model that is written: without decoder, with one head, and with the position table of its images.
fn config(path: &Path, described: &DescribedWeights, head: ViltHead) -> Result<VlcConfig, ExportError> {
    let ImageFormat { size, .. } = described.format;
    let keeps_proportions = described.transform.keeps_proportions();
    let model = &described.model;
    let image_size = match (model.variant.positions, keeps_proportions) {
        // A fixed table is resized to the images, as for predictions.
        (Positions::Fixed, false) => size,
        // Transformers computes with images of the size of the table if it gets no mask of their pixels.
        (Positions::Learned, false) if size == model.image_size => size,
        (Positions::Learned, true) => model.image_size,
        (Positions::Learned, false) => {
            return Err(ExportError::Images {
                path: path.to_path_buf(),
                reason: format!(
                    "images are squares of {size} pixels, but the position table is that of {} pixels, which transformers cannot compute with",
                    model.image_size
                ),
            });
        }
        (Positions::Fixed, true) => {
            return Err(ExportError::Images {
                path: path.to_path_buf(),
                reason: "images keep their proportions, but the position table is that of squares".into(),
            });
        }
    };
    Ok(VlcConfig {
        image_size,
        backbone: Backbone {
            decoder_width: 0,
            decoder_depth: 0,
            decoder_heads: 0,
            ..model.backbone
        },
        heads: head.alone(&model.heads),
        ..model.clone()
    })
}

/// Returns the text of each class of the head, by id. Classes without a name have the name that transformers gives them.
fn names(
    path: &Path,
    described: &DescribedWeights,
    head: ViltHead,
    given: Option<&[Option<String>]>,
    notes: &mut Vec<String>,
) -> Result<Option<Vec<String>>, ExportError> {
    let Heads { vqa, labels, .. } = described.model.heads;
    let (classes, stated): (usize, Vec<Option<String>>) = match (head, &described.task) {
        (ViltHead::Nlvr2, _) => return Ok(Some(["False", "True"].map(str::to_owned).to_vec())),
        (ViltHead::Ranking | ViltHead::MaskedWords, _) => return Ok(None),
        (ViltHead::Vqa, Some(TaskSpec::Vqa(spec))) => (vqa.unwrap_or(0), spec.answers.clone()),
        (ViltHead::Vqa, _) => (vqa.unwrap_or(0), Vec::new()),
        (ViltHead::Labels, Some(TaskSpec::Labels(spec))) => {
            (labels.unwrap_or(0), spec.names.iter().cloned().map(Some).collect())
        }
        (ViltHead::Labels, _) => (labels.unwrap_or(0), Vec::new()),
    };
    let stated = given.unwrap_or(&stated);
    if stated.len() > classes {
        return Err(ExportError::NameCount {
            path: path.to_path_buf(),
            names: stated.len(),
            classes,
        });
    }
    if stated.is_empty() {
        notes.push("the file does not contain the names of its answers: they are LABEL_0, LABEL_1, …".into());
    }
    let name = |id: usize| {
        let name = stated.get(id).cloned().flatten();
        name.unwrap_or_else(|| format!("{}{id}", super::hugging_face::NO_NAME))
    };
    Ok(Some((0..classes).map(name).collect()))
}

/// Returns the tensors of a file that a model with the sizes `config` does not have.
fn left_out(index: &WeightIndex, config: &VlcConfig) -> Vec<String> {
    let parameters = config.parameters();
    let is_in_model = |name: &str| parameters.iter().any(|(parameter, ..)| parameter == name);
    let names = index.tensors.keys().chain(index.unreadable.keys());
    names
        .filter(|name| !is_in_model(name) && !name.ends_with("position_ids"))
        .cloned()
        .collect()
}

#[cfg(test)]
mod tests;
