//! A [`Plan`]: the files that will be written and the rows of each, known before the first image is read.

use std::borrow::Cow;
use std::hash::Hasher;
use std::ops::Range;
use std::path::PathBuf;

use crate::Result;
use vlct_data::answers::Vocabulary;
use vlct_data::arrow::{AnsweredQuestion, LabelKind, Region, VqaKind};
use vlct_data::manifest::Coverage;

/// Default number of rows per numbered file, from the original.
pub const ROWS_PER_FILE: usize = 100_000;

/// The schema of an Arrow file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Schema {
    /// Images with captions.
    Captions,
    /// Images with described regions.
    Regions,
    /// Images with questions.
    Questions(VqaKind),
    /// Pairs of images with sentences.
    ImagePairs,
    /// Images, texts or both, with class labels.
    Labels(LabelKind),
}

/// The content of a row except its images: texts, ids and the name of the split.
#[derive(Clone, Debug, PartialEq)]
pub enum RowText<'a> {
    /// Captions of an image.
    Captions {
        /// The captions, in the order of the annotations.
        captions: Vec<Cow<'a, str>>,
        /// Name of the image.
        image_id: Cow<'a, str>,
        /// Name of the split.
        split: Cow<'a, str>,
    },
    /// Described regions of an image.
    Regions {
        /// Phrases with bounding boxes in pixels.
        regions: Cow<'a, [Region]>,
        /// Id of the image, in decimal digits.
        image_id: String,
    },
    /// Questions about an image.
    Questions {
        /// The questions, with answers except in a test split.
        questions: Cow<'a, [AnsweredQuestion]>,
        /// Id of the image.
        image_id: i64,
        /// Name of the split.
        split: &'a str,
    },
    /// Sentences about a pair of images.
    ImagePair {
        /// The sentences, each with whether it is true.
        sentences: Cow<'a, [(String, bool)]>,
        /// Whether it is known which sentences are true. If not, this is not written.
        has_truths: bool,
        /// Name of the pair.
        identifier: &'a str,
    },
    /// Class labels of an image, a text or both.
    Labels {
        /// The text, if there is one.
        text: Option<&'a str>,
        /// The labels; `None` in a test split without labels.
        labels: Option<&'a [String]>,
        /// Name of the image, if it has one.
        image_id: Option<Cow<'a, str>>,
        /// Name of the split.
        split: &'a str,
    },
}

/// Hashes whether there is a text, and the text.
fn hash_optional_text(hash: &mut dyn Hasher, text: Option<&str>) {
    hash.write_u8(text.is_some().into());
    hash_text(hash, text.unwrap_or_default());
}

/// Hashes a text and its length, so that moving the boundary between two texts changes the hash.
fn hash_text(hash: &mut dyn Hasher, text: &str) {
    hash.write_usize(text.len());
    hash.write(text.as_bytes());
}

impl RowText<'_> {
    /// Hashes all columns.
    fn hash_columns(&self, hash: &mut dyn Hasher) {
        match self {
            Self::Captions {
                captions,
                image_id,
                split,
            } => {
                hash.write_usize(captions.len());
                captions.iter().for_each(|caption| hash_text(hash, caption));
                hash_text(hash, image_id);
                hash_text(hash, split);
            }
            Self::Regions { regions, image_id } => {
                hash.write_usize(regions.len());
                for region in regions.iter() {
                    hash_text(hash, &region.phrase);
                    [region.width, region.height, region.x, region.y]
                        .into_iter()
                        .for_each(|value| hash.write_i64(value));
                }
                hash_text(hash, image_id);
            }
            Self::Questions {
                questions,
                image_id,
                split,
            } => {
                hash.write_usize(questions.len());
                for question in questions.iter() {
                    hash_text(hash, &question.question);
                    hash.write_i64(question.question_id);
                    hash.write_usize(question.answers.len());
                    for (answer, id, score) in &question.answers {
                        hash_text(hash, answer);
                        hash.write_i64(*id);
                        hash.write_u64(score.to_bits());
                    }
                }
                hash.write_i64(*image_id);
                hash_text(hash, split);
            }
            Self::ImagePair {
                sentences,
                has_truths,
                identifier,
            } => {
                hash.write_usize(sentences.len());
                for (sentence, truth) in sentences.iter() {
                    hash_text(hash, sentence);
                    // Pairs with truths are hashed as in the first release.
                    hash.write_u8(if *has_truths { u8::from(*truth) } else { 2 });
                }
                hash_text(hash, identifier);
            }
            Self::Labels {
                text,
                labels,
                image_id,
                split,
            } => {
                hash_optional_text(hash, *text);
                hash.write_u8(labels.is_some().into());
                let labels = labels.unwrap_or_default();
                hash.write_usize(labels.len());
                labels.iter().for_each(|label| hash_text(hash, label));
                hash_optional_text(hash, image_id.as_deref());
                hash_text(hash, split);
            }
        }
    }
}

