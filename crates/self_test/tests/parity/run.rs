//! Tests of runs of checks on an emulated device.

use crate::{device_with_sources, emulated_device};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use vlct_cuda::driver::emulator::Source;
use vlct_self_test::{Options, Outcome, Row, Status, Summary, names, run};
use vlct_tensor::Device;

/// A name and the function that runs the test.
type Test = (&'static str, fn() -> Outcome);

pub const TESTS: [Test; 5] = [
    ("run::a_cuda_device_has_all_kinds_of_checks", all_kinds),
    ("run::kernels_are_checked", kernels_are_checked),
    ("run::a_faulty_kernel_fails_its_checks_only", a_faulty_kernel),
    ("run::an_error_of_the_driver_is_a_failure", an_error_of_the_driver),
    ("run::a_run_can_be_stopped", a_run_can_be_stopped),
];

fn options(device: Device, filter: &str) -> Options {
    Options {
        device,
        golden: vec![PathBuf::from("no golden data")],
        generated_models: 1,
        filter: filter.to_owned(),
        golden_hint: "find golden data".to_owned(),
    }
}

/// Runs checks and returns their rows.
fn rows(options: &Options) -> Result<(Vec<Row>, Summary), String> {
    let mut rows = Vec::new();
    let summary = run(options, &Arc::default(), |row| {
        rows.push(row.clone());
        true
    });
    Ok((rows, summary.ok_or("the run has ended early")?))
}

fn expect(condition: bool, what: impl std::fmt::Debug) -> Outcome {
    if condition { Ok(()) } else { Err(format!("{what:?}")) }
}

fn all_kinds() -> Outcome {
    let on = |device| names(&options(device, ""));
    let (cuda, cpu) = (on(emulated_device()?), on(Device::cpu()));
    expect(cuda.ends_with(&cpu) && cuda.len() > cpu.len() + 30, &cuda)?;
    for name in ["intrinsics::mma", "attention::plain", "matmul::products_and_epilogues"] {
        expect(cuda.contains(&name) && !cpu.contains(&name), name)?;
    }
    expect(names(&options(Device::cpu(), "no such check")).is_empty(), "a filter")
}

fn kernels_are_checked() -> Outcome {
    let (rows, summary) = rows(&options(emulated_device()?, "s::"))?;
    let of_kind = |kind: &str| rows.iter().filter(|row| row.kind == kind).count();
    expect(of_kind("instruction") == 7 && of_kind("kernel") > 3, &rows)?;
    expect((summary.failed, summary.device.as_str()) == (0, "cuda:0"), &summary)?;
    // The check of the golden steps of images needs data.
    let skipped: Vec<&Row> = rows.iter().filter(|row| row.status == Status::Skipped).collect();
    let reason = skipped.first().and_then(|row| row.reason.as_deref());
    expect(
        skipped.len() == summary.skipped && reason == Some("find golden data"),
        &skipped,
    )
}

fn a_faulty_kernel() -> Outcome {
    let faulty = |source: Source| match source.name.as_str() {
        "scalars.cu" => source.with_fault("i < n; i += WARP_SIZE", "i + 1 < n; i += WARP_SIZE"),
        _ => source,
    };
    let sources = Source::all().map_err(|e| e.to_string())?.into_iter().map(faulty);
    let device = device_with_sources(&sources.collect::<Vec<_>>())?;
    let (rows, summary) = rows(&options(device, "s::"))?;
    let failed: Vec<&Row> = rows.iter().filter(|row| row.status == Status::Failed).collect();
    let is_of_scalars = |row: &&Row| row.name == "scalars::weighted_sums" && row.worst.is_none();
    expect(failed.iter().all(is_of_scalars) && failed.len() == 1, &failed)?;
    expect((summary.failed, summary.passed > 5) == (1, true), &summary)
}

/// Without kernels, each launch is an error: a check of kernels returns it, and a step panics with it.
fn an_error_of_the_driver() -> Outcome {
    let device = device_with_sources(&[])?;
    for (filter, kernel) in [("intrinsics::mma", "intrinsic_mma"), ("equal_steps", "")] {
        let (rows, summary) = rows(&options(device, filter))?;
        let reason = rows.first().and_then(|row| row.reason.clone()).unwrap_or_default();
        expect(reason.starts_with(&format!("there is no kernel {kernel}")), &reason)?;
        expect((rows.len(), summary.failed) == (1, 1), &rows)?;
    }
    Ok(())
}

fn a_run_can_be_stopped() -> Outcome {
    let options = options(emulated_device()?, "intrinsics::");
    let (stop, mut rows) = (Arc::new(AtomicBool::new(false)), 0);
    let summary = run(&options, &stop, |_| {
        rows += 1;
        stop.store(true, Ordering::Relaxed);
        true
    });
    expect((summary, rows) == (None, 1), rows)
}
