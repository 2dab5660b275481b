//! NLVR2 (`write_nlvr2.py`): pairs of images, with sentences that are true or false.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use super::raw::{RawDataset, require_rows};
use crate::Result;
use crate::image_files::read_image;
use crate::json_stream;
use crate::plan::{Plan, PlannedFile, RowSource, RowText, Schema};
use vlct_data::manifest::Coverage;

/// Name and annotation file of each split. An annotation file has one JSON object per line.
const SPLITS: [(&str, &str); 7] = [
    ("train", "nlvr2/data/train.json"),
    ("dev", "nlvr2/data/dev.json"),
    ("test1", "nlvr2/data/test1.json"),
    ("balanced_dev", "nlvr2/data/balanced/balanced_dev.json"),
    ("balanced_test1", "nlvr2/data/balanced/balanced_test1.json"),
    ("unbalanced_dev", "nlvr2/data/unbalanced/unbalanced_dev.json"),
    ("unbalanced_test1", "nlvr2/data/unbalanced/unbalanced_test1.json"),
];

#[derive(Deserialize)]
struct Entry {
    identifier: String,
    sentence: String,
    label: String,
    /// The number of a directory, as a text or a number.
    directory: Option<Value>,
}

/// A pair of images, and the sentences about it in the order of the annotations.
struct Pair {
    identifier: String,
    directory: PathBuf,
    sentences: Vec<(String, bool)>,
}

/// Plans the files of NLVR2. Pairs are in the order of their first annotations. The first annotation of a pair also determines
/// its directory.
///
/// # Errors
/// Returns an error if annotations are missing or damaged, or if no image exists.
pub fn nlvr2(raw: &RawDataset) -> Result<Plan> {
    let names = SPLITS.map(|(name, _)| name);
    let wanted = raw.splits_to_write(&names)?;
    let root: Arc<Path> = raw.root.as_path().into();
    let mut plan = Plan::default();
    let mut planned = 0;
    for (split, annotations) in SPLITS.iter().filter(|(name, _)| wanted.contains(name)) {
        let all = read(&root.join(annotations), &mut plan.remarks)?;
        let annotated = all.len();
        let (pairs, missing): (Vec<Pair>, Vec<Pair>) = all
            .into_iter()
            .partition(|pair| (0..2).all(|side| root.join(pair.image_path(side)).exists()));
        planned += pairs.len();
        plan.coverage.push(Coverage {
            part: split.to_string(),
            found: pairs.len(),
            kept: pairs.len(),
            annotated,
            without_image: missing.len(),
            examples: missing
                .iter()
                .take(Coverage::MAX_EXAMPLES)
                .map(|pair| pair.identifier.clone())
                .collect(),
        });
        let rows = Rows {
            root: root.clone(),
            pairs,
        };
        plan.files.push(PlannedFile {
            name: format!("nlvr2_{split}"),
            schema: Schema::ImagePairs,
            rows: Box::new(rows),
        });
    }
    require_rows(&raw.root, planned, "nlvr2/data")?;
    Ok(plan)
}

fn read(path: &Path, remarks: &mut Vec<String>) -> Result<Vec<Pair>> {
    let mut pairs: Vec<Pair> = Vec::new();
    let mut indices: HashMap<String, usize> = HashMap::new();
    let remark = json_stream::for_each_line(path, |entry: Entry| {
        let Some((pair_name, _)) = entry.identifier.rsplit_once('-') else {
            return Err(format!("the identifier {:?} has no \"-\"", entry.identifier));
        };
        let truth = match entry.label.as_str() {
            "True" => true,
            "False" => false,
            other => return Err(format!("label {other:?} is neither \"True\" nor \"False\"")),
        };
        let index = match indices.get(pair_name) {
            Some(index) => *index,
            None => {
                pairs.push(Pair {
                    identifier: pair_name.to_string(),
                    directory: image_directory(pair_name, entry.directory)?,
                    sentences: Vec::new(),
                });
                indices.insert(pair_name.to_string(), pairs.len() - 1);
                pairs.len() - 1
            }
        };
        pairs[index].sentences.push((entry.sentence, truth));
        Ok(())
    })?;
    remarks.extend(remark);
    Ok(pairs)
}

/// Returns the directory of a pair's images: `images/train/DIRECTORY` in the training split, otherwise the first
/// word of the pair's identifier.
fn image_directory(pair_name: &str, directory: Option<Value>) -> Result<PathBuf, String> {
    let split = pair_name.split('-').next().unwrap_or_default();
    if split != "train" {
        return Ok(PathBuf::from(split));
    }
    let directory = match directory {
        Some(Value::String(name)) => name,
        Some(Value::Number(number)) => number.to_string(),
        _ => return Err(format!("{pair_name:?} has no \"directory\"")),
    };
    Ok(Path::new("images/train").join(directory))
}

impl Pair {
    /// Returns the path, relative to the root, of the left (0) or right (1) image.
    fn image_path(&self, side: usize) -> PathBuf {
        self.directory.join(format!("{}-img{side}.png", self.identifier))
    }
}

struct Rows {
    root: Arc<Path>,
    pairs: Vec<Pair>,
}

impl RowSource for Rows {
    fn rows(&self) -> usize {
        self.pairs.len()
    }

    fn row_name(&self, row: usize) -> String {
        let pair = &self.pairs[row];
        self.root
            .join(&pair.directory)
            .join(format!("{}-img*.png", pair.identifier))
            .display()
            .to_string()
    }

    fn text(&self, row: usize) -> Result<RowText<'_>> {
        let pair = &self.pairs[row];
        Ok(RowText::ImagePair {
            sentences: Cow::from(&pair.sentences),
            has_truths: true,
            identifier: &pair.identifier,
        })
    }

    fn images(&self, row: usize) -> Result<Vec<Vec<u8>>> {
        self.image_files(row).iter().map(|path| read_image(path)).collect()
    }

    fn image_files(&self, row: usize) -> Vec<PathBuf> {
        let path = |side| self.root.join(self.pairs[row].image_path(side));
        vec![path(0), path(1)]
    }
}
