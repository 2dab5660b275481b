//! Tasks: the samples, losses and metrics with which a model is trained and evaluated.
//!
//! ```text
//! item ── Task::sample ──▶ Sample ── Batch::collate ──▶ Batch ── Task::forward ──▶ Outcome ── PendingMeasures, Tally ──▶ Report
//!         (loader threads)                                       (model, tape)
//! ```
//!
//! Each [`Task`] has a file ([`pretrain`], [`vqa`], [`nlvr2`], [`retrieval`], [`labels`],
//! [`images`]). A task turns items into sequences and targets, and the model's
//! output into losses and metrics. Everything else is common to all tasks: the [`Loader`], the [`Batch`], the measures and the
//! evaluation of a split ([`evaluate`]). A [`Description`] makes a checkpoint usable without the configuration and data of its run, and [`average()`](average::average) computes the mean of checkpoints. The crate
//! uses `vlct_data` and `vlct_model`; it knows no optimiser, run directory or recipe.

pub mod average;
pub mod batch;
pub mod confusion;
pub mod description;
pub mod error;
pub mod evaluate;
pub mod gather;
pub mod images;
mod inputs;
pub mod labels;
pub mod loader;
pub mod metrics;
pub mod mixup;
pub mod neighbours;
pub mod nlvr2;
pub mod predictions;
pub mod pretrain;
pub mod probabilities;
mod ranking;
pub mod retrieval;
pub mod rows;
mod sample;
pub mod scoring;
mod spec;
mod task;
pub mod text_baseline;
pub mod texts;
pub mod vqa;

pub use batch::{Batch, Sample, Target, Text, planes};
pub use description::Description;
pub use error::{Result, TaskError};
pub use inputs::{InputSpec, MaxPatches, Mode};
pub use loader::{Loader, LoaderSpec};
pub use metrics::{Measure, NonFinite, PendingMeasures, Phase, Ratio, Report, ReportFile, Tally};
pub use rows::{Row, Rows, Subset};
pub use sample::{SampleContext, SampleError, Unreadable};
pub use spec::TaskSpec;
pub use task::{Outcome, Task};
