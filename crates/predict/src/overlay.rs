//! Images of values per patch.

use vlct_image::{Rgb, RgbImage, Rgba, RgbaImage};

/// Returns an image whose opacity is that of its patches, scaled to the size of the image without interpolation. `opacity` has one value
/// per patch, in row-major order; `grid` is the number of patches per column and per row.
///
/// # Panics
/// Panics if `opacity` does not have a value for each patch.
pub fn heat_map(image: &RgbImage, grid: [usize; 2], opacity: &[u8]) -> RgbaImage {
    let patch = patch_of(image.dimensions(), grid, opacity.len());
    RgbaImage::from_fn(image.width(), image.height(), |x, y| {
        let Rgb([r, g, b]) = *image.get_pixel(x, y);
        Rgba([r, g, b, opacity[patch(x, y)]])
    })
}

/// Returns an image of `size` (width, height) with a colour for each cluster. `labels` has the cluster of each patch, in row-major order,
/// and `grid` is the number of patches per column and per row.
///
/// # Panics
/// Panics if there is not a label for each patch, or a label has no colour.
pub fn cluster_map(size: (u32, u32), grid: [usize; 2], labels: &[usize], colours: &[[u8; 3]]) -> RgbImage {
    let patch = patch_of(size, grid, labels.len());
    RgbImage::from_fn(size.0, size.1, |x, y| Rgb(colours[labels[patch(x, y)]]))
}

/// Returns a function from a pixel to the index of its patch: the patch that contains the centre of the pixel.
fn patch_of((width, height): (u32, u32), [rows, columns]: [usize; 2], count: usize) -> impl Fn(u32, u32) -> usize {
    assert_eq!(count, rows * columns, "one value per patch");
    let cell = |pixel: u32, size: u32, patches: usize| (2 * pixel as usize + 1) * patches / (2 * size as usize);
    move |x, y| cell(y, height, rows) * columns + cell(x, width, columns)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_patch_covers_its_part_of_the_image() {
        let image = RgbImage::from_pixel(5, 4, Rgb([1, 2, 3]));
        let map = heat_map(&image, [2, 2], &[10, 20, 30, 40]);
        let alpha: Vec<u8> = map.pixels().map(|p| p.0[3]).collect();
        // The centre of the third column of five is on the border, and belongs to the right half.
        let (top, bottom) = ([10, 10, 20, 20, 20], [30, 30, 40, 40, 40]);
        assert_eq!(alpha, [top, top, bottom, bottom].concat());
        assert!(map.pixels().all(|p| p.0[..3] == [1, 2, 3]));
    }

    #[test]
    fn clusters_have_their_colours() {
        let map = cluster_map((2, 2), [2, 2], &[0, 1, 1, 0], &[[9, 9, 9], [7, 0, 0]]);
        assert_eq!(map.as_raw(), &[9, 9, 9, 7, 0, 0, 7, 0, 0, 9, 9, 9]);
        let map = cluster_map((3, 2), [1, 3], &[0, 1, 0], &[[9; 3], [7; 3]]);
        assert_eq!(map.as_raw(), &[[9; 3], [7; 3], [9; 3], [9; 3], [7; 3], [9; 3]].concat());
    }
}
