//! The contents of datasets: captions, questions, pairs or labels.

use std::fmt;

use crate::arrow::{ArrowTable, ColumnType};
use crate::{DataError, Result};
use vlct_util::text::counted;

/// The contents of the rows of a dataset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contents {
    /// An image and its captions.
    Captions,
    /// An image and questions about it.
    Questions,
    /// A pair of images and sentences about it.
    Pairs,
    /// An image, a text or both, with class labels.
    Labels,
}

impl Contents {
    /// Detects the contents of an Arrow file from its columns.
    ///
    /// # Errors
    /// Returns [`DataError::Format`] if the file has the columns of none of the contents, or contradictory columns of labels.
    pub fn of_table(table: &ArrowTable) -> Result<Self> {
        let has_column = |name: &str| table.columns().any(|column| column == name);
        match (has_column("image_0"), has_column("questions"), has_column("caption")) {
            (true, true, _) => Ok(Self::Pairs),
            (false, true, _) => Ok(Self::Questions),
            (_, false, true) => Ok(Self::Captions),
            (_, false, false) if (has_column("image") || has_column("text")) && table.label_kind()?.is_some() => {
                Ok(Self::Labels)
            }
            (_, false, false) if has_column("image") && has_column(table.caption_column()) => Ok(Self::Captions),
            (_, false, false) => {
                let columns: Vec<&str> = table.columns().collect();
                let reason = "it has neither captions (columns image, caption) nor questions (image, questions) nor pairs \
                              (image_0, image_1, questions, answers) nor labels (image, text, label or labels)";
                Err(DataError::format(
                    table.path(),
                    format!("{reason}; its columns are {}", columns.join(", ")),
                ))
            }
        }
    }

    /// Checks that lists of the same row, such as questions and their answers, or captions and the boxes of their regions, have the
    /// same length.
    ///
    /// # Errors
    /// Returns [`DataError::Format`], which names the first row that is not so, or the error of a damaged value.
    pub fn check_rows(self, table: &ArrowTable) -> Result<()> {
        let has_column = |name: &str| table.has_typed_column(name);
        match self {
            Self::Captions => {
                let boxes = ["width", "height", "x", "y"];
                // Other datasets may have columns with some of these names.
                let boxes: &[&str] = if boxes.iter().all(|name| table.has_integer_lists(name)) {
                    &boxes
                } else {
                    &[]
                };
                table.for_each_row(|row| {
                    let captions = table.captions(row)?.len();
                    for column in boxes {
                        let count = table.integers(row, column)?.len();
                        if count != captions {
                            let reason = format!(
                                "it has {}, but {} of {column}",
                                counted(captions, "caption"),
                                counted(count, "value")
                            );
                            return Err(table.row_error(row, &reason));
                        }
                    }
                    Ok(())
                })
            }
            Self::Questions if has_column("question_id") => table.for_each_row(|row| table.questions(row).map(drop)),
            Self::Pairs if has_column("answers") => table.for_each_row(|row| {
                let (sentences, answers) = (table.texts(row, "questions")?.len(), table.texts(row, "answers")?.len());
                if answers > 0 && sentences != answers {
                    let reason = format!(
                        "it has {}, but {}",
                        counted(sentences, "sentence"),
                        counted(answers, "answer")
                    );
                    return Err(table.row_error(row, &reason));
                }
                Ok(())
            }),
            Self::Questions | Self::Pairs | Self::Labels => Ok(()),
        }
    }

    /// Checks that an Arrow file has the columns of these contents, with the right types.
    ///
    /// # Errors
    /// Returns [`DataError::NoColumn`] or [`DataError::Format`] if it does not.
    pub(super) fn check_columns(self, table: &ArrowTable) -> Result<()> {
        table.check_columns(match self {
            Self::Captions => {
                let captions = (table.caption_column(), ColumnType::TextOrTexts);
                return table.check_columns(&[("image", ColumnType::Images), captions]);
            }
            Self::Questions => &[
                ("image", ColumnType::Images),
                ("questions", ColumnType::Texts),
                ("question_id", ColumnType::Integers),
                ("answers", ColumnType::TextLists),
                ("answer_labels", ColumnType::IntegerLists),
                ("answer_scores", ColumnType::FloatLists),
            ],
            Self::Pairs => &[
                ("image_0", ColumnType::Images),
                ("image_1", ColumnType::Images),
                ("questions", ColumnType::Texts),
                ("answers", ColumnType::Texts),
            ],
            Self::Labels => return table.check_label_columns(),
        })
    }
}

impl fmt::Display for Contents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Captions => "captions",
            Self::Questions => "questions",
            Self::Pairs => "pairs of images",
            Self::Labels => "labels",
        })
    }
}
