//! Lists image files in directories and reads them. The lists have the files that the original's globs find, in an order that depends
//! only on their names and the seed.

use std::fs::{self, DirEntry};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use rand::seq::SliceRandom;
use rayon::prelude::*;

use crate::{PrepareError, Result};
use vlct_data::manifest::Coverage;
use vlct_data::random::{Purpose, stream};
use vlct_image::ImageError;
use vlct_util::at;

/// An image file that has an annotation.
#[derive(Clone, Debug)]
pub struct ListedImage {
    /// Index of the directory in [`ImageListing::directories`].
    pub directory: u32,
    /// File name.
    pub name: Box<str>,
    /// Index of the image's annotation among all annotations that were read.
    pub annotation: u32,
}

/// Image files in directories. An image is stored as a name and two integers, because there may be millions.
#[derive(Debug, Default)]
pub struct ImageListing {
    pub directories: Vec<PathBuf>,
    pub images: Vec<ListedImage>,
}

impl ImageListing {
    /// Returns the path of image `index`.
    pub fn path(&self, index: usize) -> PathBuf {
        let image = &self.images[index];
        self.directories[image.directory as usize].join(&*image.name)
    }
}

/// A directory to search for images.
#[derive(Clone, Copy, Debug)]
pub struct ImageDirectory<'a> {
    /// Path relative to the root.
    pub path: &'a str,
    /// Whether the images are in subdirectories (`path/*/*`).
    pub nested: bool,
    /// The extension of the images, with the dot; empty for any. Case matters, as in the original.
    pub extension: &'a str,
}

impl<'a> ImageDirectory<'a> {
    /// Describes the images `path/*.jpg`.
    pub fn jpegs(path: &'a str) -> Self {
        Self {
            path,
            nested: false,
            extension: ".jpg",
        }
    }
}

/// The result of [`ImageSearch::find`].
pub struct FoundImages {
    /// Images that have an annotation.
    pub listing: ImageListing,
    /// Number of files with the right extension, annotated or not.
    pub found: usize,
}

impl FoundImages {
    /// Counts the images, and the annotations for which `is_counted` returns true. `annotations` is the number of all annotations;
    /// `file_name` returns the file name of an annotation's image.
    pub fn coverage(
        &self,
        part: &str,
        annotations: usize,
        is_counted: impl Fn(usize) -> bool,
        file_name: impl Fn(usize) -> String,
    ) -> Coverage {
        let mut seen = vec![false; annotations];
        let images = &self.listing.images;
        images.iter().for_each(|image| seen[image.annotation as usize] = true);
        let annotated = (0..annotations).filter(|index| is_counted(*index));
        let missing = annotated.clone().filter(|index| !seen[*index]);
        Coverage {
            part: part.to_string(),
            found: self.found,
            kept: images.len(),
            annotated: annotated.count(),
            without_image: missing.clone().count(),
            examples: missing.take(Coverage::MAX_EXAMPLES).map(file_name).collect(),
        }
    }
}

/// Where to search for images, in which order to list them, and whether directories may be missing.
#[derive(Clone, Copy, Debug)]
pub struct ImageSearch<'a> {
    /// The directory of the raw downloads.
    pub root: &'a Path,
    /// The seed of the order.
    pub seed: u64,
    /// Whether directories may be missing, because only some splits are written. At least one directory must exist.
    pub allows_missing: bool,
}

