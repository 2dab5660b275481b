//! The contents of datasets: captions, questions or pairs.

use std::fmt;

use crate::arrow::Values;

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

    /// The columns that an Arrow file must have.
    pub(super) fn columns(self) -> &'static [(&'static str, Values)] {
        match self {
            Self::Captions => &[("image", Values::Images), ("caption", Values::Texts)],
            Self::Questions => &[
                ("image", Values::Images),
                ("questions", Values::Texts),
                ("question_id", Values::Integers),
                ("answers", Values::TextLists),
                ("answer_labels", Values::IntegerLists),
                ("answer_scores", Values::FloatLists),
            ],
            Self::Pairs => &[
                ("image_0", Values::Images),
                ("image_1", Values::Images),
                ("questions", Values::Texts),
                ("answers", Values::Texts),
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
