//! Reads directories of images with captions in files beside them: `x.jpg` with `x.txt`, as img2dataset's output format `files` and the
//! tools for fine-tuning diffusion models have them.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use super::dataset::{CustomDataset, SPLITS, split_of};
use super::directories::{collect_directories, relative};
use super::left_out::LeftOutRows;
use super::row_range::RowRange;
use crate::image_files::read_image;
use crate::plan::{Plan, RowSource, RowText, Schema};
use crate::{PrepareError, Result};
use vlct_data::manifest::Coverage;
use vlct_image::is_image_extension;
use vlct_util::json;
use vlct_util::{at, read_at_most};

/// Extensions of captions. Of several captions of an image, the first that is not empty is used.
const CAPTION_EXTENSIONS: [&str; 3] = ["txt", "caption", "json"];
/// Maximum size of a caption's file in bytes.
const MAX_CAPTION_BYTES: u64 = 16 << 20;

/// An image with its captions.
struct Row {
    /// Path relative to the root.
    path: String,
    captions: Vec<String>,
}

/// The rows of a split, and what is left out.
#[derive(Default)]
struct SplitRows {
    rows: Vec<Row>,
    images: usize,
    captions_alone: usize,
    without_caption: LeftOutRows,
    unreadable: LeftOutRows,
}

/// Rows of one file: a range of the rows of a split.
struct Rows {
    root: Arc<Path>,
    rows: RowRange<Row>,
    split: &'static str,
}

pub(super) fn plan(dataset: &CustomDataset) -> Result<Plan> {
    let root = &dataset.root;
    let mut directories = Vec::new();
    collect_directories(root, &mut directories)?;
    directories.sort();
    let mut splits: [SplitRows; 3] = Default::default();
    for (directory, files) in &directories {
        let name = relative(directory, root);
        // The directory of a split is in the root; all other images are training data.
        let split = name.split('/').next().and_then(split_of).unwrap_or(SPLITS[0]);
        if let (true, Some(index)) = (dataset.includes(split), SPLITS.iter().position(|known| *known == split)) {
            splits[index].add_directory(root, directory, files)?;
        }
    }
    let mut plan = Plan::default();
    for (split, found) in SPLITS.into_iter().zip(splits) {
        plan.remarks
            .extend(found.without_caption.remark_of("image", split, "without a caption"));
        plan.remarks.extend(
            found
                .unreadable
                .remark_of("image", split, "whose caption cannot be read"),
        );
        if found.images == 0 {
            continue;
        }
        let count = found.rows.len();
        plan.coverage.push(Coverage {
            part: split.to_string(),
            found: found.images,
            kept: count,
            annotated: count + found.captions_alone,
            without_image: found.captions_alone,
            examples: Vec::new(),
        });
        if count == 0 {
            continue;
        }
        let (root, rows): (Arc<Path>, _) = (root.as_path().into(), Arc::new(found.rows));
        plan.files
            .extend(dataset.files(split, count, Schema::Captions, |range| Rows {
                root: root.clone(),
                rows: RowRange::new(&rows, range),
                split,
            }));
    }
    let what = "images with captions in files beside them, such as x.jpg with x.txt, x.caption or x.json";
    let what = match plan.remarks.first() {
        Some(remark) => format!("{what} ({remark})"),
        None => what.to_string(),
    };
    dataset.require_rows(plan, what)
}

