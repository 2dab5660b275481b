//! The state of an optimiser in a pickle: `{"state": {0: {"step": …, "exp_avg": …}}, "param_groups": [{"params": [0, …], …}]}`.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;

use indexmap::IndexMap;
use vlct_pickle::{Pickle, Ref};

use super::super::error::{Problem, TensorProblem};
use super::super::view::TensorView;
use super::{MAX_SHARING, MIN_DECODED, Storages, archive, legacy, tensor};
use vlct_checkpoint::TensorRef;

/// The state of training that is written with weights.
pub struct Training<'a> {
    /// The last epoch, from 0.
    pub epoch: u64,
    /// Number of attention heads of the encoder.
    pub heads: usize,
    /// ε of the layer norms.
    pub layer_norm_eps: f32,
    /// The parameter groups of the optimiser.
    pub groups: Vec<Group>,
    /// The state of each parameter, in the order of the groups.
    pub parameters: Vec<ParameterState<'a>>,
}

/// A parameter group.
pub struct Group {
    /// The settings, such as `lr`.
    pub settings: Vec<(&'static str, Setting)>,
    /// Number of parameters.
    pub parameters: usize,
}

/// A setting of a parameter group.
pub enum Setting {
    /// A number.
    Number(f64),
    /// Two numbers.
    Pair([f64; 2]),
    /// A switch.
    Flag(bool),
}

/// The state of a parameter in the optimiser.
pub struct ParameterState<'a> {
    /// Number of updates. A parameter without updates has no state in the file.
    pub step: u64,
    /// The moments with their names in PyTorch, such as `exp_avg`.
    pub moments: Vec<TensorRef<'a>>,
}

/// The state of training in a file.
pub struct StoredTraining<'a> {
    /// The last epoch, from 0.
    pub epoch: u64,
    /// The state of each parameter, in the order of the parameter groups.
    pub parameters: Vec<StoredParameter<'a>>,
}

/// The state of a parameter in a file; empty if the file has none.
#[derive(Default)]
pub struct StoredParameter<'a> {
    /// Number of updates.
    pub step: u64,
    /// The moments by their names in PyTorch.
    pub moments: IndexMap<String, TensorView<'a>>,
}

/// Finds the state of training in a zip archive of PyTorch 1.6 and later.
pub(in super::super) fn training_in_archive(bytes: &[u8]) -> Result<Option<StoredTraining<'_>>, Problem> {
    let archive = archive::open(bytes)?;
    let pickle = vlct_pickle::parse(archive.pickle)?;
    training(&pickle, &archive.storages, bytes.len())
}

/// Finds the state of training in a file in the format before version 1.6.
pub(in super::super) fn training_in_legacy(bytes: &[u8]) -> Result<Option<StoredTraining<'_>>, Problem> {
    let (pickle, storages) = legacy::open(bytes)?;
    training(&pickle, &storages, bytes.len())
}

/// Returns the value of a text key of a dictionary. Of equal keys, the last one counts.
fn entry(pickle: &Pickle, dictionary: Ref, key: &str) -> Option<Ref> {
    let entries = pickle.entries(dictionary)?;
    let found = entries.iter().rev().find(|(name, _)| pickle.text(*name) == Some(key));
    found.map(|(_, value)| *value)
}

fn training<'a>(
    pickle: &Pickle,
    storages: &Storages<'a>,
    length: usize,
) -> Result<Option<StoredTraining<'a>>, Problem> {
    let epoch = entry(pickle, pickle.root(), "epoch").and_then(|epoch| pickle.int(epoch));
    let optimizer = entry(pickle, pickle.root(), "optimizer");
    let (Some(Ok(epoch)), Some(optimizer)) = (epoch.map(u64::try_from), optimizer) else {
        return Ok(None);
    };
    let (Some(state), Some(groups)) = (
        entry(pickle, optimizer, "state"),
        entry(pickle, optimizer, "param_groups"),
    ) else {
        return Ok(None);
    };
    let members = groups_of(pickle, groups).ok_or(Problem::Optimizer("its param_groups are no lists of numbers"))?;
    let entries = pickle
        .entries(state)
        .ok_or(Problem::Optimizer("its state is no dictionary"))?;
    if !are_distinct(entries.iter().map(|(_, state)| *state)) {
        return Err(Problem::Optimizer("parameters share their state"));
    }
    let states: HashMap<i128, Ref> = entries
        .into_iter()
        .filter_map(|(key, value)| Some((pickle.int(key)?, value)))
        .collect();
    let mut reader = Reader {
        pickle,
        storages,
        remaining: length.saturating_mul(MAX_SHARING).max(MIN_DECODED),
        verified: HashMap::new(),
    };
    let parameters = members.into_iter().map(|member| match states.get(&member) {
        Some(state) => reader.parameter(*state),
        None => Ok(StoredParameter::default()),
    });
    Ok(Some(StoredTraining {
        epoch,
        parameters: parameters.collect::<Result<_, _>>()?,
    }))
}

