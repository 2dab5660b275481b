//! Errors of this crate. A message is one line: what is wrong, and where. The program adds hints about its options.

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
    /// An image cannot be decoded, or its path does not name a file.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The content of an annotation file or of a table is damaged, or has another structure than its reader expects.
    #[error("{path}: {reason}", path = path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and where in the file.
        reason: String,
    },
    /// A table with embedded images is damaged, so an unknown number of its rows cannot be read.
    #[error("{path}: {reason}", path = path.display())]
    DamagedTable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// An annotation file of a raw layout does not exist.
    #[error("{path}: no such annotation file", path = .0.display())]
    MissingAnnotations(PathBuf),
    /// A directory of images of a raw layout does not exist.
    #[error("{path}: no such directory", path = .0.display())]
    MissingDirectory(PathBuf),
    /// `root` has no file with one of the expected names.
    #[error(
        "{root}: there is no {what}: neither {first} nor {second} exists",
        root = root.display(), first = names[0], second = names[1]
    )]
    MissingFile {
        /// The directory of the raw data.
        root: PathBuf,
        /// The names that the file may have.
        names: [&'static str; 2],
        /// The content that the file would have.
        what: VgqaFile,
    },
    /// The root has no table whose name begins with the name of a split.
    #[error("{root}: it has no train.{extension}", root = root.display())]
    MissingTable {
        /// The directory of the custom dataset.
        root: PathBuf,
        /// The extension of the input format's tables, without a dot.
        extension: &'static str,
    },
    /// No image file has an annotation.
    #[error(
        "{directory}: no image here has an annotation in {annotations}; are images and annotations of the same dataset?",
        directory = directory.display()
    )]
    NoAnnotatedImage {
        /// The directory of the images.
        directory: PathBuf,
        /// The name of the annotation file.
        annotations: String,
    },
    /// No row of the tables has everything that it needs.
    #[error(
        "{root}: there is nothing to write: no row has {needs}{example}",
        root = root.display(), example = describe_unusable(missing.as_deref(), left_out.as_deref())
    )]
    NoUsableRow {
        /// The directory that the paths of images are relative to.
        root: PathBuf,
        /// What a row needs.
        needs: &'static str,
        /// The path of an image that does not exist, if there is one.
        missing: Option<String>,
        /// The first remark about rows that are left out, if there is one.
        left_out: Option<String>,
    },
    /// A row of a table of labels has neither an image nor a text.
    #[error("the row has neither an image nor a text")]
    EmptyRow,
    /// The directory of a custom dataset has no data of the input format.
    #[error("{root}: there is nothing to write: it has no {what}", root = root.display())]
    NothingToWrite {
        /// The directory of the custom dataset.
        root: PathBuf,
        /// The missing data.
        what: String,
    },
    /// No published dataset has this name.
    #[error("unknown dataset {name:?}; the published datasets are {known}", known = known.join(", "))]
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
    /// A row of a table, or an entry of an annotation file, that cannot be used. Other rows can.
    #[error("{path}: {reason}", path = path.display())]
    MalformedRow {
        /// The file.
        path: PathBuf,
        /// The row, and what is wrong with it.
        reason: String,
    },
    /// A row of a table has an unknown split.
    #[error(
        "{path}: {row} has the split {split:?}; splits are train, val and test, or synonyms such as validation; rename the split",
        path = path.display()
    )]
    UnknownRowSplit {
        /// The table.
        path: PathBuf,
        /// The name of the row.
        row: String,
        /// The name of the split.
        split: String,
    },
    /// At least half of the rows of a file cannot be used.
    #[error("{first} ({malformed} of {rows} rows cannot be used)")]
    TooManyMalformedRows {
        /// The error of the first row that cannot be used.
        first: Box<PrepareError>,
        /// Number of rows that cannot be used.
        malformed: u64,
        /// Number of rows.
        rows: u64,
    },
    /// A directory with the name of a split holds classes, but is beside directories with other names.
    #[error(
        "{root}: it has a directory {split} of classes beside a directory {other}: the only splits are train, val and test; \
         rename {other}, or move it away",
        root = root.display()
    )]
    MixedDirectories {
        /// The directory that holds both of these directories.
        root: PathBuf,
        /// The name of the split.
        split: String,
        /// The name of the other directory.
        other: String,
    },
    /// An invalid name of a custom dataset.
    #[error(
        "{0:?} is not a valid name of a dataset: a name has at most 100 letters, digits, - and _, and begins with a letter or digit"
    )]
    InvalidName(String),
    /// A custom dataset with the name of a published one.
    #[error("{0} is the name of a published dataset, which would be read instead; choose another name")]
    PublishedName(String),
    /// Tables of annotations were given for an input format without such tables.
    #[error("{format} stores texts with the images, so there are no tables of annotations")]
    UnexpectedAnnotations {
        /// The name of the input format.
        format: &'static str,
    },
    /// No answer is frequent enough to be in the vocabulary.
    #[error(
        "{split} has answers, but no answer is the majority answer of {questions} of train, so the vocabulary is empty; give training \
         questions with answers",
        questions = vlct_util::text::counted(min_answers, "question")
    )]
    NoFrequentAnswer {
        /// A split that has answers.
        split: &'static str,
        /// An answer is in the vocabulary if it is the majority answer of at least this many training questions.
        min_answers: usize,
    },
    /// Answers that are not in the vocabulary.
    #[error(
        "{path}: answers that are not in the vocabulary of {vocabulary}: {unknown}; the first is {answer} to question {question} of \
         image {image}; use the vocabulary that the questions were selected with",
        path = path.display(), vocabulary = vlct_util::text::counted(known, "answer"), answer = vlct_util::text::quoted(answer)
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
        /// The id of the question with this answer.
        question: i64,
        /// The id of the image of this question.
        image: i64,
    },
    /// An existing file of another split has answer ids of another vocabulary.
    #[error(
        "{path}: its answers have ids of another vocabulary than the files of this preparation, because the training annotations \
         have changed; prepare all splits together",
        path = path.display()
    )]
    OtherVocabulary {
        /// The file.
        path: PathBuf,
    },
    /// Files that would be replaced exist, and were made from other inputs or with other options.
    #[error(
        "{out}: {files}, made from other inputs or with other options",
        out = out.display(), files = describe_existing(files)
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

