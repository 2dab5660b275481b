//! A reader of tar files whose rows are images with captions.

use std::borrow::Cow;
use std::path::Path;

use serde::Deserialize;

use super::members::{self, Member};
use crate::{DataError, Result};
use vlct_image::EXTENSIONS;
use vlct_util::MappedFile;

/// Maximum size of a `.txt` or `.json` in bytes. img2dataset writes a few thousand bytes.
const MAX_TEXT: usize = 16 << 20;
/// The offset in a [`Sample`] of a member that the sample does not have.
const NO_MEMBER: u64 = u64::MAX;
/// Members indexed between two calls of [`MappedFile::release_pages`]. The system may map 2 MiB around each.
const MEMBERS_PER_RELEASE: usize = 64;

/// Offsets of the members of a sample. Their headers are parsed again at each access.
#[derive(Clone, Copy, Debug)]
struct Sample {
    image: u64,
    txt: u64,
    json: u64,
}

/// A sample that may be incomplete.
struct PartialSample {
    sample: Sample,
    has_caption: bool,
}

impl PartialSample {
    const EMPTY: Self = Self {
        sample: Sample {
            image: NO_MEMBER,
            txt: NO_MEMBER,
            json: NO_MEMBER,
        },
        has_caption: false,
    };

    fn offset_mut(&mut self, part: Part) -> &mut u64 {
        match part {
            Part::Image => &mut self.sample.image,
            Part::Txt => &mut self.sample.txt,
            Part::Json => &mut self.sample.json,
        }
    }
}

/// Counts of the samples and members of a tar file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TarCounts {
    /// Images with a caption, which are the rows.
    pub samples: usize,
    /// Images without a caption, which are left out.
    pub without_caption: usize,
    /// Captions without an image, which are left out.
    pub without_image: usize,
    /// Hidden files, and files with unknown extensions.
    pub others: usize,
}

/// A memory-mapped tar file whose rows are its samples. A sample is a run of members with the same key: their path up to the
/// first dot of the file name. A sample has an image and a caption: the text of a `.txt`, or else `caption` of a `.json`.
///
/// The index takes 24 bytes per sample. The file must not be changed while it is open; replacing it by renaming another file over it
/// is fine.
#[derive(Debug)]
pub struct TarTable {
    map: MappedFile,
    samples: Vec<Sample>,
    counts: TarCounts,
}

/// The fields of a `.json` that are read.
#[derive(Deserialize)]
struct Metadata {
    caption: Option<Texts>,
    key: Option<Key>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Texts {
    One(String),
    Several(Vec<String>),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Key {
    Text(String),
    Number(u64),
}

impl TarTable {
    /// Maps the file and reads all headers and captions once, to index the samples.
    ///
    /// # Errors
    /// Returns [`DataError::Io`] if the file cannot be opened, [`DataError::Format`] if it is not a complete tar file, a `.txt` is
    /// not UTF-8, a `.json` cannot be parsed, or no image is next to its caption.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let mut table = Self {
            map: MappedFile::open(path)?,
            samples: Vec::new(),
            counts: TarCounts::default(),
        };
        // Only headers and texts are read here; read-ahead would load all images.
        table.map.advise_sparse_reads(true);
        table.index()?;
        table.map.advise_sparse_reads(false);
        table.map.release_pages();
        table.samples.shrink_to_fit();
        let counts = table.counts;
        if counts.samples == 0 && counts.without_caption > 0 && counts.without_image > 0 {
            return Err(DataError::format(
                table.map.path(),
                "no image is next to its caption: members of a sample must be adjacent; make the file again \
                 with tar --sort=name",
            ));
        }
        Ok(table)
    }

    fn index(&mut self) -> Result<()> {
        let (mut offset, mut members) = (0, 0usize);
        let (mut key, mut sample) = (Vec::new(), PartialSample::EMPTY);
        while let Some(member) = self.member(offset)? {
            members += 1;
            if members.is_multiple_of(MEMBERS_PER_RELEASE) {
                self.map.release_pages();
            }
            let next = member.next;
            match member.is_file.then(|| Part::of(&member.name)).flatten() {
                Some((member_key, part)) => {
                    let has_caption = match part {
                        Part::Image => false,
                        Part::Txt => !self.txt(&member)?.is_empty(),
                        Part::Json => !self.metadata(&member)?.captions().is_empty(),
                    };
                    // A second image, text or JSON begins another sample.
                    let begins_sample = key != member_key || *sample.offset_mut(part) != NO_MEMBER;
                    if begins_sample {
                        key.clear();
                        key.extend_from_slice(member_key);
                        self.add(std::mem::replace(&mut sample, PartialSample::EMPTY));
                    }
                    *sample.offset_mut(part) = offset as u64;
                    sample.has_caption |= has_caption;
                }
                None => self.counts.others += usize::from(member.is_file),
            }
            offset = next;
        }
        self.add(sample);
        Ok(())
    }

    /// Counts a sample, and adds it to the index if it has an image and a caption.
    fn add(&mut self, partial: PartialSample) {
        match (partial.sample.image != NO_MEMBER, partial.has_caption) {
            (true, true) => {
                self.counts.samples += 1;
                self.samples.push(partial.sample);
            }
            (true, false) => self.counts.without_caption += 1,
            (false, true) => self.counts.without_image += 1,
            (false, false) => {}
        }
    }

    /// The path that the file was opened with.
    pub fn path(&self) -> &Path {
        self.map.path()
    }

    /// The file name without `.tar`.
    pub fn name(&self) -> &str {
        self.map.stem()
    }

    /// Number of samples.
    pub fn rows(&self) -> usize {
        self.samples.len()
    }

    /// Counts of the samples and members of the file.
    pub fn counts(&self) -> TarCounts {
        self.counts
    }

