//! The vocabulary that prepared VQA files were written with.

use std::path::Path;

use super::Vocabulary;
use crate::arrow::ArrowTable;
use crate::{DataError, Result};

/// Files with answers, of which a folder has at least one.
const FILES: [&str; 4] = ["vqav2_train", "vqav2_trainable_val", "vqav2_val", "vqav2_rest_val"];

/// Rows read before pages of a file are given back to the system.
const ROWS_IN_MEMORY: usize = 4096;

impl Vocabulary {
    /// The vocabulary that the `vqav2_*.arrow` files in `folder` use, from their columns `answers` and `answer_labels`, like the
    /// original's VQA data module. Answers of the vocabulary that no question has are unknown: their numbers are left out.
    ///
    /// # Errors
    /// [`DataError::Invalid`] if the folder has none of the files; [`DataError::Format`] if one is damaged, has no answers or
    /// contradicts itself or another one, with its row.
    pub fn from_prepared(folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref();
        let mut vocabulary = Self::default();
        let paths = FILES.map(|name| folder.join(format!("{name}.arrow")));
        for path in paths.iter().filter(|path| path.exists()) {
            vocabulary.read_table(&ArrowTable::open(path)?)?;
        }
        if vocabulary.is_empty() {
            let names = FILES.join(".arrow, ");
            return Err(DataError::Invalid(format!(
                "{}: no answers found in any of {names}.arrow; name the folder that has the prepared VQA v2 files",
                folder.display(),
            )));
        }
        Ok(vocabulary)
    }

    fn read_table(&mut self, table: &ArrowTable) -> Result<()> {
        for row in 0..table.rows() {
            let answers = table.text_lists(row, "answers")?;
            let labels = table.integer_lists(row, "answer_labels")?;
            self.read_row(&answers, &labels)
                .map_err(|reason| table.row_error(row, &reason))?;
            if row % ROWS_IN_MEMORY == ROWS_IN_MEMORY - 1 {
                table.release_pages();
            }
        }
        Ok(())
    }

    fn read_row(&mut self, answers: &[Vec<&str>], labels: &[Vec<i64>]) -> Result<(), String> {
        if answers.len() != labels.len() {
            return Err(format!(
                "answers of {} questions, but labels of {}",
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
