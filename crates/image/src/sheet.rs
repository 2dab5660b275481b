//! Contact sheets: thumbnails with captions, for visual inspection of data.

use image::imageops::replace;
use image::{Rgb, RgbImage};
use noto_sans_mono_bitmap::{FontWeight, RasterHeight, get_raster, get_raster_width};

use super::resize;
use crate::Result;

/// Maximum side of a thumbnail in pixels.
const SIDE: u32 = 192;
/// Space around every cell in pixels.
const GAP: u32 = 12;
/// Maximum number of lines of text below a thumbnail.
const LINES: u32 = 3;
const LINE_HEIGHT: u32 = 18;
const FONT: (FontWeight, RasterHeight) = (FontWeight::Regular, RasterHeight::Size16);
const BACKGROUND: Rgb<u8> = Rgb([255, 255, 255]);
const TEXT_COLOUR: Rgb<u8> = Rgb([32, 32, 32]);
/// Colour of the square in place of a missing image.
const MISSING_COLOUR: Rgb<u8> = Rgb([230, 200, 200]);

/// A thumbnail and its caption.
#[derive(Clone, Debug)]
pub struct Cell {
    /// The thumbnail (see [`thumbnail`]), or `None` if the image cannot be decoded.
    pub image: Option<RgbImage>,
    /// The caption. Long captions are wrapped and truncated.
    pub text: String,
}

/// Downscales an image to the size of a cell. Smaller images are unchanged.
///
/// # Errors
/// Returns [`ImageError::NoPixels`](crate::ImageError::NoPixels) for an image without pixels.
pub fn thumbnail(image: &RgbImage) -> Result<RgbImage> {
    let (width, height) = image.dimensions();
    let factor = (f64::from(SIDE) / f64::from(width.max(height).max(1))).min(1.0);
    let side = |pixels: u32| ((f64::from(pixels) * factor).round() as u32).clamp(1, SIDE);
    resize(image, side(width), side(height))
}

/// Draws cells in rows of `columns` cells. `columns` is limited to 1..=256 and to the number of cells.
pub fn contact_sheet(cells: &[Cell], columns: u32) -> RgbImage {
    let columns = columns.clamp(1, cells.len().clamp(1, 256) as u32);
    let rows = (cells.len() as u32).div_ceil(columns).max(1);
    let (cell_width, cell_height) = (SIDE + GAP, SIDE + GAP + LINES * LINE_HEIGHT);
    let mut sheet = RgbImage::from_pixel(columns * cell_width + GAP, rows * cell_height + GAP, BACKGROUND);
    for (index, cell) in (0..).zip(cells) {
        let left = GAP + index % columns * cell_width;
        let top = GAP + index / columns * cell_height;
        let missing = RgbImage::from_pixel(SIDE, SIDE, MISSING_COLOUR);
        let image = cell.image.as_ref().unwrap_or(&missing);
        // The image is centred in its square.
        let x = left + SIDE.saturating_sub(image.width()) / 2;
        let y = top + SIDE.saturating_sub(image.height()) / 2;
        replace(&mut sheet, image, i64::from(x), i64::from(y));
        let line_length = SIDE as usize / get_raster_width(FONT.0, FONT.1);
        for (line, text) in (0..).zip(wrap(&cell.text, line_length, LINES as usize)) {
            draw_text(&mut sheet, left, top + SIDE + 2 + line * LINE_HEIGHT, &text);
        }
    }
    sheet
}

/// Wraps a text into at most `lines` lines of at most `line_length` characters, between words where possible. Truncated text ends with an
/// ellipsis.
fn wrap(text: &str, line_length: usize, lines: usize) -> Vec<String> {
    let (mut wrapped, mut line, mut length) = (Vec::new(), String::new(), 0);
    for word in text.split_whitespace() {
        let mut word: Vec<char> = word.chars().collect();
        loop {
            let space = usize::from(length > 0);
            if length + space + word.len() <= line_length {
                line.extend(std::iter::repeat_n(' ', space).chain(word.iter().copied()));
                length += space + word.len();
                break;
            }
            if length == 0 {
                // A word longer than a line.
                let rest = word.split_off(line_length);
                line.extend(word);
                word = rest;
                length = line_length;
            }
            if wrapped.len() + 1 == lines {
                if length == line_length {
                    line.pop();
                }
                line.push('…');
                wrapped.push(line);
                return wrapped;
            }
            wrapped.push(std::mem::take(&mut line));
            length = 0;
        }
    }
    wrapped.push(line);
    wrapped
}

