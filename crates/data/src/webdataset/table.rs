//! A reader of tar files whose rows are images with captions.

use std::borrow::Cow;
use std::path::Path;

use super::file::TarFile;
use super::index::{Index, TarCounts};
use super::part::{Kind, Name};
use super::sample::{NO_MEMBER, Sample};
use super::unpack;
use crate::{DataError, Result};
use vlct_util::MappedFile;

/// Rows that are read between two releases of pages. The system may map 2 MiB around each.
const ROWS_PER_RELEASE: usize = 64;

/// A memory-mapped tar file whose rows are its samples. A sample has the members with the same key: their path up to the first dot of
/// the file name. It has an image and a caption: the text of a `.txt`, or else `caption` of a `.json`. Members of a sample that are not
/// adjacent are found too. Samples without image or without readable caption are left out and counted.
///
/// The index takes 24 bytes per sample. The file must not be changed while it is open; replacing it by renaming another file over it
/// is fine.
#[derive(Debug)]
pub struct TarTable {
    file: TarFile,
    index: Index,
}

impl TarTable {
    /// Maps the file and reads all headers and captions once, to index the samples.
    ///
    /// # Errors
    /// Returns [`DataError::Io`] if the file cannot be opened, [`DataError::Format`] if it is not a complete tar file, or has images
    /// and captions, but no image with a caption, [`DataError::Compressed`] if it is compressed.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::of_map(MappedFile::open(path)?, Kind::Captions)
    }

    /// Opens a file like [`Self::open`], whose rows are images with a class: a `.cls` with an integer or the name of the class. Other
    /// texts are ignored.
    ///
    /// # Errors
    /// Returns the errors of [`Self::open`]; images of which none has a class are not an error.
    pub fn open_classes(path: impl AsRef<Path>) -> Result<Self> {
        Self::of_map(MappedFile::open(path)?, Kind::Classes)
    }

    /// Opens a file like [`Self::open`]. If the file is compressed with gzip, it is first decompressed to a temporary file, which is
    /// deleted when the table is dropped.
    ///
    /// # Errors
    /// Returns the errors of [`Self::open`], and [`DataError::Io`] if the temporary file cannot be written.
    pub fn open_compressed(path: impl AsRef<Path>) -> Result<Self> {
        Self::of_map(unpack::map(path.as_ref())?, Kind::Captions)
    }

    fn of_map(map: MappedFile, kind: Kind) -> Result<Self> {
        if let Some((compression, program)) = unpack::compression(&map) {
            return Err(DataError::Compressed {
                path: map.path().to_path_buf(),
                compression,
                program,
            });
        }
        let file = TarFile { map, kind };
        // Only headers and texts are read here; read-ahead would load all images.
        file.map.advise_sparse_reads(true);
        let index = Index::build(&file)?;
        file.map.advise_sparse_reads(false);
        file.release_pages();
        let counts = index.counts;
        let has_apart = counts.without_caption > 0 && counts.without_image > 0;
        if kind == Kind::Captions && counts.samples == 0 && has_apart {
            return Err(file.error(
                "no image has a caption: the image KEY.jpg belongs to the caption KEY.txt, in the same directory; rename the members",
            ));
        }
        Ok(Self { file, index })
    }

    /// The path that the file was opened with.
    pub fn path(&self) -> &Path {
        self.file.map.path()
    }

    /// The file name without `.tar`.
    pub fn name(&self) -> &str {
        self.file.map.stem()
    }

    /// Size of the file in bytes; of a compressed file, of its content.
    pub fn bytes(&self) -> u64 {
        self.file.map.len() as u64
    }

    /// Number of samples.
    pub fn rows(&self) -> usize {
        self.index.samples.len()
    }

    /// Counts of the samples and members of the file.
    pub fn counts(&self) -> TarCounts {
        self.index.counts
    }

    /// Why the first unreadable caption cannot be read; `None` if all can.
    pub fn first_unreadable(&self) -> Option<&str> {
        self.index.first_unreadable.as_deref()
    }

    /// Says what is left out: a phrase for each reason, such as `2 images without a caption`.
    pub fn left_out(&self) -> Vec<String> {
        self.index.counts.left_out(self.first_unreadable())
    }

    /// Lists the unknown endings of members that are not hidden, with their numbers: `3 input.jpg, 3 outputs.txt`. `None` if there are
    /// none.
    pub fn other_endings(&self) -> Option<String> {
        self.index.list_endings()
    }

    /// Whether images are left out because of their ending, such as `input.jpg`.
    pub fn has_images_with_other_endings(&self) -> bool {
        self.index.has_images_with_other_endings()
    }

    /// The bytes of a sample's image file.
    ///
    /// # Errors
    /// Returns [`DataError::NoRow`] if there is no such row, [`DataError::Format`] if the file was changed.
    pub fn image(&self, row: usize) -> Result<&[u8]> {
        let member = self.file.indexed_member(self.sample(row)?.image)?;
        Ok(&self.file.map[member.data])
    }

    /// The class of a sample: the text of its `.cls`, without leading zeros if it is an integer. `None` in a table of captions.
    ///
    /// # Errors
    /// Returns the errors of [`Self::image`].
    pub fn class(&self, row: usize) -> Result<Option<Cow<'_, str>>> {
        let sample = self.sample(row)?;
        if self.file.kind != Kind::Classes {
            return Ok(None);
        }
        let text = self.file.txt(self.file.indexed_member(sample.txt)?.data);
        let text = text.map_err(|reason| self.file.error(format!("row {row}: the class {reason}")))?;
        let is_integer = text.bytes().all(|byte| byte.is_ascii_digit());
        Ok(Some(match text.trim_start_matches('0') {
            "" => Cow::Borrowed("0"),
            rest if is_integer => Cow::Borrowed(rest),
            _ => Cow::Borrowed(text),
        }))
    }

    /// Calls `use_class` with the class of each sample, in order; see [`Self::class`].
    ///
    /// # Errors
    /// Returns the errors of [`Self::image`].
    pub fn for_each_class(&self, mut use_class: impl FnMut(Option<&str>)) -> Result<()> {
        for row in 0..self.rows() {
            if row.is_multiple_of(ROWS_PER_RELEASE) {
                self.release_pages();
            }
            use_class(self.class(row)?.as_deref());
        }
        self.release_pages();
        Ok(())
    }

    /// The captions of a sample; none in a table of classes.
    ///
    /// # Errors
    /// Returns the errors of [`Self::image`].
    pub fn captions(&self, row: usize) -> Result<Vec<Cow<'_, str>>> {
        let sample = self.sample(row)?;
        if self.file.kind == Kind::Classes {
            return Ok(Vec::new());
        }
        // The index has samples with a readable caption only, so what cannot be read is not needed.
        if sample.txt != NO_MEMBER {
            let text = self.file.txt(self.file.indexed_member(sample.txt)?.data);
            if let Some(text) = text.ok().filter(|text| !text.is_empty()) {
                return Ok(vec![Cow::Borrowed(text)]);
            }
        }
        if sample.json == NO_MEMBER {
            return Ok(Vec::new());
        }
        let metadata = self.file.metadata(self.file.indexed_member(sample.json)?.data);
        let captions = metadata.unwrap_or_default().captions;
        Ok(captions.into_iter().map(Cow::Owned).collect())
    }

    /// The name of a sample: `key` of its `.json` if this is a text or an integer, or else the key of its members.
    ///
    /// # Errors
    /// Returns the errors of [`Self::image`].
    pub fn image_id(&self, row: usize) -> Result<String> {
        let sample = self.sample(row)?;
        if sample.json != NO_MEMBER {
            let metadata = self.file.metadata(self.file.indexed_member(sample.json)?.data);
            if let Some(key) = metadata.ok().and_then(|metadata| metadata.key) {
                return Ok(key);
            }
        }
        let member = self.file.indexed_member(sample.image)?;
        let key = Name::of(&member.name).map(|name| name.key);
        Ok(String::from_utf8_lossy(key.unwrap_or_default()).into_owned())
    }

    /// Removes the pages of the file from this process's resident memory; see [`MappedFile::release_pages`].
    pub fn release_pages(&self) {
        self.file.release_pages();
    }

    /// The memory of the index in bytes.
    pub fn index_memory(&self) -> usize {
        self.index.samples.capacity() * size_of::<Sample>()
    }

    fn sample(&self, row: usize) -> Result<Sample> {
        let sample = self.index.samples.get(row).copied();
        sample.ok_or_else(|| DataError::NoRow {
            path: self.path().to_path_buf(),
            row,
            rows: self.rows(),
        })
    }
}
