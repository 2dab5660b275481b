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
pub(crate) use fit::Fit;
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

/// How the tensors of a model are made from those of a file.
#[derive(Debug, Clone, Default)]
pub(crate) struct Plan {
    /// The tensors of the model that are made, in the order of the model.
    pub steps: Vec<Step>,
    /// The tensors that were matched, changed and left out.
    pub report: LoadReport,
}

/// How a tensor of the model is made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Step {
    /// Index of the tensor in the model.
    pub target: usize,
    /// The tensor of the file and what becomes of it; `None` for the position ids.
    pub source: Option<(usize, Fit)>,
}

/// Fits the tensors of a file, given as names, shapes and element types, to those of a model. `target` has the model's names and shapes,
/// in order.
///
/// # Errors
/// Returns an [`AdaptError`] if a shape differs and no rule adapts it, or the file has no tensor of the model.
pub(crate) fn plan<'f>(
    file: impl Iterator<Item = (&'f str, &'f [usize], Dtype)>,
    target: &[(String, Vec<usize>)],
    options: Options,
) -> Result<Plan, AdaptError> {
    let mut plan = Plan::default();
    let report = &mut plan.report;
    let mut source = Source::new(file);
    if options.skip_heads {
        report.skipped = source.drop_heads();
    }
    let indices = in_scope(target, options.scope);
    let found = source.names();
    let taken = source.take_all(indices.iter().map(|i| target[*i].0.as_str()));

    for (index, tensor) in indices.iter().zip(taken) {
        let (name, shape) = &target[*index];
        let step = match tensor {
            // The values are always 0, 1, 2, …, so those of the file are not needed.
            _ if name == POSITION_IDS => {
                if tensor.is_none() {
                    report.derived.push(name.clone());
                } else {
                    report.matched += 1;
                }
                None
            }
            Some(tensor) => match fit::rule(name, tensor.shape, tensor.dtype, shape)? {
                fit::Rule::Same => {
                    report.matched += 1;
                    Some((tensor.index, Fit::Same))
                }
                fit::Rule::Adapted(fit, change) => {
                    report.matched += 1;
                    report.resized.push(format!("{name} ({change})"));
                    Some((tensor.index, fit))
                }
                fit::Rule::OtherClasses(reason) => {
                    report.skipped.push(format!("{name} ({reason})"));
                    report.missing.push(name.clone());
                    continue;
                }
            },
            None => match source.rank_source(name, shape)? {
                Some((tensor, from)) => {
                    report.derived.push(format!("{name} (row 1 of {from})"));
                    Some((tensor, Fit::SecondHalf))
                }
                None => {
                    report.missing.push(name.clone());
                    continue;
                }
            },
        };
        plan.steps.push(Step {
            target: *index,
            source: step,
        });
    }
    report.unexpected = source.unused_names();
    if plan.steps.iter().all(|step| step.source.is_none()) {
        let wanted: Vec<String> = indices.iter().map(|i| target[*i].0.clone()).collect();
        return Err(AdaptError::NothingMatched {
            found: one_line(&abbreviate(&found)),
            wanted: abbreviate(&wanted),
        });
    }
    Ok(plan)
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
    let shapes = state
        .iter()
        .map(|(name, tensor)| (name, tensor.shape.as_slice(), tensor.data.dtype()));
    let plan = plan(shapes, target, options)?;
    let (names, mut tensors): (Vec<String>, Vec<Option<StoredTensor>>) =
        state.into_iter().map(|(name, tensor)| (name, Some(tensor))).unzip();
    // Adapted tensors are made first: a tensor that is taken unchanged may be the source of another one.
    let mut made = Vec::with_capacity(plan.steps.len());
    for step in &plan.steps {
        let shape = &target[step.target].1;
        made.push(match step.source {
            None => Some(position_ids(shape)),
            Some((_, Fit::Same)) => None,
            Some((source, fit)) => {
                let tensor = tensors[source].as_ref();
                let tensor = tensor.unwrap_or_else(|| unreachable!("no tensor is taken yet"));
                Some(fit.tensor(&names[source], tensor, shape)?)
            }
        });
    }
    let mut adapted = StateDict::new();
    for (step, made) in plan.steps.iter().zip(made) {
        let unchanged = || step.source.and_then(|(source, _)| tensors[source].take());
        if let Some(tensor) = made.or_else(unchanged) {
            adapted.insert(target[step.target].0.clone(), tensor);
        }
    }
    Ok((adapted, plan.report))
}

