//! COCO and Flickr30k captions in Karpathy's splits (`write_coco_karpathy.py`, `write_f30k_karpathy.py`).

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use serde::Deserialize;

use super::{Annotations, Listed, Raw, refuse_nothing};
use crate::Result;
use crate::find::Place;
use crate::json;
use crate::plan::{Columns, Listing, Picture, Plan, PlannedFile, RowText};

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
    json::each_of_field(&raw.root.join(layout.annotations), "images", |entry: Entry| {
        let captions = entry.sentences.into_iter().map(|s| s.raw);
        let number = *numbers
            .entry(entry.filename.clone())
            .or_insert(annotations.len() as u32) as usize;
        match annotations.get_mut(number) {
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

    let places: Vec<Place<'_>> = layout.folders.iter().map(|folder| Place::jpegs(folder)).collect();
    let found = raw.search().find(0, &places, |_, name| {
        // A picture without sentences counts as not annotated.
        let number = *numbers.get(name)?;
        (!annotations[number as usize].captions.is_empty()).then_some(number)
    })?;
    refuse_nothing(&raw.root, found.listing.pictures.len(), layout.annotations)?;
    let has_captions = |number: usize| !annotations[number].captions.is_empty();
    let file_name = |number: usize| annotations[number].filename.clone();
    let coverage = found.coverage(layout.name, annotations.len(), has_captions, file_name);

    let Listing { folders, pictures } = found.listing;
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
        rows: Box::new(Listed {
            annotations: Captions(annotations.clone()),
            listing: Listing {
                folders: folders.clone(),
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

struct Captions(Arc<Vec<Annotation>>);

impl Annotations for Captions {
    fn text<'a>(&'a self, picture: &'a Picture) -> RowText<'a> {
        let annotation = &self.0[picture.annotation as usize];
        RowText::Captions {
            captions: annotation.captions.iter().map(Cow::from).collect(),
            image_id: Cow::from(&annotation.filename),
            split: Cow::from(&annotation.split),
        }
    }
}
