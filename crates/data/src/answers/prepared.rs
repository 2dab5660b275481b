//! The vocabulary of prepared VQA files.

use std::path::Path;

use super::Vocabulary;
use crate::arrow::ArrowTable;
use crate::{DataError, Result};

/// Names, without `.arrow`, of the prepared files whose questions have answers. Not all of them need to exist.
const FILES: [&str; 4] = ["vqav2_train", "vqav2_trainable_val", "vqav2_val", "vqav2_rest_val"];

impl Vocabulary {
    /// Reads the vocabulary of the `vqav2_*.arrow` files in `directory` from their columns `answers` and `answer_labels`, as the
    /// original's VQA data module does. An id that no question uses has no answer.
    ///
    /// # Errors
    /// Returns [`DataError::Invalid`] if no file has answers, [`DataError::Format`] if a file is damaged or its ids disagree with
    /// each other or with those of another file.
    pub fn from_prepared(directory: impl AsRef<Path>) -> Result<Self> {
        let directory = directory.as_ref();
        let mut vocabulary = Self::default();
        let paths = FILES.map(|name| directory.join(format!("{name}.arrow")));
        for path in paths.iter().filter(|path| path.exists()) {
            vocabulary.read_table(&ArrowTable::open(path)?)?;
        }
        if vocabulary.is_empty() {
            let names = FILES.join(".arrow, ");
            return Err(DataError::Invalid(format!(
                "{}: no answers found in any of {names}.arrow; name the directory that has the prepared VQA v2 files",
                directory.display(),
            )));
        }
        Ok(vocabulary)
    }

    /// Adds the answers of all rows of a file.
    ///
    /// # Errors
    /// Returns [`DataError::Format`] if the file is damaged or its ids disagree with each other or with those that the vocabulary has.
    pub(crate) fn read_table(&mut self, table: &ArrowTable) -> Result<()> {
        table.for_each_row(|row| {
            let answers = table.text_lists(row, "answers")?;
            let labels = table.integer_lists(row, "answer_labels")?;
            self.read_row(&answers, &labels)
                .map_err(|reason| table.row_error(row, &reason))
        })
    }

    fn read_row(&mut self, answers: &[Vec<&str>], labels: &[Vec<i64>]) -> Result<(), String> {
        if answers.len() != labels.len() {
            return Err(format!(
                "answers of {} questions, but labels of {} questions",
                answers.len(),
                labels.len()
            ));
        }
        for (answers, labels) in answers.iter().zip(labels) {
            if answers.len() != labels.len() {
                return Err(format!(
                    "a question has {} answers, but {} labels",
                    answers.len(),
                    labels.len()
                ));
            }
            for (answer, label) in answers.iter().zip(labels) {
                self.insert(answer, i128::from(*label))?;
            }
        }
        Ok(())
    }
}
