//! The accuracy of nearest neighbours on the features of weights.

use std::sync::Arc;

use log::warn;
use vlct_tasks::evaluate::SplitEvaluator;
use vlct_tasks::images::Images;
use vlct_tasks::neighbours::{self, Features, NeighbourAccuracy};
use vlct_tasks::{LoaderSpec, Mode, TaskSpec};
use vlct_util::text::counted;

use super::training::Control;
use super::{Threads, use_threads};
use crate::data::{Data, loader_spec};
use crate::error::Result;
use crate::spec::RunSpec;
use crate::weights;
use vlct_logs::Progress;

/// Computes the accuracy of nearest neighbours, for each number of neighbours `ks`, on the features of the weights of `load_path` of such
/// a run. Returns `None` if it is stopped before the end.
///
/// # Errors
/// Returns an error if data or weights cannot be read, or there are no validation images.
///
/// # Panics
/// Panics if the run does not classify images.
pub fn neighbours_spec(spec: &RunSpec, ks: &[usize], control: &Control) -> Result<Option<Vec<NeighbourAccuracy>>> {
    use_threads(Threads::from_spec(&spec.compute))?;
    let data = Data::open(spec)?;
    data.check_validation(spec)?;
    let TaskSpec::Images(task) = &spec.task else {
        panic!("the run does not classify images")
    };
    let mut model = weights::fresh_model(spec);
    weights::load_and_log(&mut model, spec)?;
    let features = |split| SplitEvaluator {
        task: Arc::new(Features(Images::new(task.clone()))),
        data: split,
        inputs: Arc::clone(&data.inputs),
        loader: LoaderSpec {
            replaces_unreadable: true,
            ..loader_spec(spec, Mode::Evaluate)
        },
        limit: 0,
    };
    let (train, val) = (features(Arc::clone(&data.train)), features(Arc::clone(&data.val)));
    let (mut done, mut unreadable, mut first) = (0, 0, None);
    let mut progress = match control.progress {
        true => Progress::counting("image", (data.train.len() + data.val.len()) as u64, 0),
        false => Progress::quiet(),
    };
    let accuracies = neighbours::accuracies(&model, [&train, &val], ks, control.stop, &mut |batch| {
        done += batch.len() as u64;
        unreadable += batch.unreadable.len();
        progress.reach(done);
        first = first.take().or_else(|| batch.unreadable.first().cloned());
    })?;
    progress.finish();
    if let Some(first) = first {
        let images = counted(unreadable, "image");
        warn!("{images} could not be read and are left out, such as {}", first.reason);
    }
    Ok(accuracies)
}
