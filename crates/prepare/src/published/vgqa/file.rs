//! The file of selected questions: a dictionary from image ids to lists of (id, question, answer), as a pickle or JSON.

use std::collections::HashSet;
use std::fmt;
use std::io::{self, Write};
use std::path::Path;

use serde::Deserialize;
use serde::de::{MapAccess, Visitor};
use serde::ser::{SerializeMap, Serializer};
use vlct_pickle::{Pickle, Ref, Writer};

use super::{ImageWithQuestions, Question};
use crate::{PrepareError, Result};
use vlct_util::read_at_most;
use vlct_util::text::quoted;

/// Maximum size in bytes of a file of questions. The file for the whole of Visual Genome has about 40 MB.
const MAX_FILE_BYTES: u64 = 256 << 20;

/// Maximum ratio of the size of all texts to the size of the pickle. It is limited because a pickle may refer to a text many times.
const MAX_TEXT_RATIO: usize = 16;

/// The format of a file of questions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuestionsFormat {
    /// A pickle, as in the original. It is written with protocol 2, which Python 2 and 3 can read.
    Pickle,
    /// A JSON object of lists, as Python's `json.dump` writes the original's dictionary.
    Json,
}

impl QuestionsFormat {
    /// Returns the format for the extension of a path: JSON for `.json`, otherwise pickle.
    pub fn of(path: &Path) -> Self {
        match path.extension() {
            Some(extension) if extension.eq_ignore_ascii_case("json") => Self::Json,
            _ => Self::Pickle,
        }
    }
}

/// Writes a file of questions into `out`.
///
/// # Errors
/// Returns an error if writing fails, or if a text has 4 GiB or more, which a pickle cannot hold.
pub fn encode(images: &[ImageWithQuestions], format: QuestionsFormat, out: &mut dyn Write) -> io::Result<()> {
    match format {
        QuestionsFormat::Pickle => out.write_all(&to_pickle(images)?),
        QuestionsFormat::Json => {
            write_json(images, out)?;
            out.write_all(b"\n")
        }
    }
}

fn to_pickle(images: &[ImageWithQuestions]) -> io::Result<Vec<u8>> {
    let mut writer = Writer::new();
    writer.empty_dict();
    for image in images {
        writer.int(image.id).empty_list().mark();
        for Question { id, question, answer } in &image.questions {
            if u32::try_from(question.len().max(answer.len())).is_err() {
                return Err(io::Error::other(format!("question {id} is too long for a pickle")));
            }
            writer.mark().int(*id).text(question).text(answer).tuple();
        }
        writer.append_items().set_item();
    }
    Ok(writer.finish())
}

fn write_json(images: &[ImageWithQuestions], out: &mut dyn Write) -> serde_json::Result<()> {
    let mut serializer = serde_json::Serializer::new(out);
    let mut object = serializer.serialize_map(Some(images.len()))?;
    for image in images {
        let questions = image.questions.iter().map(|q| (q.id, &q.question, &q.answer));
        object.serialize_entry(&image.id, &questions.collect::<Vec<_>>())?;
    }
    object.end()
}

/// Reads a file of questions: a pickle (of any protocol) or JSON. The format is detected from the content.
///
/// # Errors
/// Returns an error if the file cannot be read, is neither a pickle nor JSON, has another structure, or has an image twice.
pub fn read(path: &Path) -> Result<Vec<ImageWithQuestions>> {
    let bytes = read_at_most(path, MAX_FILE_BYTES, "a file of questions")?;
    parse(&bytes).map_err(|reason| PrepareError::malformed(path, reason))
}

pub(super) fn parse(bytes: &[u8]) -> Result<Vec<ImageWithQuestions>, String> {
    // A pickle cannot begin with `{`.
    let images = if bytes.trim_ascii_start().starts_with(b"{") {
        let Images(images) =
            vlct_util::json::from_slice(bytes).map_err(|error| format!("not images with their questions: {error}"))?;
        images
    } else {
        let pickle = vlct_pickle::parse(bytes).map_err(|error| format!("neither JSON nor a pickle: {error}"))?;
        from_pickle(&pickle, MAX_TEXT_RATIO * bytes.len())?
    };
    let mut seen = HashSet::new();
    match images.iter().find(|image| !seen.insert(image.id)) {
        Some(duplicate) => Err(format!("image {} occurs twice", duplicate.id)),
        None => Ok(images),
    }
}

/// Reads the images of a pickle. All questions together may have at most `max_bytes` bytes.
fn from_pickle(pickle: &Pickle<'_>, max_bytes: usize) -> Result<Vec<ImageWithQuestions>, String> {
    let entries = pickle
        .entries(pickle.root())
        .ok_or("the pickle is not a dictionary from images to their questions")?;
    let mut remaining_bytes = max_bytes;
    let mut images = Vec::with_capacity(entries.len());
    for (key, value) in entries {
        let id = integer(pickle, key)
            .ok_or_else(|| format!("{} is not the id of an image", quoted(&pickle.describe(key))))?;
        let malformed = || format!("image {id} has no list of (id, question, answer)");
        let mut questions = Vec::new();
        for item in pickle.items(value).ok_or_else(malformed)? {
            let (id, question, answer) = triple(pickle, *item).ok_or_else(malformed)?;
            remaining_bytes = remaining_bytes
                .checked_sub(size_of::<i64>() + question.len() + answer.len())
                .ok_or("its questions are repeated far too often")?;
            questions.push(Question {
                id,
                question: question.to_owned(),
                answer: answer.to_owned(),
            });
        }
        images.push(ImageWithQuestions { id, questions });
    }
    Ok(images)
}

fn integer(pickle: &Pickle<'_>, value: Ref) -> Option<i64> {
    i64::try_from(pickle.int(value)?).ok()
}

fn triple<'p>(pickle: &'p Pickle<'_>, value: Ref) -> Option<(i64, &'p str, &'p str)> {
    match pickle.items(value)? {
        [id, question, answer] => Some((integer(pickle, *id)?, pickle.text(*question)?, pickle.text(*answer)?)),
        _ => None,
    }
}

/// The images and their questions, in the order of the JSON object.
struct Images(Vec<ImageWithQuestions>);

impl<'de> Deserialize<'de> for Images {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;

        impl<'de> Visitor<'de> for Entries {
            type Value = Vec<ImageWithQuestions>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object from images to lists of [id, question, answer]")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Self::Value, A::Error> {
                let mut images = Vec::new();
                while let Some((id, questions)) = object.next_entry::<i64, Vec<(i64, String, String)>>()? {
                    let questions =
                        questions
                            .into_iter()
                            .map(|(id, question, answer)| Question { id, question, answer });
                    images.push(ImageWithQuestions {
                        id,
                        questions: questions.collect(),
                    });
                }
                Ok(images)
            }
        }

        deserializer.deserialize_map(Entries).map(Images)
    }
}
