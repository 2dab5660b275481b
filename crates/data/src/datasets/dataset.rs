//! The interface of datasets for loaders: random access to undecoded items.

use std::borrow::Cow;
use std::ops::Range;

use crate::Result;
use crate::loader::Order;
use vlct_image::Reading;

/// A sequence of items. An item is a row with one of its texts, or a row with labels.
pub trait Dataset: Send + Sync {
    /// Number of items.
    fn len(&self) -> usize;

    /// Whether there is no item.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns item `item`, undecoded.
    ///
    /// # Errors
    /// Returns an error that names file and row if there is no such item, a column is damaged or an image is missing.
    fn example(&self, item: usize) -> Result<Example<'_>>;

    /// Returns the text of item `item`, if it has one.
    ///
    /// # Errors
    /// Returns the errors of [`Self::example`].
    fn text(&self, item: usize) -> Result<Option<Cow<'_, str>>> {
        Ok(self.example(item)?.text)
    }

    /// Number of rows, with or without texts.
    fn rows(&self) -> usize;

    /// Returns the items of row `row`; empty for a row without texts.
    ///
    /// # Errors
    /// Returns an error if there is no such row or its texts are damaged.
    fn items_of(&self, row: usize) -> Result<Range<usize>>;

    /// Returns all items of the named dataset to which item `item` belongs; empty if there is no such item. Negatives and replacements
    /// are drawn from this range.
    fn peers(&self, item: usize) -> Range<usize>;

    /// Returns the name of the item's file, without extension and without the name of the dataset before it: `dev` for `nlvr2_dev`,
    /// `val_0` for `photos_val_0`. Empty for a tar and if there is no such item.
    fn subset(&self, item: usize) -> &str;

    /// Returns the order of the items in an epoch of training.
    fn order(&self, seed: u64, epoch: u64) -> Order {
        Order::shuffled(seed, epoch, self.len())
    }

    /// Returns the file and row of an item, for messages.
    fn describe(&self, item: usize) -> String;

    /// Returns the name of an item's image: its path, or what the file of the dataset calls it; else its file and row.
    fn image_name(&self, item: usize) -> String {
        self.describe(item)
    }

    /// Returns the class of an item, whether or not its image can be read; `None` if it has none or several.
    fn class_name(&self, item: usize) -> Option<String> {
        match self.example(item).ok()?.answer {
            Answer::Labels(names) if names.len() == 1 => names.into_iter().next(),
            _ => None,
        }
    }

    /// Returns an error about an item. Its message names file and row.
    fn error(&self, item: usize, reason: &str) -> crate::DataError;
}

/// One undecoded item.
#[derive(Clone, Debug, PartialEq)]
pub struct Example<'a> {
    /// The bytes of the image files: one image, or left and right of a pair. A row with labels may have no image.
    pub images: [Option<Cow<'a, [u8]>>; 2],
    /// How the image files become pixels.
    pub reading: Reading,
    /// The caption, question, sentence or other text. A row with labels may have no text.
    pub text: Option<Cow<'a, str>>,
    /// What a model must predict.
    pub answer: Answer,
}

/// What a model must predict for an item.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Answer {
    /// Nothing: the dataset has no answers, or a row of a test split has no labels.
    #[default]
    None,
    /// Whether the sentence is true of the pair of images.
    Truth(bool),
    /// The names of the classes: one in a dataset with the column `label`, any number of different ones with the column `labels`.
    Labels(Vec<String>),
    /// Answers to a question.
    Question {
        /// Id of the question in the annotations.
        question_id: i64,
        /// Answers: text, id in the answer vocabulary, score from 0 to 1. `None` in test splits. Empty if no answer is in the vocabulary.
        answers: Option<Vec<(String, i64, f64)>>,
    },
}