    /// The bytes of a sample's image file.
    ///
    /// # Errors
    /// Returns [`DataError::NoRow`] if there is no such row, [`DataError::Format`] if the file was changed.
    pub fn image(&self, row: usize) -> Result<&[u8]> {
        let member = self.indexed_member(self.sample(row)?.image)?;
        Ok(&self.map[member.data])
    }

    /// The captions of a sample.
    ///
    /// # Errors
    /// Returns the errors of [`Self::image`].
    pub fn captions(&self, row: usize) -> Result<Vec<Cow<'_, str>>> {
        let sample = self.sample(row)?;
        if sample.txt != NO_MEMBER {
            let text = self.txt(&self.indexed_member(sample.txt)?)?;
            if !text.is_empty() {
                return Ok(vec![Cow::Borrowed(text)]);
            }
        }
        if sample.json == NO_MEMBER {
            return Ok(Vec::new());
        }
        let captions = self.metadata(&self.indexed_member(sample.json)?)?.captions();
        Ok(captions.into_iter().map(Cow::Owned).collect())
    }

    /// The name of a sample: `key` of its `.json`, or else the key of its members.
    ///
    /// # Errors
    /// Returns the errors of [`Self::image`].
    pub fn image_id(&self, row: usize) -> Result<String> {
        let sample = self.sample(row)?;
        if sample.json != NO_MEMBER {
            match self.metadata(&self.indexed_member(sample.json)?)?.key {
                Some(Key::Text(text)) => return Ok(text),
                Some(Key::Number(number)) => return Ok(number.to_string()),
                None => {}
            }
        }
        let member = self.indexed_member(sample.image)?;
        let key = Part::of(&member.name).map(|(key, _)| key);
        Ok(String::from_utf8_lossy(key.unwrap_or_default()).into_owned())
    }

    /// Removes the pages of the file from this process's resident memory; see [`MappedFile::release_pages`].
    pub fn release_pages(&self) {
        self.map.release_pages();
    }

    /// The memory of the index in bytes.
    pub fn index_memory(&self) -> usize {
        self.samples.capacity() * size_of::<Sample>()
    }

    fn sample(&self, row: usize) -> Result<Sample> {
        let sample = self.samples.get(row).copied();
        sample.ok_or_else(|| DataError::NoRow {
            path: self.path().to_path_buf(),
            row,
            rows: self.rows(),
        })
    }

    fn member(&self, offset: usize) -> Result<Option<Member<'_>>> {
        members::member(&self.map, offset).map_err(|reason| DataError::format(self.map.path(), reason))
    }

    /// Reads a member at an offset of the index.
    fn indexed_member(&self, offset: u64) -> Result<Member<'_>> {
        let member = usize::try_from(offset)
            .ok()
            .map(|offset| self.member(offset))
            .transpose()?
            .flatten();
        member.ok_or_else(|| {
            DataError::format(
                self.map.path(),
                "it was changed since it was opened; do not change files in use",
            )
        })
    }

    /// Returns the bytes of a `.txt` or `.json`.
    fn text_bytes<'a>(&'a self, member: &Member<'_>) -> Result<&'a [u8]> {
        let text = &self.map[member.data.clone()];
        if text.len() > MAX_TEXT {
            let reason = format!("has {} bytes, too many for a caption; leave it out", text.len());
            return Err(self.member_error(member, &reason));
        }
        Ok(text)
    }

    /// Returns the text of a `.txt`, trimmed.
    fn txt<'a>(&'a self, member: &Member<'_>) -> Result<&'a str> {
        let text = std::str::from_utf8(self.text_bytes(member)?)
            .map_err(|_| self.member_error(member, "is not UTF-8; write it as UTF-8 or leave it out"))?;
        Ok(text.trim())
    }

    fn metadata(&self, member: &Member<'_>) -> Result<Metadata> {
        serde_json::from_slice(self.text_bytes(member)?).map_err(|error| {
            let reason = format!("is not a JSON object whose \"caption\" is text or a list of texts ({error})");
            self.member_error(member, &reason)
        })
    }

    fn member_error(&self, member: &Member<'_>, reason: &str) -> DataError {
        DataError::format(
            self.map.path(),
            format!("its member {:?} {reason}", String::from_utf8_lossy(&member.name)),
        )
    }
}

impl Metadata {
    /// Returns the non-empty captions, trimmed.
    fn captions(self) -> Vec<String> {
        let mut captions = match self.caption {
            Some(Texts::One(text)) => vec![text],
            Some(Texts::Several(texts)) => texts,
            None => Vec::new(),
        };
        captions
            .iter_mut()
            .for_each(|caption| *caption = caption.trim().to_string());
        captions.retain(|caption| !caption.is_empty());
        captions
    }
}

/// The role of a member in its sample.
#[derive(Clone, Copy)]
enum Part {
    Image,
    Txt,
    Json,
}

impl Part {
    /// Returns the key and the role of a member by its name; `None` for hidden files, such as those that macOS adds, and for unknown
    /// extensions.
    fn of(name: &[u8]) -> Option<(&[u8], Self)> {
        let name = name.strip_prefix(b"./").unwrap_or(name);
        let base = name.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
        let dot = name[base..]
            .iter()
            .position(|byte| *byte == b'.')
            .filter(|dot| *dot > 0)?;
        let (key, extension) = (&name[..base + dot], &name[base + dot + 1..]);
        let has_extension = |other: &[u8]| extension.eq_ignore_ascii_case(other);
        let part = match extension {
            _ if has_extension(b"txt") => Self::Txt,
            _ if has_extension(b"json") => Self::Json,
            _ if EXTENSIONS.iter().any(|other| has_extension(other.as_bytes())) => Self::Image,
            _ => return None,
        };
        Some((key, part))
    }
}
