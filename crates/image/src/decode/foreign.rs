//! Names of image formats that this crate does not read.

use crate::ImageError;

/// What is done with a file of another format.
const CONVERT: &str = "convert it to PNG or JPEG, for instance with ImageMagick";

/// Returns the error of a file whose format is not one of ours. `start` has its first bytes.
pub(super) fn error(start: &[u8]) -> ImageError {
    if let Some(format) = phone_format(start) {
        return ImageError::Unsupported(format);
    }
    if let Some(format) = other_format(start) {
        return ImageError::Unsupported(format!("{format} image: {CONVERT}"));
    }
    let start: Vec<String> = start.iter().take(8).map(|b| format!("{b:02x}")).collect();
    ImageError::Decode(format!(
        "not a JPEG, PNG, GIF, BMP, TIFF, WebP or PPM file (it begins with {})",
        start.join(" ")
    ))
}

/// Returns the message for formats of phones and of the web.
fn phone_format(start: &[u8]) -> Option<String> {
    if start.starts_with(b"\xff\x0a") || start.starts_with(b"\0\0\0\x0cJXL \r\n\x87\n") {
        return Some(format!("JPEG XL image: {CONVERT} or djxl"));
    }
    let brand = start.get(4..12)?.strip_prefix(b"ftyp")?;
    match brand {
        b"avif" | b"avis" => Some(format!("AVIF image: {CONVERT} or avifdec")),
        b"heic" | b"heix" | b"hevc" | b"hevx" | b"heim" | b"heis" | b"hevm" | b"hevs" | b"mif1" | b"msf1" => {
            Some(format!(
                "HEIC image, as phones store photos: {CONVERT} or heif-convert; iPhones store JPEG with the setting Most Compatible"
            ))
        }
        _ => None,
    }
}

/// Returns the name of a format that Pillow reads or knows.
fn other_format(start: &[u8]) -> Option<&'static str> {
    const MAGIC: &[(&[u8], &str)] = &[
        (b"\0\0\0\x0cjP  ", "JPEG 2000"),
        (b"\xff\x4f\xff\x51", "JPEG 2000"),
        (b"\0\0\x01\0", "ICO"),
        (b"\0\0\x02\0", "CUR"),
        (b"8BPS", "Photoshop (PSD)"),
        (b"DDS ", "DDS"),
        (b"qoif", "QOI"),
        (b"%!PS", "EPS"),
        (b"\xc5\xd0\xd3\xc6", "EPS"),
        (b"icns", "ICNS"),
        (b"\x01\xda", "SGI"),
        (b"\x59\xa6\x6a\x95", "Sun raster"),
        (b"#define ", "XBM"),
        (b"/* XPM */", "XPM"),
        (b"\xb1\x68\xde\x3a", "DCX"),
        (b"DanM", "MSP"),
        (b"LinS", "MSP"),
        (b"SIMPLE", "FITS"),
        (b"BLP1", "BLP"),
        (b"BLP2", "BLP"),
        (b"\xd7\xcd\xc6\x9a", "WMF"),
        (b"\x01\0\0\0", "EMF"),
        (b"Image type:", "IM"),
    ];
    if let Some((_, name)) = MAGIC.iter().find(|(magic, _)| start.starts_with(magic)) {
        return Some(name);
    }
    match *start {
        [b'P', b'f' | b'F', b' ' | b'\t' | b'\r' | b'\n', ..] => Some("PFM"),
        [b'P', b'7', b'\n', ..] => Some("PAM"),
        [10, 0 | 2 | 3 | 4 | 5, ..] => Some("PCX"),
        [_, _, _, _, 0x11 | 0x12, 0xaf, ..] => Some("FLI"),
        [12 | 40 | 52 | 56 | 64 | 108 | 124, 0, 0, 0, ..] => Some("DIB"),
        _ => is_targa(start).then_some("TGA"),
    }
}

/// Returns whether the header is one that Pillow takes for TGA, which has no magic number.
fn is_targa(start: &[u8]) -> bool {
    let Some(header) = start.first_chunk::<18>() else {
        return false;
    };
    let [.., w0, w1, h0, h1, depth, _] = *header;
    header[1] <= 1
        && matches!(header[2], 1 | 2 | 3 | 9 | 10 | 11)
        && matches!(depth, 1 | 8 | 16 | 24 | 32)
        && [w0, w1] != [0, 0]
        && [h0, h1] != [0, 0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_named_with_a_way_out() {
        for (start, name) in [
            (&b"\0\0\0\x18ftypheic\0\0\0\0"[..], "HEIC"),
            (b"\0\0\0\x18ftypmif1\0\0\0\0", "HEIC"),
            (b"\0\0\0\x1cftypavif\0\0\0\0", "AVIF"),
            (b"\xff\x0a\0\0", "JPEG XL"),
            (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
            (b"Pf 1 1 -1 abcd", "PFM"),
            (b"P7\nWIDTH 1", "PAM"),
            (b"8BPS\0\x01", "Photoshop"),
            (&[0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 4, 0, 24, 0], "CUR"),
            (&[3, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 4, 0, 24, 0], "TGA"),
        ] {
            let message = error(start).to_string();
            assert!(matches!(error(start), ImageError::Unsupported(_)), "{message}");
            assert!(message.contains(name) && message.contains("convert it"), "{message}");
        }
    }

    #[test]
    fn other_files_are_no_images() {
        for start in [
            &b"<html>"[..],
            &[0; 64],
            b"\0\0\0\x18ftypmp42\0\0\0\0",
            b"hello",
            b"P",
            b"{\"a\": 1}",
        ] {
            assert!(matches!(error(start), ImageError::Decode(_)), "{start:?}");
        }
    }
}
