//! Batches: sampling order, decoding threads, prefetch.
//!
//! ```text
//! position ── Order ──▶ item ── TableDataset ──▶ picture, caption ──▶ decode, transform, tokenise, mask ──▶ Batch
//! ```
//!
//! [`Loader`] makes batches for pre-training and image-text matching, [`ImageLoader`] images for retrieval, both on the threads of
//! a [`Pipeline`]. Every random decision is a function of seed, epoch and position ([`crate::random`]), so the
//! number of threads does not matter and a run can be taken up at any batch.

pub mod bench;
mod buffers;
mod captions;
mod images;
mod order;
mod pipeline;

pub use captions::{Batch, Loader, LoaderConfig, SampleId};
pub use images::{ImageBatch, ImageLoader};
pub use order::Order;
pub use pipeline::{Job, Pipeline, Position};

#[cfg(test)]
mod tests;
