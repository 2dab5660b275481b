//! Finding pictures in folders, as the original's globs do, but in an order that is a function of the seed.

use std::fs::{self, DirEntry};
use std::path::{Path, PathBuf};

use rand::seq::SliceRandom;
use rayon::prelude::*;

use super::plan::{Listing, Picture};
use crate::{DataError, Result};
use vlct_data::manifest::Coverage;
use vlct_data::random::{Purpose, stream};
use vlct_util::IoError;

/// A folder whose pictures are wanted.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// Path below the root.
    pub folder: &'a str,
    /// Whether the pictures lie one level deeper (`folder/*/*`).
    pub nested: bool,
    /// The ending that names must have, dot included; empty for any. Upper and lower case differ, as in the original.
    pub ending: &'a str,
}

impl<'a> Place<'a> {
    /// `folder/*.jpg`.
    pub fn jpegs(folder: &'a str) -> Self {
        Self {
            folder,
            nested: false,
            ending: ".jpg",
        }
    }
}

/// What was found.
pub struct Found {
    /// Pictures with an annotation.
    pub listing: Listing,
    /// Number of files of the right name, with an annotation or without.
    pub found: usize,
}

impl Found {
    /// These pictures against `annotations` annotations, of which those count that `counts` says; `name` tells what picture is missing.
    pub fn coverage(
        &self,
        part: &str,
        annotations: usize,
        counts: impl Fn(usize) -> bool,
        name: impl Fn(usize) -> String,
    ) -> Coverage {
        let mut seen = vec![false; annotations];
        let pictures = &self.listing.pictures;
        pictures.iter().for_each(|p| seen[p.annotation as usize] = true);
        let annotated = (0..annotations).filter(|number| counts(*number));
        let missing = annotated.clone().filter(|number| !seen[*number]);
        Coverage {
            part: part.to_string(),
            found: self.found,
            kept: pictures.len(),
            annotated: annotated.count(),
            without_image: missing.clone().count(),
            examples: missing.take(Coverage::EXAMPLES).map(name).collect(),
        }
    }
}

/// Where and how to look for pictures.
#[derive(Clone, Copy, Debug)]
pub struct Search<'a> {
    /// The folder of the raw downloads.
    pub root: &'a Path,
    /// Decides the order.
    pub seed: u64,
    /// Whether folders may be missing as long as one is there: not all splits are wanted.
    pub partial: bool,
}

impl Search<'_> {
    /// Lists the pictures in `places` for whose folder and file name `annotation` gives a number; hidden files are not looked at.
    ///
    /// The order is by place, folder and name, then shuffled by the seed; `group` keeps the shuffles of one dataset apart.
    ///
    /// # Errors
    /// [`DataError`] for a folder that is missing or cannot be read.
    pub fn find(
        &self,
        group: u64,
        places: &[Place<'_>],
        annotation: impl Fn(&Path, &str) -> Option<u32> + Sync,
    ) -> Result<Found> {
        let Self { root, seed, partial } = *self;
        let some_are_there = places.iter().any(|place| root.join(place.folder).exists());
        let places = places
            .iter()
            .filter(|place| !(partial && some_are_there) || root.join(place.folder).exists());
        let mut folders = Vec::new();
        for place in places {
            let folder = root.join(place.folder);
            if place.nested {
                let mut inner: Vec<PathBuf> = entries(&folder)?
                    .into_iter()
                    // A link to a folder is one; what is none has nothing below it.
                    .filter(|e| visible(e).is_some() && e.path().is_dir())
                    .map(|e| e.path())
                    .collect();
                inner.sort();
                folders.extend(inner.into_iter().map(|folder| (folder, place.ending)));
            } else {
                folders.push((folder, place.ending));
            }
        }
        let lists: Vec<(usize, Vec<Picture>)> = folders
            .par_iter()
            .enumerate()
            .map(|(number, (folder, ending))| {
                let (mut found, mut pictures) = (0, Vec::new());
                for entry in entries(folder)? {
                    let Some(name) = visible(&entry).filter(|name| name.ends_with(ending)) else {
                        continue;
                    };
                    found += 1;
                    if let Some(annotation) = annotation(folder, &name) {
                        pictures.push(Picture {
                            folder: number as u32,
                            name: name.into(),
                            annotation,
                        });
                    }
                }
                pictures.sort_by(|a, b| a.name.cmp(&b.name));
                Ok((found, pictures))
            })
            .collect::<Result<_>>()?;
        let found = lists.iter().map(|(found, _)| found).sum();
        let mut pictures: Vec<Picture> = lists.into_iter().flat_map(|(_, pictures)| pictures).collect();
        pictures.shuffle(&mut stream(seed, Purpose::RowOrder, group, 0));
        let folders = folders.into_iter().map(|(folder, _)| folder).collect();
        Ok(Found {
            listing: Listing { folders, pictures },
            found,
        })
    }
}

fn entries(folder: &Path) -> Result<Vec<DirEntry>> {
    let refused = |source: std::io::Error| match source.kind() {
        std::io::ErrorKind::NotFound => DataError::Format {
            path: folder.to_path_buf(),
            reason:
                "no such folder; --root is the folder that the downloads were unpacked into, and --splits can leave \
                     out what you do not have"
                    .into(),
        },
        _ => DataError::Io(IoError {
            path: folder.to_path_buf(),
            source,
        }),
    };
    fs::read_dir(folder)
        .and_then(|entries| entries.collect())
        .map_err(refused)
}

/// The entry's name, unless it is hidden. A name that is not Unicode stays as near to it as can be: no annotation fits it.
fn visible(entry: &DirEntry) -> Option<String> {
    let name = entry.file_name();
    Some(name.to_string_lossy().into_owned()).filter(|name| !name.starts_with('.'))
}
