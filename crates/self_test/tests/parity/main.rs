//! Runs the checks of training steps, on the CPU and on an emulated CUDA device, and tests of runs of checks.
//!
//! Without a C++ compiler, which the emulator needs, the tests of the CUDA device and of runs are reported as ignored.

mod run;

use libtest_mimic::{Arguments, Failed, Trial};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use vlct_cuda::driver::emulator::{Compiler, Emulator, Source};
use vlct_self_test::steps::{STEPS, Step, Subject};
use vlct_tensor::Device;

/// A device on which tests run.
#[derive(Clone, Copy, Debug, PartialEq)]
enum TestDevice {
    Cpu,
    /// The emulated CUDA device.
    Cuda,
}

impl TestDevice {
    fn device(self) -> Result<Device, String> {
        match self {
            Self::Cpu => Ok(Device::cpu()),
            Self::Cuda => emulated_device(),
        }
    }

    /// The emulator takes ten times as long as the CPU.
    fn generated_models(self) -> u64 {
        if self == Self::Cpu { 20 } else { 1 }
    }
}

/// Returns the emulated CUDA device, or the reason why there is none.
fn emulated_device() -> Result<Device, String> {
    static DEVICE: OnceLock<Result<Device, String>> = OnceLock::new();
    let make = || device_with_sources(&Source::all().map_err(|e| e.to_string())?);
    DEVICE.get_or_init(make).clone()
}

/// Returns an emulated CUDA device with these kernels, compiled once for all tests of the workspace.
fn device_with_sources(sources: &[Source]) -> Result<Device, String> {
    /// Memory of the device in bytes.
    const MEMORY: usize = 4 << 30;
    let libraries = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cuda-emulator");
    let emulator = Emulator::new(&Compiler::find(&libraries)?, sources, MEMORY).map_err(|e| e.to_string())?;
    Device::of_driver("cuda:0", Arc::new(emulator)).map_err(|e| e.to_string())
}

/// Returns the golden directories.
fn golden() -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = ["model", "imagenet"]
        .into_iter()
        .flat_map(vlct_golden::directories)
        .filter_map(|directory| directory.parent().map(Path::to_path_buf))
        .collect();
    found.sort();
    found.dedup();
    found
}

fn run(step: Step, device: TestDevice) -> Result<(), Failed> {
    let subject = Subject::new(device.device()?, golden(), device.generated_models());
    if let Some(part) = step.part {
        assert!(!subject.directories(part).is_empty(), "no golden data for {part}");
    }
    if step.is_bf16 && !subject.device().bf16_is_fast() {
        return run_with_portable_engine(step.name);
    }
    (step.run)(&subject)?;
    println!(
        "{}: the largest ratio of error to bound is {:.2}",
        step.name,
        subject.worst_ratio()
    );
    Ok(())
}

/// Runs a test on the CPU in another process at the level `portable`, where bfloat16 is computed in plain Rust.
fn run_with_portable_engine(name: &str) -> Result<(), Failed> {
    let output = std::process::Command::new(std::env::current_exe()?)
        .args(["--exact", name])
        .env("VLCT_TEST_LEVEL", "portable")
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    match output.status.success() && text.contains("1 passed") {
        true => Ok(()),
        false => Err(text.into_owned().into()),
    }
}

fn main() {
    let missing_emulator = emulated_device().err();
    let trials = STEPS.into_iter().flat_map(|step| {
        let trial = |name: String, device| Trial::test(name, move || run(step, device));
        let on_cuda = trial(format!("cuda::{}", step.name), TestDevice::Cuda);
        let on_cuda = match &missing_emulator {
            Some(reason) => on_cuda.with_kind(reason).with_ignored_flag(true),
            None => on_cuda,
        };
        [trial(step.name.to_owned(), TestDevice::Cpu), on_cuda]
    });
    let of_runs = run::TESTS.into_iter().map(|(name, run)| {
        let trial = Trial::test(name, move || run().map_err(Failed::from));
        match &missing_emulator {
            Some(reason) => trial.with_kind(reason).with_ignored_flag(true),
            None => trial,
        }
    });
    libtest_mimic::run(&Arguments::from_args(), trials.chain(of_runs).collect()).exit();
}
