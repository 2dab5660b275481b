//! The results of checks.

use serde::Serialize;

/// Whether a check holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// All values are within their bounds.
    Passed,
    /// A value is not, or an error occurred.
    Failed,
    /// The check needs something that is missing.
    Skipped,
}

/// The result of one check.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// What is checked: `instruction`, `kernel`, `product` or `step`.
    pub kind: &'static str,
    /// The name of the check.
    pub name: &'static str,
    /// Whether it holds.
    pub status: Status,
    /// The largest ratio of an error to its bound; absent if a value failed, or nothing was compared.
    pub worst: Option<f64>,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// Why it failed or was skipped, in one line.
    pub reason: Option<String>,
}

/// How many checks hold.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    /// The name of the device: `cpu`, `cuda:0`.
    pub device: String,
    /// The model of the device.
    pub model: String,
    /// Number of checks that hold.
    pub passed: usize,
    /// Number of checks that do not hold.
    pub failed: usize,
    /// Number of checks that were not run.
    pub skipped: usize,
    /// Time of all checks, in seconds.
    pub seconds: f64,
}

impl Summary {
    /// Counts a row.
    pub(crate) fn add(&mut self, row: &Row) {
        let count = match row.status {
            Status::Passed => &mut self.passed,
            Status::Failed => &mut self.failed,
            Status::Skipped => &mut self.skipped,
        };
        *count += 1;
        self.seconds += row.seconds;
    }
}
