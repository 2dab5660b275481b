//! The parts of a loader: the order of an epoch, threads that prefetch batches, and reused memory of images.
//!
//! The loader of training and evaluation is in the crate `vlct-tasks`; the parts here are independent of the task. Every random
//! decision is a function of seed, epoch and position ([`crate::random`]), so the batches are the same for any number of threads,
//! and a run can be resumed at any batch.

pub mod bench;
mod buffers;
mod order;
mod pipeline;
mod share;

pub use buffers::{Buffers, Pixels};
pub use order::Order;
pub use pipeline::{Job, Pipeline, Position};
pub use share::Share;
