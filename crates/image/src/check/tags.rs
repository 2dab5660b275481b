//! Pillow's warnings about TIFF tags. EXIF tags of JPEG files have the same format.

/// The warning for a tag directory (IFD) that extends beyond the end of the file.
const TRUNCATED: &str = "damaged tags (EXIF)";
/// The warning for a resolution of several values.
const SEVERAL_RESOLUTIONS: &str = "several resolutions in the tags (EXIF)";

const X_RESOLUTION: u16 = 0x011a;
const RESOLUTION_UNIT: u16 = 0x0128;

/// A reader of integers in the byte order of the file.
#[derive(Clone, Copy)]
struct Input<'a> {
    bytes: &'a [u8],
    big_endian: bool,
}

impl Input<'_> {
    fn u16(self, offset: usize) -> Option<u16> {
        let bytes = *self.bytes.get(offset..)?.first_chunk()?;
        Some(if self.big_endian {
            u16::from_be_bytes(bytes)
        } else {
            u16::from_le_bytes(bytes)
        })
    }

    fn u32(self, offset: usize) -> Option<u32> {
        let bytes = *self.bytes.get(offset..)?.first_chunk()?;
        Some(if self.big_endian {
            u32::from_be_bytes(bytes)
        } else {
            u32::from_le_bytes(bytes)
        })
    }
}

/// Returns the warning of Pillow about the first tag directory (`ImageFileDirectory_v2.load` in `TiffImagePlugin.py`) or about its
/// resolution, or `None` if Pillow does not warn. Without a valid header, Pillow reads nothing and does not warn.
pub(super) fn flaw(bytes: &[u8]) -> Option<&'static str> {
    let big_endian = match bytes.first_chunk()? {
        // Pillow also accepts the second form of each byte order, which is invalid.
        b"MM\0\x2a" | b"MM\x2a\0" => true,
        b"II\x2a\0" | b"II\0\x2a" => false,
        _ => return None,
    };
    let input = Input { bytes, big_endian };
    let directory = input.u32(4)?;
    match read_directory(input, directory as usize) {
        None => Some(TRUNCATED),
        Some(ResolutionCounts { unit: Some(unit), x }) if unit > 1 || x > Some(1) => Some(SEVERAL_RESOLUTIONS),
        Some(_) => None,
    }
}

/// For each resolution tag, its number of values. Pillow reads the unit first, and the resolution only if there is a unit.
#[derive(Default)]
struct ResolutionCounts {
    unit: Option<u32>,
    x: Option<u32>,
}

/// Reads a tag directory. Returns `None` if the directory or one of its values extends beyond the end of the file.
fn read_directory(input: Input<'_>, offset: usize) -> Option<ResolutionCounts> {
    const ENTRY: usize = 12;
    let mut resolution = ResolutionCounts::default();
    let entries = usize::from(input.u16(offset)?);
    let first = offset.checked_add(2)?;
    for entry in (0..entries).map(|i| first.saturating_add(i * ENTRY)) {
        let (tag, kind, count) = (input.u16(entry)?, input.u16(entry + 2)?, input.u32(entry + 4)?);
        let value = input.u32(entry + 8)?;
        let Some(size) = size_of_kind(kind) else {
            continue;
        };
        let size = u64::from(count) * size;
        if size > 4 && u64::from(value) + size > input.bytes.len() as u64 {
            return None;
        }
        // A text or a sequence of raw bytes is one value.
        let values = if matches!(kind, 1 | 2 | 7) { count.min(1) } else { count };
        match tag {
            _ if values == 0 => {}
            X_RESOLUTION => resolution.x = Some(values),
            RESOLUTION_UNIT => resolution.unit = Some(values),
            _ => {}
        }
    }
    // The offset of the next directory is not used, but Pillow warns if it is missing.
    input.u32(first + entries * ENTRY)?;
    Some(resolution)
}

/// Returns the size in bytes of a value of the TIFF type `kind`, or `None` for types that Pillow skips.
fn size_of_kind(kind: u16) -> Option<u64> {
    match kind {
        1 | 2 | 6 | 7 => Some(1),
        3 | 8 => Some(2),
        4 | 9 | 11 | 13 => Some(4),
        5 | 10 | 12 => Some(8),
        _ => None,
    }
}
