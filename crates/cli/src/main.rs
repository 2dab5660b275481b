//! `vlct`: vision-language pre-training from image-caption pairs. This crate parses arguments and prints results; the libraries do
//! the work.

mod args;
mod average;
mod bench;
mod bench_answer;
mod check_images;
mod convert;
mod data_files;
mod hints;
mod imagenet;
mod inspect;
mod map_vg_mscoco;
mod output;
mod predict;
mod prepare;
mod quickstart;
mod ranks;
mod references;
mod report;
mod run;
mod self_test;
mod shell;
mod signals;
mod train;
mod values;
mod vocabulary;

use std::panic;
use std::process::ExitCode;

use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory, FromArgMatches};

use args::{Cli, Command};
use output::Failure;
use vlct_tensor::{DeviceError, MemoryShortage, OutOfMemory};

fn main() -> ExitCode {
    // These functions print help and usage errors themselves, and exit with 0 or 2.
    let matches = command().get_matches();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    output::Logger::install();
    let result = catch_device_errors(|| match &cli.command {
        Command::Run(args) => run::run(args),
        Command::Train(args) => train::run(args),
        Command::Imagenet(args) => imagenet::run(args, &|flag| is_given(&matches, flag)),
        Command::Vocabulary(args) => vocabulary::run(args),
        Command::Quickstart(args) => quickstart::run(args),
        Command::Report(args) => report::run(args),
        Command::Convert(args) => convert::run(args),
        Command::Average(args) => average::run(args),
        Command::Inspect(args) => inspect::run(args),
        Command::Predict(args) => predict::run(args),
        Command::CheckImages(args) => check_images::run(args),
        Command::MapVgMscoco(args) => map_vg_mscoco::run(args),
        Command::Bench(args) => bench::run(args),
        Command::SelfTest(args) => self_test::run(args),
        Command::WriteValidVgqa(args) => prepare::valid_vgqa::run(args),
        Command::Prepare(args) => prepare::run(args),
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // A reader such as `head` may close standard output early.
        Err(Failure::BrokenPipe) => ExitCode::SUCCESS,
        Err(Failure::Reported) => ExitCode::from(1),
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

/// Returns the command line. A number of `vlct imagenet` may be negative, so that the error says which numbers are possible.
fn command() -> clap::Command {
    Cli::command().mut_subcommand("imagenet", |imagenet| {
        imagenet.mut_args(
            |arg| match arg.get_action().takes_values() && !arg.is_allow_hyphen_values_set() {
                true => arg.allow_negative_numbers(true),
                false => arg,
            },
        )
    })
}

/// Whether an argument of the subcommand is on the command line.
fn is_given(matches: &ArgMatches, id: &str) -> bool {
    let Some((_, matches)) = matches.subcommand() else {
        return false;
    };
    matches.try_contains_id(id).is_ok() && matches.value_source(id) == Some(ValueSource::CommandLine)
}

/// Runs a command. A computation that runs out of memory panics with [`OutOfMemory`] on the CPU, and every failure of another device with
/// [`DeviceError`]: this function catches these panics and returns an error. It does not print panics that a library turns into errors,
/// such as those of decoders on damaged files.
fn catch_device_errors(command: impl FnOnce() -> Result<(), Failure>) -> Result<(), Failure> {
    let default_hook = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        let is_caught = info.payload().is::<OutOfMemory>() || info.payload().is::<DeviceError>();
        if !is_caught && !vlct_util::panics::is_caught() {
            default_hook(info);
        }
    }));
    let payload = match panic::catch_unwind(panic::AssertUnwindSafe(command)) {
        Ok(result) => return result,
        Err(payload) => payload,
    };
    let message = if let Some(OutOfMemory { bytes }) = payload.downcast_ref() {
        format!("out of memory: {} more are needed; {LESS_MEMORY}", mebibytes(*bytes))
    } else if let Some(error) = payload.downcast_ref::<DeviceError>() {
        match error.out_of_memory() {
            Some(MemoryShortage { requested, free, total }) => format!(
                "out of memory of the GPU: {} more are needed, and {} of {} are free; {LESS_MEMORY}",
                mebibytes(requested),
                mebibytes(free),
                mebibytes(total)
            ),
            None => format!(
                "the GPU failed: {error}; device=cpu or --device cpu computes on the CPU, and vlct self-test checks the GPU"
            ),
        }
    } else {
        panic::resume_unwind(payload);
    };
    Err(Failure::Failed(message))
}

/// What a user can do if there is too little memory.
const LESS_MEMORY: &str =
    "use fewer samples at once (per_gpu_batchsize, --batch, --batch_size), smaller images or activation_recompute=True";

/// Returns a number of bytes as text.
fn mebibytes(bytes: usize) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}
