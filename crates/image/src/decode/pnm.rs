//! Decoding of PBM, PGM and PPM files, plain and raw (`P1` to `P6`), as in Pillow (`PpmImagePlugin.py`).

use image::ColorType;

use super::check_size;
use super::fault::{Fault, damaged};
use super::samples::Samples;

/// Maximum number of characters of a number.
const MAX_CHARACTERS: usize = 10;

/// What a pixel is.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// One bit, which is 1 for black.
    Bit,
    /// A grey value.
    Grey,
    /// Red, green and blue.
    Colour,
}

struct Header {
    kind: Kind,
    /// Whether the values are text.
    plain: bool,
    width: u32,
    height: u32,
    /// The value of white, 1 for bits.
    max: u16,
}

/// The part of a file that is not read yet.
struct Text<'a>(&'a [u8]);

impl Text<'_> {
    /// Returns the next character that is not in a comment, which begins with `#` and extends to the end of the line.
    fn character(&mut self) -> Option<u8> {
        loop {
            let (&character, rest) = self.0.split_first()?;
            self.0 = rest;
            if character != b'#' {
                return Some(character);
            }
            let end = rest.iter().position(|b| matches!(b, b'\r' | b'\n'));
            self.0 = end.map_or(&[], |end| &rest[end + 1..]);
        }
    }

    /// Returns the digit that follows, which need not be separated from the next.
    fn bit(&mut self) -> Result<u8, Fault> {
        loop {
            match self.character().ok_or_else(truncated)? {
                bit @ b'0'..=b'1' => return Ok(bit - b'0'),
                character if is_space(character) => {}
                _ => return Err(damaged("a bit is not 0 or 1")),
            }
        }
    }

    /// Returns the number that follows and skips one whitespace character after it. As for Pillow, a comment does not end a number.
    fn number(&mut self) -> Result<i64, Fault> {
        let (mut characters, mut length) = ([0; MAX_CHARACTERS], 0);
        while let Some(character) = self.character() {
            match (is_space(character), length) {
                (true, 0) => {}
                (true, _) => break,
                (false, MAX_CHARACTERS) => {
                    return Err(damaged(format!("a number of more than {MAX_CHARACTERS} characters")));
                }
                (false, _) => {
                    characters[length] = character;
                    length += 1;
                }
            }
        }
        if length == 0 {
            return Err(truncated());
        }
        let characters = &characters[..length];
        parse(characters).ok_or_else(|| damaged(format!("{} is not a number", characters.escape_ascii())))
    }
}

/// Returns an integer by the rules of Python, which allow a sign and single underscores between digits.
fn parse(text: &[u8]) -> Option<i64> {
    let (sign, digits) = match text {
        [b'-', digits @ ..] => (-1, digits),
        [b'+', digits @ ..] => (1, digits),
        digits => (1, digits),
    };
    let mut value = 0;
    for group in digits.split(|b| *b == b'_') {
        if group.is_empty() || !group.iter().all(u8::is_ascii_digit) {
            return None;
        }
        value = group
            .iter()
            .fold(value, |value, digit| 10 * value + i64::from(digit - b'0'));
    }
    Some(sign * value)
}

fn is_space(character: u8) -> bool {
    matches!(character, b' ' | b'\t'..=b'\r')
}

fn truncated() -> Fault {
    damaged("the file ends before the image does")
}

/// Returns whether the first bytes of a file are those of a PBM, PGM or PPM file: besides the magic number, which a text can begin with
/// too, a comment or a number.
pub(super) fn is_pnm(start: &[u8]) -> bool {
    let [b'P', b'1'..=b'6', space, rest @ ..] = start else {
        return false;
    };
    let next = rest.iter().find(|b| !is_space(**b));
    is_space(*space) && next.is_some_and(|b| matches!(b, b'#' | b'+' | b'0'..=b'9'))
}

/// Returns the size of the image, if the header has one.
pub(super) fn dimensions(bytes: &[u8]) -> Option<(u32, u32)> {
    let (header, _) = read_header(bytes).ok()?;
    Some((header.width, header.height))
}

/// Returns the header and the bytes after it.
fn read_header(bytes: &[u8]) -> Result<(Header, &[u8]), Fault> {
    let (kind, plain) = match bytes.get(1) {
        Some(b'1') => (Kind::Bit, true),
        Some(b'2') => (Kind::Grey, true),
        Some(b'3') => (Kind::Colour, true),
        Some(b'4') => (Kind::Bit, false),
        Some(b'5') => (Kind::Grey, false),
        _ => (Kind::Colour, false),
    };
    let mut text = Text(bytes.get(3..).unwrap_or_default());
    let mut side = || Ok(text.number()?.clamp(0, u32::MAX.into()) as u32);
    let (width, height) = (side()?, side()?);
    let max = match kind {
        Kind::Bit => 1,
        _ => text.number()?,
    };
    let max = u16::try_from(max).ok().filter(|max| *max > 0);
    let header = Header {
        kind,
        plain,
        width,
        height,
        max: max.ok_or_else(|| damaged("the maximum value is not in 1..=65535"))?,
    };
    Ok((header, text.0))
}

