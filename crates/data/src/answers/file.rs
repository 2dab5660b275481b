//! Readers of vocabulary files: the original's pickle, and JSON.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;

use serde::Deserialize;
use vlct_pickle::{Pickle, Ref};

use super::Vocabulary;
use crate::{DataError, Result};
use vlct_util::read_at_most;
use vlct_util::text::quoted;

/// Maximum size of a vocabulary file in bytes. The file of VQA v2 has 0.1 MB.
const MAX_FILE_BYTES: u64 = 64 << 20;

/// The content of a file: answers ordered by id, and optionally the id of each answer.
#[derive(Deserialize)]
#[serde(untagged)]
enum Content<'a> {
    List(Vec<Cow<'a, str>>),
    ListAndIds {
        ans2label: HashMap<Cow<'a, str>, i64>,
        label2ans: Vec<Cow<'a, str>>,
    },
    /// The `config.json` of a model of Hugging Face. Its other keys are not read.
    IdToLabel {
        id2label: HashMap<Cow<'a, str>, Cow<'a, str>>,
    },
}

impl Vocabulary {
    /// Reads `coco_vqa_label_info.pkl` (a dictionary with `ans2label`, the id of each answer, and `label2ans`, the list of answers),
    /// JSON of the same structure, a JSON list of answers, or a `config.json` of Hugging Face, whose `id2label` has the answer of each id.
    /// The format is detected by the content.
    ///
    /// # Errors
    /// Returns [`DataError::Io`] if the file cannot be read, [`DataError::Format`] if it has none of these formats, no answers or
    /// more than [`MAX_ANSWERS`](super::MAX_ANSWERS), or is inconsistent: an answer occurs twice, or the list and the ids disagree.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let bytes = read_at_most(path, MAX_FILE_BYTES, "a vocabulary of answers")?;
        parse(&bytes).map_err(|reason| DataError::format(path, reason))
    }
}

/// Parses the content of a file: JSON if it begins with a bracket or brace, which no pickle does, else a pickle.
fn parse(bytes: &[u8]) -> Result<Vocabulary, String> {
    let is_json = bytes
        .trim_ascii_start()
        .first()
        .is_some_and(|b| matches!(b, b'[' | b'{'));
    if is_json {
        let content = serde_json::from_slice(bytes).map_err(|error| {
            if error.is_data() {
                "neither a list of answers, nor an object with ans2label (answers to ids) and label2ans (list of answers), nor one with \
                 id2label (ids to answers)"
                    .into()
            } else {
                format!("not JSON: {error}")
            }
        });
        return vocabulary_from(content?);
    }
    let pickle = vlct_pickle::parse(bytes).map_err(|error| format!("neither JSON nor a pickle: {error}"))?;
    let content = from_pickle(&pickle);
    vocabulary_from(
        content
            .ok_or("the pickle is not a dictionary with ans2label (answers to ids) and label2ans (list of answers)")?,
    )
}

/// Reads the dictionary of a pickle; `None` if the pickle has another structure. Texts are borrowed, because a pickle may refer to
/// the same text many times.
fn from_pickle<'p>(pickle: &'p Pickle<'_>) -> Option<Content<'p>> {
    let entries = pickle.entries(pickle.root())?;
    let find = |name| {
        let entry = entries.iter().rev().find(|(key, _)| pickle.text(*key) == Some(name));
        entry.map(|(_, value)| *value)
    };
    let text = |value: Ref| pickle.text(value).map(Cow::Borrowed);
    let integer = |value: Ref| pickle.int(value).and_then(|id| i64::try_from(id).ok());
    let ans2label = pickle.entries(find("ans2label")?)?;
    let label2ans = pickle.items(find("label2ans")?)?;
    Some(Content::ListAndIds {
        ans2label: ans2label
            .iter()
            .map(|(answer, id)| Some((text(*answer)?, integer(*id)?)))
            .collect::<Option<_>>()?,
        label2ans: label2ans.iter().map(|answer| text(*answer)).collect::<Option<_>>()?,
    })
}

/// Returns the vocabulary of a dictionary from ids to answers. Every id up to the largest has an answer.
fn from_ids(id2label: HashMap<Cow<'_, str>, Cow<'_, str>>) -> Result<Vocabulary, String> {
    let mut answers = Vec::with_capacity(id2label.len());
    for (id, answer) in id2label {
        let number: i128 = id
            .parse()
            .map_err(|_| format!("the id {} in id2label is not a number", quoted(&id)))?;
        answers.push((number, answer));
    }
    answers.sort();
    if answers.is_empty() {
        return Err("it has no answers".into());
    }
    let mut vocabulary = Vocabulary::default();
    for (expected, (id, answer)) in (0i128..).zip(&answers) {
        if *id != expected {
            return Err(format!("id2label has no answer with the id {expected}"));
        }
        vocabulary.insert(answer, *id)?;
    }
    Ok(vocabulary)
}

/// Returns the vocabulary of a file. The error is a message that says how the file contradicts itself.
fn vocabulary_from(content: Content<'_>) -> Result<Vocabulary, String> {
    let (ids, list) = match content {
        Content::List(list) => (None, list),
        Content::ListAndIds { ans2label, label2ans } => (Some(ans2label), label2ans),
        Content::IdToLabel { id2label } => return from_ids(id2label),
    };
    if list.is_empty() {
        return Err("it has no answers".into());
    }
    let mut vocabulary = Vocabulary::default();
    for (id, answer) in (0i128..).zip(&list) {
        vocabulary.insert(answer, id)?;
    }
    if let Some(ids) = ids {
        for (id, answer) in list.iter().enumerate() {
            match ids.get(answer) {
                Some(mapped_id) if usize::try_from(*mapped_id) == Ok(id) => {}
                Some(mapped_id) => {
                    let answer = quoted(answer);
                    return Err(format!(
                        "answer {answer} has the id {id} in label2ans and {mapped_id} in ans2label"
                    ));
                }
                None => {
                    return Err(format!(
                        "answer {} is in label2ans but not in ans2label",
                        quoted(answer)
                    ));
                }
            }
        }
        if let Some(extra) = ids.keys().filter(|answer| vocabulary.id(answer).is_none()).min() {
            return Err(format!("answer {} is in ans2label but not in label2ans", quoted(extra)));
        }
    }
    Ok(vocabulary)
}
