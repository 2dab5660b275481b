//! The vocabulary of a run: that of the key `tokenizer`, or that in the checkpoint from which weights come.

use std::path::{Path, PathBuf};

use log::info;
use vlct_model::checkpoint;
use vlct_model::files::{self, WeightIndex};
use vlct_tasks::Description;
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
            saved
        }
        (named, Some((path, saved))) if !spec.test_only && spec.weights.resume_from.is_some() => {
            let named = named?;
            match difference(&saved, &named) {
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

/// Returns the number of word embeddings of a weight file; `None` if it has none.
pub(crate) fn word_embeddings(index: &WeightIndex) -> Option<usize> {
    let table = index.tensors.get("text_embeddings.word_embeddings.weight")?;
    table.shape().first().copied()
}

/// Whether the file of a tokenizer does not exist.
pub(crate) fn is_gone(name: &str) -> bool {
    matches!(Tokenizer::named(name), Err(TextError::NoTokenizer(_)))
}

/// Returns the tokenizer in a checkpoint, also if the file of the key `tokenizer` is another; that of the key if the checkpoint has none.
///
/// # Errors
/// Returns an error if the vocabulary cannot be read.
pub(crate) fn of_checkpoint(spec: &RunSpec, path: &Path) -> Result<Tokenizer> {
    let name = &spec.data.tokenizer;
    let named = Tokenizer::named(name);
    let Some(saved) = saved(path)? else {
        return Ok(named?);
    };
    let reason = match named {
        Err(TextError::NoTokenizer(_)) => Some("does not exist".into()),
        Err(error) => Some(format!("cannot be read ({error})")),
        Ok(named) => difference(&saved, &named).map(|difference| format!("has changed ({difference})")),
    };
    if let Some(reason) = reason {
        info!(
            "tokenizer={name:?} {reason}: the vocabulary in {} is used",
            path.display()
        );
    }
    Ok(saved)
}

/// Returns the checkpoint that a run resumes, tests or begins with, and its tokenizer; `None` if there is no such file or it has no vocabulary.
fn in_weights(spec: &RunSpec) -> Result<Option<(PathBuf, Tokenizer)>> {
    let weights = &spec.weights;
    let path = match (&weights.resume_from, &weights.vocabulary) {
        (_, Some(path)) if spec.test_only => paths::find_weights(path)?,
        (Some(from), _) if !spec.test_only => paths::find_checkpoint(from)?,
        (None, Some(path)) => paths::find_weights(path)?,
        _ => return Ok(None),
    };
    Ok(saved(&path)?.map(|tokenizer| (path, tokenizer)))
}

/// Returns the tokenizer in a checkpoint; `None` if the file has no description of a model.
fn saved(path: &Path) -> Result<Option<Tokenizer>> {
    let description = checkpoint::read_description(path)?;
    let description = description.and_then(|json| serde_json::from_value::<Description>(json).ok());
    Ok(description
        .map(|description| description.inputs.to_spec(path))
        .transpose()?
        .map(|inputs| inputs.tokenizer))
}

/// Describes the first difference between the tokenizer of a checkpoint and that of a run; `None` if they give the same tokens.
fn difference(saved: &Tokenizer, named: &Tokenizer) -> Option<String> {
    let tokens = |tokenizer: &Tokenizer| -> Vec<String> { tokenizer.vocabulary().iter().map(str::to_owned).collect() };
    let (theirs, ours) = (tokens(saved), tokens(named));
    if let Some(id) = (0..theirs.len().min(ours.len())).find(|id| theirs[*id] != ours[*id]) {
        return Some(format!("token {id} is {:?} there and {:?} here", theirs[id], ours[id]));
    }
    if theirs.len() != ours.len() {
        return Some(format!(
            "there are {} tokens there and {} here",
            theirs.len(),
            ours.len()
        ));
    }
    let case = |tokenizer: &Tokenizer| match tokenizer.lower_case() {
        true => "lower-cased",
        false => "cased",
    };
    (case(saved) != case(named)).then(|| format!("text is {} there and {} here", case(saved), case(named)))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use vlct_text::Vocabulary;

    use super::*;

    #[test]
    fn tells_the_first_difference_of_vocabularies() {
        let tokenizer = |words: &[&str], lower_case| {
            let special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];
            let tokens: Vec<String> = special.iter().chain(words).map(|token| (*token).to_owned()).collect();
            let vocabulary = Vocabulary::from_tokens(Path::new("v"), &tokens).expect("a vocabulary");
            Tokenizer::new(Arc::new(vocabulary), lower_case)
        };
        let saved = tokenizer(&["a", "dog"], true);
        for (words, lower_case, expected) in [
            (&["a", "dog"][..], true, None),
            (&["a", "cat"], true, Some("token 6 is \"dog\" there and \"cat\" here")),
            (&["a"], true, Some("there are 7 tokens there and 6 here")),
            (&["a", "dog"], false, Some("text is lower-cased there and cased here")),
        ] {
            assert_eq!(difference(&saved, &tokenizer(words, lower_case)).as_deref(), expected);
        }
    }
}