/// Decodes a PBM, PGM or PPM file. Values are scaled to 0..=255, and grey values with a maximum above 255 to 0..=65535. Bytes after
/// the image are ignored.
pub(super) fn decode(bytes: &[u8]) -> Result<Samples, Fault> {
    let (header, data) = read_header(bytes)?;
    let Header {
        kind,
        plain,
        width,
        height,
        max,
    } = header;
    check_size(width, height)?;
    let channels = if kind == Kind::Colour { 3 } else { 1 };
    let count = width as usize * height as usize * channels;
    let bytes_of_row = (width as usize).div_ceil(8);
    let value_size = if max < 256 { 1 } else { 2 };
    let min_length = match (kind, plain) {
        (Kind::Bit, true) => count,
        (Kind::Bit, false) => bytes_of_row * height as usize,
        // A digit for each value, and a space between them.
        (_, true) => 2 * count - 1,
        (_, false) => value_size * count,
    };
    if data.len() < min_length {
        return Err(truncated());
    }
    let is_wide = kind == Kind::Grey && max > 255;
    let mut values = Vec::with_capacity(if is_wide { 2 * count } else { count });
    match (kind, plain) {
        (Kind::Bit, true) => {
            let mut text = Text(data);
            for _ in 0..count {
                values.push(grey_of_bit(text.bit()?));
            }
        }
        (Kind::Bit, false) => {
            for row in data.chunks_exact(bytes_of_row).take(height as usize) {
                values.extend((0..width as usize).map(|x| grey_of_bit((row[x / 8] << (x % 8)) >> 7)));
            }
        }
        _ => {
            let white = if is_wide { u16::MAX } else { 255 };
            let scaled: Vec<u16> = (0..1 << (8 * value_size)).map(|v| scale(v, max, white)).collect();
            let store = |value: u16| match scaled[usize::from(value)] {
                value if is_wide => values.extend(value.to_ne_bytes()),
                value => values.push(value as u8),
            };
            for_each_value(data, count, &header, store)?;
        }
    }
    Ok(Samples {
        values,
        layout: match kind {
            Kind::Colour => ColorType::Rgb8,
            _ if is_wide => ColorType::L16,
            _ => ColorType::L8,
        },
        width,
        height,
    })
}

fn grey_of_bit(bit: u8) -> u8 {
    if bit == 0 { 255 } else { 0 }
}

/// Returns `white · value / max`, rounded as by Pillow, and at most `white`.
fn scale(value: u32, max: u16, white: u16) -> u16 {
    let scaled = f64::from(value) / f64::from(max) * f64::from(white);
    scaled.round_ties_even().min(f64::from(white)) as u16
}

