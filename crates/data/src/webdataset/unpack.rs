//! Compressed tars: which compression a file has, and decompression of gzip to a temporary file.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use flate2::read::MultiGzDecoder;

use crate::{DataError, Result};
use vlct_util::{IoError, MappedFile, at, open_file};

/// Maximum size in bytes of a decompressed tar. img2dataset writes shards of about 300 MB.
const MAX_BYTES: u64 = 64 << 30;

/// Endings of tars after `.tar`, with the dot: those of compressed tars.
const COMPRESSED_ENDINGS: [&str; 5] = [".gz", ".zst", ".bz2", ".xz", ".lz4"];

/// Returns the name of a tar file without its ending, and whether it is compressed: `00000` for `00000.tar`, `00000.TAR.gz` and
/// `00000.tgz`. `None` for other files.
pub fn tar_stem(path: &Path) -> Option<(&str, bool)> {
    let name = path.file_name()?.to_str()?;
    let without = |name: &'_ str, ending: &str| -> Option<usize> {
        let start = name.len().checked_sub(ending.len())?;
        name.get(start..)?.eq_ignore_ascii_case(ending).then_some(start)
    };
    if let Some(end) = without(name, ".tar") {
        return Some((&name[..end], false));
    }
    if let Some(end) = without(name, ".tgz") {
        return Some((&name[..end], true));
    }
    let end = COMPRESSED_ENDINGS.iter().find_map(|ending| without(name, ending))?;
    without(&name[..end], ".tar").map(|end| (&name[..end], true))
}

/// Returns the name of the compression that the first bytes of a file show, and the program that decompresses it. `None` for other
/// files.
pub fn compression(first_bytes: &[u8]) -> Option<(&'static str, &'static str)> {
    match first_bytes {
        [0x1f, 0x8b, ..] => Some(("gzip", "gunzip")),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(("zstd", "unzstd")),
        [0x42, 0x5a, 0x68, ..] => Some(("bzip2", "bunzip2")),
        [0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00, ..] => Some(("xz", "unxz")),
        [0x04, 0x22, 0x4d, 0x18, ..] => Some(("lz4", "unlz4")),
        _ => None,
    }
}

/// Maps a file. A file that is compressed with gzip is decompressed to a temporary file without a name, which is mapped instead.
pub(super) fn map(path: &Path) -> Result<MappedFile> {
    let file = open_file(path)?;
    let mut first_bytes = [0; 2];
    let is_gzip =
        (&file).read_exact(&mut first_bytes).is_ok() && matches!(compression(&first_bytes), Some(("gzip", _)));
    if !is_gzip {
        return Ok(MappedFile::of_file(path, &file)?);
    }
    let temporary = tempfile::tempfile().map_err(at::<IoError>(&std::env::temp_dir()))?;
    decompress(path, &temporary)?;
    Ok(MappedFile::of_file(path, &temporary)?)
}

fn decompress(path: &Path, mut out: &File) -> Result<()> {
    let mut decoder = MultiGzDecoder::new(io::BufReader::with_capacity(1 << 16, open_file(path)?)).take(MAX_BYTES + 1);
    let mut buffer = vec![0; 1 << 16];
    let mut written = 0;
    loop {
        let length = match decoder.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(DataError::format(
                    path,
                    "it is cut short (its gzip data has no end); copy it again",
                ));
            }
            Err(error) => {
                let reason = format!("its gzip data is damaged ({error}); make or copy it again");
                return Err(DataError::format(path, reason));
            }
        };
        written += length as u64;
        if written > MAX_BYTES {
            let reason = format!(
                "it has more than {} GiB when it is decompressed; make smaller files",
                MAX_BYTES >> 30
            );
            return Err(DataError::format(path, reason));
        }
        out.write_all(&buffer[..length])
            .map_err(|error| DataError::from(at::<IoError>(&std::env::temp_dir())(error)))?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tars_are_found_by_their_endings() {
        for (name, stem) in [
            ("0.tar", Some(("0", false))),
            ("a/0.TAR", Some(("0", false))),
            ("0.1.tar.gz", Some(("0.1", true))),
            ("0.Tar.GZ", Some(("0", true))),
            ("0.tgz", Some(("0", true))),
            ("0.tar.zst", Some(("0", true))),
            ("0.gz", None),
            ("tar", None),
            ("é.gz", None),
            ("0.tar.txt", None),
        ] {
            assert_eq!(tar_stem(Path::new(name)), stem, "{name}");
        }
    }
}
