//! Reconstruction of masked patches.

use vlct_data::loader::Pixels;
use vlct_model::{PatchMask, Vlc};
use vlct_tensor::Tape;

/// Small constant that is added to the variance of a patch, as in training.
const VARIANCE_EPS: f32 = 1e-6;

/// An image with masked patches and its reconstruction. Both are normalised values.
#[derive(Clone, Debug, PartialEq)]
pub struct Reconstruction {
    /// The image with zeros, the mean colour, in place of the masked patches.
    pub masked: Pixels,
    /// The image with the model's predictions in place of the masked patches.
    pub reconstructed: Pixels,
}

/// Masks patches of an image and replaces them by the model's predictions, given the text and the visible patches.
///
/// The model predicts patches normalised to mean 0 and variance 1. For display, this normalisation is inverted with the mean and standard
/// deviation of the original patch, so the model predicts the shapes in a patch, but not its colour and brightness.
///
/// # Panics
/// Panics if the model has no decoder.
pub fn reconstruct(model: &Vlc, text: &[u32], pixels: &Pixels, mask: &PatchMask) -> Reconstruction {
    let tape = Tape::inference(model.compute());
    let encoded = super::encode(model, &tape, text, pixels, Some(mask));
    let prediction = model.decode(&tape, &encoded, 0..1, &[mask], |mask| mask.removed.clone());
    let values = prediction.tensor().to_host();
    let (size, patch_size) = (model.config().image_size, model.config().backbone.patch_size);
    let grid = model.config().grid();
    let (mut masked, mut reconstructed) = (pixels.clone(), pixels.clone());
    for (patch, predicted) in mask
        .removed
        .iter()
        .zip(values.chunks_exact(model.config().patch_values()))
    {
        let (top, left) = (*patch as usize / grid * patch_size, *patch as usize % grid * patch_size);
        // The order of a patch's values is row, column, channel.
        let pixel_index = |j: usize| (j % 3 * size + top + j / 3 / patch_size) * size + left + j / 3 % patch_size;
        let n = predicted.len() as f32;
        let mean = (0..predicted.len()).map(|j| pixels[pixel_index(j)]).sum::<f32>() / n;
        let squares = (0..predicted.len()).map(|j| (pixels[pixel_index(j)] - mean).powi(2));
        let variance = squares.sum::<f32>() / (n - 1.0);
        for (j, value) in predicted.iter().enumerate() {
            masked[pixel_index(j)] = 0.0;
            reconstructed[pixel_index(j)] = value * (variance + VARIANCE_EPS).sqrt() + mean;
        }
    }
    Reconstruction { masked, reconstructed }
}
