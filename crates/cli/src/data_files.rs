//! The files of datasets in a directory.

use std::path::{Path, PathBuf};

use vlct_data::datasets;
use vlct_util::{IoError, at};

use crate::output::Failure;

/// Lists the Arrow files in a directory, then the tars in the directory, in its subdirectories, and in `train`, `val` and `test` of
/// each subdirectory.
pub fn data_files(directory: &Path) -> Result<Vec<PathBuf>, Failure> {
    let io_error = at::<IoError>(directory);
    let (mut paths, mut directories) = (Vec::new(), Vec::new());
    for entry in std::fs::read_dir(directory).map_err(&io_error)? {
        let path = entry.map_err(&io_error)?.path();
        if path.extension().is_some_and(|e| e == "arrow") {
            paths.push(path);
        } else if path.is_dir() {
            directories.extend(["", "train", "val", "test"].map(|split| path.join(split)));
        }
    }
    paths.sort();
    directories.sort();
    directories.insert(0, directory.to_path_buf());
    for directory in directories {
        paths.extend(datasets::tars(&directory)?);
    }
    Ok(paths)
}
