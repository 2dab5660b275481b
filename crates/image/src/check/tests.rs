use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::*;
use crate::encode_png;

/// Returns the path of the golden copy of the file that the original checked as `path`.
fn golden_file(prepare: &Path, path: &str) -> PathBuf {
    let (set, rest) = path.split_once('/').unwrap();
    prepare.join(set.to_lowercase()).join("raw").join(rest)
}

#[test]
fn verdicts_and_causes_equal_those_of_the_original() {
    for directory in vlct_golden::directories("prepare") {
        let expected = vlct_golden::json(directory.join("check_valid_images/expected/check_valid_images.json"));
        for file in expected["files"].as_array().unwrap() {
            let path = golden_file(&directory, file["path"].as_str().unwrap());
            let cause = match Checker::new(false).check(&path) {
                Verdict::Fine => None,
                // The original rejects texts and tables as well.
                Verdict::Data => Some("error"),
                Verdict::Bad(Flaw::TooLarge(_)) => Some("warning"),
                Verdict::Bad(Flaw::Damaged(_)) => Some("error"),
                Verdict::Bad(Flaw::Warning(_)) => Some("warning"),
                Verdict::Bad(Flaw::Unsupported(reason)) | Verdict::Unsupported(reason) => {
                    panic!("{}: {reason}", path.display())
                }
                Verdict::Unreadable(error) => panic!("{}: {error}", path.display()),
            };
            assert_eq!(cause, file["cause"].as_str(), "{}", path.display());
        }
    }
}

#[test]
fn tolerates_warnings_on_request() {
    let directory = vlct_golden::directories("prepare").remove(0);
    for (file, tolerated) in [
        ("7e7e_edge05.png", true),
        ("7e7e_edge07.jpg", true),
        ("7e7e_edge01.jpg", false),
    ] {
        let path = golden_file(&directory, &format!("GCC/images_train/7e7e/{file}"));
        assert!(matches!(Checker::new(false).check(&path), Verdict::Bad(_)), "{file}");
        assert_eq!(
            matches!(Checker::new(true).check(&path), Verdict::Fine),
            tolerated,
            "{file}"
        );
    }
}

#[test]
fn files_that_only_this_crate_cannot_read_are_not_bad() {
    let directory = tempfile::tempdir().unwrap();
    let golden = vlct_golden::directories("images").remove(0);
    let mut arithmetic = std::fs::read(golden.join("q90_420.jpg")).unwrap();
    let frame = arithmetic.windows(2).position(|w| w == [0xff, 0xc0]).unwrap();
    arithmetic[frame + 1] = 0xc9;
    for (name, bytes, reason) in [
        ("photo.heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic".to_vec(), "HEIC"),
        ("web.avif", b"\0\0\0\x1cftypavif\0\0\0\0".to_vec(), "AVIF"),
        ("depths.pfm", b"Pf 1 1 -1 abcd".to_vec(), "PFM"),
        ("arithmetic.jpg", arithmetic, "arithmetic coding"),
    ] {
        let path = directory.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        for tolerate_warnings in [false, true] {
            match Checker::new(tolerate_warnings).check(&path) {
                Verdict::Unsupported(found) => assert!(found.contains(reason), "{found}"),
                other => panic!("{name}: {other:?}"),
            }
        }
    }
}

#[test]
fn large_images_are_bad_unless_pillow_only_warns_and_warnings_are_tolerated() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("large.bmp");
    for (width, height, published, tolerated) in [
        (9_460u32, 9_460u32, "bad", "unsupported"),
        (20_000, 20_000, "bad", "bad"),
        (70_000, 2, "unsupported", "unsupported"),
    ] {
        let mut bytes = std::fs::read(vlct_golden::directories("images")[0].join("rgb.bmp")).unwrap();
        bytes[18..22].copy_from_slice(&width.to_le_bytes());
        bytes[22..26].copy_from_slice(&height.to_le_bytes());
        std::fs::write(&path, bytes).unwrap();
        for (tolerate_warnings, expected) in [(false, published), (true, tolerated)] {
            let found = match Checker::new(tolerate_warnings).check(&path) {
                Verdict::Bad(_) => "bad",
                Verdict::Unsupported(_) => "unsupported",
                other => panic!("{other:?}"),
            };
            assert_eq!(found, expected, "{width}x{height}, {tolerate_warnings}");
        }
    }
}

/// Returns a little-endian directory of tags with `entries` of (tag, type, count, value or offset).
fn tags(entries: &[(u16, u16, u32, u32)]) -> Vec<u8> {
    let mut bytes = b"II\x2a\0\x08\0\0\0".to_vec();
    bytes.extend((entries.len() as u16).to_le_bytes());
    for (tag, kind, count, value) in entries {
        bytes.extend([tag.to_le_bytes(), kind.to_le_bytes()].concat());
        bytes.extend([count.to_le_bytes(), value.to_le_bytes()].concat());
    }
    bytes.extend([0; 4]);
    bytes
}

/// Returns a JPEG file that begins with `segments` in place of the JFIF header of the encoder.
fn jpeg(segments: &[(u8, &[u8])]) -> Vec<u8> {
    let image = crate::RgbImage::new(8, 8);
    let file = crate::encode_jpeg(&image, 90).unwrap();
    let header_end = 2 + if file[3] == 0xe0 {
        2 + usize::from(u16::from_be_bytes([file[4], file[5]]))
    } else {
        0
    };
    let mut bytes = file[..2].to_vec();
    for (marker, data) in segments {
        bytes.extend([0xff, *marker]);
        bytes.extend((data.len() as u16 + 2).to_be_bytes());
        bytes.extend(*data);
    }
    bytes.extend(&file[header_end..]);
    bytes
}

