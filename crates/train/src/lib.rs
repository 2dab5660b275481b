//! Training: settings of a run, parameter groups, learning-rate schedule, training loop, checkpoints and logs.

mod agreement;
pub mod data;
pub mod error;
pub mod fit;
pub mod groups;
pub mod imagenet;
pub mod memory;
mod names;
mod paths;
pub mod plan;
mod published;
mod run;
pub mod schedule;
pub mod spec;
mod state;
pub mod texts;
pub mod trainer;
mod vocabulary;
pub mod weights;

pub use error::{Result, TrainError};
pub use vlct_tensor::OutOfMemory;
