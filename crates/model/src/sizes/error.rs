//! Errors of sizes.

use crate::files::TensorProblem;

/// The reason why the sizes of a model cannot be derived.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// The file has no tensor of this name.
    #[error("the file has no tensor {0}, so it is not a VLC model")]
    Missing(String),
    /// The values of a tensor cannot be read.
    #[error("tensor {name}, which the model needs, {problem}")]
    Unreadable {
        /// The name of the tensor.
        name: String,
        /// The reason.
        problem: TensorProblem,
    },
    /// A tensor has another number of axes than in a VLC model, or an axis of length 0.
    #[error("tensor {name} has shape {shape:?}, which no VLC model has")]
    Shape {
        /// The name of the tensor.
        name: String,
        /// Its shape.
        shape: Vec<usize>,
    },
    /// A block is missing, but the file has a later one.
    #[error("the file has no tensors of block {block}, but those of block {later}: the model is incomplete")]
    MissingBlock {
        /// The name of the block.
        block: String,
        /// The number of the later block.
        later: usize,
    },
    /// A position table does not have one row for the class token and a square number of rows for patches.
    #[error("position table {name} has {rows} rows, which is not one more than a square")]
    NotSquare {
        /// The name of the table.
        name: String,
        /// Number of rows.
        rows: usize,
    },
    /// The number of attention heads does not divide the width.
    #[error("{heads} attention heads do not divide the width {width} of the {part}")]
    Heads {
        /// The encoder or the decoder.
        part: &'static str,
        /// The given number of heads.
        heads: usize,
        /// Width of the part.
        width: usize,
    },
    /// A size is 0, too large, or contradicts another size.
    #[error("the {name} {value} of the model is out of range or contradicts another size")]
    OutOfRange {
        /// The name of the size.
        name: &'static str,
        /// Its value.
        value: usize,
    },
    /// The image size is not a multiple of the patch size.
    #[error("the image size {image_size} is not a multiple of the patch size {patch_size}")]
    ImageSize {
        /// Side of the images in pixels.
        image_size: usize,
        /// Side of a patch in pixels.
        patch_size: usize,
    },
    /// The ε of a layer norm is not between 0 and 1.
    #[error("the ε {0} of a layer norm is not between 0 and 1")]
    Epsilon(String),
    /// A model with a decoder has a learned position table.
    #[error("the model has a decoder and a learned position table, which do not go together")]
    LearnedPositionsWithDecoder,
    /// A configuration contradicts the tensors.
    #[error("config.json has {key} = {stated}, but the tensors have {found}: the two files are not of the same model")]
    Contradiction {
        /// The key.
        key: &'static str,
        /// Its value; of `id2label`, the number of names.
        stated: String,
        /// The size of the tensors.
        found: usize,
    },
    /// A configuration is that of a model that differs from ViLT.
    #[error("config.json has {key} = {value}, which is not supported: {supported}")]
    Unsupported {
        /// The key.
        key: &'static str,
        /// Its value.
        value: String,
        /// The supported values.
        supported: &'static str,
    },
    /// The number of attention heads is neither in the file nor given, and the width is not that of a published model.
    #[error("the file does not state the number of attention heads of the {part}, whose width is {width}")]
    UnknownHeads {
        /// The encoder or the decoder.
        part: &'static str,
        /// Width of the part.
        width: usize,
    },
}
