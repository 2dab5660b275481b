//! Reads WebDataset tars.
//!
//! Plain tars are read in place. Tars that are compressed with gzip are decompressed twice: once for the plan, which keeps the captions
//! and names of their samples, and once when their images are written. At most [`MAX_OPEN`] of them are decompressed at a time.

use std::borrow::Cow;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use super::dataset::{CustomDataset, SPLITS};
use crate::Result;
use crate::plan::{Plan, RowSource, RowText, Schema};
use vlct_data::datasets::{Contents, Dataset, Split, TableDataset, split_tars};
use vlct_data::manifest::Coverage;
use vlct_data::webdataset::{TarCounts, tar_stem};

/// Maximum number of compressed tars that are decompressed at a time. Two are needed where the rows of one follow those of another.
const MAX_OPEN: usize = 2;

/// The samples of a split.
trait Samples: Send + Sync {
    /// Number of samples.
    fn rows(&self) -> usize;

    /// Returns the name of a sample in reports.
    fn row_name(&self, row: usize) -> String;

    /// Returns the distinct captions of a sample, and its name.
    fn texts(&self, row: usize) -> Result<(Vec<Cow<'_, str>>, String)>;

    /// Returns the bytes of the image file of a sample.
    fn image(&self, row: usize) -> Result<Vec<u8>>;

    /// Returns the tar that a sample is in; `None` if there is no such sample.
    fn tar_path(&self, row: usize) -> Option<PathBuf>;
}

/// Rows of one file: a range of the samples of a split.
struct Rows {
    samples: Arc<dyn Samples>,
    range: Range<usize>,
    split: &'static str,
}

pub(super) fn plan(dataset: &CustomDataset) -> Result<Plan> {
    let mut plan = Plan::default();
    let mut others = None;
    for (split, tar_split) in SPLITS.into_iter().zip([Split::Train, Split::Val, Split::Test]) {
        let files = split_tars(&dataset.root, tar_split)?;
        if files.is_empty() || !dataset.includes(split) {
            continue;
        }
        let is_compressed = |file: &PathBuf| tar_stem(file).is_some_and(|(_, is_compressed)| is_compressed);
        let (samples, counts, left_out): (Arc<dyn Samples>, TarCounts, Vec<String>) = if files.iter().any(is_compressed)
        {
            let (samples, counts, left_out) = CompressedTars::open(&dataset.name, files)?;
            (Arc::new(samples), counts, left_out)
        } else {
            // All files belong to the only dataset, whose index is 0.
            let files = files.into_iter().map(|file| (0, file)).collect();
            let tars = TableDataset::of_files(Contents::Captions, &[&dataset.name], files)?;
            let (counts, left_out) = (tars.tar_counts(), tars.left_out());
            (Arc::new(PlainTars(tars)), counts, left_out)
        };
        let images_left_out = counts.without_caption + counts.unreadable;
        plan.coverage.push(Coverage {
            part: split.to_string(),
            found: counts.samples + images_left_out,
            kept: counts.samples,
            annotated: counts.samples + counts.without_image,
            without_image: counts.without_image,
            examples: Vec::new(),
        });
        let prefix = format!("{}: ", dataset.name);
        let remark = |line: &String| format!("{split}: {}", line.strip_prefix(&prefix).unwrap_or(line));
        plan.remarks.extend(left_out.iter().map(remark));
        if counts.samples == 0 {
            others = others.or(left_out.into_iter().next());
            continue;
        }
        let count = samples.rows();
        plan.files
            .extend(dataset.files(split, count, Schema::Captions, |range| Rows {
                samples: samples.clone(),
                range,
                split,
            }));
    }
    let what = match others {
        Some(left_out) => format!(".tar files with images KEY.jpg and captions KEY.txt or KEY.json ({left_out})"),
        None => ".tar files with images and captions, nor directories train, val or test with such files".into(),
    };
    dataset.require_rows(plan, what)
}

impl RowSource for Rows {
    fn rows(&self) -> usize {
        self.range.len()
    }

    fn row_name(&self, row: usize) -> String {
        self.samples.row_name(self.range.start + row)
    }

    fn text(&self, row: usize) -> Result<RowText<'_>> {
        let (captions, image_id) = self.samples.texts(self.range.start + row)?;
        Ok(RowText::Captions {
            captions,
            image_id: Cow::Owned(image_id),
            split: Cow::Borrowed(self.split),
        })
    }

    fn images(&self, row: usize) -> Result<Vec<Vec<u8>>> {
        Ok(vec![self.samples.image(self.range.start + row)?])
    }

