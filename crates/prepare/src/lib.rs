//! Raw downloads to Arrow files.
//!
//! ```text
//! annotations, folders ── datasets::… ──▶ Plan ── write ──▶ Arrow files, report
//! ```
//!
//! A [`Plan`] says which files there will be and what the rows of each are, before the first picture is read. [`write()`] reads the
//! pictures on all cores, leaves out those that cannot be decoded, and writes the files; killed and called again it goes on
//! where it was. The files are those of the original's writers (`vlc/utils/write_*.py`), in an order that is a function of
//! the seed instead of random.

pub mod custom;
mod cut;
pub mod datasets;
mod find;
mod json;
mod ordered;
mod picture;
mod plan;
pub mod records;
mod table;
pub mod vgqa;
mod write;

pub use cut::Cut;
pub use datasets::{Dataset, ROWS_PER_FILE, Raw};
pub use picture::{Shrink, Treatment};
pub use plan::{Columns, Plan, PlannedFile, RowSource, RowText};
pub use vlct_data::manifest::{Coverage, LeftOut, Report, WrittenFile};
pub use vlct_data::{DataError, Result};
pub use write::{Outcome, Progress, Target, write};

#[cfg(test)]
mod tests;
