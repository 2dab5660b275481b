//! Results of single items of an evaluation, for metrics that are not means of measures, and for output files.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The result of one item.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Row {
    /// The answer to a question.
    Answer {
        /// Id of the question in the annotations.
        question_id: i64,
        /// Id of the answer with the largest logit.
        answer: u32,
    },
    /// The classification of a statement about two images.
    Statement {
        /// The part of the data that the item belongs to.
        subset: Subset,
        /// Cross-entropy.
        loss: f32,
        /// Whether the class with the larger logit is the target.
        is_correct: bool,
    },
    /// The classes of the largest logits of an image.
    Class {
        /// Id of the image's class.
        class: u32,
        /// Ids of the classes with the largest logits and their probabilities, the largest first.
        top: Vec<(u32, f32)>,
    },
    /// An image that could not be read.
    Unreadable {
        /// Id of the image's class; `None` if it is not known either.
        class: Option<u32>,
        /// What is wrong with which file and row.
        reason: String,
    },
    /// Label scores of an item.
    Labels {
        /// A score from 0 to 1 for each label.
        scores: Vec<f32>,
        /// Ids of the item's labels.
        labels: Vec<u32>,
    },
}

/// The part of the evaluation data of NLVR2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Subset {
    /// `nlvr2_dev`, or the validation split of a custom dataset.
    Dev,
    /// `nlvr2_test1`, or the test split of a custom dataset.
    Test,
}

impl Subset {
    /// Returns the part that a file of a dataset belongs to. `name` is the file's name without the dataset's name
    /// ([`Dataset::subset`](vlct_data::datasets::Dataset::subset)), such as `dev` or `val_0`.
    pub fn of_file(name: &str) -> Option<Self> {
        match name {
            _ if name.contains("dev") || name.contains("val") => Some(Self::Dev),
            _ if name.contains("test") => Some(Self::Test),
            _ => None,
        }
    }

    /// Returns the name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dev => "dev",
            Self::Test => "test",
        }
    }
}

/// Results by the index of the item in its dataset, so that an item is never counted twice.
pub type Rows = BTreeMap<usize, Row>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subsets_are_named_by_published_and_custom_files() {
        for (name, subset) in [
            ("dev", Some(Subset::Dev)),
            ("test1", Some(Subset::Test)),
            ("val_0", Some(Subset::Dev)),
            ("test", Some(Subset::Test)),
            ("train", None),
            ("", None),
        ] {
            assert_eq!(Subset::of_file(name), subset, "{name}");
        }
    }
}
