//! `vlct average IN... --out FILE`: writes the mean of the weights of several files.

use std::fmt::Write;
use std::path::PathBuf;

use vlct_model::files::mapping::abbreviate;
use vlct_tasks::average;
use vlct_util::text::{counted, one_line};

use crate::args::Average;
use crate::output::{Failure, check_new, print, with_thousands_separators};
use crate::references::local_path;

/// Writes the mean and prints which files were averaged.
pub fn run(args: &Average) -> Result<(), Failure> {
    check_new(&args.out, args.overwrite)?;
    let inputs: Vec<PathBuf> = args
        .inputs
        .iter()
        .map(|input| local_path(input))
        .collect::<Result<_, _>>()?;
    let report = average::average(&inputs, &args.out)?;
    let mut text = format!(
        "wrote {}: {} with {}, the mean of\n",
        args.out.display(),
        counted(report.tensors, "tensor"),
        counted(with_thousands_separators(report.parameters as u64), "value")
    );
    for file in &report.files {
        let _ = writeln!(text, "  {}", file.display());
    }
    if !report.left_out.is_empty() {
        let _ = writeln!(
            text,
            "left out, because they cannot be read: {}",
            one_line(&abbreviate(&report.left_out))
        );
    }
    print(&text)
}
