//! The images of the rows of tables.

use std::path::{Path, PathBuf};

use crate::Result;
use crate::image_files::read_image;
use crate::tables::{ColumnNames, EmbeddedImages, ImageSource, TableContents, TableFormat};
use vlct_data::manifest::Coverage;

/// The location of the bytes of an image.
pub(super) enum ImageLocation {
    /// The path of an image file, as in the table.
    File(String),
    /// Row `row` of table number `table`. Whether the row has an image is not known before it is read.
    Embedded { table: usize, row: u64 },
}

impl ImageLocation {
    /// Returns the location of an image of row `row` of table number `table`.
    pub fn new(source: ImageSource, table: usize, row: u64) -> Self {
        match source {
            ImageSource::File(path) => Self::File(path),
            ImageSource::Bytes(_) => Self::Embedded { table, row },
        }
    }
}

/// The images of the rows of all splits.
pub(super) struct Images {
    /// Directory of the image files.
    root: PathBuf,
    /// Paths of the tables, indexed by the `table` of [`ImageLocation::Embedded`].
    tables: Vec<PathBuf>,
    format: TableFormat,
    /// The images in each table.
    embedded: Vec<EmbeddedImages>,
}

impl Images {
    pub fn new(
        root: &Path,
        tables: Vec<PathBuf>,
        format: TableFormat,
        columns: &ColumnNames,
        contents: TableContents,
    ) -> Self {
        let embedded = tables.iter().map(|table| EmbeddedImages::new(table, columns, contents));
        Self {
            root: root.to_path_buf(),
            embedded: embedded.collect(),
            tables,
            format,
        }
    }

    /// Returns the name of an image in reports.
    pub fn name(&self, location: &ImageLocation) -> String {
        match location {
            ImageLocation::File(_) => self.file(location).display().to_string(),
            ImageLocation::Embedded { table, row } => self.row_name(*table, *row),
        }
    }

    /// Returns the path of the file that an image is in: the image file, or the table.
    pub fn file(&self, location: &ImageLocation) -> PathBuf {
        match location {
            ImageLocation::File(path) => self.root.join(path),
            ImageLocation::Embedded { table, .. } => self.tables[*table].clone(),
        }
    }

    /// Returns the name, in reports, of a row of table number `table` that names no image file.
    pub fn row_name(&self, table: usize, row: u64) -> String {
        format!("{}, {}", self.tables[table].display(), self.format.row_name(row))
    }

    /// Whether an image file exists. An image in a table counts as existing.
    pub fn exists(&self, location: &ImageLocation) -> bool {
        match location {
            ImageLocation::File(path) => self.root.join(path).is_file(),
            ImageLocation::Embedded { .. } => true,
        }
    }

    /// Reads the only image, or the left and the right image, of a row; `None` if the table has no image there.
    ///
    /// # Errors
    /// Returns an error if a file or a table cannot be read.
    pub fn read<const N: usize>(&self, locations: [&ImageLocation; N]) -> Result<[Option<Vec<u8>>; N]> {
        let mut images = [const { None }; N];
        let mut row_images = None;
        for (side, location) in locations.into_iter().enumerate() {
            let source = match location {
                ImageLocation::File(path) => Some(ImageSource::File(path.clone())),
                ImageLocation::Embedded { table, row } => {
                    // The table returns all images of a row at once.
                    let row_images = match &mut row_images {
                        Some(known) => known,
                        unknown => unknown.insert(self.embedded[*table].images(*row)?),
                    };
                    row_images.get_mut(side).and_then(Option::take)
                }
            };
            images[side] = match source {
                Some(ImageSource::Bytes(bytes)) => Some(bytes),
                Some(ImageSource::File(path)) => Some(read_image(&self.root.join(path))?),
                None => None,
            };
        }
        Ok(images)
    }

    /// Removes the rows for which `locations` returns an image file that does not exist. Returns the counts of the rows that have an
    /// image.
    pub fn remove_missing<'a, R: 'a>(
        &self,
        split: &str,
        rows: &mut Vec<R>,
        locations: impl Fn(&R) -> &[ImageLocation],
    ) -> Coverage {
        let mut coverage = Coverage {
            part: split.to_string(),
            ..Coverage::default()
        };
        rows.retain(|row| {
            let locations = locations(row);
            if locations.is_empty() {
                return true;
            }
            coverage.annotated += 1;
            let Some(missing) = locations.iter().find(|location| !self.exists(location)) else {
                coverage.kept += 1;
                return true;
            };
            coverage.without_image += 1;
            if let (ImageLocation::File(path), true) = (missing, coverage.examples.len() < Coverage::MAX_EXAMPLES) {
                coverage.examples.push(path.clone());
            }
            false
        });
        coverage.found = coverage.kept;
        coverage
    }
}
