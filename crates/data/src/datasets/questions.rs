//! Questions about pictures: VQA v2, Visual Genome's, and one's own.

use super::contents::Questions;
use super::items::{AROUND_BYTES, ItemDataset, Location};
use crate::Result;
use crate::answers::MAX_ANSWERS;
use crate::arrow::AnsweredQuestion;

/// Pictures and questions. An item is a picture with one of its questions; a question that is asked twice is two items
/// (`vlc/datasets/vqav2_dataset.py`).
///
/// The original's alternative training set, with Visual Genome's questions, is `["vqa", "vgqa"]`.
pub type QuestionDataset = ItemDataset<Questions>;

impl QuestionDataset {
    /// The question of item `index`, with its answers.
    ///
    /// # Errors
    /// As [`Self::question_at`]; no such item.
    pub fn question(&self, index: usize) -> Result<AnsweredQuestion> {
        self.question_at(&self.locate(index)?)
    }

    /// The question at a location that [`Self::locate`] gave, with the answers that count. Test splits have none.
    ///
    /// # Errors
    /// No such place; a damaged file; columns that disagree about how many questions or answers there are; an answer with an
    /// impossible number or score.
    pub fn question_at(&self, at: &Location) -> Result<AnsweredQuestion> {
        let questions = self.file(at)?.arrow()?.questions(at.row)?;
        self.read(at, AROUND_BYTES);
        let count = questions.len();
        let question = questions
            .into_iter()
            .nth(at.text)
            .ok_or_else(|| self.row_error(at, &format!("there is no question {}; there are {count}", at.text)))?;
        let impossible = |(_, label, score): &&(String, i64, f64)| {
            !(0..MAX_ANSWERS as i64).contains(label) || !(0.0..=1.0).contains(score)
        };
        match question.answers.iter().find(impossible) {
            None => Ok(question),
            Some((_, label, score)) => {
                let reason = format!(
                    "question {} has an answer with the number {label} and the score {score}; possible are numbers from 0 and \
                     scores from 0 to 1",
                    at.text
                );
                Err(self.row_error(at, &reason))
            }
        }
    }

    /// The picture at a location that [`Self::locate`] gave: the bytes of its file.
    ///
    /// # Errors
    /// No such place, or a row without a picture.
    pub fn image_at(&self, at: &Location) -> Result<&[u8]> {
        self.image_in(at, "image")
    }

    /// The number of the picture at a location.
    ///
    /// # Errors
    /// A file without that column, or with names in it.
    pub fn image_id_at(&self, at: &Location) -> Result<Option<i64>> {
        self.file(at)?.arrow()?.integer(at.row, "image_id")
    }
}
