//! NLVR2: pairs of images and sentences about them.

use arrow_array::ArrayRef;
use arrow_array::builder::{BinaryBuilder, ListBuilder, StringBuilder};

use super::{TakeArray, image_column, text_column, texts_column};
use crate::Result;
use crate::arrow::write::{ColumnSpec, TableFile};

/// One row of an NLVR2 file: a pair of images and the sentences about it.
#[derive(Clone, Copy, Debug)]
pub struct Nlvr2Row<'a> {
    /// The bytes of the left image's file.
    pub image_0: &'a [u8],
    /// The bytes of the right image's file.
    pub image_1: &'a [u8],
    /// The sentences, each with its truth for the pair.
    pub sentences: &'a [(String, bool)],
    /// The name of the pair, such as `dev-850-0`.
    pub identifier: &'a str,
}

/// Writes NLVR2 files: `image_0`, `image_1`, `questions`, `answers` (`True` or `False`), `identifier`.
pub struct Nlvr2Writer {
    file: TableFile,
    image_0: BinaryBuilder,
    image_1: BinaryBuilder,
    questions: ListBuilder<StringBuilder>,
    answers: ListBuilder<StringBuilder>,
    identifier: StringBuilder,
}

impl Nlvr2Writer {
    fn columns() -> [ColumnSpec; 5] {
        [
            image_column("image_0"),
            image_column("image_1"),
            texts_column("questions"),
            texts_column("answers"),
            text_column("identifier"),
        ]
    }

    fn with_file(file: TableFile) -> Self {
        Self {
            file,
            image_0: BinaryBuilder::new(),
            image_1: BinaryBuilder::new(),
            questions: ListBuilder::new(StringBuilder::new()),
            answers: ListBuilder::new(StringBuilder::new()),
            identifier: StringBuilder::new(),
        }
    }

    writer_constructors!();

    /// Adds a pair of images with its sentences.
    ///
    /// # Errors
    /// Returns [`crate::DataError::RowTooLarge`] if the row has about 2 GiB or more, [`crate::DataError::Io`] if writing fails.
    pub fn push(&mut self, row: Nlvr2Row<'_>) -> Result<()> {
        self.push_with(row, row.sentences)
    }

    /// Adds a pair of images with its sentences, for a test split: the list of answers is empty.
    ///
    /// # Errors
    /// Returns the errors of [`Self::push`].
    pub fn push_without_answers(&mut self, row: Nlvr2Row<'_>) -> Result<()> {
        self.push_with(row, &[])
    }

    /// Adds a pair of images. Only `answered` sentences have answers.
    fn push_with(&mut self, row: Nlvr2Row<'_>, answered: &[(String, bool)]) -> Result<()> {
        // The answer and offsets of a sentence take about 16 bytes.
        let sentence_bytes: usize = row.sentences.iter().map(|s| s.0.len() + 16).sum();
        make_room!(
            self,
            row.image_0.len() + row.image_1.len() + sentence_bytes + row.identifier.len()
        );
        self.image_0.append_value(row.image_0);
        self.image_1.append_value(row.image_1);
        self.questions.append_value(row.sentences.iter().map(|s| Some(&s.0)));
        let word = |truth: bool| if truth { "True" } else { "False" };
        self.answers.append_value(answered.iter().map(|s| Some(word(s.1))));
        self.identifier.append_value(row.identifier);
        Ok(())
    }

    writer_methods!(image_0, image_1, questions, answers, identifier);
}
