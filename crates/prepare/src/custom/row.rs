//! The rows of tables of captions or questions.

use vlct_data::arrow::AnsweredQuestion;

use super::images::ImageLocation;
use crate::tables::Question;

/// A row to be written.
pub(super) struct Row {
    pub image: ImageLocation,
    pub captions: Vec<String>,
    /// The questions, as in the table. [`super::questions::assign_ids`] moves them to `questions`.
    pub table_questions: Vec<Question>,
    /// The questions with their ids. Each answer has its id and score.
    pub questions: Vec<AnsweredQuestion>,
    /// Name of the image, if the table has one.
    pub image_id: Option<String>,
    /// Integer id of the image, for files of questions.
    pub image_number: i64,
}

impl Row {
    /// Returns the image's name as an integer, if it is one.
    pub fn numeric_id(&self) -> Option<i64> {
        self.image_id.as_deref()?.parse().ok()
    }
}
