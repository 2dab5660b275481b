//! Errors of predictions. A message is one line: what is wrong, and where.

use std::path::PathBuf;

use vlct_checkpoint::CheckpointError;
use vlct_data::DataError;
use vlct_image::ImageError;
use vlct_model::files::FileError;
use vlct_model::files::mapping::AdaptError;
use vlct_tasks::description::{VocabularyDifference, WeightsError};
use vlct_text::TextError;
use vlct_util::IoError;

use crate::Head;

/// Result with a [`PredictError`].
pub type Result<T, E = PredictError> = std::result::Result<T, E>;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PredictError {
    /// A file or directory cannot be read or written.
    #[error(transparent)]
    Io(#[from] IoError),
    /// A weight file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// A checkpoint of a run is damaged or has an invalid description.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A list of answers cannot be read, or a dataset is damaged.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The tokenizer cannot be read.
    #[error(transparent)]
    Text(#[from] TextError),
    /// The model in a weight file cannot be described.
    #[error(transparent)]
    Description(#[from] WeightsError),
    /// The tensors of a weight file do not fit the model.
    #[error("{path}: {source}", path = path.display())]
    Weights {
        /// The weight file.
        path: PathBuf,
        /// The reason.
        source: AdaptError,
    },
    /// The model does not have the head that a prediction needs.
    #[error("{path}: the model has no head for {}; its heads: {}", Head::list(needed).replace(", ", " or "), Head::list(found), path = path.display())]
    NoHead {
        /// The weight file.
        path: PathBuf,
        /// The heads one of which is needed.
        needed: Vec<Head>,
        /// The heads of the model.
        found: Vec<Head>,
    },
    /// The file does not have the names of answers or labels.
    #[error("{path}: the file does not have the names of the {count} {what} of its head", path = path.display())]
    NoNames {
        /// The weight file.
        path: PathBuf,
        /// Answers or labels.
        what: &'static str,
        /// Number of classes of the head.
        count: usize,
    },
    /// A list of names has another length than the head has classes.
    #[error("{path}: {found} {what}, but the head of the model has {expected}", path = path.display())]
    NameCount {
        /// The list, or the weight file that contains it.
        path: PathBuf,
        /// Answers or labels.
        what: &'static str,
        /// Number of names.
        found: usize,
        /// Number of classes of the head.
        expected: usize,
    },
    /// The tokenizer makes token ids that the model does not have.
    #[error(
        "the tokenizer has {tokens} tokens, but the word table of the model has only {rows} rows: name the tokenizer of the model"
    )]
    TokenizerSize {
        /// Number of tokens of the tokenizer.
        tokens: usize,
        /// Rows of the word table.
        rows: usize,
    },
    /// The tokenizer has another vocabulary than that with which the weights were trained.
    #[error(
        "{path}: the model was trained with another vocabulary than that of the given tokenizer: {difference}",
        path = path.display()
    )]
    OtherVocabulary {
        /// The weight file.
        path: PathBuf,
        /// The first difference; "there" is the weight file.
        difference: VocabularyDifference,
    },
    /// The image size is not one for the model.
    #[error("image size {size} is not {rule}")]
    ImageSize {
        /// The image size in pixels.
        size: usize,
        /// What it should be.
        rule: String,
    },
    /// An image cannot be decoded.
    #[error("{path}: {source}", path = path.display())]
    Image {
        /// The image file.
        path: PathBuf,
        /// The reason.
        source: ImageError,
    },
    /// A text has more tokens than the model reads.
    #[error("the text is longer than the limit of {limit} tokens of the model: {text:?}")]
    TextTooLong {
        /// Maximum number of tokens, including `[CLS]` and `[SEP]`.
        limit: usize,
        /// The beginning of the text.
        text: String,
    },
    /// A prediction is not a number.
    #[error("the outputs of the model are not finite numbers, so its weights are damaged")]
    NotFinite,
    /// An argument is out of range, or inputs contradict each other.
    #[error("{0}")]
    Invalid(String),
}
