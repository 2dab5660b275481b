//! `vlct report`: writes a page about a run directory.

use vlct_report::run::{RunReportOptions, report};

use crate::args::Report;
use crate::output::{Failure, print};

/// Writes the report.
pub fn run(args: &Report) -> Result<(), Failure> {
    let page = report(&RunReportOptions {
        run: args.run.clone(),
        out: args.out.clone(),
        without_examples: args.without_examples,
    })?;
    print(&format!("report: {}\n", page.display()))
}
