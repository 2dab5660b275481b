//! Comparison with Pillow on thousands of small files of every layout that the formats allow.
//!
//! `cases.bin` has the files and what Pillow 13 (libjpeg-turbo 3.2, libtiff 4.7, libwebp 1.6) makes of them; `generator` writes it, and
//! its `generate.py` describes the format. Deviations are listed here, by kind and number.

use std::collections::BTreeMap;

use vlct_image::check::{Flaw, check};
use vlct_image::{Background, ImageError, Orientation, Reading, decode_with};

/// What Pillow makes of a file.
enum Expected {
    Refused,
    Decoded {
        warned: bool,
        size: (u32, u32),
        transparent: bool,
        pixels: Pixels,
    },
}

enum Pixels {
    /// CRC-32 of RGB.
    Checksum(u32),
    Rgb(Vec<u8>),
}

struct Case {
    name: String,
    file: Vec<u8>,
    /// With alpha dropped, as stored.
    published: Expected,
    /// Upright over white, if it is recorded.
    over_white: Option<Expected>,
}

/// A difference from Pillow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Deviation {
    /// Pillow rejects the file, this crate reads it.
    ReadHere,
    /// Pillow reads the file, this crate does not, and says so.
    NotReadHere,
    /// Other pixels.
    Pixels,
}

/// The deviations: kind, words that the names of the files have, number of files, reason.
#[rustfmt::skip]
const LISTED: &[(Deviation, &[&str], usize, &str)] = &[
    (Deviation::NotReadHere, &["jpeg frame c9"], 4, "arithmetic coding"),
    (Deviation::NotReadHere, &["tiff", "planes"], 12, "uncompressed planes of 16 bits, which Pillow reads as planes of 8"),
    (Deviation::NotReadHere, &["tiff photometric 6", "predictor"], 4, "YCbCr with a predictor"),
    (Deviation::NotReadHere, &["tiff saved", "lzma"], 60, "LZMA"),
    (Deviation::NotReadHere, &["tiff saved", "tiff_ccitt"], 5, "modified Huffman codes"),
    (Deviation::NotReadHere, &["tiff subsampled 4x4"], 24, "chroma of a quarter of the rows"),
    (Deviation::Pixels, &["jpeg progressive"], 6, "unfinished progressive files, which libjpeg smoothes"),
    (Deviation::Pixels, &["jpeg ids", "progressive"], 14, "unfinished too: their scans are all of one component"),
    (Deviation::Pixels, &["jpeg damaged"], 1, "damaged: other pixels are grey"),
    (Deviation::Pixels, &["tiff float", "big True"], 10, "Pillow swaps the bytes of compressed big-endian numbers"),
    (Deviation::Pixels, &["tiff photometric 1", "format 2 big True"], 14, "as before"),
    (Deviation::Pixels, &["tiff photometric 1 2x8 extra (2,)", "planes deflated"], 4, "Pillow loses the opacities of compressed planes of grey"),
    (Deviation::Pixels, &["tiff saved LAB"], 24, "Pillow converts with tables of LittleCMS"),
    (Deviation::ReadHere, &["jpeg markers", "adobe five"], 16, "an Adobe segment that ends early"),
    (Deviation::ReadHere, &["jpeg marker 01"], 4, "a marker without meaning"),
    (Deviation::ReadHere, &["gif damaged"], 2, "damaged codes"),
    (Deviation::ReadHere, &["png chunk"], 38, "chunks that end early; check-images calls them damaged"),
    (Deviation::ReadHere, &["png short tRNS"], 4, "as before"),
    (Deviation::ReadHere, &["png palette of 300"], 2, "too many colours"),
    (Deviation::ReadHere, &["tiff", "fill"], 172, "reversed bits in more layouts"),
    (Deviation::ReadHere, &["tiff", "planes"], 72, "planes in more layouts"),
    (Deviation::ReadHere, &["tiff photometric 6"], 12, "YCbCr whose data has another size"),
    (Deviation::ReadHere, &["tiff subsampled"], 40, "YCbCr of a single pixel or row"),
    (Deviation::ReadHere, &["tiff large big"], 2, "BigTIFF of another byte order"),
    (Deviation::ReadHere, &["tiff odd"], 2, "no rows per strip, a width of one byte"),
    (Deviation::ReadHere, &["tiff wrong magic"], 2, "compressed files with a wrong version"),
    (Deviation::ReadHere, &["pnm tail"], 10, "plain files with other text after the image"),
    (Deviation::ReadHere, &["webp cut 1 stated exact"], 4, "lossless data without its last byte"),
];

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(length);
        self.0 = rest;
        taken
    }

    fn u8(&mut self) -> u8 {
        self.take(1)[0]
    }

    fn u16(&mut self) -> u32 {
        u16::from_le_bytes(self.take(2).try_into().unwrap()).into()
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take(4).try_into().unwrap())
    }

    fn expected(&mut self, is_lossy: bool) -> Option<Expected> {
        let status = self.u8();
        match status {
            1 => return Some(Expected::Refused),
            3 => return None,
            _ => {}
        }
        let size = (self.u16(), self.u16());
        let transparent = self.u8() == 1;
        let pixels = if is_lossy {
            Pixels::Rgb(self.take(3 * (size.0 * size.1) as usize).to_vec())
        } else {
            Pixels::Checksum(self.u32())
        };
        Some(Expected::Decoded {
            warned: status == 2,
            size,
            transparent,
            pixels,
        })
    }
}

