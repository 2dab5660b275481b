//! Training: settings of a run, parameter groups, learning-rate schedule, training loop, checkpoints and logs.
//!
//! A run has one or more ranks, which compute the micro-batches of each optimiser step together; see [`trainer::run_rank`].

pub mod agreement;
pub mod data;
pub mod error;
pub mod groups;
pub mod imagenet;
pub mod memory;
mod names;
pub mod paths;
pub mod plan;
mod published;
mod run;
pub mod schedule;
pub mod spec;
mod state;
pub mod trainer;
pub mod vocabulary;
pub mod weights;

pub use error::{Result, TrainError};
