//! The raw layouts of the datasets, one file for each kind.

pub mod karpathy;
pub mod nlvr2;
pub mod pairs;
pub mod regions;
pub mod vgqa;
pub mod vqav2;

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use vlct_data::answers::Vocabulary;

use super::plan::{Columns, Listing, Picture, Plan, PlannedFile, RowSource, RowText};
use vlct_image::ImageError;

use crate::{DataError, Result};
use vlct_util::IoError;

/// Rows per file of the datasets that are written as numbered files, as in the original.
pub const ROWS_PER_FILE: usize = 100_000;

/// A dataset with a raw layout of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dataset {
    /// COCO captions.
    Coco,
    /// Flickr30k captions.
    F30k,
    /// Visual Genome's regions.
    Vg,
    /// SBU captions.
    Sbu,
    /// Conceptual Captions.
    Gcc,
    /// VQA v2.
    Vqav2,
    /// Visual Genome's questions with answers that VQA knows.
    Vgqa,
    /// NLVR2.
    Nlvr2,
    /// VQA v2 statements of the large pre-training set.
    PretrainVqa,
    /// GQA statements of the large pre-training set.
    PretrainGqa,
    /// OpenImages captions of the large pre-training set.
    PretrainOpenimages,
    /// Flickr30k captions of the large pre-training set.
    PretrainF30k,
    /// Visual Genome statements of the large pre-training set.
    PretrainVg,
}

impl Dataset {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::Coco,
        Self::F30k,
        Self::Vg,
        Self::Sbu,
        Self::Gcc,
        Self::Vqav2,
        Self::Vgqa,
        Self::Nlvr2,
        Self::PretrainVqa,
        Self::PretrainGqa,
        Self::PretrainOpenimages,
        Self::PretrainF30k,
        Self::PretrainVg,
    ];

    /// Its name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Coco => "coco",
            Self::F30k => "f30k",
            Self::Vg => "vg",
            Self::Sbu => "sbu",
            Self::Gcc => "gcc",
            Self::Vqav2 => "vqav2",
            Self::Vgqa => "vgqa",
            Self::Nlvr2 => "nlvr2",
            Self::PretrainVqa => "pretrain-vqa",
            Self::PretrainGqa => "pretrain-gqa",
            Self::PretrainOpenimages => "pretrain-openimages",
            Self::PretrainF30k => "pretrain-f30k",
            Self::PretrainVg => "pretrain-vg",
        }
    }

    /// What is to be written, from the annotations and the names of the pictures.
    ///
    /// # Errors
    /// Annotations or folders that are missing, damaged or of another data set.
    pub fn plan(self, raw: &Raw) -> Result<Plan> {
        match self {
            Self::Coco => karpathy::coco(raw),
            Self::F30k => karpathy::f30k(raw),
            Self::Vg => regions::vg(raw),
            Self::Sbu => pairs::sbu(raw),
            Self::Gcc => pairs::gcc(raw),
            Self::Vqav2 => vqav2::vqav2(raw),
            Self::Vgqa => vgqa::vgqa(raw, vgqa::layout_in(&raw.root), raw.labels.as_ref()),
            Self::Nlvr2 => nlvr2::nlvr2(raw),
            Self::PretrainVqa => pairs::pretrain_vqa(raw),
            Self::PretrainGqa => pairs::pretrain_gqa(raw),
            Self::PretrainOpenimages => pairs::openimages(raw),
            Self::PretrainF30k => pairs::pretrain_f30k(raw),
            Self::PretrainVg => pairs::pretrain_vg(raw),
        }
    }
}

impl fmt::Display for Dataset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Dataset {
    type Err = DataError;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|d| d.name() == name).ok_or_else(|| {
            let known: Vec<&str> = Self::ALL.iter().map(|d| d.name()).collect();
            DataError::Invalid(format!("unknown data set {name:?}; known are {}", known.join(", ")))
        })
    }
}

/// Where the raw downloads are and how they become rows.
#[derive(Clone, Debug)]
pub struct Raw {
    /// The folder of the downloads.
    pub root: PathBuf,
    /// Decides the order of rows.
    pub seed: u64,
    /// The splits to write; all if not given.
    pub splits: Option<Vec<String>>,
    /// Rows per file of the datasets that are written as numbered files.
    pub rows_per_file: usize,
    /// The numbers of the answers of Visual Genome's questions; without it, a file in the root has them.
    pub labels: Option<Vocabulary>,
}

