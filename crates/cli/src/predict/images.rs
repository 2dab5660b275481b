//! Image files that predictions write.

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use vlct_image::{RgbImage, RgbaImage, encode_png, encode_png_with_alpha};
use vlct_predict::PredictError;
use vlct_util::{IoError, at, atomic};

use crate::output::Failure;

/// Writes images to a directory, under names that begin with the name of the input image.
pub struct ImageWriter {
    directory: PathBuf,
    /// How many inputs had this stem.
    stems: HashMap<String, usize>,
}

impl ImageWriter {
    /// Makes the directory.
    pub fn new(directory: &Path) -> Result<Self, Failure> {
        std::fs::create_dir_all(directory).map_err(|error| PredictError::from(at::<IoError>(directory)(error)))?;
        Ok(Self {
            directory: directory.to_path_buf(),
            stems: HashMap::new(),
        })
    }

    /// Returns the beginning of the names of the files of an input: the stem of its image, with a number if an earlier input had the same.
    pub fn stem(&mut self, image: &Path) -> String {
        let stem = image.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let count = self.stems.entry(stem.clone()).or_default();
        *count += 1;
        match *count {
            1 => stem,
            count => format!("{stem}-{count}"),
        }
    }

    /// Writes an image with transparency as `STEM_SUFFIX.png`.
    pub fn write_with_alpha(&self, stem: &str, suffix: &str, image: &RgbaImage) -> Result<PathBuf, Failure> {
        self.write_bytes(stem, suffix, &encode_png_with_alpha(image)?)
    }

    /// Writes an image as `STEM_SUFFIX.png`.
    pub fn write(&self, stem: &str, suffix: &str, image: &RgbImage) -> Result<PathBuf, Failure> {
        self.write_bytes(stem, suffix, &encode_png(image)?)
    }

    fn write_bytes(&self, stem: &str, suffix: &str, bytes: &[u8]) -> Result<PathBuf, Failure> {
        // A word may have characters that file names cannot have.
        let suffix: String = suffix
            .chars()
            .map(|c| {
                if c.is_alphanumeric() || "-_".contains(c) {
                    c
                } else {
                    '_'
                }
            })
            .collect();
        let path = self.directory.join(format!("{stem}_{suffix}.png"));
        let written = atomic::write(&path, |out| out.write_all(bytes));
        written.map_err(|error| PredictError::from(at::<IoError>(&path)(error)))?;
        Ok(path)
    }
}