/// Draws a line of text with its upper left corner at (`left`, `top`). Characters that the font lacks are drawn as two
/// horizontal lines.
fn draw_text(sheet: &mut RgbImage, left: u32, top: u32, text: &str) {
    let width = get_raster_width(FONT.0, FONT.1) as u32;
    for (index, letter) in (0..).zip(text.chars()) {
        // The font lacks typographic punctuation, which is common in captions.
        let letter = match letter {
            '…' => '~',
            '‘' | '’' => '\'',
            '“' | '”' => '"',
            '–' | '—' => '-',
            other => other,
        };
        let x = left + index * width;
        match get_raster(letter, FONT.0, FONT.1) {
            Some(letter) => {
                for (row, line) in (0..).zip(letter.rows()) {
                    for (column, opacity) in (0..).zip(line) {
                        blend(sheet, x + column, top + row, *opacity);
                    }
                }
            }
            None => {
                for step in 0..width.saturating_sub(2) {
                    blend(sheet, x + step, top + 3, 120);
                    blend(sheet, x + step, top + 13, 120);
                }
            }
        }
    }
}

/// Draws the text colour over a pixel, with an opacity from 0 to 255.
fn blend(sheet: &mut RgbImage, x: u32, y: u32, opacity: u8) {
    if opacity > 0
        && let Some(pixel) = sheet.get_pixel_mut_checked(x, y)
    {
        for (value, text_value) in pixel.0.iter_mut().zip(TEXT_COLOUR.0) {
            let mixed = u32::from(*value) * (255 - u32::from(opacity)) + u32::from(text_value) * u32::from(opacity);
            *value = (mixed / 255) as u8;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn wraps_between_words_where_they_fit() {
        assert_eq!(wrap("a cat on a mat", 6, 3), ["a cat", "on a", "mat"]);
        assert_eq!(wrap("a cat on a mat and more", 6, 3), ["a cat", "on a", "mat…"]);
        assert_eq!(wrap("incomprehensible", 6, 2), ["incomp", "rehen…"]);
        assert_eq!(wrap("", 6, 2), [""]);
    }

    #[test]
    fn cells_are_placed_in_a_grid() {
        let red = RgbImage::from_pixel(400, 200, Rgb([255, 0, 0]));
        let cell = |image| Cell {
            image,
            text: "été 图".into(),
        };
        let sheet = contact_sheet(&[cell(Some(thumbnail(&red).unwrap())), cell(None), cell(None)], 2);
        assert_eq!(sheet.width(), 2 * (SIDE + GAP) + GAP);
        assert_eq!(sheet.get_pixel(GAP + SIDE / 2, GAP + SIDE / 2), &Rgb([255, 0, 0]));
        // The image is half as high as wide, in the middle of its square.
        assert_eq!(sheet.get_pixel(GAP + SIDE / 2, GAP + SIDE / 8), &BACKGROUND);
        assert_eq!(sheet.get_pixel(2 * GAP + SIDE + SIDE / 2, GAP + 1), &MISSING_COLOUR);
        let has_text = (0..60).any(|x| (0..16).any(|y| sheet.get_pixel(GAP + x, GAP + SIDE + 2 + y) != &BACKGROUND));
        assert!(has_text);
    }

    proptest! {
        #[test]
        fn wrapped_text_never_exceeds_the_cell(text in ".{0,200}", line_length in 1usize..40, lines in 1usize..5) {
            let wrapped = wrap(&text, line_length, lines);
            prop_assert!(wrapped.len() <= lines);
            prop_assert!(wrapped.iter().all(|line| line.chars().count() <= line_length), "{wrapped:?}");
        }
    }
}
