//! Prepares training data: converts raw downloads of published datasets, or custom data, to the Arrow files that training reads.
//!
//! ```text
//! annotations, image files ── Dataset::plan, CustomDataset::plan ──▶ Plan ── write ──▶ Arrow files, report
//! ```
//!
//! A [`Plan`] lists the files and the rows of each before the first image is read. [`write()`] reads the images on several threads,
//! leaves out rows whose images cannot be used, and writes the files. After an interruption, the same call resumes the preparation. The
//! files have the rows that the original's writers (`vlc/utils/write_*.py`) write. Where the original shuffles rows, their order depends
//! on a seed here.
//!
//! - `published`: one module per raw layout of a published dataset.
//! - [`custom`]: custom datasets from tables, WebDataset tars or class directories.
//! - [`tables`]: readers of JSONL, CSV, TSV and Parquet.
//! - [`vgqa`]: selects questions of Visual Genome for VQA, and reads and writes the file of selected questions.

pub mod custom;
pub mod error;
mod image_files;
mod image_processing;
mod json_stream;
mod malformed;
mod plan;
mod published;
pub mod tables;
mod write;

pub use error::{PrepareError, Result};
pub use image_processing::{Downscale, ImageProcessing};
pub use plan::{Plan, PlannedFile, ROWS_PER_FILE, RowSource, RowText, Schema, TailSplit};
pub use published::{Dataset, RawDataset, vgqa};
pub use vlct_data::manifest::{Coverage, LabelCounts, LeftOut, Report, WrittenFile};
pub use write::{Outcome, Progress, WriteOptions, write};

#[cfg(test)]
mod testing;
