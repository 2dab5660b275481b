//! Finds the dictionary of weights in the pickle of a checkpoint.
//!
//! Programs keep weights at the top level or under a key, which differs from program to program. Every dictionary of tensors is a
//! candidate. One with names of the model is preferred to others, then one under a usual key, then one that is not a copy or an average.

use std::collections::HashSet;

use vlct_pickle::{Pickle, Ref, Value};

use super::super::error::Problem;
use super::super::names;
use super::tensor;

/// Keys of weights, in the order in which they are used if a file has several of them.
const KEYS: [&str; 11] = [
    "model",
    "state_dict",
    "module",
    "model_state_dict",
    "model_state",
    "network",
    "net",
    "weights",
    "params",
    "backbone",
    "encoder",
];
/// Position of the top level among [`KEYS`].
const TOP_LEVEL_ORDER: usize = 2;
/// Beginnings of the keys of dictionaries with tensors that are not weights.
const NOT_WEIGHTS: [&str; 5] = ["optim", "opt_", "lr_sched", "scheduler", "scaler"];
/// Maximum number of nested dictionaries.
const MAX_DEPTH: usize = 4;
/// Maximum number of dictionaries that are searched.
const MAX_DICTIONARIES: usize = 4096;
/// Maximum number of keys that a message lists.
const KEYS_SHOWN: usize = 12;
/// Maximum number of characters of a value in a message.
const VALUE_CHARS: usize = 40;

/// The dictionary of weights in the pickle.
pub(super) struct Weights {
    /// The keys that lead to the dictionary; empty if the top level itself holds the weights.
    pub path: Vec<String>,
    /// Keys and values of the dictionary.
    pub entries: Vec<(Ref, Ref)>,
}

/// A dictionary that has named tensors.
struct Candidate {
    path: Vec<String>,
    entries: Vec<(Ref, Ref)>,
    /// Whether its tensors have names of the model.
    is_of_model: bool,
}

impl Candidate {
    /// Returns the order among the candidates of a file; the first one is used.
    fn order(&self) -> impl Ord + use<> {
        let copy = self.path.iter().map(|key| names::copy_order(key)).max().unwrap_or(0);
        let keys = self
            .path
            .iter()
            .map(|key| self::key_order(key))
            .max()
            .unwrap_or(TOP_LEVEL_ORDER);
        (!self.is_of_model, copy, keys, self.path.len())
    }

    /// Whether the keys are usual ones for weights.
    fn has_usual_keys(&self) -> bool {
        self.path.iter().all(|key| key_order(key) < order_of_other_keys())
    }
}

/// Returns the order of keys. The keys from that of the top level come after it.
fn key_order(key: &str) -> usize {
    let known = KEYS.iter().position(|known| *known == key);
    known.map_or(order_of_other_keys(), |i| if i < TOP_LEVEL_ORDER { i } else { i + 1 })
}

fn order_of_other_keys() -> usize {
    KEYS.len() + 1
}

/// Finds the dictionary of weights.
pub(super) fn find(pickle: &Pickle) -> Result<Weights, Problem> {
    let root = pickle.root();
    let Some(top) = pickle.entries(root) else {
        return Err(match unsupported_call(pickle, root) {
            Some(callable) => Problem::ForeignCallable {
                entry: "its content".to_owned(),
                callable,
            },
            None => Problem::NoWeights {
                found: format!("its content is {}", shortened(pickle, root)),
            },
        });
    };
    let mut candidates = Vec::new();
    collect(pickle, root, &mut Vec::new(), &mut HashSet::new(), &mut candidates);
    candidates.retain(|candidate| candidate.is_of_model || candidate.has_usual_keys());
    // The first of equal candidates is used.
    if let Some(found) = candidates.into_iter().min_by_key(Candidate::order) {
        return Ok(Weights {
            path: found.path,
            entries: found.entries,
        });
    }
    // A whole model, or weights of a class of another library, would be made by a call.
    let call = top.iter().find_map(|(key, value)| {
        let key = pickle.text(*key).filter(|key| key_order(key) < order_of_other_keys())?;
        let inner = pickle.entries(*value).unwrap_or_default();
        let callable = unsupported_call(pickle, *value)
            .or_else(|| inner.iter().find_map(|(_, value)| unsupported_call(pickle, *value)))?;
        Some((format!("`{key}`"), callable))
    });
    Err(match call {
        Some((entry, callable)) => Problem::ForeignCallable { entry, callable },
        None => Problem::NoWeights {
            found: describe_keys(pickle, &top),
        },
    })
}

/// Collects the dictionaries with named tensors in a value.
fn collect(
    pickle: &Pickle,
    value: Ref,
    path: &mut Vec<String>,
    visited: &mut HashSet<Ref>,
    candidates: &mut Vec<Candidate>,
) {
    if path.len() > MAX_DEPTH || visited.len() >= MAX_DICTIONARIES {
        return;
    }
    let Some(entries) = pickle.entries(value).filter(|_| visited.insert(value)) else {
        return;
    };
    let is_named_tensor = |(key, value): &&(Ref, Ref)| pickle.text(*key).is_some() && tensor::is_tensor(pickle, *value);
    let tensors: Vec<&str> = entries
        .iter()
        .filter(is_named_tensor)
        .filter_map(|(key, _)| pickle.text(*key))
        .collect();
    for (key, value) in &entries {
        let Some(key) = pickle.text(*key) else { continue };
        let lower_case = key.to_ascii_lowercase();
        let is_other = lower_case == "opt" || NOT_WEIGHTS.iter().any(|other| lower_case.starts_with(other));
        if !is_other {
            path.push(key.to_owned());
            collect(pickle, *value, path, visited, candidates);
            path.pop();
        }
    }
    if !tensors.is_empty() {
        candidates.push(Candidate {
            path: path.clone(),
            is_of_model: names::are_of_model(tensors.iter().copied()),
            entries,
        });
    }
}

/// Returns the name of the callable if an unsupported call makes the value.
fn unsupported_call(pickle: &Pickle, value: Ref) -> Option<String> {
    let is_unsupported = matches!(pickle.get(value), Value::Object(_))
        && pickle.entries(value).is_none()
        && !tensor::is_tensor(pickle, value);
    let name = || {
        pickle
            .callable(value)
            .unwrap_or_else(|| "a nameless function".to_owned())
    };
    is_unsupported.then(name)
}

/// Describes the keys of the top level, for a message.
fn describe_keys(pickle: &Pickle, top: &[(Ref, Ref)]) -> String {
    if top.is_empty() {
        return "it is empty".to_owned();
    }
    let shown = top.iter().take(KEYS_SHOWN).map(|(key, value)| {
        let key = match pickle.text(*key) {
            Some(text) => text.to_owned(),
            None => shortened(pickle, *key),
        };
        match pickle.entries(*value) {
            Some(entries) => {
                let inner: Vec<String> = entries.iter().take(2).map(|(key, _)| shortened(pickle, *key)).collect();
                let more = if entries.len() > inner.len() { ", …" } else { "" };
                format!("{key} ({} entries: {}{more})", entries.len(), inner.join(", "))
            }
            None => format!("{key} ({})", shortened(pickle, *value)),
        }
    });
    let shown: Vec<String> = shown.collect();
    let more = match top.len() - shown.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("it has {}{more}", shown.join(", "))
}

fn shortened(pickle: &Pickle, value: Ref) -> String {
    let text = pickle.describe(value);
    match text.char_indices().nth(VALUE_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
