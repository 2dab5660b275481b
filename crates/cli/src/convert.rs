//! `vlct convert IN OUT`: converts weight files between formats and between naming schemes.

use vlct_model::files;

use crate::args::{Convert, Style};
use crate::output::{Failure, check_new, print};
use crate::references::local_path;

/// Converts the file and prints what was done.
pub fn run(args: &Convert) -> Result<(), Failure> {
    let style = args.style.map(|style| match style {
        Style::Vlc => files::Style::Vlc,
        Style::Mae => files::Style::Mae,
    });
    let input = files::find(&local_path(&args.input)?)?;
    let canonical = |path: &std::path::Path| path.canonicalize().ok();
    if canonical(&input).is_some_and(|input| Some(input) == canonical(&args.output)) {
        let path = args.output.display();
        return Err(Failure::Failed(format!(
            "{path}: IN and OUT are the same file; name another OUT"
        )));
    }
    check_new(&args.output, args.overwrite)?;
    let report = files::convert(&input, &args.output, style)?;
    let of = match input == args.input {
        true => String::new(),
        false => format!(" of {}", input.display()),
    };
    print(&format!("wrote {}{of}: {report}\n", args.output.display()))
}
