//! COCO and Flickr30k captions in Karpathy's splits (`write_coco_karpathy.py`, `write_f30k_karpathy.py`).

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;

use super::raw::{ListedRows, RawDataset, RowTexts, require_rows};
use crate::Result;
use crate::image_files::{ImageDirectory, ImageListing, ListedImage};
use crate::json_stream;
use crate::plan::{Plan, PlannedFile, RowText, Schema};
use vlct_util::text::counted;

/// The raw files of a dataset, and the prefix of the Arrow files.
struct Layout {
    name: &'static str,
    annotations: &'static str,
    directories: &'static [&'static str],
    splits: &'static [&'static str],
    prefix: &'static str,
}

const COCO: Layout = Layout {
    name: "coco",
    annotations: "karpathy/dataset_coco.json",
    directories: &["train2014", "val2014"],
    splits: &["train", "val", "restval", "test"],
    prefix: "coco_caption_karpathy",
};

const F30K: Layout = Layout {
    name: "f30k",
    annotations: "karpathy/dataset_flickr30k.json",
    directories: &["flickr30k-images"],
    splits: &["train", "val", "test"],
    prefix: "f30k_caption_karpathy",
};

/// Plans the files of COCO captions.
///
/// # Errors
/// Returns an error if annotations or directories are missing or damaged.
pub fn coco(raw: &RawDataset) -> Result<Plan> {
    plan(raw, &COCO)
}

/// Plans the files of Flickr30k captions.
///
/// # Errors
/// Returns the errors of [`coco`].
pub fn f30k(raw: &RawDataset) -> Result<Plan> {
    plan(raw, &F30K)
}

#[derive(Deserialize)]
struct Entry {
    filename: String,
    split: String,
    sentences: Vec<Sentence>,
}

#[derive(Deserialize)]
struct Sentence {
    raw: String,
}

/// The captions of one image. Entries with the same file name are merged: captions are appended, and the last split is used.
struct Annotation {
    filename: String,
    split: String,
    captions: Vec<String>,
}

/// Reads the annotations. Also returns the index of the annotation for each file name, and adds a remark about
/// entries that are left out.
fn read(path: &Path, remarks: &mut Vec<String>) -> Result<(Vec<Annotation>, HashMap<String, u32>)> {
    let mut annotations: Vec<Annotation> = Vec::new();
    let mut indices: HashMap<String, u32> = HashMap::new();
    let remark = json_stream::for_each_element_of_field(path, "images", |entry: Entry| {
        let captions = entry.sentences.into_iter().map(|s| s.raw);
        let index = *indices
            .entry(entry.filename.clone())
            .or_insert(annotations.len() as u32) as usize;
        match annotations.get_mut(index) {
            Some(earlier) => {
                earlier.captions.extend(captions);
                earlier.split = entry.split;
            }
            None => annotations.push(Annotation {
                filename: entry.filename,
                split: entry.split,
                captions: captions.collect(),
            }),
        }
        Ok(())
    })?;
    remarks.extend(remark);
    Ok((annotations, indices))
}

fn plan(raw: &RawDataset, layout: &Layout) -> Result<Plan> {
    let splits = raw.splits_to_write(layout.splits)?;
    let mut remarks = Vec::new();
    let (annotations, indices) = read(&raw.root.join(layout.annotations), &mut remarks)?;
    let directories: Vec<ImageDirectory<'_>> = layout
        .directories
        .iter()
        .map(|path| ImageDirectory::jpegs(path))
        .collect();
    let found = raw.search().find(0, &directories, |_, name| {
        // An image without sentences is not annotated.
        let index = *indices.get(name)?;
        (!annotations[index as usize].captions.is_empty()).then_some(index)
    })?;
    require_rows(&raw.root, found.listing.images.len(), layout.annotations)?;
    let has_captions = |index: usize| !annotations[index].captions.is_empty();
    let file_name = |index: usize| annotations[index].filename.clone();
    let coverage = found.coverage(layout.name, annotations.len(), has_captions, file_name);

    let ImageListing { directories, images } = found.listing;
    let mut images_by_split: HashMap<&str, Vec<ListedImage>> = HashMap::new();
    let mut unknown_split_count = 0;
    for image in images {
        let split = annotations[image.annotation as usize].split.as_str();
        match splits.iter().find(|s| **s == split) {
            Some(split) => images_by_split.entry(split).or_default().push(image),
            None => unknown_split_count += usize::from(!layout.splits.contains(&split)),
        }
    }
    if unknown_split_count > 0 {
        remarks.push(format!(
            "left out {} of another split than {}",
            counted(unknown_split_count, "image"),
            layout.splits.join(", ")
        ));
    }
    let annotations = Arc::new(annotations);
    let files = splits.iter().map(|split| PlannedFile {
        name: format!("{}_{split}", layout.prefix),
        schema: Schema::Captions,
        rows: Box::new(ListedRows {
            annotations: Captions(annotations.clone()),
            listing: ImageListing {
                directories: directories.clone(),
                images: images_by_split.remove(split).unwrap_or_default(),
            },
        }),
    });
    Ok(Plan {
        files: files.collect(),
        coverage: vec![coverage],
        remarks,
        ..Plan::default()
    })
}

struct Captions(Arc<Vec<Annotation>>);

impl RowTexts for Captions {
    fn text<'a>(&'a self, image: &'a ListedImage) -> RowText<'a> {
        let annotation = &self.0[image.annotation as usize];
        RowText::Captions {
            captions: annotation.captions.iter().map(Cow::from).collect(),
            image_id: Cow::from(&annotation.filename),
            split: Cow::from(&annotation.split),
        }
    }
}
