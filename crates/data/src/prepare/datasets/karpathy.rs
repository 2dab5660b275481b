//! COCO and Flickr30k captions in Karpathy's splits (`write_coco_karpathy.py`, `write_f30k_karpathy.py`).

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use serde::Deserialize;

use super::{Raw, read_picture, refuse_nothing};
use crate::Result;
use crate::json;
use crate::prepare::find::Place;
use crate::prepare::plan::{Columns, Coverage, Listing, Picture, Plan, PlannedFile, RowSource, RowText};

/// Where a dataset's files are and what they become.
struct Layout {
    name: &'static str,
    annotations: &'static str,
    folders: &'static [&'static str],
    splits: &'static [&'static str],
    prefix: &'static str,
}

const COCO: Layout = Layout {
    name: "coco",
    annotations: "karpathy/dataset_coco.json",
    folders: &["train2014", "val2014"],
    splits: &["train", "val", "restval", "test"],
    prefix: "coco_caption_karpathy",
};

const F30K: Layout = Layout {
    name: "f30k",
    annotations: "karpathy/dataset_flickr30k.json",
    folders: &["flickr30k-images"],
    splits: &["train", "val", "test"],
    prefix: "f30k_caption_karpathy",
};

/// COCO captions.
///
/// # Errors
/// Annotations or folders that are missing or damaged.
pub fn coco(raw: &Raw) -> Result<Plan> {
    plan(raw, &COCO)
}

/// Flickr30k captions.
///
/// # Errors
/// As [`coco`].
pub fn f30k(raw: &Raw) -> Result<Plan> {
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

/// The captions of one picture. Entries of the same file name add their captions; the last one's split counts.
struct Annotation {
    filename: String,
    split: String,
    captions: Vec<String>,
}

fn plan(raw: &Raw, layout: &Layout) -> Result<Plan> {
    let splits = raw.wanted(layout.splits)?;
    let mut annotations: Vec<Annotation> = Vec::new();
    let mut numbers: HashMap<String, u32> = HashMap::new();
    let mut captioned = 0usize;
    json::each_of_field(&raw.root.join(layout.annotations), "images", |entry: Entry| {
        let captions = entry.sentences.into_iter().map(|s| s.raw);
        let number = *numbers
            .entry(entry.filename.clone())
            .or_insert(annotations.len() as u32) as usize;
        match annotations.get_mut(number) {
            Some(earlier) => {
                captioned += usize::from(earlier.captions.is_empty() && captions.len() > 0);
                earlier.captions.extend(captions);
                earlier.split = entry.split;
            }
            None => {
                captioned += usize::from(captions.len() > 0);
                annotations.push(Annotation {
                    filename: entry.filename,
                    split: entry.split,
                    captions: captions.collect(),
                });
            }
        }
        Ok(())
    })?;

    let places: Vec<Place<'_>> = layout.folders.iter().map(|folder| Place::jpegs(folder)).collect();
    let found = raw.search().find(0, &places, |_, name| {
        // A picture without sentences counts as not annotated.
        let number = *numbers.get(name)?;
        (!annotations[number as usize].captions.is_empty()).then_some(number)
    })?;
    let pictures = found.listing.pictures;
    refuse_nothing(&raw.root, pictures.len(), layout.annotations)?;
    let mut seen = vec![false; annotations.len()];
    pictures.iter().for_each(|p| seen[p.annotation as usize] = true);
    let missing = annotations
        .iter()
        .zip(&seen)
        .filter(|(a, seen)| !a.captions.is_empty() && !**seen);
    let coverage = Coverage {
        part: layout.name.to_string(),
        found: found.found,
        kept: pictures.len(),
        annotated: captioned,
        without_picture: missing.clone().count(),
        examples: missing
            .take(Coverage::EXAMPLES)
            .map(|(a, _)| a.filename.clone())
            .collect(),
    };

    let mut of_split: HashMap<&str, Vec<Picture>> = HashMap::new();
    let mut elsewhere = 0;
    for picture in pictures {
        let split = annotations[picture.annotation as usize].split.as_str();
        match splits.iter().find(|s| **s == split) {
            Some(split) => of_split.entry(split).or_default().push(picture),
            None => elsewhere += usize::from(!layout.splits.contains(&split)),
        }
    }
    let mut remarks = Vec::new();
    if elsewhere > 0 {
        remarks.push(format!(
            "{elsewhere} pictures are of another split than {} and were left out",
            layout.splits.join(", ")
        ));
    }
    let annotations = Arc::new(annotations);
    let files = splits.iter().map(|split| PlannedFile {
        name: format!("{}_{split}", layout.prefix),
        columns: Columns::Captions,
        rows: Box::new(Rows {
            annotations: annotations.clone(),
            listing: Listing {
                folders: found.listing.folders.clone(),
                pictures: of_split.remove(split).unwrap_or_default(),
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

struct Rows {
    annotations: Arc<Vec<Annotation>>,
    listing: Listing,
}

impl RowSource for Rows {
    fn rows(&self) -> usize {
        self.listing.pictures.len()
    }

    fn label(&self, row: usize) -> String {
        self.listing.label(row)
    }

    fn text(&self, row: usize) -> Result<RowText<'_>> {
        let annotation = &self.annotations[self.listing.pictures[row].annotation as usize];
        Ok(RowText::Captions {
            captions: annotation.captions.iter().map(Cow::from).collect(),
            image_id: Cow::from(&annotation.filename),
            split: Cow::from(&annotation.split),
        })
    }

    fn pictures(&self, row: usize) -> Result<Vec<Vec<u8>>> {
        Ok(vec![read_picture(&self.listing.path(row))?])
    }
}