/// Removes the prefixes of wrappers that all names have.
pub(crate) fn strip_wrappers(names: &mut [String]) {
    while let Some(wrapper) = WRAPPERS
        .iter()
        .find(|wrapper| !names.is_empty() && names.iter().all(|name| name.starts_with(**wrapper)))
    {
        names
            .iter_mut()
            .for_each(|name| name.replace_range(..wrapper.len(), ""));
    }
}

/// Returns the indices of the tensors of the model that are loaded.
fn in_scope(target: &[(String, Vec<usize>)], scope: Scope) -> Vec<usize> {
    let is_backbone = |i: &usize| target[*i].0.starts_with(BACKBONE_PREFIX);
    let all = 0..target.len();
    match scope {
        Scope::Backbone if all.clone().any(|i| is_backbone(&i)) => all.filter(is_backbone).collect(),
        _ => all.collect(),
    }
}

/// A tensor of the file.
#[derive(Clone, Copy)]
struct Found<'f> {
    /// Index in the file.
    index: usize,
    shape: &'f [usize],
    dtype: Dtype,
    is_taken: bool,
}

/// The file's tensors, by their names without the prefixes of wrappers.
struct Source<'f> {
    tensors: IndexMap<String, Found<'f>>,
}

impl<'f> Source<'f> {
    fn new(file: impl Iterator<Item = (&'f str, &'f [usize], Dtype)>) -> Self {
        let (mut names, tensors): (Vec<String>, Vec<Found>) = file
            .enumerate()
            .map(|(index, (name, shape, dtype))| {
                let tensor = Found {
                    index,
                    shape,
                    dtype,
                    is_taken: false,
                };
                (name.to_owned(), tensor)
            })
            .unzip();
        strip_wrappers(&mut names);
        Self {
            tensors: names.into_iter().zip(tensors).collect(),
        }
    }

    fn names(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
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
    fn take_all<'n>(&mut self, target: impl Iterator<Item = &'n str> + Clone) -> Vec<Option<Found<'f>>> {
        let mut tensors: Vec<_> = target.clone().map(|name| self.take(name)).collect();
        for (tensor, name) in tensors.iter_mut().zip(target).filter(|(tensor, _)| tensor.is_none()) {
            *tensor = match name.strip_prefix(BACKBONE_PREFIX) {
                Some(stripped) => self.take(stripped),
                None => self.take(&format!("{BACKBONE_PREFIX}{name}")),
            };
        }
        tensors
    }

    fn take(&mut self, name: &str) -> Option<Found<'f>> {
        let tensor = self.tensors.get_mut(name).filter(|tensor| !tensor.is_taken)?;
        tensor.is_taken = true;
        Some(*tensor)
    }

    /// Returns the tensor of the matching head whose row 1 is the tensor `name` of the retrieval head, and its name. Returns `None` if
    /// `name` is not a tensor of the retrieval head, or the file has no matching head.
    fn rank_source(&self, name: &str, shape: &[usize]) -> Result<Option<(usize, &'static str)>, AdaptError> {
        let Some((_, from)) = RANK_FROM_MATCHING.iter().find(|(rank, _)| *rank == name) else {
            return Ok(None);
        };
        let Some(head) = self.tensors.get(*from) else {
            return Ok(None);
        };
        match head.shape {
            [2, rest @ ..] if [&[1], rest].concat() == shape => {}
            _ => {
                return Err(AdaptError::Shape {
                    name: (*from).to_owned(),
                    found: head.shape.to_vec(),
                    expected: [&[2], shape.get(1..).unwrap_or_default()].concat(),
                });
            }
        }
        if !head.dtype.is_floating() {
            return Err(AdaptError::NotFloating {
                name: (*from).to_owned(),
                dtype: head.dtype,
            });
        }
        Ok(Some((head.index, *from)))
    }

    /// Returns the names of tensors that were not taken, except the position ids, whose values are always the same.
    fn unused_names(self) -> Vec<String> {
        self.tensors
            .into_iter()
            .filter(|(name, tensor)| !tensor.is_taken && name != POSITION_IDS)
            .map(|(name, _)| name)
            .collect()
    }
}

#[cfg(test)]
mod tests;
