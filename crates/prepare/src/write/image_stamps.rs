//! Hashes of the sizes and modification times of image files, which show that an image was repaired or replaced.

use std::fs;
use std::hash::Hasher;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use rayon::prelude::*;
use xxhash_rust::xxh3::Xxh3;

use crate::plan::RowSource;

/// Number of rows whose files are examined in sequence. It determines the hash.
const ROWS_PER_CHUNK: usize = 1024;

/// Returns the hash of the sizes and modification times of the files that hold the images of these rows. It does not depend on the paths.
/// The files are not opened.
pub(super) fn hash_stamps(rows: &dyn RowSource) -> Xxh3 {
    let chunks: Vec<u128> = (0..rows.rows().div_ceil(ROWS_PER_CHUNK))
        .into_par_iter()
        .map(|chunk| {
            let first = chunk * ROWS_PER_CHUNK;
            hash_chunk(rows, first..(first + ROWS_PER_CHUNK).min(rows.rows()))
        })
        .collect();
    let mut hash = Xxh3::new();
    chunks.into_iter().for_each(|chunk| hash.write_u128(chunk));
    hash
}

fn hash_chunk(rows: &dyn RowSource, range: std::ops::Range<usize>) -> u128 {
    let mut hash = Xxh3::new();
    let mut last: Option<PathBuf> = None;
    for path in range.flat_map(|row| rows.image_files(row)) {
        // The rows of a table or tar have the same file.
        if last.as_ref() != Some(&path) {
            hash_stamp(&mut hash, &path);
            last = Some(path);
        }
    }
    hash.digest128()
}

/// Hashes the size and the modification time of a file. Anything else has neither: the time of a directory changes with its entries.
fn hash_stamp(hash: &mut Xxh3, path: &Path) {
    let metadata = fs::metadata(path).ok().filter(fs::Metadata::is_file);
    let modified = metadata.as_ref().and_then(|metadata| metadata.modified().ok());
    let since = |time: std::time::SystemTime| match time.duration_since(UNIX_EPOCH) {
        Ok(after) => after.as_nanos(),
        Err(before) => !before.duration().as_nanos(),
    };
    hash.write_u64(metadata.map_or(u64::MAX, |metadata| metadata.len()));
    hash.write_u128(modified.map_or(0, since));
}
