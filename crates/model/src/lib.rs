//! The model: VLC, its heads, its weight files.

pub mod files;
pub mod position;