/// The rows of a file. Several threads read them, in any order.
pub trait RowSource: Send + Sync {
    /// Returns the number of rows.
    fn rows(&self) -> usize;

    /// Returns the name of a row in reports: the path of its image.
    fn row_name(&self, row: usize) -> String;

    /// Returns the content of a row except its images.
    ///
    /// # Errors
    /// Returns an error if the annotation is wrong, which ends the preparation.
    fn text(&self, row: usize) -> Result<RowText<'_>>;

    /// Returns the bytes of the one or two image files of a row. A row with labels may have no image.
    ///
    /// # Errors
    /// Returns an error if an image cannot be read. The row is then left out, unless the error
    /// [ends the preparation](crate::PrepareError::ends_preparation).
    fn images(&self, row: usize) -> Result<Vec<Vec<u8>>>;

    /// Returns the paths of the files that hold the images of a row: its image files, or the table or tar that the images are in.
    fn image_files(&self, row: usize) -> Vec<PathBuf>;

    /// Hashes everything that distinguishes these rows from other rows, except the content of images.
    ///
    /// # Errors
    /// Returns an error if an annotation is wrong.
    fn hash_rows(&self, hash: &mut dyn Hasher) -> Result<()> {
        for row in 0..self.rows() {
            hash_text(hash, &self.row_name(row));
            self.text(row)?.hash_columns(hash);
        }
        Ok(())
    }
}

/// A file to write.
pub struct PlannedFile {
    /// File name, without `.arrow`.
    pub name: String,
    /// The schema of all rows.
    pub schema: Schema,
    /// The rows, in the order of writing.
    pub rows: Box<dyn RowSource>,
}

impl PlannedFile {
    /// Plans the files `{prefix}_0`, `{prefix}_1`, …, each with `rows_per_file` of the `rows` rows; the last file may have fewer. `source`
    /// returns a range of the rows. Unlike the original, this function does not add an empty file after a full one.
    pub(crate) fn series<R: RowSource + 'static>(
        prefix: &str,
        rows: usize,
        rows_per_file: usize,
        schema: Schema,
        source: impl Fn(Range<usize>) -> R,
    ) -> Vec<Self> {
        let count = rows.div_ceil(rows_per_file).max(1);
        (0..count)
            .map(|i| Self {
                name: format!("{prefix}_{i}"),
                schema,
                rows: Box::new(source(i * rows_per_file..((i + 1) * rows_per_file).min(rows))),
            })
            .collect()
    }
}

/// The division of a written file of questions into two files: one for its last rows, one for the rows before them. VQA's validation
/// questions are divided in this way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TailSplit {
    /// Name of the file that is divided.
    pub from: String,
    /// Name of the file that gets all rows but the last `count`.
    pub head: String,
    /// Name of the file that gets the last `count` rows.
    pub tail: String,
    /// Number of rows in the tail.
    pub count: usize,
}

/// Everything that a preparation writes.
#[derive(Default)]
pub struct Plan {
    /// The files, in the order of writing.
    pub files: Vec<PlannedFile>,
    /// The written files that are divided into two files.
    pub tail_splits: Vec<TailSplit>,
    /// Counts of images and annotations for each part of the dataset.
    pub coverage: Vec<Coverage>,
    /// Remarks about the annotations, such as what was left out and why.
    pub remarks: Vec<String>,
    /// The answer vocabulary, if it is made from the answers of this dataset. Files that are used together must have the same vocabulary.
    pub vocabulary: Option<Vocabulary>,
}

impl Plan {
    /// Returns the names of all files, including those of [`Self::tail_splits`].
    pub fn names(&self) -> impl Iterator<Item = &String> {
        let tail_splits = self.tail_splits.iter().flat_map(|split| [&split.head, &split.tail]);
        self.files.iter().map(|file| &file.name).chain(tail_splits)
    }

    /// Returns the total number of rows.
    pub fn rows(&self) -> u64 {
        self.files.iter().map(|f| f.rows.rows() as u64).sum()
    }
}
