//! The zip archives that PyTorch has written since version 1.6: `NAME/data.pkl`, `NAME/data/KEY`, `NAME/byteorder`.

use std::collections::HashMap;
use std::io::Cursor;

use zip::CompressionMethod;
use zip::read::{ArchiveOffset, Config, ZipArchive};

use super::super::error::Problem;
use super::{Storage, Storages};

/// Signatures at the start of a zip archive: of an entry, or of the end record in an archive without entries.
pub(in super::super) const SIGNATURES: [&[u8]; 2] = [b"PK\x03\x04", b"PK\x05\x06"];

pub(super) struct Archive<'a> {
    pub pickle: &'a [u8],
    pub storages: Storages<'a>,
}

/// An entry of an archive.
struct Entry<'a> {
    bytes: &'a [u8],
    /// The CRC-32 that the archive has for the bytes; 0 if its writer did not compute it.
    crc32: u32,
}

impl Entry<'_> {
    /// Whether the bytes have the CRC-32 of the archive; `None` if there is none.
    fn matches(&self) -> Option<bool> {
        (self.crc32 != 0).then(|| crc32fast::hash(self.bytes) == self.crc32)
    }
}

/// Finds the pickle and the storages without copying values. Verifies the pickle; the checksums of storages are verified when it is known
/// which storages are needed.
///
/// PyTorch does not verify checksums and has an option not to compute them: it then writes 0. Versions with that option may write other
/// values. Checksums are therefore used only if one of the small entries has the right one.
pub(super) fn open(bytes: &[u8]) -> Result<Archive<'_>, Problem> {
    // Without a known offset, the library looks for the directory's first entry at the end of the entries. It takes the 76 bytes of
    // PyTorch's 64-bit end records for an entry's length if the first entry has this length too, that is, if the file's name had 21
    // characters when it was saved.
    let config = Config {
        archive_offset: ArchiveOffset::Known(0),
    };
    let mut zip = ZipArchive::with_config(config, Cursor::new(bytes))?;
    let names: Vec<String> = zip
        .file_names_raw()
        .map(|name| String::from_utf8_lossy(name).into_owned())
        .collect();
    let find = |path: &str| names.iter().position(|name| name == path);

    // PyTorch names the directory after the file that it wrote; archives from other programs may have no directory.
    let directory = names
        .iter()
        .filter_map(|name| name.strip_suffix("data.pkl"))
        .filter(|directory| directory.is_empty() || directory.ends_with('/'))
        .min_by_key(|directory| directory.matches('/').count())
        .ok_or(Problem::NoPickle)?;
    if find(&format!("{directory}constants.pkl")).is_some() {
        return Err(Problem::TorchScript);
    }

    let mut entry = |index: usize| -> Result<Entry, Problem> {
        let file = zip.by_index_raw(index)?;
        if file.compression() != CompressionMethod::Stored || file.encrypted() {
            return Err(Problem::Compressed(names[index].clone()));
        }
        let crc32 = file.crc32();
        let range = file.data_start().and_then(|start| {
            let end = start.checked_add(file.compressed_size())?;
            Some(usize::try_from(start).ok()?..usize::try_from(end).ok()?)
        });
        range
            .and_then(|range| bytes.get(range))
            .map(|bytes| Entry { bytes, crc32 })
            .ok_or_else(|| Problem::Archive(format!("entry {} reaches beyond the end of the file", names[index])))
    };

    let pickle = match find(&format!("{directory}data.pkl")) {
        Some(index) => entry(index)?,
        None => return Err(Problem::NoPickle),
    };
    let mut small = Vec::new();
    for name in ["byteorder", "version", ".format_version"] {
        if let Some(index) = find(&format!("{directory}{name}")) {
            small.push((name, entry(index)?));
        }
    }
    // PyTorch before version 2.1 does not write `byteorder`, and writes little-endian values.
    let big_endian = small
        .iter()
        .any(|(name, entry)| *name == "byteorder" && entry.bytes == b"big");
    let pickle_matches = pickle.matches();
    let has_checksums = pickle_matches == Some(true) || small.iter().any(|(_, entry)| entry.matches() == Some(true));
    if has_checksums && pickle_matches == Some(false) {
        return Err(Problem::Archive(format!(
            "entry {directory}data.pkl does not have its checksum (CRC-32)"
        )));
    }
    let data = format!("{directory}data/");
    let mut storages = HashMap::new();
    for (index, name) in names.iter().enumerate() {
        if let Some(key) = name.strip_prefix(&data) {
            let Entry { bytes, crc32 } = entry(index)?;
            let crc32 = (has_checksums && crc32 != 0).then_some(crc32);
            storages.insert(key.to_owned(), Storage { bytes, crc32 });
        }
    }
    Ok(Archive {
        pickle: pickle.bytes,
        storages: Storages { storages, big_endian },
    })
}
