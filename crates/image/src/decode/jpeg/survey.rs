//! A look at the segments of a JPEG file, before it is decoded.

const END_OF_IMAGE: u8 = 0xd9;
const START_OF_SCAN: u8 = 0xda;

/// Iterates over the markers and contents of the segments before the pixels. Ends early at bytes that are not a segment.
pub(crate) fn segments(bytes: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    let mut rest = bytes.get(2..).unwrap_or_default();
    std::iter::from_fn(move || {
        let fill = rest.iter().take_while(|b| **b == 0xff).count();
        let (marker, after) = rest.get(fill..)?.split_first()?;
        let (length, _) = after.split_first_chunk::<2>()?;
        let length = usize::from(u16::from_be_bytes(*length));
        let segment = after.get(2..length)?;
        rest = &after[length..];
        (fill > 0 && *marker != START_OF_SCAN).then_some((*marker, segment))
    })
}

/// The parts of the segments that decide whether a layout is common.
#[derive(Default)]
struct Layout<'a> {
    frame: Option<(u8, &'a [u8])>,
    has_jfif: bool,
    adobe: Option<&'a [u8]>,
    has_huffman_tables: bool,
    first_scan: Option<&'a [u8]>,
    scans: usize,
    is_odd: bool,
}

/// Returns whether a file is complete and its layout one that `zune-jpeg` decodes as libjpeg does: grey, or YCbCr with usual sampling
/// factors, in usual order.
///
/// Segments are skipped by their length, so the end marker of a thumbnail inside a segment does not count. Bytes after the end marker
/// are ignored.
pub(super) fn is_common(bytes: &[u8]) -> bool {
    let mut layout = Layout::default();
    let mut rest = bytes.get(2..).unwrap_or_default();
    let mut is_complete = false;
    // Both entropy-coded data and stray bytes between segments run up to the next FF.
    while let Some(start) = memchr::memchr(0xff, rest) {
        layout.is_odd |= start > 0 && layout.scans == 0;
        rest = &rest[start..];
        let Some(fill) = rest.iter().position(|&b| b != 0xff) else {
            break;
        };
        let marker = rest[fill];
        rest = &rest[fill + 1..];
        match marker {
            END_OF_IMAGE => {
                is_complete = true;
                break;
            }
            // A stuffed zero, a restart marker, or a marker without a length: no segment follows.
            0x00 | 0x01 | 0xd0..=0xd8 => layout.is_odd |= layout.scans == 0,
            _ => {
                let Some((length, _)) = rest.split_first_chunk::<2>() else {
                    break;
                };
                let length = usize::from(u16::from_be_bytes(*length));
                let Some((segment, after)) = rest.split_at_checked(length) else {
                    break;
                };
                layout.add(marker, segment.get(2..));
                rest = after;
            }
        }
    }
    is_complete && layout.is_common()
}

impl<'a> Layout<'a> {
    fn add(&mut self, marker: u8, content: Option<&'a [u8]>) {
        let Some(content) = content else {
            self.is_odd = true;
            return;
        };
        match marker {
            // Application data and comments.
            0xe0 => self.has_jfif |= content.len() >= 14 && content.starts_with(b"JFIF\0"),
            0xee if content.starts_with(b"Adobe") => {
                self.is_odd |= self.adobe.is_some();
                self.adobe = Some(content);
            }
            0xe1..=0xef | 0xfe => {}
            START_OF_SCAN => {
                self.first_scan.get_or_insert(content);
                self.scans += 1;
            }
            0xc4 if self.scans == 0 => self.has_huffman_tables = true,
            // Progressive files have other Huffman tables for each scan.
            0xc4 => {}
            0xc0..=0xc2 if self.frame.is_none() && self.scans == 0 => self.frame = Some((marker, content)),
            0xdb | 0xdd if self.scans == 0 => {}
            _ => self.is_odd = true,
        }
    }

    fn is_common(&self) -> bool {
        const PROGRESSIVE: u8 = 0xc2;
        const SMALL: u16 = 16;
        let (Some((marker, frame)), Some(scan)) = (self.frame, self.first_scan) else {
            return false;
        };
        if self.is_odd || !self.has_huffman_tables {
            return false;
        }
        let Some((&[precision, h1, h0, w1, w0, count], components)) = frame.split_first_chunk::<6>() else {
            return false;
        };
        let has_common_components = match *components {
            [_, 0x11, _] => true,
            [a, sampling, _, b, 0x11, _, c, 0x11, _] => {
                matches!(sampling, 0x11 | 0x12 | 0x21 | 0x22) && a != b && b != c && a != c
            }
            _ => false,
        };
        // A sequential file has one scan with all components in their order.
        let ids = components.chunks_exact(3).map(|component| component[0]);
        let scanned = scan
            .get(1..)
            .unwrap_or_default()
            .chunks_exact(2)
            .map(|selector| selector[0]);
        let is_one_scan =
            self.scans == 1 && scan.first() == Some(&count) && scanned.take(usize::from(count)).eq(ids.clone());
        // zune-jpeg takes three components for RGB if an Adobe marker says so, or if their ids are the letters.
        let has_common_colours = match self.adobe {
            Some(content) => count == 3 && content.len() >= 12 && content[11] == 1 && !ids.eq(*b"RGB"),
            None => !ids.eq(*b"RGB"),
        };
        // zune-jpeg enlarges the chroma of small images differently.
        let is_large = [u16::from_be_bytes([h1, h0]), u16::from_be_bytes([w1, w0])]
            .iter()
            .all(|&side| side >= SMALL);
        precision == 8
            && has_common_components
            && has_common_colours
            && is_large
            && (marker == PROGRESSIVE || is_one_scan)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_usual_encoders_are_common() {
        let directory = vlct_golden::directories("images").remove(0);
        for (name, common) in [
            ("q90_420.jpg", true),
            ("q80_422.jpg", true),
            ("q75_444.jpg", true),
            ("gray.jpg", true),
            ("progressive.jpg", true),
            ("restart.jpg", true),
            ("rotated_exif.jpg", true),
            ("cmyk.jpg", false),
            ("rgb_stored.jpg", false),
        ] {
            let bytes = std::fs::read(directory.join(name)).unwrap();
            assert_eq!(is_common(&bytes), common, "{name}");
            assert!(!is_common(&bytes[..bytes.len() - 1]), "{name}");
            assert!(!is_common(&bytes[..bytes.len() / 2]), "{name}");
            assert_eq!(is_common(&[&bytes[..], b"trailing"].concat()), common, "{name}");
        }
    }

    #[test]
    fn end_marker_counts_only_outside_segments() {
        let bytes = std::fs::read(vlct_golden::directories("images")[0].join("q90_420.jpg")).unwrap();
        let thumbnail = [&[0xff, 0xd8][..], &[0xff, 0xe1, 0, 4, 0xff, 0xd9], &bytes[2..]].concat();
        assert!(is_common(&thumbnail));
        assert!(!is_common(&thumbnail[..thumbnail.len() - 2]));
        // A segment of length zero is skipped by no byte, a segment that exceeds the file ends it.
        assert!(!is_common(&[0xff, 0xd8, 0xff, 0xe0, 0, 0, 0xff, 0xd9]));
        assert!(!is_common(&[0xff, 0xd8, 0xff, 0xe0, 0xff, 0xff, 0xff, 0xd9]));
    }
}
