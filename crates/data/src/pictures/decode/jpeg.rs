//! Is a JPEG file whole? The pixel decoder fills what is missing with grey; Pillow refuses such files.

/// Whether the end marker (`FF D9`) is reached when walking the file as a JPEG reader does: segments are skipped by
/// their length, so a thumbnail's end marker inside one does not count, and bytes after the end marker do not matter.
pub(super) fn is_complete(bytes: &[u8]) -> bool {
    const END: u8 = 0xd9;
    let mut rest = bytes.get(2..).unwrap_or_default();
    loop {
        // Both entropy-coded data and stray bytes between segments run up to the next FF.
        let Some(start) = memchr::memchr(0xff, rest) else {
            return false;
        };
        rest = &rest[start..];
        let Some(fill) = rest.iter().position(|&b| b != 0xff) else {
            return false;
        };
        let marker = rest[fill];
        rest = &rest[fill + 1..];
        match marker {
            END => return true,
            // A stuffed zero, a restart, a start without length: no segment follows.
            0x00 | 0x01 | 0xd0..=0xd8 => {}
            _ => {
                let Some((length, _)) = rest.split_first_chunk::<2>() else {
                    return false;
                };
                let length = usize::from(u16::from_be_bytes(*length));
                let Some(after) = rest.get(length..) else {
                    return false;
                };
                rest = after;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn end_marker_counts_only_outside_of_segments() {
        let start = [0xff, 0xd8];
        let thumbnail = [0xff, 0xe1, 0x00, 0x04, 0xff, 0xd9];
        let scan = [0xff, 0xda, 0x00, 0x02, 1, 2, 0xff, 0x00, 3, 0xff, 0xd0, 4];
        let whole = [&start[..], &thumbnail, &scan, &[0xff, 0xff, 0xd9], b"trailing"].concat();
        assert!(is_complete(&whole));
        for cut in 0..whole.len() - b"trailing".len() {
            assert!(!is_complete(&whole[..cut]), "cut at {cut}");
        }
    }

    #[test]
    fn absurd_segment_lengths_end_the_walk() {
        assert!(!is_complete(&[0xff, 0xd8, 0xff, 0xe0, 0xff, 0xff, 0xff, 0xd9]));
        assert!(is_complete(&[0xff, 0xd8, 0xff, 0xe0, 0x00, 0x00, 0xff, 0xd9]));
    }
}
