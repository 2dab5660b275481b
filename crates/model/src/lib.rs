//! The VLC model, its heads and its weight files.
//!
//! [`vlc::Vlc`] embeds the texts and images of its [`Inputs`], packs them into one matrix of sequences and runs the
//! transformer; its heads and the masked-autoencoding decoder read the result. [`files`] reads and writes weights in the
//! formats of PyTorch and safetensors.

mod batch_norm;
mod blocks;
pub mod config;
pub mod files;
pub mod initialise;
pub mod inputs;
mod load;
pub mod mask;
pub mod model;
pub mod position;
pub mod sizes;
pub mod vit;
pub mod vlc;

pub use batch_norm::BatchStatistics;
pub use config::VlcConfig;
pub use inputs::{Inputs, Sequence};
pub use mask::PatchMask;
pub use model::{Model, ModelConfig};
pub use vit::{DropPath, Vit, VitConfig};
pub use vlc::{EmbeddedRows, Encoded, Vlc};
pub use vlct_tensor::Planes;
