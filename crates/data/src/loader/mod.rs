//! Batches: sampling order, decoding threads, prefetch.
//!
//! ```text
//! position ── Order ──▶ item ── CaptionDataset ──▶ picture, caption ──▶ decode, transform ──▶ batch
//! ```
//!
//! [`PictureLoader`] makes batches of pictures for retrieval on the threads of a [`Pipeline`]. Every random decision is a function of seed, epoch and position ([`crate::random`]), so the
//! number of threads does not matter and a run can be taken up at any batch.

mod order;
mod pictures;
mod pipeline;

pub use order::Order;
pub use pictures::{PictureBatch, PictureLoader};
pub use pipeline::{Job, Pipeline, Position};