impl ImageSearch<'_> {
    /// Lists the images in `directories` that have an annotation. `find_annotation` returns the index of the annotation for a
    /// directory and a file name. Hidden files and directories are skipped.
    ///
    /// Images are sorted by directory and name, and then shuffled by the seed. The calls for one dataset have different `group`s, so that
    /// their shuffles are independent.
    ///
    /// # Errors
    /// Returns an error if a directory is missing or cannot be read.
    pub fn find(
        &self,
        group: u64,
        directories: &[ImageDirectory<'_>],
        find_annotation: impl Fn(&Path, &str) -> Option<u32> + Sync,
    ) -> Result<FoundImages> {
        let directories = self.expand(directories)?;
        let lists: Vec<(usize, Vec<ListedImage>)> = (0u32..)
            .zip(&directories)
            .collect::<Vec<_>>()
            .into_par_iter()
            .map(|(index, (directory, extension))| {
                let (mut found, mut images) = (0, Vec::new());
                for entry in entries(directory)? {
                    let Some(name) = visible_name(&entry).filter(|name| name.ends_with(extension)) else {
                        continue;
                    };
                    found += 1;
                    if let Some(annotation) = find_annotation(directory, &name) {
                        images.push(ListedImage {
                            directory: index,
                            name: name.into(),
                            annotation,
                        });
                    }
                }
                images.sort_by(|a, b| a.name.cmp(&b.name));
                Ok((found, images))
            })
            .collect::<Result<_>>()?;
        let found = lists.iter().map(|(found, _)| found).sum();
        let mut images: Vec<ListedImage> = lists.into_iter().flat_map(|(_, images)| images).collect();
        images.shuffle(&mut stream(self.seed, Purpose::RowOrder, group, 0));
        let directories = directories.into_iter().map(|(directory, _)| directory).collect();
        Ok(FoundImages {
            listing: ImageListing { directories, images },
            found,
        })
    }

    /// Returns the paths of the directories that hold image files, each with the extension of its images.
    fn expand<'a>(&self, directories: &[ImageDirectory<'a>]) -> Result<Vec<(PathBuf, &'a str)>> {
        let exists = |directory: &ImageDirectory<'_>| self.root.join(directory.path).exists();
        let may_skip = self.allows_missing && directories.iter().any(exists);
        let mut paths = Vec::new();
        for directory in directories.iter().filter(|directory| !may_skip || exists(directory)) {
            let path = self.root.join(directory.path);
            if directory.nested {
                let mut inner: Vec<PathBuf> = entries(&path)?
                    .into_iter()
                    // Symbolic links to directories are followed.
                    .filter(|entry| visible_name(entry).is_some() && entry.path().is_dir())
                    .map(|entry| entry.path())
                    .collect();
                inner.sort();
                paths.extend(inner.into_iter().map(|path| (path, directory.extension)));
            } else {
                paths.push((path, directory.extension));
            }
        }
        Ok(paths)
    }
}

fn entries(directory: &Path) -> Result<Vec<DirEntry>> {
    let entries = fs::read_dir(directory).and_then(|entries| entries.collect());
    entries.map_err(|error| match error.kind() {
        ErrorKind::NotFound => PrepareError::MissingDirectory(directory.to_path_buf()),
        _ => at(directory)(error),
    })
}

/// Returns the name of an entry; `None` if it is hidden. Invalid Unicode is replaced, so such a name matches no annotation.
fn visible_name(entry: &DirEntry) -> Option<String> {
    let name = entry.file_name();
    Some(name.to_string_lossy().into_owned()).filter(|name| !name.starts_with('.'))
}

/// Reads an image file of at most 512 MiB.
///
/// # Errors
/// Returns [`ImageError::Decode`] if the path does not exist or is not a file, or if the file is larger. Returns an I/O error if the
/// file cannot be read.
pub fn read_image(path: &Path) -> Result<Vec<u8>> {
    const MAX_BYTES: u64 = 512 << 20;
    let unreadable = |error: std::io::Error| match error.kind() {
        ErrorKind::NotFound => not_an_image("the file no longer exists"),
        _ => at(path)(error),
    };
    let metadata = fs::metadata(path).map_err(unreadable)?;
    if metadata.is_dir() {
        return Err(not_an_image("this is a directory"));
    }
    if !metadata.is_file() {
        return Err(not_an_image("this is not a file"));
    }
    if metadata.len() > MAX_BYTES {
        return Err(not_an_image(format!("a file of {} bytes is too large", metadata.len())));
    }
    fs::read(path).map_err(unreadable)
}

fn not_an_image(reason: impl Into<String>) -> PrepareError {
    ImageError::Decode(reason.into()).into()
}
