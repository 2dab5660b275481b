//! Reads one directory of images per class, like torchvision's `ImageFolder`. The name of the class is the caption. Directories with
//! `metadata.jsonl`, `.csv` or `.parquet` are read by `metadata.rs` instead.
//!
//! Hidden files and directories are skipped.

use std::borrow::Cow;
use std::ffi::OsString;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::dataset::{CustomDataset, SPLITS, split_of};
use super::directories::{collect_directories, entries};
use crate::image_files::read_image;
use crate::plan::{Plan, RowSource, RowText, Schema};
use crate::{PrepareError, Result};
use vlct_data::manifest::Coverage;
use vlct_image::FOREIGN_EXTENSIONS;
use vlct_util::text::counted;

/// Extensions of image files that are read (torchvision's `IMG_EXTENSIONS`).
const IMAGE_EXTENSIONS: [&str; 9] = [
    ".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp",
];

/// An image and the index of its class in [`ImageFolder::classes`].
#[derive(Clone, Debug, PartialEq, Eq)]
struct ClassImage {
    path: PathBuf,
    class: usize,
}

/// The classes of one split and their images.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ImageFolder {
    /// Names of the classes, sorted.
    classes: Vec<String>,
    /// The images, ordered by class, by directory in the class, and by name.
    images: Vec<ClassImage>,
}

/// Rows of one file: a range of the images of a split.
struct Rows {
    listing: Arc<ImageFolder>,
    range: Range<usize>,
    split: &'static str,
}

pub(super) fn plan(dataset: &CustomDataset) -> Result<Plan> {
    let mut plan = Plan::default();
    let mut first_split: Option<Arc<ImageFolder>> = None;
    for (split, directory) in split_directories(&dataset.root)? {
        if !dataset.includes(split) {
            continue;
        }
        let listing = Arc::new(ImageFolder::read(&directory)?);
        let first_split = first_split.get_or_insert_with(|| listing.clone());
        if let Some(class) = listing
            .classes
            .iter()
            .find(|class| !first_split.classes.contains(class))
        {
            return Err(PrepareError::malformed(
                &directory,
                format!("class {class:?} is in no earlier split; classes of all splits must be those of train"),
            ));
        }
        let count = listing.images.len();
        plan.coverage.push(Coverage {
            part: split.to_string(),
            found: count,
            kept: count,
            annotated: count,
            ..Coverage::default()
        });
        plan.remarks
            .push(format!("{split}: {}", counted(listing.classes.len(), "class")));
        plan.files
            .extend(dataset.files(split, count, Schema::Captions, |range| Rows {
                listing: listing.clone(),
                range,
                split,
            }));
    }
    dataset.require_rows(plan, "images in directories of classes")
}

impl Rows {
    fn image(&self, row: usize) -> &ClassImage {
        &self.listing.images[self.range.start + row]
    }
}

impl RowSource for Rows {
    fn rows(&self) -> usize {
        self.range.len()
    }

    fn row_name(&self, row: usize) -> String {
        self.image(row).path.display().to_string()
    }

    fn text(&self, row: usize) -> Result<RowText<'_>> {
        let image = self.image(row);
        let name = image.path.file_name().unwrap_or_default();
        Ok(RowText::Captions {
            captions: vec![Cow::Borrowed(&self.listing.classes[image.class])],
            image_id: name.to_string_lossy(),
            split: Cow::Borrowed(self.split),
        })
    }

    fn images(&self, row: usize) -> Result<Vec<Vec<u8>>> {
        Ok(vec![read_image(&self.image(row).path)?])
    }

    fn image_files(&self, row: usize) -> Vec<PathBuf> {
        vec![self.image(row).path.clone()]
    }
}

/// Returns each split with its directory: `train`, `val` and `test` in `root`, or synonyms such as `validation`, if `root` has no other
/// directories; otherwise `root` itself as `train`.
///
/// # Errors
/// Returns an error if `root` cannot be read or has no directories, or if a directory with the name of a split holds classes and is
/// beside directories with other names.
fn split_directories(root: &Path) -> Result<Vec<(&'static str, PathBuf)>> {
    let (directories, _) = entries(root)?;
    if directories.is_empty() {
        let reason =
            "it has no directories; give a directory that has train, val or test, or a directory for each class";
        return Err(PrepareError::malformed(root, reason));
    }
    let split = |name: &OsString| name.to_str().and_then(split_of);
    let is_split = |name: &&OsString| split(name).is_some();
    if let Some(other) = directories.iter().find(|name| !is_split(name)) {
        for name in directories.iter().filter(is_split) {
            let (classes, files) = entries(&root.join(name))?;
            if !classes.is_empty() && !files.iter().any(is_image) {
                return Err(PrepareError::MixedDirectories {
                    root: root.to_path_buf(),
                    split: name.to_string_lossy().into_owned(),
                    other: other.to_string_lossy().into_owned(),
                });
            }
        }
        return Ok(vec![("train", root.to_path_buf())]);
    }
    let mut found = Vec::new();
    for known in SPLITS {
        let mut of_split = directories.iter().filter(|name| split(name) == Some(known));
        let Some(name) = of_split.next() else { continue };
        if let Some(other) = of_split.next() {
            let (name, other) = (name.to_string_lossy(), other.to_string_lossy());
            let reason = format!("its directories {name} and {other} are both the split {known}; join them");
            return Err(PrepareError::malformed(root, reason));
        }
        found.push((known, root.join(name)));
    }
    Ok(found)
}

