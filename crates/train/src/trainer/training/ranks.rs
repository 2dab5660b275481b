//! What the ranks of a run agree on before its first step.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use vlct_tasks::gather;
use vlct_tensor::{Collectives, Device};

use crate::error::{Result, TrainError};
use crate::plan::Plan;
use crate::spec::{RunSpec, WeightsSpec};
use crate::state::{DataIdentity, RunState};
use crate::weights::Weights;

/// What is the same on all ranks.
#[derive(Serialize, Deserialize)]
struct Beginning {
    /// The settings that affect results, and the division of the run into windows.
    settings: String,
    data: DataIdentity,
    /// Epoch, micro-batch and step at which the run continues.
    position: Option<[u64; 3]>,
    /// Hash of the weights, the moments and the averages.
    weights: u64,
}

impl Beginning {
    /// Returns what differs from another beginning.
    fn difference(&self, other: &Self) -> Option<&'static str> {
        match () {
            () if self.settings != other.settings => Some("settings"),
            () if self.data != other.data => Some("data"),
            () if self.position != other.position => Some("a position in the run"),
            () if self.weights != other.weights => Some("weights"),
            () => None,
        }
    }
}

/// Copies the weights, the moments and the averages of rank 0 to the other ranks, and compares the beginning of all ranks.
///
/// # Errors
/// Returns [`TrainError::OtherRank`] if a rank has other settings, data or checkpoints than rank 0.
pub(super) fn agree(
    collectives: &dyn Collectives,
    spec: &RunSpec,
    plan: &Plan,
    data: &DataIdentity,
    resumed: Option<&RunState>,
    weights: &mut Weights,
) -> Result<()> {
    if collectives.ranks() == 1 {
        return Ok(());
    }
    weights.broadcast(collectives)?;
    let beginning = Beginning {
        settings: format!("{plan:?} {:?}", comparable(spec)),
        data: data.clone(),
        position: resumed.map(|state| [state.epoch, state.batch, state.global_step]),
        weights: weights.hash(),
    };
    let all = gather::all(collectives, beginning)?;
    for (rank, beginning) in all.iter().enumerate() {
        if let Some(what) = beginning.difference(&all[0]) {
            return Err(TrainError::OtherRank { rank, what });
        }
    }
    Ok(())
}

/// Returns the settings without those that may differ between ranks and do not change results: devices, paths and numbers of threads.
fn comparable(spec: &RunSpec) -> RunSpec {
    let mut spec = spec.clone();
    (spec.compute.device, spec.compute.threads, spec.compute.pin_threads) = (Device::cpu(), 0, false);
    (spec.data.workers, spec.data.root, spec.data.classes) = (0, PathBuf::new(), None);
    (spec.experiment, spec.config) = (PathBuf::new(), String::new());
    spec.data.tokenizer.clear();
    spec.weights = WeightsSpec {
        pretrain_path: None,
        load_path: None,
        vocabulary: None,
        resume_from: None,
        ..spec.weights
    };
    spec.validation.annotations = None;
    spec
}
