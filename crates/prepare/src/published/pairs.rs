//! Datasets whose annotations are an array of `[path, text]` pairs: GCC, SBU and the datasets of the large pre-training set
//! (`write_conceptual_caption.py`, `write_sbu.py`, `write_openimages_caption.py`, `write_pretrain_*.py`).

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value;

use super::raw::{ListedRows, RawDataset, RowTexts, require_rows};
use crate::Result;
use crate::image_files::{ImageDirectory, ImageListing, ListedImage};
use crate::json_stream;
use crate::plan::{Plan, PlannedFile, RowText, Schema};

/// The raw files of one split of a dataset, and the names of its Arrow files.
struct Layout {
    split: &'static str,
    annotations: &'static str,
    directories: &'static [ImageDirectory<'static>],
    /// Whether the text of a pair is a list of captions.
    has_lists: bool,
    /// Whether rows are written to numbered files, not to one file.
    is_numbered: bool,
    prefix: &'static str,
}

const fn directory(path: &'static str, nested: bool, extension: &'static str) -> ImageDirectory<'static> {
    ImageDirectory {
        path,
        nested,
        extension,
    }
}

const GCC: [Layout; 2] = [
    Layout {
        split: "val",
        annotations: "val_annot.json",
        directories: &[directory("images_val", true, "")],
        has_lists: false,
        is_numbered: true,
        prefix: "conceptual_caption_val",
    },
    Layout {
        split: "train",
        annotations: "train_annot.json",
        directories: &[directory("images_train", true, "")],
        has_lists: false,
        is_numbered: true,
        prefix: "conceptual_caption_train",
    },
];

const SBU: [Layout; 1] = [Layout {
    split: "train",
    annotations: "annot.json",
    directories: &[directory("images_train", true, "")],
    has_lists: false,
    is_numbered: true,
    prefix: "sbu",
}];

const OPENIMAGES: [Layout; 1] = [Layout {
    split: "train",
    annotations: "oi_annt.json",
    directories: &[directory("images/train", false, "")],
    has_lists: false,
    is_numbered: true,
    prefix: "openimages",
}];

const PRETRAIN_F30K: [Layout; 1] = [Layout {
    split: "train",
    annotations: "flickr30k_annt.json",
    directories: &[directory("images", false, ".jpg")],
    has_lists: false,
    is_numbered: false,
    prefix: "pretrain_flickr30k_train",
}];

const PRETRAIN_GQA: [Layout; 1] = [Layout {
    split: "train",
    annotations: "gqa_annt.json",
    directories: &[directory("images", false, ".jpg")],
    has_lists: false,
    is_numbered: true,
    prefix: "pretrain_gqa",
}];

/// The original writes `pretrain_vg`, but reads `pretrain_vgqa`. The prefix here is the one that it reads.
const PRETRAIN_VG: [Layout; 1] = [Layout {
    split: "train",
    annotations: "vgqa_annt.json",
    directories: &[directory("images", false, ".jpg")],
    has_lists: false,
    is_numbered: true,
    prefix: "pretrain_vgqa",
}];

const PRETRAIN_VQA: [Layout; 1] = [Layout {
    split: "train",
    annotations: "vqa_annt.json",
    directories: &[
        directory("train2014", false, ".jpg"),
        directory("val2014", false, ".jpg"),
    ],
    has_lists: true,
    is_numbered: true,
    prefix: "pretrain_vqa",
}];

