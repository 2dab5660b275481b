//! The speed of a configuration on this machine, measured by training that is thrown away.

use std::sync::atomic::AtomicBool;
use std::time::Instant;

use vlct_tensor::collectives::Single;

use super::{Begun, Control, Trainer};
use crate::data::Data;
use crate::error::Result;
use crate::plan::Length;
use crate::spec::RunSpec;
use crate::state::RunState;

/// Micro-batches before the measurement, which is slower at first because memory is new.
const WARM_UP: u64 = 2;
/// Largest number of measured micro-batches.
const MEASURED: u64 = 24;
/// Seconds after which no more micro-batches are added to the measurement.
const ENOUGH_SECONDS: f64 = 6.0;

/// Measures the seconds of a micro-batch of a run with this specification: its share of the loader, forward and backward pass, and an update
/// of the weights. Writes no files. Returns `None` if `stop` is set before the end.
///
/// # Errors
/// Returns an error if data or weights cannot be read, or a loss is not finite.
pub(crate) fn seconds_per_micro_batch(spec: &RunSpec, stop: &AtomicBool) -> Result<Option<f64>> {
    let length = Length {
        // An update after every micro-batch.
        batch_size: spec.length.micro_batch,
        ..spec.length
    };
    let mut spec = spec.clone();
    (spec.trial, spec.length) = (Some(MEASURED), length);
    let control = Control {
        stop,
        progress: false,
        run_directory: None,
        device: None,
    };
    let data = Data::open(&spec)?;
    let Begun::Training(mut trainer) = Trainer::begin(spec, data, &control, &Single)? else {
        return Ok(None); // A trial run is never complete.
    };
    let plan = trainer.plan;
    let mut seconds_for = |batches: u64| -> Result<f64> {
        trainer.state = RunState::default();
        trainer.plan = plan.trial(batches);
        let start = Instant::now();
        trainer.train_windows()?;
        Ok(start.elapsed().as_secs_f64() / trainer.plan.total_steps as f64)
    };
    let slow = seconds_for(WARM_UP)?;
    let affordable = (ENOUGH_SECONDS / slow) as u64;
    let seconds = seconds_for(affordable.clamp(WARM_UP, MEASURED))?;
    Ok((!trainer.is_stopped()).then_some(seconds))
}