    fn image_files(&self, row: usize) -> Vec<PathBuf> {
        Vec::from_iter(self.samples.tar_path(self.range.start + row))
    }
}

/// Tars that are read in place.
struct PlainTars(TableDataset);

impl Samples for PlainTars {
    fn rows(&self) -> usize {
        self.0.rows()
    }

    fn row_name(&self, row: usize) -> String {
        match self.0.locate_row(row) {
            Ok(location) => self.0.row_name(&location),
            Err(error) => error.to_string(),
        }
    }

    fn texts(&self, row: usize) -> Result<(Vec<Cow<'_, str>>, String)> {
        let location = self.0.locate_row(row)?;
        let name = self.0.image_id_at(&location)?.unwrap_or_default();
        Ok((self.0.texts_at(&location)?, name))
    }

    fn image(&self, row: usize) -> Result<Vec<u8>> {
        let location = self.0.locate_row(row)?;
        Ok(self.0.image_at(&location)?.to_vec())
    }

    fn tar_path(&self, row: usize) -> Option<PathBuf> {
        let location = self.0.locate_row(row).ok()?;
        self.0.path_at(&location).map(Into::into)
    }
}

/// A sample of a compressed tar.
struct Sample {
    captions: Vec<String>,
    name: String,
    /// The name in reports.
    row_name: String,
}

/// Tars of which at least one is compressed.
struct CompressedTars {
    dataset: String,
    /// The path of each tar, and its first row.
    tars: Vec<(PathBuf, usize)>,
    samples: Vec<Sample>,
    /// The tars that are decompressed, by index. The one that was opened last is at the end.
    open: Mutex<Vec<(usize, Arc<TableDataset>)>>,
}

impl CompressedTars {
    /// Reads the captions of all samples. Also returns the counts, and what is left out of each tar.
    fn open(dataset: &str, files: Vec<PathBuf>) -> Result<(Self, TarCounts, Vec<String>)> {
        let mut tars = Vec::with_capacity(files.len());
        let (mut samples, mut counts, mut left_out) = (Vec::new(), TarCounts::default(), Vec::new());
        for file in files {
            let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let tar = TableDataset::of_tar(&name, &file)?;
            tars.push((file, samples.len()));
            counts.add(tar.tar_counts());
            left_out.extend(tar.left_out());
            for row in 0..tar.rows() {
                let location = tar.locate_row(row)?;
                samples.push(Sample {
                    captions: tar.texts_at(&location)?.into_iter().map(Cow::into_owned).collect(),
                    name: tar.image_id_at(&location)?.unwrap_or_default(),
                    row_name: tar.row_name(&location),
                });
            }
        }
        let tars = Self {
            dataset: dataset.to_string(),
            tars,
            samples,
            open: Mutex::default(),
        };
        Ok((tars, counts, left_out))
    }

    /// Returns the index of the tar of a row. Of several tars that begin at the same row, only the last has rows.
    fn tar_index(&self, row: usize) -> usize {
        self.tars.partition_point(|(_, first)| *first <= row) - 1
    }

    /// Returns tar number `index`, decompressed.
    fn tar(&self, index: usize) -> Result<Arc<TableDataset>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, tar)) = open.iter().find(|(opened, _)| *opened == index) {
            return Ok(tar.clone());
        }
        if open.len() == MAX_OPEN {
            open.remove(0);
        }
        let tar = Arc::new(TableDataset::of_tar(&self.dataset, &self.tars[index].0)?);
        open.push((index, tar.clone()));
        Ok(tar)
    }
}

impl Samples for CompressedTars {
    fn rows(&self) -> usize {
        self.samples.len()
    }

    fn row_name(&self, row: usize) -> String {
        self.samples[row].row_name.clone()
    }

    fn texts(&self, row: usize) -> Result<(Vec<Cow<'_, str>>, String)> {
        let sample = &self.samples[row];
        let captions = sample.captions.iter().map(|caption| Cow::Borrowed(caption.as_str()));
        Ok((captions.collect(), sample.name.clone()))
    }

    fn image(&self, row: usize) -> Result<Vec<u8>> {
        let index = self.tar_index(row);
        let tar = self.tar(index)?;
        let location = tar.locate_row(row - self.tars[index].1)?;
        Ok(tar.image_at(&location)?.to_vec())
    }

    fn tar_path(&self, row: usize) -> Option<PathBuf> {
        Some(self.tars[self.tar_index(row)].0.clone())
    }
}
