//! What is to be written: files, and the rows of each. Made from the annotations before the first image is read.

use std::borrow::Cow;
use std::hash::Hasher;
use std::ops::Range;

use crate::Result;
use vlct_data::answers::Vocabulary;
use vlct_data::arrow::{AnsweredQuestion, Region, VqaKind};
use vlct_data::manifest::Coverage;

/// Rows per file of the datasets that are written as numbered files, as in the original.
pub const ROWS_PER_FILE: usize = 100_000;

/// The columns of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Schema {
    /// Images with captions.
    Captions,
    /// Images with described regions.
    Regions,
    /// Images with questions.
    Questions(VqaKind),
    /// ImagePairs of images with sentences.
    ImagePairs,
}

/// What a row says beside its images.
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
        /// The regions.
        regions: Cow<'a, [Region]>,
        /// Id of the image, in decimal digits.
        image_id: String,
    },
    /// Questions about an image.
    Questions {
        /// The questions, with answers unless it is a test split.
        questions: Cow<'a, [AnsweredQuestion]>,
        /// Id of the image.
        image_id: i64,
        /// Name of the split.
        split: &'a str,
    },
    /// Sentences about a pair of images.
    ImagePair {
        /// The sentences and whether each is true.
        sentences: Cow<'a, [(String, bool)]>,
        /// Name of the pair.
        identifier: &'a str,
    },
}

/// Feeds `hash` with a text and its length, so that two texts are not taken for one.
fn text(hash: &mut dyn Hasher, text: &str) {
    hash.write_usize(text.len());
    hash.write(text.as_bytes());
}

impl RowText<'_> {
    /// Feeds `hash` with everything that the row says.
    fn identify(&self, hash: &mut dyn Hasher) {
        match self {
            Self::Captions {
                captions,
                image_id,
                split,
            } => {
                hash.write_usize(captions.len());
                captions.iter().for_each(|caption| text(hash, caption));
                text(hash, image_id);
                text(hash, split);
            }
            Self::Regions { regions, image_id } => {
                hash.write_usize(regions.len());
                for region in regions.iter() {
                    text(hash, &region.phrase);
                    [region.width, region.height, region.x, region.y]
                        .into_iter()
                        .for_each(|value| hash.write_i64(value));
                }
                text(hash, image_id);
            }
            Self::Questions {
                questions,
                image_id,
                split,
            } => {
                hash.write_usize(questions.len());
                for question in questions.iter() {
                    text(hash, &question.question);
                    hash.write_i64(question.question_id);
                    hash.write_usize(question.answers.len());
                    for (answer, label, score) in &question.answers {
                        text(hash, answer);
                        hash.write_i64(*label);
                        hash.write_u64(score.to_bits());
                    }
                }
                hash.write_i64(*image_id);
                text(hash, split);
            }
            Self::ImagePair { sentences, identifier } => {
                hash.write_usize(sentences.len());
                for (sentence, truth) in sentences.iter() {
                    text(hash, sentence);
                    hash.write_u8(u8::from(*truth));
                }
                text(hash, identifier);
            }
        }
    }
}

/// The rows of a file, readable in any order and by several threads.
pub trait RowSource: Send + Sync {
    /// Number of rows.
    fn rows(&self) -> usize;

    /// A name for the row in reports: the path of its image.
    fn label(&self, row: usize) -> String;

    /// Everything but the images.
    ///
    /// # Errors
    /// What is wrong with the annotation; it ends the preparation.
    fn text(&self, row: usize) -> Result<RowText<'_>>;

    /// The bytes of the row's images, one or two files as they are.
    ///
    /// # Errors
    /// A image that cannot be read; the row is left out.
    fn images(&self, row: usize) -> Result<Vec<Vec<u8>>>;

    /// Feeds `hash` with everything that distinguishes these rows from others, but for the images' content.
    ///
    /// # Errors
    /// What is wrong with an annotation.
    fn identify(&self, hash: &mut dyn Hasher) -> Result<()> {
        for row in 0..self.rows() {
            text(hash, &self.label(row));
            self.text(row)?.identify(hash);
        }
        Ok(())
    }
}

/// A file to write.
pub struct PlannedFile {
    /// Its name, without `.arrow`.
    pub name: String,
    /// Its columns.
    pub schema: Schema,
    /// Its rows, in order.
    pub rows: Box<dyn RowSource>,
}

impl PlannedFile {
    /// Divides `rows` rows among numbered files, `{prefix}_0` and on, of `rows_per_file` rows; the last may have fewer. Unlike the
    /// original, no empty file follows if the number of rows is a multiple of `rows_per_file`.
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

/// Splits a file of questions in two by row count, after it has been written, as VQA's validation questions are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TailSplit {
    /// Name of the file that is split.
    pub from: String,
    /// Name of the file that gets all rows but the last `count`.
    pub head: String,
    /// Name of the file that gets the last `count` rows.
    pub tail: String,
    /// Number of rows in the tail.
    pub count: usize,
}

/// Everything that is to be written.
#[derive(Default)]
pub struct Plan {
    /// The files, in the order of writing.
    pub files: Vec<PlannedFile>,
    /// Files cut out of those.
    pub tail_splits: Vec<TailSplit>,
    /// Images against annotations.
    pub coverage: Vec<Coverage>,
    /// Remarks about the annotations: what was left out of them, and why.
    pub remarks: Vec<String>,
    /// The vocabulary by which answers are numbered, if they are: files that are used together must have the same.
    pub vocabulary: Option<Vocabulary>,
}

impl Plan {
    /// Names of all files, those that are cut out of others included.
    pub fn names(&self) -> impl Iterator<Item = &String> {
        let tail_splits = self.tail_splits.iter().flat_map(|cut| [&cut.head, &cut.tail]);
        self.files.iter().map(|file| &file.name).chain(tail_splits)
    }

    /// Number of rows of all files.
    pub fn rows(&self) -> u64 {
        self.files.iter().map(|f| f.rows.rows() as u64).sum()
    }
}
