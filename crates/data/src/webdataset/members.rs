//! A parser of the headers of a tar file in memory. It finds the names of members and the positions of their data.
//!
//! The parser reads POSIX ustar and pax, and GNU's long names. Sparse files and multi-volume archives are rejected. Nothing is unpacked.
//!
//! The `tar` crate is not used, because it accepts archives that are truncated between members or within the data of the last one,
//! and ignores the high bytes of sizes.

use std::borrow::Cow;
use std::ops::Range;

/// Size of the blocks of headers and data, in bytes.
const BLOCK: usize = 512;
/// Maximum length of a name in bytes. Linux allows 4,096.
const MAX_NAME: usize = 64 << 10;
/// Maximum size of an extension header (long name, pax records) in bytes.
const MAX_EXTENSION: usize = 1 << 20;
/// Maximum number of extension headers of a member. GNU tar writes two.
const MAX_EXTENSIONS: usize = 8;

/// A member of a tar file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Member<'a> {
    /// Name, as stored in the file.
    pub name: Cow<'a, [u8]>,
    /// Range of the member's content in the file.
    pub data: Range<usize>,
    /// Offset of the next member.
    pub next: usize,
    /// Whether the member is a regular file, not a directory, a link or a device.
    pub is_file: bool,
}

/// Reads the headers of the member at `offset`. Returns `None` at the end mark.
///
/// # Errors
/// Returns a message that says what is wrong.
pub(super) fn member(bytes: &[u8], mut offset: usize) -> Result<Option<Member<'_>>, String> {
    let (mut long_name, mut long_size) = (None, None);
    for _ in 0..=MAX_EXTENSIONS {
        let Some(header) = Header::read(bytes, offset)? else {
            return Ok(None);
        };
        let damaged =
            |what: &str| format!("the tar header at byte {offset} {what}; the file is damaged, make or copy it again");
        let is_extension = matches!(header.kind(), b'L' | b'K' | b'x' | b'g');
        let size = match long_size {
            Some(size) if !is_extension => size,
            _ => header.size().ok_or_else(|| damaged("has an impossible size"))?,
        };
        if is_extension && size > MAX_EXTENSION {
            return Err(damaged("is of an impossible length"));
        }
        let start = offset + BLOCK;
        let data = start
            .checked_add(size)
            .filter(|end| *end <= bytes.len())
            .map(|end| start..end)
            .ok_or_else(|| truncated_message(bytes))?;
        let next = data.end.next_multiple_of(BLOCK);
        match header.kind() {
            b'L' => {
                let name = &bytes[data];
                long_name = Some(name.split(|byte| *byte == 0).next().unwrap_or(name));
            }
            b'x' => {
                for record in Records(&bytes[data]) {
                    let (key, value) = record.ok_or_else(|| damaged("has damaged pax records"))?;
                    match key {
                        b"path" => long_name = Some(value),
                        b"size" => {
                            let size = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
                            long_size = Some(size.ok_or_else(|| damaged("has an impossible size"))?);
                        }
                        _ if key.starts_with(b"GNU.sparse.") => return Err(sparse_message(offset)),
                        _ => {}
                    }
                }
            }
            // `K` is a long name of a link target; `g` has records that apply to all members, such as a comment.
            b'K' | b'g' => {}
            b'S' => return Err(sparse_message(offset)),
            // Members without data: links, devices, directories, pipes, volume labels.
            b'1'..=b'6' | b'V' if size != 0 => return Err(damaged("has data, but a member of its type has none")),
            kind @ (b'0' | 0 | b'7' | b'1'..=b'6' | b'V') => {
                let name = long_name.map_or_else(|| header.name(), Cow::Borrowed);
                if name.len() > MAX_NAME {
                    return Err(damaged("has a name of impossible length"));
                }
                return Ok(Some(Member {
                    // In pre-POSIX archives a directory is a file whose name ends in a slash.
                    is_file: matches!(kind, b'0' | 0 | b'7') && !name.ends_with(b"/"),
                    name,
                    data,
                    next,
                }));
            }
            other => {
                return Err(format!(
                    "the tar member at byte {offset} is of the unknown type {:?}; make the file again with a current tar",
                    char::from(other)
                ));
            }
        }
        offset = next;
    }
    Err(format!(
        "the tar header at byte {offset} follows too many extension headers; the file is damaged, make or copy it again"
    ))
}

