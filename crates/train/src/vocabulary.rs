//! The vocabulary of a run: that of the key `tokenizer`, or that in the checkpoint from which weights come.

use std::path::{Path, PathBuf};

use log::info;
use vlct_model::ModelConfig;
use vlct_model::files::{self, Style, WeightIndex};
use vlct_model::sizes::GivenHeads;
use vlct_tasks::Description;
use vlct_tasks::description::{DescribedWeights, InputDescription};
use vlct_text::{TextError, Tokenizer};

use crate::error::{Result, TrainError};
use crate::paths;
use crate::spec::RunSpec;

/// Returns the tokenizer of a run. A resumed run, a test, and a run that begins with the weights of a checkpoint use the vocabulary of the
/// checkpoint if the file of `tokenizer` does not exist any more.
///
/// # Errors
/// Returns an error if the vocabulary cannot be read, a resumed run has another one than its checkpoint, or it has more tokens than the model
/// has word embeddings.
pub(crate) fn tokenizer(spec: &RunSpec) -> Result<Tokenizer> {
    let name = &spec.data.tokenizer;
    let tokenizer = match (Tokenizer::named(name), in_weights(spec)?) {
        (Err(TextError::NoTokenizer(_)), Some((path, saved))) => {
            info!(
                "tokenizer={name:?} does not exist: the vocabulary in {} is used",
                path.display()
            );
            saved.to_spec(&path)?.tokenizer
        }
        (named, Some((path, saved))) if !spec.test_only && spec.weights.resume_from.is_some() => {
            let named = named?;
            match saved.vocabulary_difference(&named) {
                None => named,
                Some(difference) => {
                    return Err(TrainError::VocabularyChanged {
                        path,
                        tokenizer: name.clone(),
                        difference,
                    });
                }
            }
        }
        // Loading compares the vocabulary with that of the weights.
        (named, _) => named?,
    };
    let vocab_size = spec.model.vlc().vocab_size;
    if tokenizer.len() > vocab_size {
        // A larger `vocab_size` would not suit the weights.
        if let Some(path) = &spec.weights.load_path
            && !spec.weights.partial
        {
            let file = files::map(path)?;
            check_word_embeddings(file.path(), &files::index(&file)?, name, tokenizer.len())?;
        }
        return Err(TrainError::VocabularyTooSmall {
            tokenizer: name.clone(),
            tokens: tokenizer.len(),
            vocab_size,
        });
    }
    Ok(tokenizer)
}

/// Checks that the weight file `path` has a word embedding for each of the tokens of `tokenizer`.
///
/// # Errors
/// Returns [`TrainError::VocabularyOfWeights`] if it has fewer.
pub(crate) fn check_word_embeddings(path: &Path, index: &WeightIndex, tokenizer: &str, tokens: usize) -> Result<()> {
    match word_embeddings(index).filter(|rows| *rows < tokens) {
        None => Ok(()),
        Some(rows) => Err(TrainError::VocabularyOfWeights {
            path: path.to_path_buf(),
            rows,
            tokenizer: tokenizer.into(),
            tokens,
        }),
    }
}

/// Returns the preparation of texts of a model of Hugging Face, if its vocabulary is beside the weights.
///
/// # Errors
/// Returns an error if a file beside the weights cannot be read or contradicts them.
pub(crate) fn beside(path: &Path, index: &WeightIndex) -> Result<Option<InputDescription>> {
    if !index.summary.hugging_face || index.style != Style::Vlc {
        return Ok(None);
    }
    Ok(DescribedWeights::read(path, index, GivenHeads::default())?.inputs)
}

/// Returns the number of word embeddings of a weight file; `None` if it has none.
pub(crate) fn word_embeddings(index: &WeightIndex) -> Option<usize> {
    let table = index.tensors.get("text_embeddings.word_embeddings.weight")?;
    table.shape().first().copied()
}

/// Whether the file of a tokenizer does not exist.
pub fn is_gone(name: &str) -> bool {
    matches!(Tokenizer::named(name), Err(TextError::NoTokenizer(_)))
}

/// Returns the tokenizer in a checkpoint, also if the file of the key `tokenizer` is another; that of the key if the checkpoint has none.
///
/// # Errors
/// Returns an error if the vocabulary cannot be read.
pub fn of_checkpoint(spec: &RunSpec, path: &Path) -> Result<Tokenizer> {
    let name = &spec.data.tokenizer;
    let named = Tokenizer::named(name);
    let Some(saved) = saved(path)? else {
        return Ok(named?);
    };
    let reason = match named {
        Err(TextError::NoTokenizer(_)) => Some("does not exist".into()),
        Err(error) => Some(format!("cannot be read ({error})")),
        Ok(named) => saved
            .vocabulary_difference(&named)
            .map(|difference| format!("has changed ({difference})")),
    };
    if let Some(reason) = reason {
        info!(
            "tokenizer={name:?} {reason}: the vocabulary in {} is used",
            path.display()
        );
    }
    Ok(saved.to_spec(path)?.tokenizer)
}

/// Returns the checkpoint that a run resumes, tests or begins with, and its preparation of texts; `None` if there is no such file or it has
/// no vocabulary.
fn in_weights(spec: &RunSpec) -> Result<Option<(PathBuf, InputDescription)>> {
    let weights = &spec.weights;
    let path = match (&weights.resume_from, &weights.vocabulary) {
        (_, Some(path)) if spec.test_only => paths::find_weights(path)?,
        (Some(from), _) if !spec.test_only => paths::find_checkpoint(from)?,
        (None, Some(path)) => paths::find_weights(path)?,
        _ => return Ok(None),
    };
    Ok(saved(&path)?.map(|inputs| (path, inputs)))
}

/// Returns the preparation of texts in a checkpoint; `None` if the file has no description of a model that reads texts.
fn saved(path: &Path) -> Result<Option<InputDescription>> {
    Ok(
        Description::of_file(path)?.and_then(|description| match description.model {
            ModelConfig::Vlc(_) => Some(description.inputs),
            ModelConfig::Vit(_) => None,
        }),
    )
}
