//! The members of a mapped tar file, and the captions in them.

use std::ops::Range;

use serde_json::Value;

use super::members::{self, Member};
use super::part::{Kind, Name};
use super::sample::{NO_MEMBER, Sample};
use crate::{DataError, Result};
use vlct_util::MappedFile;
use vlct_util::json;

/// Maximum size of a `.txt` or `.json` in bytes. img2dataset writes a few thousand bytes.
const MAX_TEXT: usize = 16 << 20;

/// A memory-mapped tar file.
#[derive(Debug)]
pub(super) struct TarFile {
    pub map: MappedFile,
    pub kind: Kind,
}

/// The contents of the `.txt` and of the `.json` of a sample, as ranges of the file.
#[derive(Clone, Debug, Default)]
pub(super) struct Texts {
    pub txt: Option<Range<usize>>,
    pub json: Option<Range<usize>>,
}

/// Whether a sample has captions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Captions {
    Present,
    Absent,
    /// There is none that can be read, and at least one that cannot.
    Unreadable,
}

/// The entries of a `.json` that are read.
#[derive(Debug, Default)]
pub(super) struct Metadata {
    /// The captions that are not empty, trimmed.
    pub captions: Vec<String>,
    /// The name of the image, if it is a text or an integer.
    pub key: Option<String>,
}

impl TarFile {
    /// Reads the headers of the member at `offset`; `None` at the end mark.
    pub fn member(&self, offset: usize) -> Result<Option<Member<'_>>> {
        members::member(&self.map, offset).map_err(|reason| self.error(reason))
    }

    /// Reads a member at an offset of the index.
    pub fn indexed_member(&self, offset: u64) -> Result<Member<'_>> {
        let member = usize::try_from(offset)
            .ok()
            .map(|offset| self.member(offset))
            .transpose()?
            .flatten();
        member.ok_or_else(|| self.error("it was changed since it was opened; do not change files in use"))
    }

    /// Returns the key of a sample's members.
    pub fn key_of(&self, sample: &Sample) -> Result<Vec<u8>> {
        let member = self.indexed_member(sample.first())?;
        Ok(Name::of(&member.name).map_or(&b""[..], |name| name.key).to_vec())
    }

    /// Returns the texts of the members at two offsets of the index.
    pub fn texts_of(&self, txt: u64, json: u64) -> Result<Texts> {
        let data = |offset: u64| -> Result<Option<Range<usize>>> {
            match offset {
                NO_MEMBER => Ok(None),
                offset => Ok(Some(self.indexed_member(offset)?.data)),
            }
        };
        Ok(Texts {
            txt: data(txt)?,
            json: data(json)?,
        })
    }

    /// Returns whether there are captions. The JSON is not read if the text is a caption.
    pub fn captions(&self, texts: &Texts) -> Captions {
        let txt = texts.txt.clone().map(|data| Ok(!self.txt(data)?.is_empty()));
        if let Some(Ok(true)) = txt {
            return Captions::Present;
        }
        let json = texts
            .json
            .clone()
            .map(|data| Ok(!self.metadata(data)?.captions.is_empty()));
        let found: [Option<Result<bool, String>>; 2] = [txt, json];
        match found {
            [_, Some(Ok(true))] => Captions::Present,
            [Some(Err(_)), _] | [_, Some(Err(_))] => Captions::Unreadable,
            _ => Captions::Absent,
        }
    }

    /// Says why the captions of two members cannot be read; `None` if they can.
    pub fn unreadable_reason(&self, txt: u64, json: u64) -> Option<String> {
        let texts = self.texts_of(txt, json).ok()?;
        let txt_reason = texts
            .txt
            .and_then(|data| self.txt(data).err())
            .map(|reason| (txt, reason));
        let json_reason = || Some((json, self.metadata(texts.json?).err()?));
        let (offset, reason) = txt_reason.or_else(json_reason)?;
        let member = self.indexed_member(offset).ok()?;
        Some(format!("{:?} {reason}", String::from_utf8_lossy(&member.name)))
    }

    /// Returns the trimmed text of a `.txt`. The error says what is wrong with the member.
    pub fn txt(&self, data: Range<usize>) -> Result<&str, String> {
        let text = std::str::from_utf8(self.text_bytes(data)?).map_err(|_| "is not UTF-8")?;
        Ok(text.trim_start_matches('\u{feff}').trim())
    }

    /// Returns the entries of a `.json`. The error says what is wrong with the member.
    pub fn metadata(&self, data: Range<usize>) -> Result<Metadata, String> {
        let bytes = self.text_bytes(data)?;
        let mut entries = json::entries(bytes, |key| key == "caption" || key == "key")
            .map_err(|error| format!("is not a JSON object ({})", json::describe(&error)))?;
        let captions = json::texts(entries.get("caption").unwrap_or(&Value::Null));
        Ok(Metadata {
            captions: captions.ok_or("has a caption that is neither text nor a list of texts")?,
            key: match entries.remove("key") {
                Some(Value::String(text)) => Some(text),
                Some(Value::Number(number)) if !number.is_f64() => Some(number.to_string()),
                _ => None,
            },
        })
    }

    fn text_bytes(&self, data: Range<usize>) -> Result<&[u8], String> {
        match self.map.get(data) {
            Some(text) if text.len() <= MAX_TEXT => Ok(text),
            Some(text) => Err(format!("has {} bytes, too many for a caption", text.len())),
            None => Err("lies outside the file".into()),
        }
    }

    /// Returns an error about the file.
    pub fn error(&self, reason: impl Into<String>) -> DataError {
        DataError::format(self.map.path(), reason)
    }

    /// Removes the pages of the file from this process's resident memory; see [`MappedFile::release_pages`].
    pub fn release_pages(&self) {
        self.map.release_pages();
    }
}
