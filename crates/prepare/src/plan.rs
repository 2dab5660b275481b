//! What is to be written: files, and the rows of each. Made from the annotations before the first picture is read.

use std::borrow::Cow;
use std::hash::Hasher;
use std::path::PathBuf;

use super::cut::Cut;
use crate::Result;
use vlct_data::answers::Vocabulary;
use vlct_data::arrow::{AnsweredQuestion, Region, VqaKind};
use vlct_data::manifest::Coverage;

/// The columns of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Columns {
    /// Pictures with captions.
    Captions,
    /// Pictures with described regions.
    Regions,
    /// Pictures with questions.
    Questions(VqaKind),
    /// Pairs of pictures with sentences.
    Pairs,
}

/// What a row says beside its pictures.
#[derive(Clone, Debug, PartialEq)]
pub enum RowText<'a> {
    /// Captions of a picture.
    Captions {
        /// The captions, in the order of the annotations.
        captions: Vec<Cow<'a, str>>,
        /// Name of the picture.
        image_id: Cow<'a, str>,
        /// Name of the split.
        split: Cow<'a, str>,
    },
    /// Described regions of a picture.
    Regions {
        /// The regions.
        regions: Cow<'a, [Region]>,
        /// Number of the picture, in decimal digits.
        image_id: String,
    },
    /// Questions about a picture.
    Questions {
        /// The questions, with answers unless it is a test split.
        questions: Cow<'a, [AnsweredQuestion]>,
        /// Number of the picture.
        image_id: i64,
        /// Name of the split.
        split: &'a str,
    },
    /// Sentences about a pair of pictures.
    Pair {
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
            Self::Pair { sentences, identifier } => {
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

    /// A name for the row in reports: the path of its picture.
    fn label(&self, row: usize) -> String;

    /// Everything but the pictures.
    ///
    /// # Errors
    /// What is wrong with the annotation; it ends the preparation.
    fn text(&self, row: usize) -> Result<RowText<'_>>;

    /// The bytes of the row's pictures, one or two files as they are.
    ///
    /// # Errors
    /// A picture that cannot be read; the row is left out.
    fn pictures(&self, row: usize) -> Result<Vec<Vec<u8>>>;

    /// Feeds `hash` with everything that distinguishes these rows from others, but for the pictures' content.
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
    pub columns: Columns,
    /// Its rows, in order.
    pub rows: Box<dyn RowSource>,
}

/// Everything that is to be written.
#[derive(Default)]
pub struct Plan {
    /// The files, in the order of writing.
    pub files: Vec<PlannedFile>,
    /// Files cut out of those.
    pub cuts: Vec<Cut>,
    /// Pictures against annotations.
    pub coverage: Vec<Coverage>,
    /// Remarks about the annotations: what was left out of them, and why.
    pub remarks: Vec<String>,
    /// The vocabulary by which answers are numbered, if they are: files that are used together must have the same.
    pub vocabulary: Option<Vocabulary>,
}

impl Plan {
    /// Names of all files, those that are cut out of others included.
    pub fn names(&self) -> impl Iterator<Item = &String> {
        let cuts = self.cuts.iter().flat_map(|cut| [&cut.head, &cut.tail]);
        self.files.iter().map(|file| &file.name).chain(cuts)
    }

    /// Number of rows of all files.
    pub fn rows(&self) -> u64 {
        self.files.iter().map(|f| f.rows.rows() as u64).sum()
    }
}

/// Pictures that were found in folders.
#[derive(Clone, Debug)]
pub struct Picture {
    /// Number of the folder in [`Listing::folders`].
    pub folder: u32,
    /// Name of the file.
    pub name: Box<str>,
    /// Number of its annotation; what that means depends on the dataset.
    pub annotation: u32,
}

/// Pictures in folders: a name and two numbers each, since there may be millions.
#[derive(Debug, Default)]
pub struct Listing {
    /// The folders.
    pub folders: Vec<PathBuf>,
    /// The pictures.
    pub pictures: Vec<Picture>,
}

impl Listing {
    /// Path of picture `number`.
    pub fn path(&self, number: usize) -> PathBuf {
        let picture = &self.pictures[number];
        self.folders[picture.folder as usize].join(&*picture.name)
    }
}
