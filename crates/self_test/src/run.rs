//! Runs all checks of a device.

use crate::row::{Row, Status, Summary};
use crate::steps::{STEPS, Step, Subject};
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use vlct_cuda_checks::{Check, INTRINSICS, KERNELS, PRODUCTS};
use vlct_tensor::{Device, DeviceError, OutOfMemory};
use vlct_util::panics::catch;

/// What to check.
#[derive(Clone, Debug)]
pub struct Options {
    /// The device.
    pub device: Device,
    /// Directories of golden data; one that does not exist is ignored.
    pub golden: Vec<PathBuf>,
    /// Number of generated models for which steps are compared.
    pub generated_models: u64,
    /// What to do to run the checks that need golden data; the reason of a check that is skipped without them.
    pub golden_hint: String,
}

/// The checks of kernels, with their kinds.
fn kernel_checks() -> impl Iterator<Item = (&'static str, Check)> {
    let of_kind = |kind: &'static str, checks: &'static [Check]| checks.iter().map(move |check| (kind, *check));
    of_kind("instruction", &INTRINSICS)
        .chain(of_kind("kernel", &KERNELS))
        .chain(of_kind("product", &PRODUCTS))
}

/// Returns the names of the checks of a device, in their order.
pub fn names(device: Device) -> impl Iterator<Item = &'static str> {
    let kernels = device
        .cuda_context()
        .map(|_| kernel_checks().map(|(_, (name, _))| name));
    kernels.into_iter().flatten().chain(STEPS.iter().map(|step| step.name))
}

/// Runs the checks: on a CUDA device those of instructions, kernels and products, then those of steps. Calls `done`
/// after each check. A panic in a check is its failure. Returns `None` if `stop` was set or `done` returned false.
pub fn run(options: &Options, stop: &Arc<AtomicBool>, mut done: impl FnMut(&Row) -> bool) -> Option<Summary> {
    let device = options.device;
    let mut summary = Summary {
        device: device.name().to_string(),
        model: device.model().to_owned(),
        ..Summary::default()
    };
    let mut finish = |row: Row| {
        // A check that was stopped has failed only because of that.
        let goes_on = !stop.load(Ordering::Relaxed) && done(&row);
        summary.add(&row);
        goes_on
    };
    if let Some(context) = device.cuda_context() {
        for (kind, (name, check)) in kernel_checks() {
            let subject = vlct_cuda_checks::Device::new(context.clone());
            let row = measure(kind, name, || {
                check(&subject).map(|()| Some(f64::from(subject.worst_ratio())))
            });
            if !finish(row) {
                return None;
            }
        }
    }
    for step in STEPS {
        if !finish(check_step(&step, options, stop)) {
            return None;
        }
    }
    Some(summary)
}

fn check_step(step: &Step, options: &Options, stop: &Arc<AtomicBool>) -> Row {
    let subject = Subject::new(options.device, options.golden.clone(), options.generated_models);
    let subject = subject.stopped_by(Arc::clone(stop));
    let missing = if step.part.is_some_and(|part| subject.directories(part).is_empty()) {
        Some(options.golden_hint.clone())
    } else if step.is_bf16 && !options.device.bf16_is_fast() {
        Some("the device has no fast bfloat16".to_owned())
    } else {
        None
    };
    match missing {
        Some(reason) => Row {
            kind: "step",
            name: step.name,
            status: Status::Skipped,
            worst: None,
            seconds: 0.0,
            reason: Some(reason),
        },
        None => measure("step", step.name, || {
            (step.run)(&subject).map(|()| Some(subject.worst_ratio()))
        }),
    }
}

/// Runs a check, which returns the largest ratio of an error to its bound.
fn measure(kind: &'static str, name: &'static str, check: impl FnOnce() -> Result<Option<f64>, String>) -> Row {
    let start = Instant::now();
    let check = || catch_unwind(AssertUnwindSafe(check)).unwrap_or_else(|payload| Err(message_of(&*payload)));
    // The inner function knows the payload; the outer one tells the panic hook that the panic is caught.
    let result = catch(check).unwrap_or_else(Err);
    let (status, worst, reason) = match result {
        Ok(worst) => (Status::Passed, worst, None),
        Err(reason) => (Status::Failed, None, Some(one_line(&reason))),
    };
    Row {
        kind,
        name,
        status,
        worst,
        seconds: start.elapsed().as_secs_f64(),
        reason,
    }
}

/// Returns what a panic says.
fn message_of(payload: &(dyn Any + Send)) -> String {
    if let Some(error) = payload.downcast_ref::<DeviceError>() {
        return error.to_string();
    }
    if let Some(OutOfMemory { bytes }) = payload.downcast_ref() {
        return format!("out of memory: {} MiB more are needed", bytes.div_ceil(1 << 20));
    }
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    format!("panic: {}", text.unwrap_or("without a message"))
}

/// Joins the lines of a text.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
