//! Visual Genome's described regions (`write_vg.py`).

use std::borrow::Cow;
use std::collections::HashMap;

use serde::Deserialize;

use super::{Annotations, Listed, Raw, refuse_nothing};
use crate::Result;
use crate::find::Place;
use crate::json;
use crate::plan::{Columns, Picture, Plan, PlannedFile, RowText};
use vlct_data::arrow::Region;

const ANNOTATIONS: &str = "annotations/region_descriptions.json";

#[derive(Deserialize)]
struct Entry {
    regions: Vec<Described>,
}

#[derive(Deserialize)]
struct Described {
    image_id: i64,
    phrase: String,
    width: i64,
    height: i64,
    x: i64,
    y: i64,
}

/// Visual Genome. A region belongs to the picture that it names itself, in whichever entry it stands.
///
/// # Errors
/// Annotations or folders that are missing or damaged.
pub fn vg(raw: &Raw) -> Result<Plan> {
    raw.wanted(&["train"])?;
    let mut pictures: Vec<(i64, Vec<Region>)> = Vec::new();
    let mut numbers: HashMap<i64, u32> = HashMap::new();
    json::each_of_array(&raw.root.join(ANNOTATIONS), |entry: Entry| {
        for described in entry.regions {
            let number = *numbers.entry(described.image_id).or_insert(pictures.len() as u32) as usize;
            if number == pictures.len() {
                pictures.push((described.image_id, Vec::new()));
            }
            pictures[number].1.push(Region {
                phrase: described.phrase,
                width: described.width,
                height: described.height,
                x: described.x,
                y: described.y,
            });
        }
        Ok(())
    })?;
    pictures.iter_mut().for_each(|(_, regions)| regions.shrink_to_fit());

    let places = [Place::jpegs("images/VG_100K"), Place::jpegs("images/VG_100K_2")];
    let found = raw
        .search()
        .find(0, &places, |_, name| numbers.get(&number_of(name)?).copied())?;
    refuse_nothing(&raw.root, found.listing.pictures.len(), ANNOTATIONS)?;
    let file_name = |number: usize| format!("{}.jpg", pictures[number].0);
    let coverage = found.coverage("vg", pictures.len(), |_| true, file_name);
    let rows = Listed {
        annotations: Regions(pictures),
        listing: found.listing,
    };
    Ok(Plan {
        files: vec![PlannedFile {
            name: "vg".into(),
            columns: Columns::Regions,
            rows: Box::new(rows),
        }],
        coverage: vec![coverage],
        ..Plan::default()
    })
}

/// The number that a picture's file name is, leading zeros or not.
fn number_of(name: &str) -> Option<i64> {
    name.strip_suffix(".jpg")?.parse().ok()
}

/// Regions by number of the picture.
struct Regions(Vec<(i64, Vec<Region>)>);

impl Annotations for Regions {
    fn text<'a>(&'a self, picture: &'a Picture) -> RowText<'a> {
        let (id, regions) = &self.0[picture.annotation as usize];
        RowText::Regions {
            regions: Cow::from(regions),
            image_id: id.to_string(),
        }
    }
}
