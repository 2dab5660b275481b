//! The model: VLC, its heads, its weight files.
//!
//! [`vlc::Vlc`] embeds captions and pictures, packs them into one sequence per pair and runs the transformer; its heads and
//! the masked-autoencoding decoder read the result. [`files`] reads and writes weights in the formats of the PyTorch world.

pub mod config;
pub mod files;
pub mod initialise;
pub mod mask;
pub mod position;
pub mod vlc;

pub use config::VlcConfig;
pub use mask::PatchMask;
pub use vlc::{Encoded, Picture, Sequence, Vlc};
