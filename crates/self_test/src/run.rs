//! Runs all checks of a device.

use crate::row::{Row, Status, Summary};
use crate::steps::{STEPS, Step, Subject};
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use vlct_cuda_checks::{Check, HOPPER, INTRINSICS, KERNELS, PRODUCTS};
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
    /// Runs only checks whose names contain this text; all if it is empty.
    pub filter: String,
    /// What to do to run the checks that need golden data; the reason of a check that is skipped without them.
    pub golden_hint: String,
}

/// A check of a kernel with its kind, or of steps.
enum Planned {
    Kernel(&'static str, Check),
    Step(Step),
}

impl Planned {
    fn name(&self) -> &'static str {
        match self {
            Self::Kernel(_, (name, _)) => name,
            Self::Step(step) => step.name,
        }
    }
}

/// The checks that are run, in their order.
fn plan(options: &Options) -> Vec<Planned> {
    let of_kind = |kind: &'static str, checks: &'static [Check]| {
        let kernels = checks.iter().map(move |check| Planned::Kernel(kind, *check));
        kernels.filter(|_| options.device.cuda_context().is_some())
    };
    let context = options.device.cuda_context();
    let is_hopper = context.is_some_and(|context| context.driver().compute_capability() == (9, 0));
    of_kind("instruction", &INTRINSICS)
        .chain(of_kind("kernel", &KERNELS))
        .chain(of_kind("kernel", &HOPPER).filter(|_| is_hopper))
        .chain(of_kind("product", &PRODUCTS))
        .chain(STEPS.into_iter().map(Planned::Step))
        .filter(|planned| planned.name().contains(&options.filter))
        .collect()
}

/// Returns the names of the checks that [`run`] runs, in their order.
pub fn names(options: &Options) -> Vec<&'static str> {
    plan(options).iter().map(Planned::name).collect()
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
    for planned in plan(options) {
        let row = match planned {
            Planned::Kernel(kind, check) => check_kernel(kind, check, device),
            Planned::Step(step) => check_step(&step, options, stop),
        };
        // A check that was stopped has failed only because of that.
        if stop.load(Ordering::Relaxed) || !done(&row) {
            return None;
        }
        summary.add(&row);
    }
    Some(summary)
}

fn check_kernel(kind: &'static str, (name, check): Check, device: Device) -> Row {
    measure(kind, name, || {
        let context = device.cuda_context().ok_or("the device has no kernels")?;
        let subject = vlct_cuda_checks::Device::new(context);
        check(&subject).map(|()| Some(f64::from(subject.worst_ratio())))
    })
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
