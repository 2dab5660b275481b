//! The largest images that are decoded.

/// Maximum number of pixels of an image: a quarter of a gibibyte at three bytes per pixel. Pillow warns of a decompression bomb above
/// this number (`Image.MAX_IMAGE_PIXELS`).
pub const MAX_PIXELS: u64 = 89_478_485;

/// Maximum side of an image in pixels; JPEG has the same limit. The memory of a resize is proportional to the side.
pub const MAX_SIDE: u32 = 65_535;
