//! Fits the tensors of a file to the tensors a model has.
//!
//! Files differ from models in ways that are no mistakes: the backbone's names with or without `transformer.`, another image
//! size, another number of token types or text positions, a retrieval head that is yet to be made from the matching head. Those are bridged
//! and reported. Any other difference of shape is an error, as is a file of which nothing fits.

mod fit;

use indexmap::IndexMap;

use super::state::{StateDict, StoredTensor, TensorData};
use super::{BACKBONE_PREFIX, Dtype};
use vlct_util::text::one_line;

/// Prefixes that training wrappers put in front of every name: data parallelism, compilation, Lightning-like modules.
const WRAPPERS: [&str; 3] = ["module.", "_orig_mod.", "model."];
/// A buffer that holds 0, 1, 2, …; newer versions of the transformers library do not save it.
const POSITION_IDS: &str = "text_embeddings.position_ids";
/// Heads of the downstream tasks, by the first part of their names.
const HEADS: [&str; 3] = ["vqa_classifier.", "nlvr2_classifier.", "rank_output."];
/// The head of the image classifier: replaced when the number of classes differs.
const CLASSIFIER_HEAD: [&str; 2] = ["head.weight", "head.bias"];
/// The retrieval head's tensors and those of the matching head whose row 1 ("match") they are made from.
const RANK_FROM_MATCHING: [(&str, &str); 2] = [
    ("rank_output.weight", "itm_score.fc.weight"),
    ("rank_output.bias", "itm_score.fc.bias"),
];
/// How many names a report gives before it only counts.
const NAMES_SHOWN: usize = 4;

/// Which part of the model is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Scope {
    /// Only the image backbone and its decoder, `transformer.…`; all of a model whose names have no such prefix.
    Backbone,
    /// Everything.
    #[default]
    Model,
}

/// How [`adapt`] goes about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Options {
    /// Which part of the model is loaded.
    pub scope: Scope,
    /// Leave the file's heads for answers, NLVR2 and retrieval out, so that they start anew. The retrieval head is then made from the
    /// file's matching head.
    pub skip_heads: bool,
}

/// What was loaded and what was not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// Tensors of the model taken from the file.
    pub matched: usize,
    /// Tensors of the model, within the scope, that the file does not give.
    pub missing: Vec<String>,
    /// Tensors of the file that the model, within the scope, has no place for.
    pub unexpected: Vec<String>,
    /// Tensors whose shape was adapted, and how.
    pub resized: Vec<String>,
    /// Tensors made from others, and from which.
    pub derived: Vec<String>,
    /// Heads of the file that were left out: on request, or because the number of classes differs.
    pub skipped: Vec<String>,
}

impl std::fmt::Display for LoadReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let wanted = self.matched + self.derived.len() + self.missing.len();
        write!(f, "loaded {} of {wanted} tensors", self.matched)?;
        for (label, names) in [
            ("resized", &self.resized),
            ("derived", &self.derived),
            ("left out", &self.skipped),
            ("not in the file", &self.missing),
            ("not used", &self.unexpected),
        ] {
            if !names.is_empty() {
                write!(f, "\n{label}: {}", some_of(names))?;
            }
        }
        Ok(())
    }
}

/// The first few of a list and how many more there are.
pub(super) fn some_of(names: &[String]) -> String {
    match names.len().checked_sub(NAMES_SHOWN) {
        None | Some(0) => names.join(", "),
        Some(more) => format!("{} and {more} more", names[..NAMES_SHOWN].join(", ")),
    }
}

/// Why a file's tensors do not fit the model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdaptError {
    /// Not one name of the file is known to the model.
    #[error("none of the file's tensors ({found}) belongs to the model ({wanted}): is it the right file?")]
    NothingMatched {
        /// Some names of the file.
        found: String,
        /// Some names of the model.
        wanted: String,
    },
    /// A tensor has another shape than the model's, and no rule bridges the difference.
    #[error("tensor {name} has shape {found:?} in the file and {expected:?} in the model")]
    Shape {
        /// The model's name of the tensor.
        name: String,
        /// Sizes in the file.
        found: Vec<usize>,
        /// Sizes in the model.
        expected: Vec<usize>,
    },
    /// A tensor of the model that the file lacks.
    #[error("the file has no tensor {name}")]
    Missing {
        /// The model's name of the tensor.
        name: String,
    },
    /// A position table that is not the class token and a square of patches.
    #[error("position table {name} has {rows} rows, which is not one more than a square, so it cannot be resized")]
    NotSquare {
        /// The model's name of the table.
        name: String,
        /// Its rows.
        rows: usize,
    },
    /// Integers where the model has floats.
    #[error("tensor {name} holds {dtype} values where the model has floating point")]
    NotFloating {
        /// The model's name of the tensor.
        name: String,
        /// What the file holds.
        dtype: Dtype,
    },
}

