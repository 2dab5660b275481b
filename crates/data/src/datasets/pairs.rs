//! Sentences about pairs of pictures: NLVR2, and one's own.

use super::contents::Pairs;
use super::items::{AROUND_BYTES, ItemDataset, Location};
use crate::{DataError, Result};

/// Pairs of pictures and sentences. An item is a pair with one of its sentences; a sentence that occurs twice is two items
/// (`vlc/datasets/nlvr2_dataset.py`).
pub type PairDataset = ItemDataset<Pairs>;

/// A sentence about a pair of pictures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sentence {
    /// The sentence.
    pub text: String,
    /// Whether it is true of the pair.
    pub truth: bool,
}

impl PairDataset {
    /// The sentence of item `index`.
    ///
    /// # Errors
    /// As [`Self::sentence_at`]; no such item.
    pub fn sentence(&self, index: usize) -> Result<Sentence> {
        self.sentence_at(&self.locate(index)?)
    }

    /// The sentence at a location that [`Self::locate`] gave. As in the original, whatever is not the word `True` is false.
    ///
    /// # Errors
    /// No such place; a damaged file; another number of answers than of sentences.
    pub fn sentence_at(&self, at: &Location) -> Result<Sentence> {
        let table = self.file(at)?.arrow()?;
        let sentences = table.texts(at.row, "questions")?;
        let answers = table.texts(at.row, "answers")?;
        self.read(at, AROUND_BYTES);
        if sentences.len() != answers.len() {
            let reason = format!("{} sentences, but {} answers", sentences.len(), answers.len());
            return Err(self.row_error(at, &reason));
        }
        match (sentences.get(at.text), answers.get(at.text)) {
            (Some(text), Some(answer)) => Ok(Sentence {
                text: text.to_string(),
                truth: *answer == "True",
            }),
            _ => Err(DataError::Invalid(format!(
                "there is no sentence {} in row {}",
                at.text, at.row
            ))),
        }
    }

    /// The two pictures at a location that [`Self::locate`] gave, left and right: the bytes of their files.
    ///
    /// # Errors
    /// No such place, or a row without one of the pictures.
    pub fn images_at(&self, at: &Location) -> Result<[&[u8]; 2]> {
        Ok([self.image_in(at, "image_0")?, self.image_in(at, "image_1")?])
    }

    /// The name of the pair at a location.
    ///
    /// # Errors
    /// A file without that column.
    pub fn identifier_at(&self, at: &Location) -> Result<Option<String>> {
        let identifier = self.file(at)?.arrow()?.string(at.row, "identifier")?;
        Ok(identifier.map(str::to_string))
    }
}
