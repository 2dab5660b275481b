//! Pictures inside the page.

use base64::{Engine, engine::general_purpose::STANDARD};
use image::{
    ExtendedColorType, ImageEncoder, RgbImage,
    codecs::png::{CompressionType, FilterType, PngEncoder},
    imageops,
};

use super::{HeatMap, ReportError, Result};

/// Pictures are shrunk to this many pixels a side.
pub(super) const MAX_EDGE: u32 = 224;

/// Heat maps of smaller pictures are drawn at least this large, so that the light does not look blocky.
const MIN_HEAT_EDGE: u32 = 160;

/// Brightness that remains where a heat map is darkest.
const SHADE: f32 = 0.22;

/// `picture` as an `<img>` with the description `alt` (already escaped).
pub(super) fn img(picture: &RgbImage, alt: &str) -> Result<String> {
    if picture.width() == 0 || picture.height() == 0 {
        return Err(ReportError::Invalid(format!("a picture is empty ({alt})")));
    }
    let small = shrink(picture);
    let (width, height) = small.dimensions();
    let mut png = Vec::new();
    PngEncoder::new_with_quality(&mut png, CompressionType::Best, FilterType::Adaptive)
        .write_image(small.as_raw(), width, height, ExtendedColorType::Rgb8)
        .map_err(|error| ReportError::Invalid(format!("a picture cannot be encoded ({alt}): {error}")))?;
    // Enlarged pictures of few pixels look truer with hard edges.
    let class = if width.max(height) < 96 { " class=\"px\"" } else { "" };
    let data = STANDARD.encode(png);
    Ok(format!(
        r#"<img{class} src="data:image/png;base64,{data}" width="{width}" height="{height}" alt="{alt}">"#
    ))
}

fn shrink(picture: &RgbImage) -> RgbImage {
    let (width, height) = picture.dimensions();
    let edge = width.max(height);
    if edge <= MAX_EDGE {
        return picture.clone();
    }
    let scaled = |size: u32| (u64::from(size) * u64::from(MAX_EDGE) / u64::from(edge)).max(1) as u32;
    imageops::resize(picture, scaled(width), scaled(height), imageops::FilterType::Triangle)
}

/// The picture of `heat`, lit where the map is high and dark where it is low.
pub(super) fn spotlight(heat: &HeatMap) -> Result<RgbImage> {
    let (columns, count) = (heat.columns, heat.map.len());
    if columns == 0 || count == 0 || count % columns != 0 {
        return Err(ReportError::Invalid(format!(
            "a heat map has {count} values in rows of {columns}"
        )));
    }
    if heat.image.width() == 0 || heat.image.height() == 0 {
        return Err(ReportError::Invalid("the picture of a heat map is empty".into()));
    }
    let rows = count / columns;
    let finite = || heat.map.iter().copied().filter(|value| value.is_finite());
    let low = finite().fold(f32::INFINITY, f32::min);
    let range = finite().fold(f32::NEG_INFINITY, f32::max) - low;
    // What is not finite stays dark; a flat map is evenly lit.
    let level = |row: usize, column: usize| match heat.map[row * columns + column] {
        value if !value.is_finite() => 0.0,
        value if range > 0.0 => (value - low) / range,
        _ => 1.0,
    };
    let mut picture = shrink(&heat.image);
    let edge = picture.width().max(picture.height());
    if edge < MIN_HEAT_EDGE {
        let times = MIN_HEAT_EDGE.div_ceil(edge);
        let (width, height) = (picture.width() * times, picture.height() * times);
        picture = imageops::resize(&picture, width, height, imageops::FilterType::Nearest);
    }
    let (width, height) = picture.dimensions();
    for (x, y, pixel) in picture.enumerate_pixels_mut() {
        let across = between(x, width, columns);
        let down = between(y, height, rows);
        let row = |row: usize| mix(level(row, across.0), level(row, across.1), across.2);
        let light = SHADE + (1.0 - SHADE) * mix(row(down.0), row(down.1), down.2);
        for channel in &mut pixel.0 {
            *channel = (f32::from(*channel) * light).round() as u8;
        }
    }
    Ok(picture)
}

/// The two cells of `cells` whose centres enclose pixel `at` of `size`, and how far it is towards the second.
fn between(at: u32, size: u32, cells: usize) -> (usize, usize, f32) {
    let place = ((at as f32 + 0.5) * cells as f32 / size as f32 - 0.5).clamp(0.0, (cells - 1) as f32);
    let first = place as usize;
    (first, (first + 1).min(cells - 1), place - first as f32)
}

fn mix(first: f32, second: f32, share: f32) -> f32 {
    first + (second - first) * share
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;

    #[test]
    fn light_falls_where_the_map_is_high() {
        let image = RgbImage::from_pixel(204, 100, Rgb([200, 100, 50]));
        let heat = HeatMap {
            image,
            tokens: vec![],
            word: 0,
            columns: 4,
            map: vec![1.0, 1.0, 3.0, 1.0, 1.0, f32::NAN, 1.0, 1.0],
        };
        let lit = spotlight(&heat).unwrap();
        assert_eq!(lit.dimensions(), (204, 100));
        assert_eq!(lit[(127, 10)], Rgb([200, 100, 50]));
        assert_eq!(lit[(10, 90)], Rgb([44, 22, 11]));
        assert_eq!(lit[(76, 90)], Rgb([44, 22, 11]));
        let middle = lit[(102, 10)].0[0];
        assert!((100..150).contains(&middle), "{middle}");
    }

    #[test]
    fn extreme_maps_do_no_harm() {
        let heat = |columns, map: Vec<f32>, edge| HeatMap {
            image: RgbImage::new(edge, edge),
            tokens: vec![],
            word: 0,
            columns,
            map,
        };
        assert!(spotlight(&heat(1, vec![0.5], 8)).is_ok());
        assert!(spotlight(&heat(2, vec![f32::NAN; 4], 8)).is_ok());
        assert!(spotlight(&heat(2, vec![f32::MAX, f32::MIN, 0.0, 1.0], 300)).is_ok());
        assert!(spotlight(&heat(0, vec![1.0], 8)).is_err());
        assert!(spotlight(&heat(3, vec![1.0; 4], 8)).is_err());
        assert!(spotlight(&heat(2, vec![], 8)).is_err());
        assert!(spotlight(&heat(1, vec![1.0], 0)).is_err());
    }

    #[test]
    fn large_pictures_shrink() {
        let tag = img(&RgbImage::new(1000, 500), "wide").unwrap();
        assert!(tag.contains(r#"width="224" height="112" alt="wide""#), "{tag}");
        let tag = img(&RgbImage::new(2000, 1), "line").unwrap();
        assert!(tag.contains(r#"width="224" height="1""#), "{tag}");
        assert!(img(&RgbImage::new(0, 5), "none").is_err());
    }
}