/// Defines the function that plans the files of each dataset.
macro_rules! datasets {
    ($($(#[$doc:meta])* $name:ident = $layout:ident;)*) => {$(
        $(#[$doc])*
        ///
        /// # Errors
        /// Returns an error if annotations or directories are missing or damaged.
        pub fn $name(raw: &RawDataset) -> Result<Plan> {
            plan(raw, &$layout)
        }
    )*};
}

datasets! {
    /// Plans the files of Google's Conceptual Captions.
    gcc = GCC;
    /// Plans the files of SBU captions.
    sbu = SBU;
    /// Plans the files of OpenImages captions, for the large pre-training set.
    openimages = OPENIMAGES;
    /// Plans the files of Flickr30k captions, for the large pre-training set.
    pretrain_f30k = PRETRAIN_F30K;
    /// Plans the files of GQA statements, for the large pre-training set.
    pretrain_gqa = PRETRAIN_GQA;
    /// Plans the files of statements made from Visual Genome's questions, for the large pre-training set.
    pretrain_vg = PRETRAIN_VG;
    /// Plans the files of VQA v2 statements, for the large pre-training set.
    pretrain_vqa = PRETRAIN_VQA;
}

/// Names of image files in order of first occurrence, and their captions. Of pairs with the same name, the last is used.
#[derive(Default)]
struct Annotations {
    names: Vec<Box<str>>,
    captions: Vec<Captions>,
}

enum Captions {
    One(Box<str>),
    Several(Box<[String]>),
}

fn plan(raw: &RawDataset, layouts: &[Layout]) -> Result<Plan> {
    let splits: Vec<&str> = layouts.iter().map(|layout| layout.split).collect();
    let wanted = raw.splits_to_write(&splits)?;
    let mut plan = Plan::default();
    for (group, layout) in layouts.iter().enumerate().filter(|(_, l)| wanted.contains(&l.split)) {
        plan_split(raw, group as u64, layout, &mut plan)?;
    }
    Ok(plan)
}

fn plan_split(raw: &RawDataset, group: u64, layout: &Layout, plan: &mut Plan) -> Result<()> {
    let (annotations, indices) = read(raw, layout, &mut plan.remarks)?;
    let found = raw
        .search()
        .find(group, layout.directories, |_, name| indices.get(name).copied())?;
    drop(indices);
    require_rows(&raw.root, found.listing.images.len(), layout.annotations)?;
    let file_name = |index: usize| annotations.names[index].to_string();
    let count = annotations.names.len();
    plan.coverage
        .push(found.coverage(layout.split, count, |_| true, file_name));

    let ImageListing { directories, images } = found.listing;
    let annotations = Arc::new(annotations);
    let rows = |images: &[ListedImage]| ListedRows {
        listing: ImageListing {
            directories: directories.clone(),
            images: images.to_vec(),
        },
        annotations: SplitCaptions {
            annotations: annotations.clone(),
            split: layout.split,
        },
    };
    if layout.is_numbered {
        let count = images.len();
        let source = |range: std::ops::Range<usize>| rows(&images[range]);
        plan.files.extend(PlannedFile::series(
            layout.prefix,
            count,
            raw.rows_per_file,
            Schema::Captions,
            source,
        ));
    } else {
        plan.files.push(PlannedFile {
            name: layout.prefix.to_string(),
            schema: Schema::Captions,
            rows: Box::new(rows(&images)),
        });
    }
    Ok(())
}

/// Reads the annotations. Also returns the index of the annotation for each file name.
fn read(raw: &RawDataset, layout: &Layout, remarks: &mut Vec<String>) -> Result<(Annotations, HashMap<Box<str>, u32>)> {
    let mut annotations = Annotations::default();
    let mut indices: HashMap<Box<str>, u32> = HashMap::new();
    let remark = json_stream::for_each_element(&raw.root.join(layout.annotations), |(path, text): (String, Value)| {
        let captions = match (text, layout.has_lists) {
            (Value::String(caption), false) => Captions::One(caption.into()),
            (Value::Array(captions), true) => Captions::Several(texts(captions)?),
            (_, true) => return Err("[path, list of captions] is expected".into()),
            (_, false) => return Err("[path, caption] is expected".into()),
        };
        let name = path.rsplit('/').next().unwrap_or_default();
        match indices.get(name) {
            Some(index) => annotations.captions[*index as usize] = captions,
            None => {
                indices.insert(name.into(), annotations.names.len() as u32);
                annotations.names.push(name.into());
                annotations.captions.push(captions);
            }
        }
        Ok(())
    })?;
    remarks.extend(remark);
    Ok((annotations, indices))
}

/// Returns the captions of a list of texts.
fn texts(items: Vec<Value>) -> Result<Box<[String]>, String> {
    let texts = items.into_iter().map(|item| match item {
        Value::String(text) => Ok(text),
        _ => Err("a caption that is not a text".to_string()),
    });
    texts.collect()
}

/// The captions of one split.
struct SplitCaptions {
    annotations: Arc<Annotations>,
    split: &'static str,
}

impl RowTexts for SplitCaptions {
    fn text<'a>(&'a self, image: &'a ListedImage) -> RowText<'a> {
        RowText::Captions {
            captions: match &self.annotations.captions[image.annotation as usize] {
                Captions::One(caption) => vec![Cow::from(&**caption)],
                Captions::Several(captions) => captions.iter().map(Cow::from).collect(),
            },
            image_id: Cow::from(&*image.name),
            split: Cow::from(self.split),
        }
    }
}
