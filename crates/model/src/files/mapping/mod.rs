//! Fits the tensors of a file to those of a model.
//!
//! Some differences between file and model are expected: names of the backbone with or without `transformer.`, another image
//! size, another number of token types or text positions, and a missing retrieval head, which is made from the matching head. The
//! tensors are adapted, and the report lists the changes. Any other difference of shape is an error. A file without any tensor of
//! the model is an error, too.

mod fit;

use indexmap::IndexMap;

use super::state::{StateDict, StoredTensor};
use super::{BACKBONE_PREFIX, Dtype, POSITION_IDS, position_ids};
use vlct_util::text::one_line;

/// Prefixes that wrappers add to every name: data parallelism, `torch.compile`, Lightning modules.
const WRAPPERS: [&str; 3] = ["module.", "_orig_mod.", "model."];
/// Name prefixes of the heads of downstream tasks.
const HEADS: [&str; 4] = [
    "vqa_classifier.",
    "nlvr2_classifier.",
    "labels_classifier.",
    "rank_output.",
];
/// The head of an image classifier. It is not loaded if the number of classes differs.
const CLASSIFIER_HEAD: [&str; 2] = ["head.weight", "head.bias"];
/// Pairs of a tensor of the retrieval head and its source: the tensor of the matching head whose row 1 ("match") it copies.
const RANK_FROM_MATCHING: [(&str, &str); 2] = [
    ("rank_output.weight", "itm_score.fc.weight"),
    ("rank_output.bias", "itm_score.fc.bias"),
];
/// Maximum number of names in a line of a report.
const NAMES_SHOWN: usize = 4;

/// A part of the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Scope {
    /// The image backbone and its decoder, `transformer.…`; the whole model if no name has this prefix.
    Backbone,
    /// The whole model.
    #[default]
    Model,
}

/// Options of [`adapt`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Options {
    /// The part of the model that is loaded.
    pub scope: Scope,
    /// Whether to ignore the file's heads for VQA, NLVR2, labels and retrieval. The model then keeps its initial heads, except that the
    /// retrieval head is made from the file's matching head.
    pub skip_heads: bool,
}

/// The tensors that [`adapt`] matched, changed and left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// Number of tensors of the model that were loaded from the file.
    pub matched: usize,
    /// Tensors of the model, within the scope, that the file does not have.
    pub missing: Vec<String>,
    /// Tensors of the file that the model, within the scope, does not have.
    pub unexpected: Vec<String>,
    /// Tensors whose shape was adapted, each with the change.
    pub resized: Vec<String>,
    /// Tensors made from other tensors, each with its source.
    pub derived: Vec<String>,
    /// Heads of the file that were not loaded, because of [`Options::skip_heads`] or another number of classes.
    pub skipped: Vec<String>,
}

impl std::fmt::Display for LoadReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let total = self.matched + self.derived.len() + self.missing.len();
        write!(f, "loaded {} of {total} tensors", self.matched)?;
        for (label, names) in [
            ("resized", &self.resized),
            ("derived", &self.derived),
            ("left out", &self.skipped),
            ("not in the file", &self.missing),
            ("not used", &self.unexpected),
        ] {
            if !names.is_empty() {
                write!(f, "\n{label}: {}", abbreviate(names))?;
            }
        }
        Ok(())
    }
}

/// Joins the first [`NAMES_SHOWN`] names and appends the number of further names.
pub(super) fn abbreviate(names: &[String]) -> String {
    match names.len().checked_sub(NAMES_SHOWN) {
        None | Some(0) => names.join(", "),
        Some(more) => format!("{} and {more} more", names[..NAMES_SHOWN].join(", ")),
    }
}

/// The reason why a file's tensors do not fit the model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdaptError {
    /// The file has no tensor of the model.
    #[error("none of the file's tensors ({found}) belongs to the model ({wanted}): is it the right file?")]
    NothingMatched {
        /// Names of the file's first tensors.
        found: String,
        /// Names of the model's first tensors.
        wanted: String,
    },
    /// A tensor has another shape in the file than in the model, and no rule adapts it.
    #[error("tensor {name} has shape {found:?} in the file and {expected:?} in the model")]
    Shape {
        /// The model's name of the tensor.
        name: String,
        /// Shape in the file.
        found: Vec<usize>,
        /// Shape in the model.
        expected: Vec<usize>,
    },
    /// The file lacks a tensor of the model.
    #[error("the file has no tensor {name}")]
    Missing {
        /// The model's name of the tensor.
        name: String,
    },
    /// A position table does not have one row for the class token and a square number of rows for patches.
    #[error("position table {name} has {rows} rows, which is not one more than a square, so it cannot be resized")]
    NotSquare {
        /// The model's name of the table.
        name: String,
        /// The number of rows.
        rows: usize,
    },
    /// A tensor has integer or boolean values in the file and floating-point values in the model.
    #[error("tensor {name} has {dtype} values in the file and floating-point values in the model")]
    NotFloating {
        /// The model's name of the tensor.
        name: String,
        /// Element type in the file.
        dtype: Dtype,
    },
}

