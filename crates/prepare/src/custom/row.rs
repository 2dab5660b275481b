//! The rows that tables are read into.

use vlct_data::arrow::AnsweredQuestion;

use crate::tables::Question;

/// A row to be written.
pub(super) struct Row {
    pub image: ImageLocation,
    pub captions: Vec<String>,
    /// The questions of the table. [`super::questions::number`] moves them to `questions`.
    pub unnumbered: Vec<Question>,
    /// The questions with their ids and the ids and scores of their answers.
    pub questions: Vec<AnsweredQuestion>,
    /// Name of the image, if the table has one.
    pub image_id: Option<String>,
    /// Id of the image in a file of questions.
    pub image_number: i64,
}

impl Row {
    /// Returns the image's name as an integer, if it is one.
    pub fn numeric_id(&self) -> Option<i64> {
        self.image_id.as_deref()?.parse().ok()
    }
}

/// Where the bytes of an image are.
pub(super) enum ImageLocation {
    /// In a file: its path as the table has it.
    File(String),
    /// In the table: row `row` of the table at position `table`.
    Embedded { table: usize, row: u64 },
}
