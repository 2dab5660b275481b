//! Training: configuration, objectives, optimiser groups, schedule, trainer, checkpoints, logs.

pub mod bench;
pub mod checkpoint;
pub mod config;
pub mod groups;
pub mod logs;

pub mod objectives;
pub mod report;
pub mod schedule;