/// Returns the members of all parameter groups, in order; `None` if the groups have another form or share members.
fn groups_of(pickle: &Pickle, groups: Ref) -> Option<Vec<i128>> {
    let groups = pickle.items(groups)?;
    if !are_distinct(groups.iter()) {
        return None;
    }
    let lists = groups.iter().map(|group| entry(pickle, *group, "params"));
    let lists: Vec<Ref> = lists.collect::<Option<_>>()?;
    if !are_distinct(lists.iter()) {
        return None;
    }
    let members = lists.into_iter().map(|list| pickle.items(list));
    let members: Vec<Ref> = members.collect::<Option<Vec<_>>>()?.concat();
    let members: Vec<i128> = members
        .into_iter()
        .map(|member| pickle.int(member))
        .collect::<Option<_>>()?;
    are_distinct(members.iter().copied()).then_some(members)
}

/// Whether no value occurs twice. A crafted file can refer to one large object again and again, which would take quadratic time.
fn are_distinct<T: Eq + Hash>(mut values: impl Iterator<Item = T>) -> bool {
    let mut seen = HashSet::new();
    values.all(|value| seen.insert(value))
}

/// Reads the states of parameters.
struct Reader<'p, 'a> {
    pickle: &'p Pickle<'p>,
    storages: &'p Storages<'a>,
    /// Number of bytes that tensors may still have.
    remaining: usize,
    /// For each storage that was read, whether its bytes are those that were written.
    verified: HashMap<String, bool>,
}

impl<'a> Reader<'_, 'a> {
    fn parameter(&mut self, state: Ref) -> Result<StoredParameter<'a>, Problem> {
        let pickle = self.pickle;
        let entries = pickle.entries(state);
        let entries = entries.ok_or(Problem::Optimizer("the state of a parameter is no dictionary"))?;
        let mut parameter = StoredParameter::default();
        for (key, value) in entries {
            let Some(key) = pickle.text(key) else { continue };
            if tensor::is_tensor(pickle, value) {
                let tensor = self.tensor(value).map_err(Problem::OptimizerTensor)?;
                // Newer versions of PyTorch keep the number of updates in a tensor.
                match (key, step_of(&tensor)) {
                    ("step", Some(step)) => parameter.step = step,
                    _ => drop(parameter.moments.insert(key.to_owned(), tensor)),
                }
            } else if key == "step" {
                let step = pickle.int(value).and_then(|step| u64::try_from(step).ok());
                parameter.step = step.ok_or(Problem::Optimizer("the number of updates of a parameter is no number"))?;
            }
        }
        // An optimiser such as LARS does not count its updates.
        if !parameter.moments.is_empty() {
            parameter.step = parameter.step.max(1);
        }
        Ok(parameter)
    }

    fn tensor(&mut self, value: Ref) -> Result<TensorView<'a>, TensorProblem> {
        let layout = tensor::layout(self.pickle, value)?;
        let storages = self.storages;
        let is_whole = self
            .verified
            .entry(layout.key.clone())
            .or_insert_with(|| storages.verify([layout.key.as_str()].into()).damaged.is_empty());
        match *is_whole {
            true => self.storages.tensor(&layout, &mut self.remaining),
            false => Err(TensorProblem::Checksum),
        }
    }
}

/// Returns the number of updates in a tensor of one value.
fn step_of(tensor: &TensorView) -> Option<u64> {
    let mut value = [0.0f32];
    let is_number = tensor.shape().iter().product::<usize>() == 1 && tensor.read_f32(&mut value) == Some(true);
    (is_number && value[0] >= 0.0).then_some(value[0] as u64)
}