/// Fits the tensors of a file to those of a model. `target` has the model's names and shapes, in order.
///
/// The result has the model's names and shapes, in the same order, without the tensors in [`LoadReport::missing`].
/// Unchanged tensors keep their element type; adapted tensors are f32.
///
/// # Errors
/// Returns an [`AdaptError`] if a shape differs and no rule adapts it, or the file has no tensor of the model.
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
    let matching = RANK_FROM_MATCHING.map(|(rank, matching)| (rank, matching, source.copy(matching)));
    let tensors = source.take_all(&target);

    let mut adapted = StateDict::new();
    for ((name, shape), tensor) in target.iter().zip(tensors) {
        let tensor = match tensor {
            // The values are always 0, 1, 2, …, so those of the file are not needed.
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
                fit::Fitted::Adapted(tensor, change) => {
                    report.matched += 1;
                    report.resized.push(format!("{name} ({change})"));
                    tensor
                }
                fit::Fitted::OtherClasses(reason) => {
                    report.skipped.push(format!("{name} ({reason})"));
                    report.missing.push(name.clone());
                    continue;
                }
            },
            None => match derive_rank_tensor(name, shape, &matching)? {
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
    report.unexpected = source.unused_names();
    if adapted.names().all(|name| name == POSITION_IDS) {
        return Err(AdaptError::NothingMatched {
            found: one_line(&abbreviate(&found)),
            wanted: abbreviate(&target.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>()),
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

/// The file's tensors. Taking a tensor leaves `None`.
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

    /// Returns a copy of a tensor, which remains in the source.
    fn copy(&self, name: &str) -> Option<StoredTensor> {
        self.tensors.get(name)?.clone()
    }

    /// Removes the heads of downstream tasks and returns the names of their tensors.
    fn drop_heads(&mut self) -> Vec<String> {
        let is_head = |name: &String| HEADS.iter().any(|head| name.starts_with(head));
        let heads: Vec<String> = self.tensors.keys().filter(|name| is_head(name)).cloned().collect();
        self.tensors.retain(|name, _| !is_head(name));
        heads
    }

    /// Takes the file's tensor for each tensor of the model. If the file has no tensor with the model's name, the backbone's
    /// prefix is added to the name or removed.
    fn take_all(&mut self, target: &[&(String, Vec<usize>)]) -> Vec<Option<StoredTensor>> {
        let mut tensors: Vec<_> = target.iter().map(|(name, _)| self.take(name)).collect();
        for (tensor, (name, _)) in tensors.iter_mut().zip(target).filter(|(tensor, _)| tensor.is_none()) {
            *tensor = match name.strip_prefix(BACKBONE_PREFIX) {
                Some(stripped) => self.take(stripped),
                None => self.take(&format!("{BACKBONE_PREFIX}{name}")),
            };
        }
        tensors
    }

    fn take(&mut self, name: &str) -> Option<StoredTensor> {
        self.tensors.get_mut(name)?.take()
    }

    /// Returns the names of tensors that were not taken, except the position ids, whose values are always the same.
    fn unused_names(self) -> Vec<String> {
        self.tensors
            .into_iter()
            .filter(|(name, tensor)| tensor.is_some() && name != POSITION_IDS)
            .map(|(name, _)| name)
            .collect()
    }
}

/// Makes the tensor `name` of the retrieval head from row 1 of a tensor of the matching head. Returns the tensor and the name of its
/// source; `None` if `name` is not a tensor of the retrieval head, or the file has no matching head.
fn derive_rank_tensor(
    name: &str,
    shape: &[usize],
    matching: &[(&str, &'static str, Option<StoredTensor>)],
) -> Result<Option<(StoredTensor, &'static str)>, AdaptError> {
    let Some((_, from, Some(head))) = matching.iter().find(|(rank, _, _)| *rank == name) else {
        return Ok(None);
    };
    let shape_error = || AdaptError::Shape {
        name: (*from).to_owned(),
        found: head.shape.clone(),
        expected: [&[2], shape.get(1..).unwrap_or_default()].concat(),
    };
    let [2, rest @ ..] = head.shape.as_slice() else {
        return Err(shape_error());
    };
    let row_shape = [&[1], rest].concat();
    if row_shape != shape {
        return Err(shape_error());
    }
    let values = fit::f32_values(from, head)?;
    let row = values[values.len() / 2..].to_vec();
    Ok(Some((StoredTensor::f32(row_shape, row), from)))
}

#[cfg(test)]
mod tests;
