//! Damages whole files and gives them to the readers, for as long as one likes.
//!
//! `cargo run --release -p vlct-fuzz -- --seconds 60` tries every reader. What it looks for: a panic, more memory than a file of its
//! size has any reason to need, an input that takes longer than [`SLOW`]. Inputs are a function of `--seed`, target and
//! number. A finding is saved and ends the program with status 1; the input becomes a test beside the reader.

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

use targets::{TARGETS, Target, seeds};

/// Counts what is allocated, and refuses what is beyond the limit; the program is then aborted, and the input is `last-input` in the
/// temporary folder that it leaves.
#[global_allocator]
static MEMORY: Cap<System> = Cap::new(System, usize::MAX);

/// Longer than any input of less than a mebibyte takes.
const SLOW: Duration = Duration::from_secs(10);

thread_local! {
    /// Whether a panic happened, also one that was caught on the way.
    static PANICKED: Cell<bool> = const { Cell::new(false) };
}

/// Gives damaged files to the readers of vlct.
#[derive(Parser)]
struct Options {
    /// Readers to try [default: all]
    targets: Vec<String>,
    /// Time for each reader
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Decides the inputs
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Memory that may be allocated at once, in MiB: the largest picture that is decoded takes four bytes a pixel, and some
    /// decoders hold it twice
    #[arg(long, default_value_t = 1024)]
    memory: usize,
}

fn main() -> ExitCode {
    let options = Options::parse();
    if MEMORY.set_limit(options.memory.saturating_mul(1 << 20)).is_err() {
        eprintln!("--memory {}: the program itself needs more", options.memory);
        return ExitCode::from(2);
    }
    // Panics inside decoders are turned into errors; they are told apart here, not printed.
    panic::set_hook(Box::new(|_| PANICKED.set(true)));
    let wanted = |target: &&Target| options.targets.is_empty() || options.targets.iter().any(|t| t == target.name);
    let mut found = false;
    for target in TARGETS.iter().filter(wanted) {
        found |= fuzz(target, &options);
    }
    ExitCode::from(u8::from(found))
}

/// Tries one reader; whether something was found.
fn fuzz(target: &Target, options: &Options) -> bool {
    let whole = seeds(target);
    let Some(first) = whole.first() else {
        eprintln!("{}: no whole files to damage", target.name);
        return true;
    };
    let folder = tempfile::tempdir().unwrap_or_else(|e| panic!("a temporary folder: {e}"));
    let (started, time) = (Instant::now(), Duration::from_secs(options.seconds));
    let (mut tried, mut caught, mut findings, mut slowest) = (0u64, 0u64, 0u64, Duration::ZERO);
    while started.elapsed() < time {
        let mut rng = ChaCha8Rng::seed_from_u64(options.seed ^ tried.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut file = whole.choose(&mut rng).unwrap_or(first).clone();
        let other = whole.choose(&mut rng).unwrap_or(first);
        mutate::damage(&mut file, other, &mut rng);
        // If memory runs out, the process ends and this is what is left of the input.
        let _ = fs::write(folder.path().join("last-input"), &file);
        PANICKED.set(false);
        let begun = Instant::now();
        let outcome = panic::catch_unwind(AssertUnwindSafe(|| (target.read)(&file, folder.path())));
        let taken = begun.elapsed();
        tried += 1;
        caught += u64::from(PANICKED.get() && outcome.is_ok());
        slowest = slowest.max(taken);
        if outcome.is_err() || taken > SLOW {
            findings += 1;
            let path = format!("fuzz-{}-{}-{tried}.bin", target.name, options.seed);
            let _ = fs::write(&path, &file);
            let what = if outcome.is_err() { "a panic" } else { "slow" };
            eprintln!("{}: {what}: {path}", target.name);
        }
    }
    println!(
        "{}: {tried} inputs from {} files in {:.0} s, slowest {:.0} ms, memory so far at most {} MiB; {findings} findings, \
         {caught} panics of libraries caught",
        target.name,
        whole.len(),
        started.elapsed().as_secs_f64(),
        slowest.as_secs_f64() * 1000.0,
        MEMORY.max_allocated() >> 20,
    );
    findings > 0
}
