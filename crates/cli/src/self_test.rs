//! `vlct self-test`: checks that a device computes what the CPU and the original compute.

use std::io::{self, IsTerminal};
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use vlct_logs::progress::{Progress, suspend};
use vlct_self_test::{Options, Row, Status, Summary, names, run as run_checks};
use vlct_tensor::{Device, DeviceName};
use vlct_train::trainer::{Threads, use_threads};

use crate::output::{Failure, print};
use crate::signals::Signals;
use crate::values::open_device;

/// Check that this machine computes correctly: instructions, kernels, matrix products, training steps
///
/// On a GPU: compares every instruction with its definition, every kernel with plain loops on the CPU, for random values and sizes at the
/// edges, and matrix products in all layouts, types and epilogues. On a GPU and on the CPU: runs training steps of all tasks, in f32 and
/// bfloat16, compares losses, gradients and weights with recorded ones of the original program and with the same steps in f32 on the CPU,
/// and runs the same step twice, for equal bits. Run it on a new machine, and after an update of the driver.
#[derive(Args)]
#[command(after_help = "\
Each check is one line: the result, the largest error as a part of its bound (0.00 means equal
values), seconds, kind, name, and why it failed or was skipped. Checks that compare with the original
program need golden data, which the source repository has in tests/golden; checks of generated models
need no data.

With --json, standard output has a JSON object for each check as soon as it is done, with the keys
  kind      instruction, kernel, product or step
  name      the name of the check
  status    passed, failed or skipped
  worst     the largest ratio of an error to its bound; null if there is none
  seconds   how long it took
  reason    why it failed or was skipped; null if it passed
and, last, an object with the keys device, model, seconds, and the numbers of checks: passed, failed,
skipped.

Examples:
  vlct self-test                               check the first GPU, or the CPU if there is none
  vlct self-test --device cuda:1 --json        check the second GPU, for another program
  vlct self-test --device cpu --golden vlc/tests/golden

Exit status: 0 if every check that ran holds, 1 if one failed, 130 after Ctrl-C.")]
pub struct SelfTest {
    /// What to check: auto (a GPU if there is one, else the CPU), cpu, cuda, or cuda:N for the GPU with this number, from 0
    #[arg(long, value_name = "D", default_value_t)]
    pub device: DeviceName,
    /// Directory of golden data [default: the environment variable VLC_GOLDEN, else tests/golden]
    #[arg(long, value_name = "DIR")]
    pub golden: Option<PathBuf>,
    /// Run only checks whose names contain this text, such as attention or retrieval
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub only: String,
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
}

/// Number of generated models: steps of all tasks of a model take a second.
const GENERATED_MODELS: u64 = 3;

/// Runs all checks and prints their results.
pub fn run(args: &SelfTest) -> Result<(), Failure> {
    use_threads(Threads::default())?;
    let options = Options {
        device: open_device(args.device)?,
        golden: vec![golden_directory(args)?],
        generated_models: GENERATED_MODELS,
        filter: args.only.clone(),
        golden_hint: "no golden data: clone the source repository and give its directory tests/golden with --golden"
            .into(),
    };
    let signals = Signals::listen()?;
    let names = names(&options);
    let Some(width) = names.iter().map(|name| name.len()).max() else {
        return Err(Failure::Failed(format!(
            "no check has {:?} in its name: --only takes a part of a name, such as vqa or generated",
            args.only
        )));
    };
    if !args.json {
        print(&heading(options.device))?;
    }
    let mut progress = match io::stderr().is_terminal() {
        true => Progress::counting("check", names.len() as u64, 0),
        false => Progress::quiet(),
    };
    let (mut done, mut printed) = (0, Ok(()));
    let summary = run_checks(&options, &signals.shared_stop_flag(), |row| {
        let line = if args.json { json(row) } else { Ok(line(row, width)) };
        printed = line.and_then(|line| suspend(|| print(&line)));
        done += 1;
        progress.reach(done);
        printed.is_ok()
    });
    drop(progress);
    printed?;
    signals.check()?;
    let Some(summary) = summary else { return Ok(()) };
    print(&if args.json {
        json(&summary)?
    } else {
        conclusion(&summary)
    })?;
    match summary.failed {
        0 => Ok(()),
        1 => Err(Failure::Failed("1 check failed".into())),
        failed => Err(Failure::Failed(format!("{failed} checks failed"))),
    }
}

/// Returns the directory of golden data, which must exist if an option or a variable names it.
fn golden_directory(args: &SelfTest) -> Result<PathBuf, Failure> {
    let variable = std::env::var_os("VLC_GOLDEN").map(PathBuf::from);
    let Some(directory) = args.golden.clone().or(variable) else {
        return Ok(PathBuf::from("tests/golden"));
    };
    match directory.is_dir() {
        true => Ok(directory),
        false => Err(Failure::Failed(format!(
            "{}: not a directory; --golden and VLC_GOLDEN name a directory of golden data, such as tests/golden of the source repository",
            directory.display()
        ))),
    }
}

/// The first two lines of the table.
fn heading(device: Device) -> String {
    let (name, model) = (device.name(), device.model());
    format!(
        "self-test of {name} ({model})\n{:<7} {:>5} {:>8}  {:<11} {}\n",
        "result", "worst", "seconds", "kind", "name"
    )
}

/// A line of the table.
fn line(row: &Row, width: usize) -> String {
    let status = match row.status {
        Status::Passed => "passed",
        Status::Failed => "FAILED",
        Status::Skipped => "skipped",
    };
    let worst = row.worst.map_or("-".into(), |worst| format!("{worst:.2}"));
    let line = format!(
        "{status:<7} {worst:>5} {:>8.2}  {:<11} {:<width$}  {}",
        row.seconds,
        row.kind,
        row.name,
        row.reason.as_deref().unwrap_or_default()
    );
    line.trim_end().to_owned() + "\n"
}

/// The last line of the table.
fn conclusion(summary: &Summary) -> String {
    let Summary {
        passed,
        failed,
        skipped,
        seconds,
        ..
    } = summary;
    format!("{passed} passed, {failed} failed, {skipped} skipped in {seconds:.1} s\n")
}

fn json(value: &impl Serialize) -> Result<String, Failure> {
    Ok(serde_json::to_string(value)? + "\n")
}
