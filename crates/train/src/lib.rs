//! Training: configuration, objectives, optimiser groups, schedule, trainer, checkpoints, logs.

pub mod checkpoint;
pub mod config;
pub mod groups;
pub mod logs;
pub mod report;
pub mod schedule;