impl Raw {
    /// The downloads in `root`, all splits, the original's number of rows.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            seed: 0,
            splits: None,
            rows_per_file: ROWS_PER_FILE,
            labels: None,
        }
    }

    /// Those of the dataset's splits that are wanted.
    fn wanted<'a>(&self, splits: &[&'a str]) -> Result<Vec<&'a str>> {
        let Some(wanted) = &self.splits else {
            return Ok(splits.to_vec());
        };
        if let Some(unknown) = wanted.iter().find(|w| !splits.contains(&w.as_str())) {
            return Err(DataError::Invalid(format!(
                "there is no split {unknown:?}; this data set has {}",
                splits.join(", ")
            )));
        }
        Ok(splits
            .iter()
            .copied()
            .filter(|s| wanted.iter().any(|w| w == s))
            .collect())
    }

    fn search(&self) -> super::find::Search<'_> {
        super::find::Search {
            root: &self.root,
            seed: self.seed,
            partial: self.splits.is_some(),
        }
    }
}

/// What annotations say about pictures that were found in folders.
trait Annotations: Send + Sync {
    /// What they say about this one.
    fn text<'a>(&'a self, picture: &'a Picture) -> RowText<'a>;
}

/// Rows of one picture each, found in folders.
struct Listed<T> {
    listing: Listing,
    annotations: T,
}

impl<T: Annotations> RowSource for Listed<T> {
    fn rows(&self) -> usize {
        self.listing.pictures.len()
    }

    fn label(&self, row: usize) -> String {
        self.listing.path(row).display().to_string()
    }

    fn text(&self, row: usize) -> Result<RowText<'_>> {
        Ok(self.annotations.text(&self.listing.pictures[row]))
    }

    fn pictures(&self, row: usize) -> Result<Vec<Vec<u8>>> {
        Ok(vec![read_picture(&self.listing.path(row))?])
    }
}

/// Cuts rows into numbered files, `{prefix}_0` and on, the last of which may be shorter. Unlike the original, no empty file follows if the
/// number of rows is a multiple of `rows_per_file`.
pub(super) fn numbered<R: RowSource + 'static>(
    prefix: &str,
    rows: usize,
    rows_per_file: usize,
    columns: Columns,
    source: impl Fn(Range<usize>) -> R,
) -> Vec<PlannedFile> {
    let count = rows.div_ceil(rows_per_file).max(1);
    (0..count)
        .map(|i| PlannedFile {
            name: format!("{prefix}_{i}"),
            columns,
            rows: Box::new(source(i * rows_per_file..((i + 1) * rows_per_file).min(rows))),
        })
        .collect()
}

/// Nothing to write is more likely a wrong folder than a wish.
fn refuse_nothing(root: &Path, rows: usize, what: &str) -> Result<()> {
    if rows == 0 {
        return Err(DataError::Format {
            path: root.to_path_buf(),
            reason: format!("no picture here has an annotation in {what}; are they of the same data set?"),
        });
    }
    Ok(())
}

fn not_an_image(reason: impl Into<String>) -> DataError {
    ImageError::Decode(reason.into()).into()
}

/// Reads a picture file.
///
/// # Errors
/// [`DataError::Picture`] for what is no picture file, [`DataError::Io`] if the system refuses.
pub(super) fn read_picture(path: &Path) -> Result<Vec<u8>> {
    /// Larger files are no pictures that could be decoded.
    const MAX_BYTES: u64 = 512 << 20;
    let unreadable = |source: std::io::Error| match source.kind() {
        std::io::ErrorKind::NotFound => not_an_image("the file is not there any more"),
        _ => DataError::Io(IoError {
            path: path.to_path_buf(),
            source,
        }),
    };
    let found = std::fs::metadata(path).map_err(unreadable)?;
    if found.is_dir() {
        return Err(not_an_image("this is a folder"));
    }
    if !found.is_file() {
        return Err(not_an_image("this is not a file"));
    }
    if found.len() > MAX_BYTES {
        return Err(not_an_image(format!("a file of {} bytes is too large", found.len())));
    }
    std::fs::read(path).map_err(unreadable)
}