/// Fits the tensors of a file to those of a model, `target` with names and shapes in the model's order.
///
/// The result has the model's names and shapes, in its order, without those tensors that the report calls missing.
/// Values keep the precision they were stored in, except where they had to be computed.
///
/// # Errors
/// [`AdaptError`] if a shape differs beyond what can be bridged, or nothing fits at all.
pub fn adapt(
    state: StateDict,
    target: &[(String, Vec<usize>)],
    options: Options,
) -> Result<(StateDict, LoadReport), AdaptError> {
    let mut report = LoadReport::default();
    let mut source = Source::new(state);
    if options.skip_heads {
        report.skipped = source.drop_heads();
    }
    let target = in_scope(target, options.scope);
    let found = source.names();
    let matching = RANK_FROM_MATCHING.map(|(rank, matching)| (rank, matching, source.peek(matching)));
    let chosen = source.choose(&target);

    let mut adapted = StateDict::new();
    for ((name, shape), tensor) in target.iter().zip(chosen) {
        let tensor = match tensor {
            // Only its length can differ, and its values are known.
            _ if name == POSITION_IDS => {
                if tensor.is_none() {
                    report.derived.push(name.clone());
                } else {
                    report.matched += 1;
                }
                position_ids(shape)
            }
            Some(tensor) => match fit::fit(name, tensor, shape)? {
                fit::Fitted::Same(tensor) => {
                    report.matched += 1;
                    tensor
                }
                fit::Fitted::Adapted(tensor, how) => {
                    report.matched += 1;
                    report.resized.push(format!("{name} ({how})"));
                    tensor
                }
                fit::Fitted::NewHead(how) => {
                    report.skipped.push(format!("{name} ({how})"));
                    report.missing.push(name.clone());
                    continue;
                }
            },
            None => match matching_row(name, shape, &matching)? {
                Some((tensor, from)) => {
                    report.derived.push(format!("{name} (row 1 of {from})"));
                    tensor
                }
                None => {
                    report.missing.push(name.clone());
                    continue;
                }
            },
        };
        adapted.insert(name.clone(), tensor);
    }
    report.unexpected = source.left();
    if adapted.names().all(|name| name == POSITION_IDS) {
        return Err(AdaptError::NothingMatched {
            found: one_line(&some_of(&found)),
            wanted: some_of(&target.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>()),
        });
    }
    Ok((adapted, report))
}

fn in_scope(target: &[(String, Vec<usize>)], scope: Scope) -> Vec<&(String, Vec<usize>)> {
    let is_backbone = |(name, _): &&(String, Vec<usize>)| name.starts_with(BACKBONE_PREFIX);
    match scope {
        Scope::Backbone if target.iter().any(|t| is_backbone(&t)) => target.iter().filter(is_backbone).collect(),
        _ => target.iter().collect(),
    }
}

/// The file's tensors; each is given away once.
struct Source {
    tensors: IndexMap<String, Option<StoredTensor>>,
}

impl Source {
    fn new(state: StateDict) -> Self {
        let mut names = state.names().map(str::to_owned).collect::<Vec<_>>();
        while let Some(wrapper) = WRAPPERS
            .iter()
            .find(|wrapper| !names.is_empty() && names.iter().all(|name| name.starts_with(**wrapper)))
        {
            names
                .iter_mut()
                .for_each(|name| name.replace_range(..wrapper.len(), ""));
        }
        let tensors = state.into_iter().map(|(_, tensor)| Some(tensor));
        Self {
            tensors: names.into_iter().zip(tensors).collect(),
        }
    }

    fn names(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
    }

    /// A copy of a tensor, which stays available.
    fn peek(&self, name: &str) -> Option<StoredTensor> {
        self.tensors.get(name)?.clone()
    }

    fn drop_heads(&mut self) -> Vec<String> {
        let is_head = |name: &String| HEADS.iter().any(|head| name.starts_with(head));
        let heads: Vec<String> = self.tensors.keys().filter(|name| is_head(name)).cloned().collect();
        self.tensors.retain(|name, _| !is_head(name));
        heads
    }

    /// For each tensor of the model the one of the file that belongs there, under the model's own name if there is such,
    /// else with the backbone's prefix added or removed.
    fn choose(&mut self, target: &[&(String, Vec<usize>)]) -> Vec<Option<StoredTensor>> {
        let mut chosen: Vec<_> = target.iter().map(|(name, _)| self.take(name)).collect();
        for (tensor, (name, _)) in chosen.iter_mut().zip(target).filter(|(tensor, _)| tensor.is_none()) {
            *tensor = match name.strip_prefix(BACKBONE_PREFIX) {
                Some(stripped) => self.take(stripped),
                None => self.take(&format!("{BACKBONE_PREFIX}{name}")),
            };
        }
        chosen
    }

    fn take(&mut self, name: &str) -> Option<StoredTensor> {
        self.tensors.get_mut(name)?.take()
    }

    /// Names that no parameter took. The position buffer carries no information and is not worth a mention.
    fn left(self) -> Vec<String> {
        self.tensors
            .into_iter()
            .filter(|(name, tensor)| tensor.is_some() && name != POSITION_IDS)
            .map(|(name, _)| name)
            .collect()
    }
}

/// 0, 1, 2, … in the given shape.
fn position_ids(shape: &[usize]) -> StoredTensor {
    let count: usize = shape.iter().product();
    StoredTensor::new(shape.to_vec(), TensorData::I64((0..count as i64).collect()))
}

/// The retrieval head's tensor as row 1 of the matching head's and the latter's name, if `name` is one and the file has the other.
fn matching_row(
    name: &str,
    shape: &[usize],
    matching: &[(&str, &'static str, Option<StoredTensor>)],
) -> Result<Option<(StoredTensor, &'static str)>, AdaptError> {
    let Some((_, from, Some(head))) = matching.iter().find(|(rank, _, _)| *rank == name) else {
        return Ok(None);
    };
    let expected = || AdaptError::Shape {
        name: (*from).to_owned(),
        found: head.shape.clone(),
        expected: [&[2], shape.get(1..).unwrap_or_default()].concat(),
    };
    let [2, rest @ ..] = head.shape.as_slice() else {
        return Err(expected());
    };
    let row_shape = [&[1], rest].concat();
    if row_shape != shape {
        return Err(expected());
    }
    let values = fit::floating(from, head)?;
    let row = values[values.len() / 2..].to_vec();
    Ok(Some((StoredTensor::f32(row_shape, row), from)))
}

#[cfg(test)]
mod tests;
