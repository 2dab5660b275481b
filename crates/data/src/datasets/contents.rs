//! The contents of datasets: captions, questions or pairs.

use std::fmt;

use crate::arrow::ColumnType;

/// The contents of the rows of a dataset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contents {
    /// An image and its captions.
    Captions,
    /// An image and questions about it.
    Questions,
    /// A pair of images and sentences about it.
    Pairs,
}

impl Contents {
    /// Name of the column of texts. Each text is one item of the dataset.
    pub(super) fn text_column(self) -> &'static str {
        match self {
            Self::Captions => "caption",
            Self::Questions | Self::Pairs => "questions",
        }
    }

    /// The columns that an Arrow file must have, with their types.
    pub(super) fn columns(self) -> &'static [(&'static str, ColumnType)] {
        match self {
            Self::Captions => &[("image", ColumnType::Images), ("caption", ColumnType::Texts)],
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
        }
    }
}

impl fmt::Display for Contents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Captions => "captions",
            Self::Questions => "questions",
            Self::Pairs => "pairs of images",
        })
    }
}
