//! The state of a preparation, stored beside its Arrow files: the [`Journal`], from which an interrupted preparation resumes, and the
//! [`Report`] of a finished one.

mod journal;
mod report;

pub use journal::{FileState, Journal, unfinished_files};
pub use report::{Coverage, Inputs, LabelCounts, LeftOut, Report, WrittenFile};
