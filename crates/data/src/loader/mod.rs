//! What loaders are made of: the order of an epoch, threads that make batches ahead of time, image memory that is used again.
//!
//! The loader of training and evaluation is in the crate `vlct-tasks`; here are the parts that know no task. Every random
//! decision is a function of seed, epoch and position ([`crate::random`]), so the number of threads does not matter and a run
//! can be resumed at any batch.

pub mod bench;
mod buffers;
mod order;
mod pipeline;

pub use buffers::{Buffers, Pixels};
pub use order::Order;
pub use pipeline::{Job, Pipeline, Position};
