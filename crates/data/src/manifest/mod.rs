//! The state of a preparation, kept beside the Arrow files that it writes: [`Journal`] while it runs, so that it can be resumed, and
//! [`Report`] when it is done.

mod journal;
mod report;

pub use journal::{FileState, Journal, unfinished};
pub use report::{Coverage, LeftOut, Report, WrittenFile};
