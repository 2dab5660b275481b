//! `vlct report`: writes a page about a run directory.

use vlct_report::run::{RunReportOptions, WrittenReport, report};

use crate::args::Report;
use crate::output::{Failure, print};

/// Writes the report.
///
/// # Errors
/// Returns an error if no page can be written, or if a part of the run is damaged, after the page has been written without it.
pub fn run(args: &Report) -> Result<(), Failure> {
    let WrittenReport { page, faults } = report(&RunReportOptions {
        run: args.run.clone(),
        out: args.out.clone(),
        without_examples: args.without_examples,
    })?;
    print(&format!("report: {}\n", page.display()))?;
    match faults.is_empty() {
        true => Ok(()),
        false => Err(Failure::Failed(format!(
            "the page is incomplete: {}",
            faults.join("; ")
        ))),
    }
}