fn truncated_message(bytes: &[u8]) -> String {
    let size = bytes.len();
    format!(
        "it is cut short (its members need more than its {size} bytes, or it has no end mark); copy or make it again"
    )
}

fn sparse_message(offset: usize) -> String {
    format!("the tar member at byte {offset} is a sparse file; make the file again without --sparse")
}

/// A header block.
struct Header<'a>(&'a [u8]);

impl<'a> Header<'a> {
    /// Reads the header at `offset` and verifies its checksum. Returns `None` at the end mark, a block of zeros.
    fn read(bytes: &'a [u8], offset: usize) -> Result<Option<Self>, String> {
        let block = offset.checked_add(BLOCK).and_then(|end| bytes.get(offset..end));
        let block = match block {
            Some(block) => block,
            None if offset == 0 => return Err(not_a_tar_message(bytes)),
            None => return Err(truncated_message(bytes)),
        };
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let is_checksum = |position: &usize| (148..156).contains(position);
        let sum = |value: fn(u8) -> i64| -> i64 {
            let values = block.iter().enumerate();
            values
                .map(|(i, byte)| value(if is_checksum(&i) { b' ' } else { *byte }))
                .sum()
        };
        let stored = number(&block[148..156]).and_then(|sum| i64::try_from(sum).ok());
        // Some old programs sum signed bytes.
        if stored != Some(sum(i64::from)) && stored != Some(sum(|byte| i64::from(byte as i8))) {
            return Err(match offset {
                0 => not_a_tar_message(bytes),
                _ => format!(
                    "the tar header at byte {offset} has a wrong checksum; the file is damaged, make or copy it again"
                ),
            });
        }
        Ok(Some(Self(block)))
    }

    /// The type flag of the member.
    fn kind(&self) -> u8 {
        self.0[156]
    }

    fn size(&self) -> Option<usize> {
        usize::try_from(number(&self.0[124..136])?).ok()
    }

    fn name(&self) -> Cow<'a, [u8]> {
        let text = |range: Range<usize>| {
            let field = &self.0[range];
            &field[..field.iter().position(|byte| *byte == 0).unwrap_or(field.len())]
        };
        let (name, prefix) = (text(0..100), text(345..500));
        // GNU's format has other fields at the position of the prefix.
        if &self.0[257..263] != b"ustar\0" || prefix.is_empty() {
            return Cow::Borrowed(name);
        }
        Cow::Owned([prefix, b"/", name].concat())
    }
}

fn not_a_tar_message(bytes: &[u8]) -> String {
    match bytes {
        [] => "it is empty; make or copy the file again".into(),
        _ => "it is not a tar file (it does not begin with a tar header)".into(),
    }
}

/// Parses a numeric field: octal digits, or GNU's binary form for larger numbers.
fn number(field: &[u8]) -> Option<u64> {
    if let [0x80, rest @ ..] = field {
        return rest
            .iter()
            .try_fold(0u64, |value, byte| Some(value.checked_mul(256)? | u64::from(*byte)));
    }
    let is_blank = |byte: &u8| matches!(byte, b' ' | 0);
    let start = field.iter().position(|byte| !is_blank(byte)).unwrap_or(field.len());
    let digits = field[start..].split(is_blank).next()?;
    digits.iter().try_fold(0u64, |value, byte| match byte {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(u64::from(byte - b'0')),
        _ => None,
    })
}

/// Iterates over the records `LENGTH KEY=VALUE\n` of a pax header. A damaged record is `None` and ends the iteration.
struct Records<'a>(&'a [u8]);

impl<'a> Iterator for Records<'a> {
    type Item = Option<(&'a [u8], &'a [u8])>;

    fn next(&mut self) -> Option<Self::Item> {
        let bytes = std::mem::take(&mut self.0);
        if bytes.is_empty() {
            return None;
        }
        let record = || {
            let space = bytes.iter().take(20).position(|byte| *byte == b' ')?;
            let length: usize = std::str::from_utf8(&bytes[..space]).ok()?.parse().ok()?;
            let text = bytes.get(space + 1..length)?.strip_suffix(b"\n")?;
            let equals = text.iter().position(|byte| *byte == b'=')?;
            Some((length, &text[..equals], &text[equals + 1..]))
        };
        Some(record().map(|(length, key, value)| {
            self.0 = &bytes[length..];
            (key, value)
        }))
    }
}