/// Calls `store` with each of the `count` values of a grey or colour image. Raw values can be above the maximum.
fn for_each_value(data: &[u8], count: usize, header: &Header, mut store: impl FnMut(u16)) -> Result<(), Fault> {
    if header.plain {
        let mut text = Text(data);
        for _ in 0..count {
            let value = text.number()?;
            let allowed = u16::try_from(value).ok().filter(|value| *value <= header.max);
            store(allowed.ok_or_else(|| damaged(format!("the value {value} is not in 0..={}", header.max)))?);
        }
    } else if header.max < 256 {
        data[..count].iter().for_each(|value| store((*value).into()));
    } else {
        let pairs = &data.as_chunks::<2>().0[..count];
        pairs.iter().for_each(|pair| store(u16::from_be_bytes(*pair)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ImageError, decode as decode_rgb};
    use proptest::prelude::*;

    /// Returns the red values of an image.
    fn reds(file: &[u8]) -> Vec<u8> {
        decode_rgb(file).unwrap().pixels().map(|p| p.0[0]).collect()
    }

    fn error(file: &[u8]) -> String {
        let message = decode_rgb(file).expect_err("must be rejected").to_string();
        assert!(!message.contains('\n'), "{message}");
        message
    }

    #[test]
    fn every_kind_is_read() {
        assert_eq!(reds(b"P1 3 2 1 0 1 010"), [0, 255, 0, 255, 0, 255]);
        assert_eq!(reds(b"P2 3 1 255 0 7 255"), [0, 7, 255]);
        assert_eq!(decode_rgb(b"P3 1 1 255 1 2 3").unwrap().as_raw(), &[1, 2, 3]);
        assert_eq!(reds(b"P4 9 2\n\x80\x7f\0\x80"), {
            let (first, second) = ([0, 255, 255, 255, 255, 255, 255, 255, 255], [255; 8]);
            [&first[..], &second, &[0]].concat()
        });
        assert_eq!(reds(b"P5 3 1 255\n\0\x07\xff"), [0, 7, 255]);
        assert_eq!(decode_rgb(b"P6 1 1 255 abc").unwrap().as_raw(), b"abc");
    }

    #[test]
    fn values_are_scaled_and_those_of_wide_grey_clipped() {
        assert_eq!(reds(b"P5 3 1 15\n\x01\x0f\x10"), [17, 255, 255]);
        // Half of 255 is rounded to the even number.
        assert_eq!(reds(b"P2 2 1 2 0 1"), [0, 128]);
        assert_eq!(reds(b"P2 3 1 1000 1 3 4"), [66, 197, 255]);
        assert_eq!(reds(b"P5 2 1 65535\n\0\x07\x01\0"), [7, 255]);
        assert_eq!(reds(b"P6 1 1 65535\n\x80\x80\0\0\0\0"), [128]);
    }

    #[test]
    fn headers_may_have_comments_and_any_whitespace() {
        for header in [
            "P2 # a comment\n2 1 255 ",
            "P2\n#\r2\t\r\n1\x0b255\x0c",
            "P2 2#1 1\n #x\n\n1 25#6\n5 # 9 9\n",
            "P2 +2 0_1 2_5_5 ",
        ] {
            assert_eq!(reds(format!("{header}3 # 8\n4").as_bytes()), [3, 4], "{header:?}");
        }
        assert_eq!(reds(b"P5\n1 1\n255\n#"), [b'#'], "raw data has no comments");
    }

    #[test]
    fn malformed_files_are_damaged() {
        for (file, reason) in [
            (&b"P5 2 2 255\nabc"[..], "ends before"),
            (b"P4 9 1\n\0", "ends before"),
            (b"P6 1 1 256\nabcde", "ends before"),
            (b"P2 2 1 255 7", "ends before"),
            (b"P2 2 1 255 7 # 8", "ends before"),
            (b"P5 2 2", "ends before"),
            (b"P5 2", "ends before"),
            (b"P5 0 2 255\n", "no pixels"),
            (b"P5 1 -2 255\n", "no pixels"),
            (b"P5 1 1 0\na", "maximum"),
            (b"P5 1 1 65536\naa", "maximum"),
            (b"P5 1 1 -1\naa", "maximum"),
            (b"P5 1 x 255\na", "x is not a number"),
            (b"P5 1 1__0 255\na", "1__0 is not a number"),
            (b"P5 1 \xff\n 255\na", "\\xff is not a number"),
            (b"P5 00000000001 1 255\na", "10 characters"),
            (b"P2 1 1 255 256", "256 is not in 0..=255"),
            (b"P2 1 1 255 -1", "-1 is not in 0..=255"),
            (b"P1 2 1 1 2", "not 0 or 1"),
        ] {
            let message = error(file);
            assert!(message.contains("damaged") && message.contains(reason), "{message}");
        }
    }

    #[test]
    fn sizes_above_the_limits_or_the_data_are_rejected_before_allocating() {
        for size in [
            "9999999999 9999999999",
            "4294967296 1",
            "65536 1",
            "1 65536",
            "9460 9460",
        ] {
            for kind in 1..=6 {
                let file = format!("P{kind} {size} 255 0");
                assert!(
                    matches!(decode_rgb(file.as_bytes()), Err(ImageError::TooLarge { .. })),
                    "{file}"
                );
            }
        }
        for kind in 1..=6 {
            assert!(error(format!("P{kind} 9459 9459 1 0 0 0").as_bytes()).contains("ends before"));
        }
    }

    #[test]
    fn texts_that_begin_as_a_magic_number_are_no_images() {
        for text in ["P1", "P3\n", "P6 racing car", "P12 1 1", "P5-1 1", "P7 1 1"] {
            assert!(!is_pnm(text.as_bytes()), "{text}");
        }
        assert!(is_pnm(b"P1\n# a comment") && is_pnm(b"P6  7"));
    }

    proptest! {
        /// Text of the characters that headers have gives an image of the stated size or an error of one line.
        #[test]
        fn arbitrary_headers_never_panic(text in "P[1-6][ \n#][0-9 \n#+_-]{0,24}", data in prop::collection::vec(any::<u8>(), 0..64)) {
            let file = [text.as_bytes(), &data].concat();
            match decode_rgb(&file) {
                Ok(image) => prop_assert_eq!(Some(image.dimensions()), dimensions(&file)),
                Err(error) => prop_assert!(!error.to_string().contains("the decoder failed"), "{}", error),
            }
        }

        /// Plain and raw files of the same values are equal.
        #[test]
        fn plain_equals_raw(max in 1u16.., seed in any::<u64>(), width in 1usize..9, height in 1usize..5, colour in any::<bool>()) {
            let count = width * height * if colour { 3 } else { 1 };
            let values: Vec<u16> = (0..count as u64)
                .map(|i| (seed.wrapping_mul(2 * i + 1) >> 40) as u16 % max)
                .collect();
            let (plain_kind, raw_kind) = if colour { (3, 6) } else { (2, 5) };
            let text: Vec<String> = values.iter().map(u16::to_string).collect();
            let plain = format!("P{plain_kind}\n{width} {height}\n{max}\n{}", text.join(" "));
            let mut raw = format!("P{raw_kind}\n{width} {height}\n{max}\n").into_bytes();
            match max < 256 {
                true => raw.extend(values.iter().map(|v| *v as u8)),
                false => raw.extend(values.iter().flat_map(|v| v.to_be_bytes())),
            }
            prop_assert_eq!(decode_rgb(plain.as_bytes()).unwrap(), decode_rgb(&raw).unwrap());
        }
    }
}