/// The content of a missing file, for [`PrepareError::MissingFile`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VgqaFile {
    /// The selected questions of Visual Genome.
    Questions,
    /// The answer vocabulary of VQA v2.
    Vocabulary,
}

impl std::fmt::Display for VgqaFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Questions => "file of questions of Visual Genome",
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

    pub(crate) fn malformed_row(path: impl AsRef<Path>, reason: impl Into<String>) -> Self {
        Self::MalformedRow {
            path: path.as_ref().to_path_buf(),
            reason: reason.into(),
        }
    }

    /// Returns whether the error is of one row of a table or annotation file, so that other rows can be used.
    pub fn is_of_row(&self) -> bool {
        matches!(self, Self::MalformedRow { .. } | Self::UnknownRowSplit { .. })
    }

    /// Returns whether the error ends the preparation. After any other error of an image, only the row of this image is left out.
    ///
    /// Errors of the operating system end the preparation, because a later preparation may be able to read the image. Damaged tables
    /// end it, because an unknown number of rows would be missing.
    pub fn ends_preparation(&self) -> bool {
        matches!(
            self,
            Self::Io(_) | Self::Data(DataError::Io(_)) | Self::DamagedTable { .. }
        )
    }
}

fn describe_unusable(missing: Option<&str>, left_out: Option<&str>) -> String {
    match (missing, left_out) {
        (Some(path), _) => format!("; for example, {path} does not exist"),
        (None, Some(remark)) => format!("; {remark}"),
        (None, None) => String::new(),
    }
}

fn describe_existing(files: &[String]) -> String {
    match files {
        [file] => format!("{file} already exists"),
        [first, .., last] => format!("{} files, {first} to {last}, already exist", files.len()),
        [] => "no files already exist".into(),
    }
}

/// Result with a [`PrepareError`] unless another error is named.
pub type Result<T, E = PrepareError> = std::result::Result<T, E>;
