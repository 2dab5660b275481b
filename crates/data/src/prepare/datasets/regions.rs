//! Visual Genome's described regions (`write_vg.py`).

use std::borrow::Cow;
use std::collections::HashMap;

use serde::Deserialize;

use super::{Raw, read_picture, refuse_nothing};
use crate::Result;
use crate::arrow::Region;
use crate::json;
use crate::prepare::find::Place;
use crate::prepare::plan::{Columns, Coverage, Listing, Plan, PlannedFile, RowSource, RowText};

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
    let mut seen = vec![false; pictures.len()];
    found
        .listing
        .pictures
        .iter()
        .for_each(|p| seen[p.annotation as usize] = true);
    let missing = pictures.iter().zip(&seen).filter(|(_, seen)| !**seen);
    let coverage = Coverage {
        part: "vg".into(),
        found: found.found,
        kept: found.listing.pictures.len(),
        annotated: pictures.len(),
        without_picture: missing.clone().count(),
        examples: missing
            .take(Coverage::EXAMPLES)
            .map(|((id, _), _)| format!("{id}.jpg"))
            .collect(),
    };
    let rows = Rows {
        pictures,
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

struct Rows {
    pictures: Vec<(i64, Vec<Region>)>,
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
        let (id, regions) = &self.pictures[self.listing.pictures[row].annotation as usize];
        Ok(RowText::Regions {
            regions: Cow::from(regions),
            image_id: id.to_string(),
        })
    }

    fn pictures(&self, row: usize) -> Result<Vec<Vec<u8>>> {
        Ok(vec![read_picture(&self.listing.path(row))?])
    }
}
