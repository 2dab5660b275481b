//! The speed of a configuration on this machine, measured by training that is thrown away.

use std::sync::atomic::AtomicBool;
use std::time::Instant;

use vlct_tensor::collectives::Single;

use super::{Begun, Control, Trainer};
use crate::data::Data;
use crate::error::Result;
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
    let data = Data::open(spec)?;
    let Some(mut trainer) = trial(spec, data, MEASURED, &control(stop))? else {
        return Ok(None);
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

/// Trains one micro-batch, and updates the weights.
///
/// # Errors
/// Returns an error if data or weights cannot be read, or a loss is not finite.
pub(crate) fn take_step(spec: &RunSpec, data: Data, stop: &AtomicBool) -> Result<()> {
    match trial(spec, data, 1, &control(stop))? {
        Some(mut trainer) => trainer.train_windows(),
        None => Ok(()),
    }
}

fn control(stop: &AtomicBool) -> Control<'_> {
    Control {
        stop,
        progress: false,
        run_directory: None,
        device: None,
    }
}

/// Begins a run of `batches` micro-batches that writes no files and updates the weights after each. `None` does not occur, because a trial run
/// is never complete.
fn trial<'a>(spec: &RunSpec, data: Data, batches: u64, control: &Control<'a>) -> Result<Option<Box<Trainer<'a>>>> {
    let mut spec = spec.clone();
    spec.length.batch_size = spec.length.micro_batch;
    spec.trial = Some(batches);
    Ok(match Trainer::begin(spec, data, control, &Single)? {
        Begun::Training(trainer) => Some(trainer),
        Begun::Complete(_) => None,
    })
}
