//! Extraction of square patches from images: `kernels/patches.cu`.

use crate::context::{Buffer, Context};
use crate::driver::Element::F32;
use crate::driver::Result;
use crate::launch::{THREADS, launch, to_blocks, to_i32};
use crate::matrix::MatrixMut;
use crate::packed::Packed;
use crate::rows::invalid;
use bytemuck::{Pod, Zeroable};
pub use vlct_kernels::patches::{Order, Planes};

/// Images of different sizes in one buffer on the device.
#[derive(Debug)]
pub struct Images {
    buffer: Buffer,
    images: Vec<Image>,
}

/// The place of an image in the buffer, in values, and its size in pixels.
#[derive(Clone, Copy, Debug)]
struct Image {
    first: usize,
    height: usize,
    width: usize,
}

/// A patch, as in `patches.cu`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Patch {
    first: i64,
    channel: i32,
    row: i32,
}

impl Images {
    /// Copies images to the device.
    ///
    /// # Errors
    /// Those of the driver, or if an image has another number of values than its size tells.
    pub fn upload(context: &Context, images: &[Planes]) -> Result<Self> {
        let mut first = 0;
        let mut placed = Vec::with_capacity(images.len());
        for Planes { values, height, width } in images {
            if Some(values.len()) != height.checked_mul(*width).and_then(|pixels| pixels.checked_mul(3)) {
                let reason = format!("an image of {height}×{width} pixels has {} values", values.len());
                return Err(invalid("upload of images", reason));
            }
            placed.push(Image {
                first,
                height: *height,
                width: *width,
            });
            first += values.len();
        }
        let buffer = context.allocate(first * F32.bytes())?;
        for (image, at) in images.iter().zip(&placed) {
            let to = buffer.address().offset(at.first * F32.bytes());
            let bytes: &[u8] = bytemuck::cast_slice(image.values);
            context.driver().copy_to_device(to, bytes, context.stream())?;
        }
        Ok(Self { buffer, images: placed })
    }

    /// Copies patches of `side · side` pixels to the rows of `out [patches, 3·side²]`, f32, in order. Each pick is the index of an image
    /// and the indices of its patches; patch `r · (width/side) + c` begins in row `r · side` and column `c · side`.
    ///
    /// # Errors
    /// Those of the driver, or if shapes do not fit, or if an image or patch does not exist.
    pub fn extract(
        &self,
        context: &Context,
        picks: &[(usize, &[u32])],
        side: usize,
        order: Order,
        out: MatrixMut,
    ) -> Result<()> {
        const OPERATION: &str = "extraction of patches";
        let count = picks.iter().map(|(_, patches)| patches.len()).sum();
        let row = side.checked_mul(side).and_then(|pixels| pixels.checked_mul(3));
        let row = row.filter(|row| *row > 0 && i32::try_from(*row).is_ok());
        let row = row.ok_or_else(|| invalid(OPERATION, format!("patches cannot have {side}×{side} pixels")))?;
        out.expect(OPERATION, "out", [count, row], F32)?;
        if count == 0 {
            return Ok(());
        }
        let mut patches = Vec::with_capacity(count);
        for (image, indices) in picks {
            let Some(Image { first, height, width }) = self.images.get(*image).copied() else {
                let reason = format!("there is no image {image} of {}", self.images.len());
                return Err(invalid(OPERATION, reason));
            };
            let (rows, columns) = (height / side, width / side);
            for index in *indices {
                let index = *index as usize;
                if index >= rows * columns {
                    let reason = format!("there is no patch {index} in an image of {height}×{width} pixels");
                    return Err(invalid(OPERATION, reason));
                }
                let (top, left) = (index / columns * side, index % columns * side);
                patches.push(Patch {
                    first: (first + top * width + left) as i64,
                    channel: to_i32(OPERATION, height * width)?,
                    row: to_i32(OPERATION, width)?,
                });
            }
        }
        let mut arrays = Packed::default();
        let place = arrays.push(&patches);
        let arrays = arrays.upload(context)?;
        let patches = arrays.address(place);
        // A thread has four pixels of a row of a patch.
        let threads = count * side * side.div_ceil(4);
        let grid = [to_blocks(OPERATION, threads.div_ceil(THREADS as usize))?, 1, 1];
        let (images, out, side) = (self.buffer.address(), out.address(), to_i32(OPERATION, side)?);
        let channels_last = i32::from(order == Order::ChannelLast);
        // SAFETY: `out` has a row for each patch, and all patches are within their images.
        unsafe {
            launch!(
                context,
                "extract_patches_f32",
                grid,
                [THREADS, 1, 1],
                0,
                [images, patches, out, side, channels_last, threads as i64]
            )
        }
    }
}
