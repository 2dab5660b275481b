//! Helpers of several test modules.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::{Dataset, ImageProcessing, Outcome, RawDataset, Report, Result, WriteOptions, write};

pub fn options(out: &Path) -> WriteOptions {
    WriteOptions {
        out: out.to_path_buf(),
        processing: ImageProcessing::default(),
        overwrite: false,
        threads: 3,
    }
}

/// Plans and writes a published dataset. Returns the report.
pub fn prepare(dataset: Dataset, raw: &RawDataset, options: &WriteOptions) -> Result<Report> {
    match write(dataset.name(), &dataset.plan(raw)?, options, &mut |_| {
        ControlFlow::Continue(())
    })? {
        Outcome::Written(report) | Outcome::UpToDate(report) => Ok(report),
        Outcome::Stopped => panic!("nothing stops the preparation"),
    }
}

/// Returns the directory `name` of every set of golden data that has raw files in it.
pub fn golden_directories(name: &str) -> Vec<PathBuf> {
    vlct_golden::directories("prepare")
        .into_iter()
        .map(|directory| directory.join(name))
        .filter(|directory| directory.join("raw").is_dir())
        .collect()
}

/// Writes raw data like COCO's with `count` images, the fourth of which is damaged.
pub fn coco(count: usize) -> tempfile::TempDir {
    let raw = tempfile::tempdir().unwrap();
    for directory in ["karpathy", "train2014", "val2014"] {
        fs::create_dir(raw.path().join(directory)).unwrap();
    }
    let mut images = Vec::new();
    for i in 0..count {
        let name = format!("p{i}.jpg");
        let image = image::RgbImage::from_fn(32, 24, |x, y| image::Rgb([(x * 7) as u8, (y * 9) as u8, i as u8]));
        let mut bytes = vlct_image::encode_jpeg(&image, 90).unwrap();
        if i == 3 {
            bytes.truncate(bytes.len() / 2);
        }
        fs::write(raw.path().join("train2014").join(&name), bytes).unwrap();
        images.push(
            serde_json::json!({"filename": name, "split": "train", "sentences": [{"raw": format!("image {i}")}]}),
        );
    }
    let annotations = serde_json::json!({"images": images});
    fs::write(raw.path().join("karpathy/dataset_coco.json"), annotations.to_string()).unwrap();
    raw
}

/// Returns the JSON texts of rows, sorted.
pub fn sorted(mut rows: Vec<Value>) -> Vec<String> {
    let mut texts: Vec<String> = rows.drain(..).map(|row| row.to_string()).collect();
    texts.sort();
    texts
}