#[test]
fn damaged_exif_is_a_warning_unless_jfif_has_the_resolution() {
    let jfif = |unit: u8| [b"JFIF\0\x01\x01".as_slice(), &[unit, 0, 72, 0, 72, 0, 0]].concat();
    let exif = |tags: &[u8]| [b"Exif\0\0", tags].concat();
    let complete = exif(&tags(&[(0x0112, 3, 1, 6), (0x011a, 5, 1, 18), (0x0128, 3, 1, 2)]));
    let cut = exif(&tags(&[(0x010f, 2, 4000, 9000)]));
    let has_warning = |segments: &[(u8, &[u8])]| match check(&jpeg(segments)) {
        None => false,
        Some(Flaw::Warning(_)) => true,
        Some(Flaw::Damaged(reason) | Flaw::Unsupported(reason) | Flaw::TooLarge(reason)) => panic!("{reason}"),
    };
    assert!(!has_warning(&[]));
    assert!(!has_warning(&[(0xe1, &complete)]));
    assert!(has_warning(&[(0xe1, &cut)]));
    assert!(has_warning(&[(0xe0, &jfif(0)), (0xe1, &cut)]));
    assert!(has_warning(&[(0xe0, &jfif(2)), (0xe1, &cut)]));
    assert!(!has_warning(&[(0xe0, &jfif(1)), (0xe1, &cut)]));
    assert!(!has_warning(&[(0xe1, &cut), (0xe0, &jfif(1))]));
    // The first of several EXIF segments counts.
    assert!(!has_warning(&[(0xe1, &complete), (0xe1, &cut)]));
    assert!(!has_warning(&[(0xe1, &exif(b"no tags at all"))]));
    // The offset of the next directory is missing, or an entry is truncated.
    assert!(has_warning(&[(0xe1, &complete[..complete.len() - 1])]));
    assert!(has_warning(&[(0xe1, &complete[..30])]));
    // Unknown types are skipped; a resolution of several values is a warning.
    assert!(!has_warning(&[(0xe1, &exif(&tags(&[(0x010f, 99, 4000, 9000)])))]));
    assert!(has_warning(&[(0xe1, &exif(&tags(&[(0x0128, 3, 2, 2)])))]));
    assert!(has_warning(&[(
        0xe1,
        &exif(&tags(&[(0x0128, 3, 1, 2), (0x011a, 3, 2, 2)]))
    )]));
    assert!(!has_warning(&[(0xe1, &exif(&tags(&[(0x011a, 3, 2, 2)])))]));
}

/// Returns a PNG file with a chunk inserted before the pixels.
fn png(colour_type: u8, kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let file = encode_png(&crate::RgbImage::new(4, 4)).unwrap();
    let chunk = |kind: &[u8; 4], data: &[u8]| {
        let body = [kind, data].concat();
        [
            &(data.len() as u32).to_be_bytes()[..],
            &body,
            &crc32fast::hash(&body).to_be_bytes(),
        ]
        .concat()
    };
    let mut header = file[16..29].to_vec();
    header[9] = colour_type;
    let palette = if colour_type == 3 {
        chunk(b"PLTE", &[7; 768])
    } else {
        Vec::new()
    };
    // Rows of an RGB image are long enough for every colour type.
    [
        &file[..8],
        &chunk(b"IHDR", &header),
        &palette,
        &chunk(kind, data),
        &file[33..],
    ]
    .concat()
}

#[test]
fn detects_invalid_png_transparency_and_animation_chunks() {
    let flaw = |colour_type, kind, data: &[u8]| png_flaw(&png(colour_type, kind, data));
    for (opacities, fine) in [
        (&[255, 0, 255][..], true),
        (&[0], true),
        (&[255, 0, b'\n'], true),
        (&[], false),
        (&[255, 255], false),
        (&[0, 0], false),
        (&[0, 128], false),
    ] {
        assert_eq!(flaw(3, b"tRNS", opacities).is_none(), fine, "{opacities:?}");
    }
    assert_eq!(flaw(2, b"tRNS", &[0; 6]), None);
    assert_eq!(flaw(0, b"tRNS", &[0; 2]), None);
    assert!(matches!(flaw(2, b"tRNS", &[0; 5]), Some(Flaw::Damaged(_))));
    assert!(matches!(flaw(0, b"tRNS", &[0; 1]), Some(Flaw::Damaged(_))));
    assert_eq!(flaw(2, b"acTL", &[0, 0, 0, 2, 0, 0, 0, 0]), None);
    assert!(matches!(flaw(2, b"acTL", &[0; 8]), Some(Flaw::Warning(_))));
    assert_eq!(check(&png(2, b"tRNS", &[0; 6])), None);
}

proptest! {
    #[test]
    fn arbitrary_tags_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..80), big in any::<bool>()) {
        let header: &[u8] = if big { b"MM\0\x2a\0\0\0\x08" } else { b"II\x2a\0\x08\0\0\0" };
        let _ = tags::flaw(&bytes);
        let complete = [header, &bytes].concat();
        // Truncating damaged tags further does not repair them.
        if tags::flaw(&complete) == Some("damaged tags (EXIF)") && complete.len() > 8 {
            prop_assert!(tags::flaw(&complete[..complete.len() - 1]).is_some());
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(kind in 0..2usize, bytes in prop::collection::vec(any::<u8>(), 0..60)) {
        let file = [jpeg(&[(0xe1, &bytes)]), png(3, b"tRNS", &bytes)];
        if let Some(flaw) = check(&file[kind]) {
            prop_assert!(!flaw.to_string().contains('\n'));
        }
        let _ = png_flaw(&bytes);
        prop_assert!(decode::jpeg_segments(&bytes).count() <= bytes.len());
    }
}
