//! Images inside the page, as PNG data URLs.

use base64::{Engine, engine::general_purpose::STANDARD};
use image::{
    ExtendedColorType, ImageEncoder, RgbImage,
    codecs::png::{CompressionType, FilterType, PngEncoder},
    imageops,
};

use super::{HeatMap, ReportError, Result};

/// Maximum length of the longer side of an image in pixels. Larger images are scaled down.
pub(super) const MAX_EDGE: u32 = 224;

/// Minimum length of the longer side of a heat map in pixels. Smaller images are scaled up, so that the brightness does not look blocky.
const MIN_HEAT_EDGE: u32 = 160;

/// Brightness factor of the pixels where the value of a heat map is lowest.
const MIN_BRIGHTNESS: f32 = 0.22;

/// Returns `image` as an `<img>` element. `alt` describes the image and is already escaped.
pub(super) fn img(image: &RgbImage, alt: &str) -> Result<String> {
    if image.width() == 0 || image.height() == 0 {
        return Err(ReportError::Invalid(format!("an image is empty ({alt})")));
    }
    let small = scale_down(image);
    let (width, height) = small.dimensions();
    let mut png = Vec::new();
    PngEncoder::new_with_quality(&mut png, CompressionType::Best, FilterType::Adaptive)
        .write_image(small.as_raw(), width, height, ExtendedColorType::Rgb8)
        .map_err(|error| ReportError::Invalid(format!("an image cannot be encoded ({alt}): {error}")))?;
    // Browsers enlarge small images; nearest-neighbour scaling keeps their edges sharp.
    let class = if width.max(height) < 96 { " class=\"px\"" } else { "" };
    let data = STANDARD.encode(png);
    Ok(format!(
        r#"<img{class} src="data:image/png;base64,{data}" width="{width}" height="{height}" alt="{alt}">"#
    ))
}

fn scale_down(image: &RgbImage) -> RgbImage {
    let (width, height) = image.dimensions();
    let edge = width.max(height);
    if edge <= MAX_EDGE {
        return image.clone();
    }
    let scaled = |size: u32| (u64::from(size) * u64::from(MAX_EDGE) / u64::from(edge)).max(1) as u32;
    imageops::resize(image, scaled(width), scaled(height), imageops::FilterType::Triangle)
}

/// Returns the image of `heat`. The brightness of each pixel is multiplied by a factor that is interpolated from the map.
///
/// # Errors
/// Returns [`ReportError::Invalid`] if the image is empty or the map is not a grid of `heat.columns` columns.
pub(super) fn apply_heat_map(heat: &HeatMap) -> Result<RgbImage> {
    let (columns, count) = (heat.columns, heat.map.len());
    if columns == 0 || count == 0 || count % columns != 0 {
        return Err(ReportError::Invalid(format!(
            "a heat map has {count} values in rows of {columns}"
        )));
    }
    if heat.image.width() == 0 || heat.image.height() == 0 {
        return Err(ReportError::Invalid("the image of a heat map is empty".into()));
    }
    let rows = count / columns;
    let finite_values = || heat.map.iter().copied().filter(|value| value.is_finite());
    let low = finite_values().fold(f32::INFINITY, f32::min);
    let range = finite_values().fold(f32::NEG_INFINITY, f32::max) - low;
    // Values that are not finite are dark; a constant map is bright everywhere.
    let level = |row: usize, column: usize| match heat.map[row * columns + column] {
        value if !value.is_finite() => 0.0,
        value if range > 0.0 => (value - low) / range,
        _ => 1.0,
    };
    let mut image = scale_down(&heat.image);
    let edge = image.width().max(image.height());
    if edge < MIN_HEAT_EDGE {
        let factor = MIN_HEAT_EDGE.div_ceil(edge);
        let (width, height) = (image.width() * factor, image.height() * factor);
        image = imageops::resize(&image, width, height, imageops::FilterType::Nearest);
    }
    let (width, height) = image.dimensions();
    for (x, y, pixel) in image.enumerate_pixels_mut() {
        let (left, right, x_weight) = enclosing_cells(x, width, columns);
        let (top, bottom, y_weight) = enclosing_cells(y, height, rows);
        let level_in_row = |row: usize| lerp(level(row, left), level(row, right), x_weight);
        let brightness =
            MIN_BRIGHTNESS + (1.0 - MIN_BRIGHTNESS) * lerp(level_in_row(top), level_in_row(bottom), y_weight);
        for channel in &mut pixel.0 {
            *channel = (f32::from(*channel) * brightness).round() as u8;
        }
    }
    Ok(image)
}

/// Divides `size` pixels into `cells` equal cells. Returns the indices of the two cells whose centres are on either side of
/// `pixel`, and the interpolation weight of the second (0 to 1).
fn enclosing_cells(pixel: u32, size: u32, cells: usize) -> (usize, usize, f32) {
    let position = ((pixel as f32 + 0.5) * cells as f32 / size as f32 - 0.5).clamp(0.0, (cells - 1) as f32);
    let first = position as usize;
    (first, (first + 1).min(cells - 1), position - first as f32)
}

fn lerp(first: f32, second: f32, weight: f32) -> f32 {
    first + (second - first) * weight
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;

    #[test]
    fn brightness_follows_the_map() {
        let image = RgbImage::from_pixel(204, 100, Rgb([200, 100, 50]));
        let heat = HeatMap {
            image,
            tokens: vec![],
            word: 0,
            columns: 4,
            map: vec![1.0, 1.0, 3.0, 1.0, 1.0, f32::NAN, 1.0, 1.0],
        };
        let result = apply_heat_map(&heat).unwrap();
        assert_eq!(result.dimensions(), (204, 100));
        assert_eq!(result[(127, 10)], Rgb([200, 100, 50]));
        assert_eq!(result[(10, 90)], Rgb([44, 22, 11]));
        assert_eq!(result[(76, 90)], Rgb([44, 22, 11]));
        let middle = result[(102, 10)].0[0];
        assert!((100..150).contains(&middle), "{middle}");
    }

    #[test]
    fn rejects_invalid_maps_and_accepts_extreme_values() {
        let heat = |columns, map: Vec<f32>, edge| HeatMap {
            image: RgbImage::new(edge, edge),
            tokens: vec![],
            word: 0,
            columns,
            map,
        };
        assert!(apply_heat_map(&heat(1, vec![0.5], 8)).is_ok());
        assert!(apply_heat_map(&heat(2, vec![f32::NAN; 4], 8)).is_ok());
        assert!(apply_heat_map(&heat(2, vec![f32::MAX, f32::MIN, 0.0, 1.0], 300)).is_ok());
        assert!(apply_heat_map(&heat(0, vec![1.0], 8)).is_err());
        assert!(apply_heat_map(&heat(3, vec![1.0; 4], 8)).is_err());
        assert!(apply_heat_map(&heat(2, vec![], 8)).is_err());
        assert!(apply_heat_map(&heat(1, vec![1.0], 0)).is_err());
    }

    #[test]
    fn scales_large_images_down() {
        let tag = img(&RgbImage::new(1000, 500), "wide").unwrap();
        assert!(tag.contains(r#"width="224" height="112" alt="wide""#), "{tag}");
        let tag = img(&RgbImage::new(2000, 1), "line").unwrap();
        assert!(tag.contains(r#"width="224" height="1""#), "{tag}");
        assert!(img(&RgbImage::new(0, 5), "none").is_err());
    }
}
