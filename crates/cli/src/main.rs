//! `vlct`: vision-language pre-training from captions alone. Arguments and printing; the work is done by the libraries.

mod args;
mod bench;
mod convert;
mod inspect;
mod output;
mod quickstart;
mod run;
mod signals;

use std::process::ExitCode;

use clap::Parser;

use args::{Cli, Command};
use output::Failure;

fn main() -> ExitCode {
    // Prints help or a usage error itself, and exits with 0 or 2.
    let cli = Cli::parse();
    let result = match &cli.command {
        Command::Run(args) => run::run(args),
        Command::Quickstart(args) => quickstart::run(args),
        Command::Convert(args) => convert::run(args),
        Command::Inspect(args) => inspect::run(args),
        Command::Bench(args) => bench::run(args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read the output has seen enough.
        Err(Failure::ReaderGone) => ExitCode::SUCCESS,
        Err(Failure::Stopped(status)) => ExitCode::from(status),
        Err(Failure::Failed(message)) => {
            output::complain("error", &message);
            ExitCode::from(1)
        }
        Err(Failure::Usage(message)) => {
            output::complain("error", &message);
            ExitCode::from(2)
        }
    }
}
