//! Visual Genome's region descriptions (`write_vg.py`).

use std::borrow::Cow;
use std::collections::HashMap;

use serde::Deserialize;

use super::raw::{ListedRows, RawDataset, RowTexts, require_rows};
use crate::Result;
use crate::image_files::{ImageDirectory, ListedImage};
use crate::json_stream;
use crate::plan::{Plan, PlannedFile, RowText, Schema};
use vlct_data::arrow::Region;

const ANNOTATIONS: &str = "annotations/region_descriptions.json";

#[derive(Deserialize)]
struct Entry {
    regions: Vec<RegionDescription>,
}

#[derive(Deserialize)]
struct RegionDescription {
    image_id: i64,
    phrase: String,
    width: i64,
    height: i64,
    x: i64,
    y: i64,
}

/// Plans the files of Visual Genome. A region belongs to the image of its own `image_id`, even if the entry of another image
/// lists it.
///
/// # Errors
/// Returns an error if annotations or directories are missing or damaged.
pub fn vg(raw: &RawDataset) -> Result<Plan> {
    raw.splits_to_write(&["train"])?;
    let mut images: Vec<(i64, Vec<Region>)> = Vec::new();
    let mut indices: HashMap<i64, u32> = HashMap::new();
    let remark = json_stream::for_each_element(&raw.root.join(ANNOTATIONS), |entry: Entry| {
        for region in entry.regions {
            let index = *indices.entry(region.image_id).or_insert(images.len() as u32) as usize;
            if index == images.len() {
                images.push((region.image_id, Vec::new()));
            }
            images[index].1.push(Region {
                phrase: region.phrase,
                width: region.width,
                height: region.height,
                x: region.x,
                y: region.y,
            });
        }
        Ok(())
    })?;
    images.iter_mut().for_each(|(_, regions)| regions.shrink_to_fit());

    let directories = [
        ImageDirectory::jpegs("images/VG_100K"),
        ImageDirectory::jpegs("images/VG_100K_2"),
    ];
    let found = raw
        .search()
        .find(0, &directories, |_, name| indices.get(&image_id(name)?).copied())?;
    require_rows(&raw.root, found.listing.images.len(), ANNOTATIONS)?;
    let file_name = |index: usize| format!("{}.jpg", images[index].0);
    let coverage = found.coverage("vg", images.len(), |_| true, file_name);
    let rows = ListedRows {
        annotations: Regions(images),
        listing: found.listing,
    };
    Ok(Plan {
        files: vec![PlannedFile {
            name: "vg".into(),
            schema: Schema::Regions,
            rows: Box::new(rows),
        }],
        coverage: vec![coverage],
        remarks: Vec::from_iter(remark),
        ..Plan::default()
    })
}

/// Returns the image id in a file name, with or without leading zeros.
fn image_id(name: &str) -> Option<i64> {
    name.strip_suffix(".jpg")?.parse().ok()
}

/// The id and the regions of each image.
struct Regions(Vec<(i64, Vec<Region>)>);

impl RowTexts for Regions {
    fn text<'a>(&'a self, image: &'a ListedImage) -> RowText<'a> {
        let (id, regions) = &self.0[image.annotation as usize];
        RowText::Regions {
            regions: Cow::from(regions),
            image_id: id.to_string(),
        }
    }
}
