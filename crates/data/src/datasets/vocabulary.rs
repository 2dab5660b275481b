//! The answer vocabulary of a dataset of questions.

use super::contents::Contents;
use super::items::TableDataset;
use crate::answers::Vocabulary;
use crate::{DataError, Result};

impl Vocabulary {
    /// Reads the answers and ids of all questions of a published or custom dataset from the columns `answers` and `answer_labels`, once.
    /// An id that no question uses has no answer. The vocabulary of a test split is empty.
    ///
    /// # Errors
    /// Returns [`DataError::Invalid`] if the dataset does not have questions, [`DataError::Format`] if a file is damaged or its ids
    /// disagree with each other or with those of another file.
    pub fn from_dataset(dataset: &TableDataset) -> Result<Self> {
        if dataset.contents() != Contents::Questions {
            return Err(DataError::Invalid(format!(
                "{} has {}, not questions with answers",
                dataset.names(),
                dataset.contents()
            )));
        }
        let mut vocabulary = Self::default();
        for file in dataset.files() {
            vocabulary.read_table(file.arrow()?)?;
        }
        Ok(vocabulary)
    }
}
