//! Errors of this crate. A message is one line that says what is wrong and where; which option of a program helps is for that program
//! to add.

use std::path::{Path, PathBuf};

use vlct_data::DataError;
use vlct_image::ImageError;
use vlct_util::IoError;

/// An error of a preparation.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PrepareError {
    /// A file or directory cannot be read or written.
    #[error(transparent)]
    Io(#[from] IoError),
    /// An Arrow file, a tar, a vocabulary or the journal is damaged, or cannot be read or written.
    #[error(transparent)]
    Data(#[from] DataError),
    /// An image cannot be decoded.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The content of an annotation file or of a table is damaged, or not of the form that its reader needs.
    #[error("{path}: {reason}", path = path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and where in the file.
        reason: String,
    },
    /// A raw layout has an annotation file that does not exist.
    #[error("{path}: no such annotation file", path = .0.display())]
    MissingAnnotations(PathBuf),
    /// A raw layout has a directory of images that does not exist.
    #[error("{path}: no such directory", path = .0.display())]
    MissingDirectory(PathBuf),
    /// None of the names that a file may have exists in `root`.
    #[error("{root}: neither {first} nor {second} exists, the {what}", root = root.display(), first = names[0], second = names[1])]
    MissingFile {
        /// The directory of the raw data.
        root: PathBuf,
        /// The names that the file may have.
        names: [&'static str; 2],
        /// What the file holds.
        what: VgqaFile,
    },
    /// The root has no table of the training split.
    #[error("{root}: it has no train.{extension}", root = root.display())]
    MissingTable {
        /// The directory of the custom dataset.
        root: PathBuf,
        /// The extension of tables in the format that was asked for.
        extension: &'static str,
    },
    /// No image file has an annotation.
    #[error(
        "{directory}: no image here has an annotation in {annotations}; are they of the same dataset?",
        directory = directory.display()
    )]
    NoAnnotatedImage {
        /// The directory of the images.
        directory: PathBuf,
        /// The name of the annotation file.
        annotations: String,
    },
    /// No row of the tables has both an image that exists and a text.
    #[error(
        "{root}: there is nothing to write: no row has both an image that exists and a text{example}",
        root = root.display(), example = missing.as_ref().map_or(String::new(), |path| format!(", such as {path}"))
    )]
    NoUsableRow {
        /// The directory that the paths of images are relative to.
        root: PathBuf,
        /// The path of an image that does not exist.
        missing: Option<String>,
    },
    /// The directory of a custom dataset has nothing of the input format.
    #[error("{root}: there is nothing to write: it has no {what}", root = root.display())]
    NothingToWrite {
        /// The directory of the custom dataset.
        root: PathBuf,
        /// What it should have.
        what: &'static str,
    },
    /// A name that is not that of a published dataset.
    #[error("unknown dataset {name:?}; known are {known}", known = known.join(", "))]
    UnknownDataset {
        /// The name.
        name: String,
        /// The names of the published datasets.
        known: Vec<&'static str>,
    },
    /// A split that the dataset does not have.
    #[error("there is no split {split:?}; this dataset has {known}", known = known.join(", "))]
    UnknownSplit {
        /// The name of the split.
        split: String,
        /// The splits of the dataset.
        known: Vec<&'static str>,
    },
    /// A row of a table names a split that is not known.
    #[error(
        "{path}: it has the split {split:?}; known are train, val and test, and words for them such as validation; rename it",
        path = path.display()
    )]
    UnknownRowSplit {
        /// The table.
        path: PathBuf,
        /// The name of the split.
        split: String,
    },
    /// A directory named like a split holds classes, and is beside directories that are named otherwise.
    #[error(
        "{root}: it has a directory {split} of classes beside a directory {other}: as splits there are train, val and test only; \
         rename {other}, or move it away",
        root = root.display()
    )]
    MixedDirectories {
        /// The directory that holds both.
        root: PathBuf,
        /// The name of the split.
        split: String,
        /// The name of the other directory.
        other: String,
    },
    /// A name that a custom dataset cannot have.
    #[error("{0:?} is no name of a dataset: a name has letters, digits, - and _ only, the first a letter or digit")]
    InvalidName(String),
    /// The name of a published dataset for a custom one.
    #[error("{0} is the name of a published dataset, which would be read instead; take another")]
    PublishedName(String),
    /// Tables of annotations for an input format that has none.
    #[error("{format} has its texts with the images, so there are no tables of annotations")]
    UnexpectedAnnotations {
        /// The name of the input format.
        format: &'static str,
    },
    /// No answer is frequent enough to be in the vocabulary.
    #[error(
        "{split} has answers, but no answer is the most frequent one of {min_answers} questions of train, so none has an id; give \
         training questions with answers"
    )]
    NoFrequentAnswer {
        /// The split.
        split: &'static str,
        /// The number of questions of which an answer must be the most frequent.
        min_answers: usize,
    },
    /// Questions and vocabulary that do not belong together.
    #[error(
        "{path}: {unknown} answers are not in the vocabulary of {known} answers, the first is {answer} to question {question} of \
         image {image}; use the vocabulary that the questions were selected with",
        path = path.display(), answer = vlct_util::text::quoted(answer)
    )]
    OutsideVocabulary {
        /// The file of questions.
        path: PathBuf,
        /// The number of answers that are not in the vocabulary.
        unknown: u64,
        /// The number of answers in the vocabulary.
        known: usize,
        /// The first answer that is not in the vocabulary.
        answer: String,
        /// The id of its question.
        question: i64,
        /// The id of its image.
        image: i64,
    },
    /// A file of another split stays whose answers are numbered by another vocabulary.
    #[error(
        "{path}: its answers are numbered by another vocabulary than those that are to be written beside it, since training \
         annotations have changed; prepare all splits together",
        path = path.display()
    )]
    OtherVocabulary {
        /// The file.
        path: PathBuf,
    },
    /// Files that would be replaced exist, and were made from other inputs or with other options.
    #[error(
        "{out}: {files} there already, made from other inputs or with other options",
        out = out.display(), files = counted(files)
    )]
    OutputExists {
        /// The output directory.
        out: PathBuf,
        /// The names of the files.
        files: Vec<String>,
    },
    /// A [`RowText`](crate::RowText) of another kind than the [`Schema`](crate::Schema) of its file.
    #[error("a row does not fit the columns of its file")]
    SchemaMismatch,
}

/// What a [`PrepareError::MissingFile`] holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VgqaFile {
    /// The questions of Visual Genome that VQA can use.
    Questions,
    /// The answer vocabulary of VQA v2.
    Vocabulary,
}

impl std::fmt::Display for VgqaFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Questions => "questions of Visual Genome",
            Self::Vocabulary => "answer vocabulary of VQA v2",
        })
    }
}

impl PrepareError {
    pub(crate) fn malformed(path: impl AsRef<Path>, reason: impl Into<String>) -> Self {
        Self::Malformed {
            path: path.as_ref().to_path_buf(),
            reason: reason.into(),
        }
    }

    /// Returns whether the operating system failed to read or write, so that the same call may succeed another time.
    pub fn is_io(&self) -> bool {
        matches!(self, Self::Io(_) | Self::Data(DataError::Io(_)))
    }
}

fn counted(files: &[String]) -> String {
    match files {
        [one] => format!("{one} is"),
        [first, .., last] => format!("{} files, {first} to {last}, are", files.len()),
        [] => "no files are".into(),
    }
}

/// Result with a [`PrepareError`] unless another error is named.
pub type Result<T, E = PrepareError> = std::result::Result<T, E>;