impl ImageFolder {
    /// Lists the classes in `root` and their images.
    ///
    /// # Errors
    /// Returns an error if a directory cannot be read, if there are no classes, if a class has no images (as in torchvision) or a name
    /// that is not UTF-8, or if directories are nested too deep.
    fn read(root: &Path) -> Result<Self> {
        let (names, _) = entries(root)?;
        let mut found = Self {
            classes: Vec::new(),
            images: Vec::new(),
        };
        for name in names {
            let directory = root.join(&name);
            let name = name
                .into_string()
                .map_err(|_| PrepareError::malformed(&directory, "its name is not UTF-8; rename it"))?;
            let (class, first_image) = (found.classes.len(), found.images.len());
            found.classes.push(name);
            let mut directories = Vec::new();
            collect_directories(&directory, &mut directories)?;
            // Paths are sorted as text, as in torchvision: `a-b` comes before `a/c`.
            directories.sort_by(|(a, _), (b, _)| a.as_os_str().cmp(b.as_os_str()));
            for (directory, files) in directories {
                let images = files.into_iter().filter(is_image);
                found.images.extend(images.map(|name| ClassImage {
                    path: directory.join(name),
                    class,
                }));
            }
            if found.images.len() == first_image {
                let extensions = IMAGE_EXTENSIONS.join(", ");
                let reason = format!("it has no image ({extensions}); remove it or add some");
                return Err(PrepareError::malformed(&directory, reason));
            }
        }
        if found.classes.is_empty() {
            return Err(PrepareError::malformed(
                root,
                "it has no directories; give a directory that has one for each class",
            ));
        }
        Ok(found)
    }
}

fn is_image(name: &OsString) -> bool {
    let name = name.to_string_lossy().to_lowercase();
    let mut foreign = FOREIGN_EXTENSIONS.iter().map(|extension| format!(".{extension}"));
    IMAGE_EXTENSIONS.iter().any(|extension| name.ends_with(extension))
        || foreign.any(|extension| name.ends_with(&extension))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory_of(files: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for name in files {
            let path = root.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, name).unwrap();
        }
        root
    }

    #[test]
    fn reads_classes_as_torchvision_does() {
        let root = directory_of(&[
            "b/2.JPG",
            "b/10.jpg",
            "b/sub/1.png",
            "b/sub/deep/3.png",
            "b/sub-a/0.webp",
            "b/notes.txt",
            "b/x.gif",
            "B/1.jpeg",
            "é/1.tiff",
            "beside.jpg",
        ]);
        let found = ImageFolder::read(root.path()).unwrap();
        assert_eq!(found.classes, ["B", "b", "é"]);
        let images: Vec<(PathBuf, usize)> = found
            .images
            .iter()
            .map(|image| (image.path.strip_prefix(root.path()).unwrap().to_path_buf(), image.class))
            .collect();
        let expected = [
            ("B/1.jpeg", 0),
            ("b/10.jpg", 1),
            ("b/2.JPG", 1),
            ("b/sub/1.png", 1),
            ("b/sub-a/0.webp", 1),
            ("b/sub/deep/3.png", 1),
            ("é/1.tiff", 2),
        ];
        assert_eq!(images, expected.map(|(path, class)| (PathBuf::from(path), class)));
        assert_eq!(
            split_directories(root.path()).unwrap(),
            [("train", root.path().to_path_buf())]
        );

        let message = ImageFolder::read(directory_of(&["a/1.jpg", "b/1.gif"]).path())
            .unwrap_err()
            .to_string();
        assert!(message.contains("/b: it has no image"), "{message}");
        let root = directory_of(&["train/a/1.jpg", "val/a/1.jpg"]);
        let splits = [("train", root.path().join("train")), ("val", root.path().join("val"))];
        assert_eq!(split_directories(root.path()).unwrap(), splits);
        let root = directory_of(&["train/a/1.jpg", "validation/a/1.jpg"]);
        let splits = [
            ("train", root.path().join("train")),
            ("val", root.path().join("validation")),
        ];
        assert_eq!(split_directories(root.path()).unwrap(), splits);
        let root = directory_of(&["train/a/1.jpg", "validation/a/1.jpg", "val/a/1.jpg"]);
        let message = split_directories(root.path()).unwrap_err().to_string();
        assert!(
            message.contains("val and validation are both the split val"),
            "{message}"
        );
        assert!(split_directories(directory_of(&["1.jpg"]).path()).is_err());
        assert!(ImageFolder::read(directory_of(&["1.jpg"]).path()).is_err());
    }

    #[test]
    fn skips_hidden_directories_and_rejects_siblings_of_splits() {
        let root = directory_of(&[
            "train/cat/1.jpg",
            "train/.cache/x/2.jpg",
            "train/cat/._1.jpg",
            "val/cat/3.jpg",
            ".git/a/4.jpg",
        ]);
        let splits = split_directories(root.path()).unwrap();
        assert_eq!(
            splits.iter().map(|(split, _)| *split).collect::<Vec<_>>(),
            ["train", "val"]
        );
        let train = ImageFolder::read(&splits[0].1).unwrap();
        assert_eq!((train.classes, train.images.len()), (vec!["cat".to_string()], 1));
        let mixed = directory_of(&["train/cat/1.jpg", "other/cat/2.jpg"]);
        let message = split_directories(mixed.path()).unwrap_err().to_string();
        assert!(
            message.contains("a directory train of classes beside a directory other"),
            "{message}"
        );
        // A class may be called `train`.
        let vehicles = directory_of(&["train/1.jpg", "bus/2.jpg"]);
        assert_eq!(split_directories(vehicles.path()).unwrap().len(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn rejects_directories_that_contain_themselves() {
        let root = directory_of(&["a/1.jpg"]);
        std::os::unix::fs::symlink(root.path(), root.path().join("a/again")).unwrap();
        let message = ImageFolder::read(root.path()).unwrap_err().to_string();
        assert!(message.contains("directories deep"), "{message}");
    }
}
