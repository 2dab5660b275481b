//! Random damage to files.

use rand::seq::IndexedRandom;
use rand::{Rng, RngExt};

/// Boundary values of sizes, offsets and counts.
const BOUNDARIES: [u64; 14] = [
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    0xffff_ffff_ffff_fff8,
    u64::MAX,
];

/// Byte strings that have a meaning in the file formats.
const TOKENS: [&[u8]; 16] = [
    b"ARROW1",
    b"PAR1",
    b"\xff\xd8\xff",
    b"\xff\xc0\x00\x11\x08",
    b"\x89PNG\r\n\x1a\n",
    b"IHDR",
    b"IEND",
    b"ustar\0",
    b"L",
    b"99999999999\0",
    b"{\"caption\":",
    b"[[[[[[[[",
    b"\\ud800",
    b"1e999",
    b"\x80\x02}q",
    b"cos\nsystem\n",
];

/// Maximum number of bytes that damage adds to a file.
const MAX_GROWTH: usize = 1 << 16;

/// Damages `file` in one to eight places, sometimes with parts of `other`.
pub fn damage(file: &mut Vec<u8>, other: &[u8], rng: &mut impl Rng) {
    let limit = file.len() + MAX_GROWTH;
    for _ in 0..rng.random_range(1..=8) {
        damage_once(file, other, rng);
    }
    file.truncate(limit);
}

/// Draws an offset. The beginning and the end, where headers and footers are, are more probable than the rest.
fn random_offset(file: &[u8], rng: &mut impl Rng) -> usize {
    let length = file.len();
    match rng.random_range(0..4) {
        _ if length == 0 => 0,
        0 => rng.random_range(0..length.min(128)),
        1 => length - 1 - rng.random_range(0..length.min(256)),
        _ => rng.random_range(0..length),
    }
}

/// Draws a range of at most `max_length` bytes.
fn random_range_of(file: &[u8], max_length: usize, rng: &mut impl Rng) -> std::ops::Range<usize> {
    let start = random_offset(file, rng);
    let length = rng.random_range(0..=max_length.min(file.len() - start));
    start..start + length
}

fn damage_once(file: &mut Vec<u8>, other: &[u8], rng: &mut impl Rng) {
    let offset = random_offset(file, rng);
    match rng.random_range(0..9) {
        0 if !file.is_empty() => file[offset] ^= 1 << rng.random_range(0..8),
        1 if !file.is_empty() => file[offset] = rng.random(),
        2 => {
            // Writes a boundary value of 1, 2, 4 or 8 bytes, in either byte order.
            let width = 1 << rng.random_range(0..4);
            let number = *BOUNDARIES.choose(rng).unwrap_or(&0);
            let mut bytes = number.to_le_bytes()[..width].to_vec();
            if rng.random_bool(0.3) {
                bytes.reverse();
            }
            let end = (offset + width).min(file.len());
            file.splice(offset..end, bytes);
        }
        3 => {
            // Truncates the file.
            file.truncate(offset);
        }
        4 => drop(file.drain(random_range_of(file, 64, rng))),
        5 => {
            // Repeats a part of the file.
            let part = file[random_range_of(file, 512, rng)].to_vec();
            file.splice(offset..offset, part);
        }
        6 => {
            // Inserts a part of another file, or overwrites bytes with it.
            let part = other[random_range_of(other, 512, rng)].to_vec();
            let end = (offset + part.len() * usize::from(rng.random_bool(0.5))).min(file.len());
            file.splice(offset..end, part);
        }
        7 => {
            let token = TOKENS.choose(rng).copied().unwrap_or_default();
            let end = (offset + token.len()).min(file.len());
            file.splice(offset..end, token.iter().copied());
        }
        _ if !file.is_empty() => {
            // Replaces a digit of a decimal number.
            if let Some(digit) = file[offset..].iter().position(u8::is_ascii_digit) {
                file[offset + digit] = rng.random_range(b'0'..=b'9');
            }
        }
        _ => file.push(rng.random()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::SeedableRng;

    #[test]
    fn damage_changes_files_and_bounds_their_growth() {
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let mut unchanged = 0;
        for length in [0usize, 1, 2, 7, 300, 5000] {
            let original: Vec<u8> = (0..length).map(|i| (i * 31) as u8).collect();
            for _ in 0..500 {
                let mut file = original.clone();
                damage(&mut file, b"something else", &mut rng);
                assert!(file.len() <= length + MAX_GROWTH);
                unchanged += usize::from(file == original);
            }
        }
        assert!(unchanged < 300, "{unchanged}");
    }
}