fn cases() -> Vec<Case> {
    let mut bytes = Vec::new();
    let packed = &include_bytes!("cases.bin")[..];
    std::io::copy(&mut flate2::read::ZlibDecoder::new(packed), &mut bytes).unwrap();
    let mut reader = Reader(&bytes);
    let mut cases = Vec::new();
    while !reader.0.is_empty() {
        let length = reader.u8().into();
        let name = String::from_utf8(reader.take(length).to_vec()).unwrap();
        let length = reader.u32() as usize;
        let file = reader.take(length).to_vec();
        let is_lossy = name.starts_with("jpeg") || (name.starts_with("webp") && file.windows(4).any(|w| w == b"VP8 "));
        cases.push(Case {
            published: reader.expected(is_lossy).expect("recorded"),
            over_white: reader.expected(is_lossy),
            name,
            file,
        });
    }
    cases
}

/// Decodes a file, and returns the deviation from what is expected.
///
/// # Panics
/// Panics if the file is called damaged although Pillow reads it.
fn compare(name: &str, file: &[u8], reading: Reading, expected: &Expected) -> Option<Deviation> {
    let (size, transparent, pixels) = match (decode_with(file, reading), expected) {
        (Err(_), Expected::Refused) => return None,
        (Ok(_), Expected::Refused) => return Some(Deviation::ReadHere),
        (Err(ImageError::Unsupported(_)), _) => return Some(Deviation::NotReadHere),
        (Err(error), _) => panic!("{name}: Pillow reads it: {error}"),
        (
            Ok(decoded),
            Expected::Decoded {
                size,
                transparent,
                pixels,
                ..
            },
        ) => {
            let found = (
                decoded.image.dimensions(),
                decoded.transparent,
                decoded.image.into_raw(),
            );
            let is_over_white = reading.background != Background::Keep;
            let same_opacity = !is_over_white || found.1 == *transparent;
            let same = match pixels {
                Pixels::Checksum(checksum) => crc32fast::hash(&found.2) == *checksum,
                Pixels::Rgb(rgb) => found.2.len() == rgb.len() && mean_difference(&found.2, rgb) <= 1.0,
            };
            (found.0 == *size, same_opacity, same)
        }
    };
    (!(size && transparent && pixels)).then_some(Deviation::Pixels)
}

fn mean_difference(a: &[u8], b: &[u8]) -> f64 {
    let sum: u64 = a.iter().zip(b).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
    sum as f64 / a.len() as f64
}

#[test]
fn files_are_read_as_by_pillow_except_for_listed_kinds() {
    let over_white = Reading {
        background: Background::WHITE,
        orientation: Orientation::Upright,
    };
    let cases = cases();
    let mut found = vec![0; LISTED.len()];
    let (mut counts, mut unlisted) = (BTreeMap::<&str, [usize; 4]>::new(), Vec::new());
    for case in &cases {
        let count = counts.entry(case.name.split(' ').next().unwrap()).or_default();
        count[0] += 1;
        count[1] += usize::from(case.over_white.is_some());
        let published = compare(&case.name, &case.file, Reading::default(), &case.published);
        let second = case
            .over_white
            .as_ref()
            .and_then(|expected| compare(&case.name, &case.file, over_white, expected));
        for deviation in [published, second].into_iter().flatten() {
            count[2] += usize::from(deviation == Deviation::Pixels);
            count[3] += usize::from(deviation == Deviation::NotReadHere);
            let is_listed = |(kind, words, ..): &(Deviation, &[&str], usize, &str)| {
                *kind == deviation && words.iter().all(|word| case.name.contains(word))
            };
            match LISTED.iter().position(is_listed) {
                Some(i) => found[i] += 1,
                None => unlisted.push(format!("{deviation:?}: {}", case.name)),
            }
        }
    }
    for (format, [files, both, pixels, refused]) in counts {
        println!("{format}: {files} files, {both} also over white; {pixels} differ, {refused} are not read here");
    }
    assert!(
        unlisted.is_empty(),
        "{} deviations are not listed:\n{}",
        unlisted.len(),
        unlisted.join("\n")
    );
    let listed: Vec<usize> = LISTED.iter().map(|(.., count, _)| *count).collect();
    assert_eq!(found, listed, "numbers of the listed deviations");
    assert!(cases.len() > 8_000);
}

/// `check` calls nothing bad that Pillow reads without a warning, and nothing damaged that Pillow reads.
#[test]
fn nothing_that_pillow_reads_is_bad() {
    for Case {
        name, file, published, ..
    } in cases()
    {
        let flaw = check(&file);
        match (&flaw, &published) {
            (Some(Flaw::Damaged(_)), Expected::Decoded { .. })
            | (Some(Flaw::Warning(_)), Expected::Decoded { warned: false, .. }) => panic!("{name}: {flaw:?}"),
            _ => {}
        }
    }
}

/// Damage of these files gives an image or an error of one line, and no decoder panics.
#[test]
fn damaged_files_give_results_or_errors() {
    let mut state = 1u64;
    let mut random = |limit: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % limit
    };
    for Case { name, file, .. } in cases() {
        let mut damaged = file.clone();
        for _ in 0..1 + random(3) {
            let position = random(file.len());
            damaged[position] = random(256) as u8;
        }
        if random(4) == 0 {
            damaged.truncate(random(file.len()));
        }
        if let Err(error) = decode_with(&damaged, Reading::default()) {
            let message = error.to_string();
            assert!(!message.contains('\n'), "{name}: {message}");
            assert!(!message.contains("the decoder failed"), "{name}: {message}");
        }
    }
}
