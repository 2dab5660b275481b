//! Batches: sampling order, decoding threads, prefetch.

mod order;
mod pipeline;

pub use order::Order;
pub use pipeline::{Job, Pipeline, Position};
