//! What fits into the memory of a GPU, if the micro-batches of a run do not.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};

use vlct_tensor::{DeviceError, MemoryShortage};

use super::training;
use crate::data::Data;
use crate::error::{Result, TrainError};
use crate::spec::{RunSpec, describe_device};

/// Runs the work of a run. If it ends because the device has too little memory, finds out with random weights how many samples fit.
///
/// # Errors
/// Returns the errors of `work`, and [`TrainError::DeviceMemory`].
pub(super) fn explained<T>(
    spec: &RunSpec,
    data: &Data,
    stop: &AtomicBool,
    work: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let payload = match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => return result,
        Err(payload) => payload,
    };
    let MemoryShortage { requested, free, total } = shortage(payload)?;
    Err(TrainError::DeviceMemory {
        device: describe_device(spec.compute.device),
        micro_batch: spec.length.micro_batch,
        requested,
        free,
        total,
        fits: largest_that_fits(spec, data, stop),
    })
}

/// Returns the shortage that a panic reports. Continues other panics.
fn shortage(payload: Box<dyn Any + Send>) -> Result<MemoryShortage> {
    match payload.downcast_ref().and_then(DeviceError::out_of_memory) {
        Some(shortage) => Ok(shortage),
        None => resume_unwind(payload),
    }
}

/// Returns the largest half, quarter, … of a micro-batch that fits; `None` if none does, or `stop` is set.
fn largest_that_fits(spec: &RunSpec, data: &Data, stop: &AtomicBool) -> Option<u64> {
    let mut spec = spec.clone();
    // What is needed does not depend on the values of the weights.
    (spec.weights.load_path, spec.weights.pretrain_path) = (None, None);
    spec.weights.resume_from = None;
    while spec.length.micro_batch > 1 && !stop.load(Ordering::Relaxed) {
        spec.length.micro_batch /= 2;
        spec.compute.device.release_unused();
        let step = AssertUnwindSafe(|| training::take_step(&spec, data.clone(), stop));
        match catch_unwind(step) {
            Ok(Ok(())) => return (!stop.load(Ordering::Relaxed)).then_some(spec.length.micro_batch),
            Ok(Err(_)) => return None,
            Err(payload) => shortage(payload).ok()?,
        };
    }
    None
}
