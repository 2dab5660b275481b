//! `vlct`: vision-language pre-training from captions alone. Arguments and printing; the work is done by the libraries.

mod args;
mod bench;
mod check_images;
mod convert;
mod hints;
mod inspect;
mod map_vg_mscoco;
mod output;
mod prepare;
mod quickstart;
mod run;
mod signals;

use std::panic;
use std::process::ExitCode;

use clap::Parser;

use args::{Cli, Command};
use output::Failure;
use vlct_train::OutOfMemory;

fn main() -> ExitCode {
    // Prints help or a usage error itself, and exits with 0 or 2.
    let cli = Cli::parse();
    output::Logger::install();
    let result = catching_out_of_memory(|| match &cli.command {
        Command::Run(args) => run::run(args),
        Command::Quickstart(args) => quickstart::run(args),
        Command::Convert(args) => convert::run(args),
        Command::Inspect(args) => inspect::run(args),
        Command::CheckImages(args) => check_images::run(args),
        Command::MapVgMscoco(args) => map_vg_mscoco::run(args),
        Command::Bench(args) => bench::run(args),
        Command::WriteValidVgqa(args) => prepare::valid_vgqa::run(args),
        Command::Prepare(args) => prepare::run(args),
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read the output has seen enough.
        Err(Failure::BrokenPipe) => ExitCode::SUCCESS,
        Err(Failure::Stopped(status)) => ExitCode::from(status),
        Err(Failure::Failed(message)) => {
            log::error!("{message}");
            ExitCode::from(1)
        }
        Err(Failure::Usage(message)) => {
            log::error!("{message}");
            ExitCode::from(2)
        }
    }
}

/// Runs a command; memory that runs out in the middle of the arithmetic, where no error can be passed on, ends it as an error
/// does.
fn catching_out_of_memory(command: impl FnOnce() -> Result<(), Failure>) -> Result<(), Failure> {
    let default = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if !info.payload().is::<OutOfMemory>() {
            default(info);
        }
    }));
    panic::catch_unwind(panic::AssertUnwindSafe(command)).unwrap_or_else(|payload| match payload.downcast::<OutOfMemory>() {
        Ok(missing) => Err(Failure::Failed(format!(
            "out of memory: {} MiB more are needed; take fewer samples at once (per_gpu_batchsize, --batch), smaller pictures or \
             activation_recompute=True",
            missing.bytes.div_ceil(1 << 20)
        ))),
        Err(payload) => panic::resume_unwind(payload),
    })
}
