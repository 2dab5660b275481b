//! Folders of classes: a folder for each class with its pictures, as torchvision's `ImageFolder` reads them. Hidden files and
//! folders are passed over.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::format_error;
use crate::{DataError, Result};
use vlct_util::IoError;

/// Endings of picture files, those of torchvision's `IMG_EXTENSIONS`.
const PICTURES: [&str; 9] = [
    ".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp",
];
/// Names of folders that hold a split.
const SPLITS: [&str; 3] = ["train", "val", "test"];
/// Deepest nesting of folders in a class; links can make endless ones.
const MAX_DEPTH: usize = 32;

/// A picture in a folder of classes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassPicture {
    /// Its file.
    pub path: PathBuf,
    /// The number of its class.
    pub class: usize,
}

/// What a folder of classes holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassFolders {
    /// Names of the classes, sorted; a class's number is its position.
    pub classes: Vec<String>,
    /// The pictures, by class, by folder in the class, by name.
    pub pictures: Vec<ClassPicture>,
}

/// The splits of a folder: its folders `train`, `val` and `test` with their names, if it has no others; else the folder itself
/// as `train`.
///
/// # Errors
/// [`DataError::Io`] if it cannot be read, [`DataError::Format`] if it has no folders, or if one of those names is that of a folder
/// of folders, not of pictures, beside others.
pub fn split_folders(root: &Path) -> Result<Vec<(&'static str, PathBuf)>> {
    let (folders, _) = entries(root)?;
    if folders.is_empty() {
        let reason = "it has no folders; give a folder that has train, val or test, or a folder for each class";
        return Err(format_error(root, reason));
    }
    let is_split = |name: &&OsString| SPLITS.iter().any(|split| *name == split);
    if let Some(other) = folders.iter().find(|name| !is_split(name)) {
        for name in folders.iter().filter(is_split) {
            let (classes, files) = entries(&root.join(name))?;
            if !classes.is_empty() && !files.iter().any(is_picture) {
                let (name, other) = (name.to_string_lossy(), other.to_string_lossy());
                let reason = format!(
                    "it has a folder {name} of classes beside a folder {other}: as splits there are train, val and test only; \
                     rename {other}, move it away, or give one of them as --root"
                );
                return Err(format_error(root, reason));
            }
        }
        return Ok(vec![("train", root.to_path_buf())]);
    }
    let found = SPLITS
        .into_iter()
        .filter(|split| folders.iter().any(|name| name == split));
    Ok(found.map(|split| (split, root.join(split))).collect())
}

/// Lists the pictures of a folder of classes.
///
/// # Errors
/// [`DataError::Io`] if a folder cannot be read, [`DataError::Format`] for no classes, a class without pictures (as torchvision)
/// or with a name that is not UTF-8, or folders nested too deeply.
pub fn class_folders(root: &Path) -> Result<ClassFolders> {
    let (names, _) = entries(root)?;
    let mut found = ClassFolders {
        classes: Vec::new(),
        pictures: Vec::new(),
    };
    for name in names {
        let folder = root.join(&name);
        let name = name
            .into_string()
            .map_err(|_| format_error(&folder, "its name is not UTF-8; rename it"))?;
        let (class, before) = (found.classes.len(), found.pictures.len());
        found.classes.push(name);
        let mut folders = Vec::new();
        collect(&folder, 0, &mut folders)?;
        // By the text of their paths: `a-b` stands before `a/c`.
        folders.sort_by(|(a, _), (b, _)| a.as_os_str().cmp(b.as_os_str()));
        for (folder, files) in folders {
            let pictures = files.into_iter().filter(is_picture);
            found.pictures.extend(pictures.map(|name| ClassPicture {
                path: folder.join(name),
                class,
            }));
        }
        if found.pictures.len() == before {
            let reason = format!("it has no picture ({}); remove it or add some", PICTURES.join(", "));
            return Err(format_error(&folder, reason));
        }
    }
    if found.classes.is_empty() {
        return Err(format_error(
            root,
            "it has no folders; give a folder that has one for each class",
        ));
    }
    Ok(found)
}

fn is_picture(name: &OsString) -> bool {
    let name = name.to_string_lossy().to_lowercase();
    PICTURES.iter().any(|ending| name.ends_with(ending))
}

/// A folder and its files, and those of all folders in it.
fn collect(folder: &Path, depth: usize, found: &mut Vec<(PathBuf, Vec<OsString>)>) -> Result<()> {
    if depth > MAX_DEPTH {
        let reason =
            format!("it lies more than {MAX_DEPTH} folders deep in its class; is it a link to a folder above it?");
        return Err(format_error(folder, reason));
    }
    let (folders, files) = entries(folder)?;
    found.push((folder.to_path_buf(), files));
    for name in folders {
        collect(&folder.join(name), depth + 1, found)?;
    }
    Ok(())
}

/// Names of the folders and of the files in a folder that are not hidden, sorted. Links are followed.
fn entries(folder: &Path) -> Result<(Vec<OsString>, Vec<OsString>)> {
    let io = |source| {
        DataError::Io(IoError {
            path: folder.to_path_buf(),
            source,
        })
    };
    let (mut folders, mut files) = (Vec::new(), Vec::new());
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let entry = entry.map_err(io)?;
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        match entry.path().is_dir() {
            true => folders.push(entry.file_name()),
            false => files.push(entry.file_name()),
        }
    }
    folders.sort();
    files.sort();
    Ok((folders, files))
}