impl SplitRows {
    /// Adds the images in a directory that have a caption, and counts those that have none.
    fn add_directory(&mut self, root: &Path, directory: &Path, files: &[OsString]) -> Result<()> {
        let mut captions: BTreeMap<&str, [Option<&OsString>; CAPTION_EXTENSIONS.len()]> = BTreeMap::new();
        let mut images = Vec::new();
        for file in files {
            let Some((stem, extension)) = file.to_str().and_then(|name| name.rsplit_once('.')) else {
                continue;
            };
            let is = |other: &str| extension.eq_ignore_ascii_case(other);
            if is_image_extension(extension) {
                images.push((stem, file));
            } else if let Some(kind) = CAPTION_EXTENSIONS.iter().position(|other| is(other)) {
                captions.entry(stem).or_default()[kind].get_or_insert(file);
            }
        }
        let stems: BTreeSet<&str> = images.iter().map(|(stem, _)| *stem).collect();
        // Other JSON files, such as the statistics of img2dataset, are not captions.
        let alone = captions
            .iter()
            .filter(|(stem, [txt, caption, _])| !stems.contains(*stem) && (txt.is_some() || caption.is_some()));
        self.captions_alone += alone.count();
        self.images += images.len();
        for (stem, image) in images {
            let path = relative(&directory.join(image), root);
            match read_captions(directory, captions.get(stem).into_iter().flatten().flatten().copied())? {
                Ok(captions) if captions.is_empty() => self.without_caption.add(|| path),
                Ok(captions) => self.rows.push(Row { path, captions }),
                Err(reason) => self.unreadable.add(|| format!("{path}: {reason}")),
            }
        }
        Ok(())
    }
}

/// Reads the captions of an image: those of the first file that has any. The inner error says why a caption cannot be read.
fn read_captions<'a>(
    directory: &Path,
    files: impl Iterator<Item = &'a OsString>,
) -> Result<std::result::Result<Vec<String>, String>> {
    let mut unreadable = None;
    for file in files {
        let path: PathBuf = directory.join(file);
        if std::fs::metadata(&path).map_err(at::<PrepareError>(&path))?.len() > MAX_CAPTION_BYTES {
            unreadable.get_or_insert("it has more than 16 MiB".to_string());
            continue;
        }
        let bytes = read_at_most(&path, MAX_CAPTION_BYTES, "a caption")?;
        let is_json = path
            .extension()
            .is_some_and(|extension| extension.eq_ignore_ascii_case("json"));
        match if is_json {
            captions_of_json(&bytes)
        } else {
            caption_of_text(&bytes)
        } {
            Ok(captions) if captions.is_empty() => {}
            Ok(captions) => return Ok(Ok(captions)),
            Err(reason) => drop(unreadable.get_or_insert(reason)),
        }
    }
    Ok(unreadable.map_or(Ok(Vec::new()), Err))
}

fn caption_of_text(bytes: &[u8]) -> std::result::Result<Vec<String>, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "it is not UTF-8")?;
    let text = text.trim_start_matches('\u{feff}').trim();
    Ok(Vec::from_iter((!text.is_empty()).then(|| text.to_string())))
}

/// Returns the captions of a JSON object: `caption` is a text or a number, or a list of these.
fn captions_of_json(bytes: &[u8]) -> std::result::Result<Vec<String>, String> {
    let entries = json::entries(bytes, |key| key == "caption")
        .map_err(|error| format!("it is not a JSON object ({})", json::describe(&error)))?;
    let captions = json::texts(entries.get("caption").unwrap_or(&Value::Null));
    captions.ok_or_else(|| "its caption is neither text nor a list of texts".into())
}

impl RowSource for Rows {
    fn rows(&self) -> usize {
        self.rows.len()
    }

    fn row_name(&self, row: usize) -> String {
        self.root.join(&self.rows.get(row).path).display().to_string()
    }

    fn text(&self, row: usize) -> Result<RowText<'_>> {
        let row = self.rows.get(row);
        Ok(RowText::Captions {
            captions: row
                .captions
                .iter()
                .map(|caption| Cow::Borrowed(caption.as_str()))
                .collect(),
            image_id: Cow::Borrowed(&row.path),
            split: Cow::Borrowed(self.split),
        })
    }

    fn images(&self, row: usize) -> Result<Vec<Vec<u8>>> {
        Ok(vec![read_image(&self.root.join(&self.rows.get(row).path))?])
    }

    fn image_files(&self, row: usize) -> Vec<PathBuf> {
        vec![self.root.join(&self.rows.get(row).path)]
    }
}
