//! A fuzzer: damages valid files and gives them to every reader of untrusted files.
//!
//! `cargo run --release -p vlct-fuzz -- --seconds 60` tries every reader. A finding is an input that causes a panic or takes longer
//! than [`TIME_LIMIT`]; the input is saved, and the exit status is 1. An input that needs more than `--memory` aborts the process; see
//! [`MEMORY`]. Seed, target and iteration determine each input. Each finding should become a test of the reader.

mod mutate;
mod targets;

use std::alloc::System;
use std::cell::Cell;
use std::fs;
use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use cap::Cap;
use clap::Parser;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use targets::{TARGETS, Target, valid_files};

/// Counts allocated memory and rejects allocations beyond the limit. A rejected allocation aborts the process; the input remains in the
/// file `last-input` in a temporary directory.
#[global_allocator]
static MEMORY: Cap<System> = Cap::new(System, usize::MAX);

/// Time limit per input. Valid files of less than 1 MiB take less time.
const TIME_LIMIT: Duration = Duration::from_secs(10);

thread_local! {
    /// Whether the current input caused a panic, even if the reader caught it.
    static PANICKED: Cell<bool> = const { Cell::new(false) };
}

/// Fuzz the readers of vlct with damaged files.
#[derive(Parser)]
struct Options {
    /// Readers to try [default: all]
    targets: Vec<String>,
    /// Seconds for each reader
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Seed of the inputs
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Limit of allocated memory in MiB. The decoders need up to eight bytes per pixel of the largest image
    #[arg(long, default_value_t = 1024)]
    memory: usize,
}

fn main() -> ExitCode {
    let options = Options::parse();
    if MEMORY.set_limit(options.memory.saturating_mul(1 << 20)).is_err() {
        eprintln!("--memory {}: the program itself needs more", options.memory);
        return ExitCode::from(2);
    }
    // Panics are recorded, not printed. Readers convert panics of decoders to errors.
    panic::set_hook(Box::new(|_| PANICKED.set(true)));
    let is_selected = |target: &&Target| options.targets.is_empty() || options.targets.iter().any(|t| t == target.name);
    let mut found = false;
    for target in TARGETS.iter().filter(is_selected) {
        found |= fuzz(target, &options);
    }
    ExitCode::from(u8::from(found))
}

/// Fuzzes a reader. Returns true if there were findings or no files to damage.
fn fuzz(target: &Target, options: &Options) -> bool {
    let valid_files = valid_files(target);
    let Some(first) = valid_files.first() else {
        eprintln!("{}: no files to damage", target.name);
        return true;
    };
    let directory = tempfile::tempdir().unwrap_or_else(|e| panic!("a temporary directory: {e}"));
    let (started, duration) = (Instant::now(), Duration::from_secs(options.seconds));
    let (mut tried, mut caught, mut findings, mut slowest) = (0u64, 0u64, 0u64, Duration::ZERO);
    while started.elapsed() < duration {
        let mut rng = ChaCha8Rng::seed_from_u64(options.seed ^ tried.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut file = valid_files.choose(&mut rng).unwrap_or(first).clone();
        let other = valid_files.choose(&mut rng).unwrap_or(first);
        mutate::damage(&mut file, other, &mut rng);
        // If memory runs out, the process is aborted and this file is the only copy of the input.
        let _ = fs::write(directory.path().join("last-input"), &file);
        PANICKED.set(false);
        let start = Instant::now();
        let outcome = panic::catch_unwind(AssertUnwindSafe(|| (target.read)(&file, directory.path())));
        let elapsed = start.elapsed();
        tried += 1;
        caught += u64::from(PANICKED.get() && outcome.is_ok());
        slowest = slowest.max(elapsed);
        if outcome.is_err() || elapsed > TIME_LIMIT {
            findings += 1;
            let path = format!("fuzz-{}-{}-{tried}.bin", target.name, options.seed);
            let _ = fs::write(&path, &file);
            let what = if outcome.is_err() { "a panic" } else { "slow" };
            eprintln!("{}: {what}: {path}", target.name);
        }
    }
    println!(
        "{}: {tried} inputs from {} files in {:.0} s, slowest {:.0} ms, peak memory {} MiB; {findings} findings, \
         {caught} panics of libraries caught",
        target.name,
        valid_files.len(),
        started.elapsed().as_secs_f64(),
        slowest.as_secs_f64() * 1000.0,
        MEMORY.max_allocated() >> 20,
    );
    findings > 0
}
