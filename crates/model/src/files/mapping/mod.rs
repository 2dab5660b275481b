//! Fits the tensors of a file to those of a model.
//!
//! Some differences between file and model are expected: names of the backbone with or without `transformer.`, another image
//! size, another number of token types or text positions, and a missing retrieval head, which is made from the matching head. The
//! tensors are adapted, and the report lists the changes. Any other difference of shape is an error. A file that has fewer than nearly
//! all tensors that the model needs is an error too, unless the caller asks for a part.

mod fit;

use indexmap::IndexMap;

use super::error::TensorProblem;
use super::{BACKBONE_PREFIX, Dtype, POSITION_IDS};
pub(crate) use fit::Fit;
use vlct_util::text::{counted, one_line};

/// Name prefixes of the heads of downstream tasks.
const HEADS: [&str; 4] = [
    "vqa_classifier.",
    "nlvr2_classifier.",
    "labels_classifier.",
    "rank_output.",
];
/// The head of an image classifier, also that of linear probing. It is not loaded if the number of classes differs.
const CLASSIFIER_HEAD: [&str; 6] = [
    "head.weight",
    "head.bias",
    "head.0.running_mean",
    "head.0.running_var",
    "head.1.weight",
    "head.1.bias",
];
/// Pairs of a tensor of the retrieval head and its source: the tensor of the matching head whose row 1 ("match") it copies.
const RANK_FROM_MATCHING: [(&str, &str); 2] = [
    ("rank_output.weight", "itm_score.fc.weight"),
    ("rank_output.bias", "itm_score.fc.bias"),
];
/// Beginnings of the names, without the backbone's prefix, of the decoder of masked autoencoding and its mask token.
const DECODER: [&str; 2] = ["decoder_", "mask_token"];
/// The norm that fine-tuned image classifiers with average pooling have instead of the backbone's last norm.
const CLASSIFIER_NORM: [&str; 2] = ["fc_norm.weight", "fc_norm.bias"];
/// The backbone's last norm, without the backbone's prefix.
const LAST_NORM: &str = "norm.";
/// Maximum number of names in a line of a report. More names are counted by their first components.
const NAMES_SHOWN: usize = 8;
/// A file has nearly all tensors of a model if at most one of this number is missing …
const NEARLY_ALL: usize = 25;
/// … and fewer than this number: the tensors of one block of the encoder.
const BLOCK_TENSORS: usize = 12;

/// A part of the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Scope {
    /// The image backbone and its decoder, `transformer.…`; the whole model if no name has this prefix.
    Backbone,
    /// The whole model.
    #[default]
    Model,
}

/// Options of loading.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Options {
    /// The part of the model that is loaded.
    pub scope: Scope,
    /// Whether to ignore the file's heads for VQA, NLVR2, labels, retrieval and classes of images. The model then keeps its initial heads, except that the
    /// retrieval head is made from the file's matching head.
    pub skip_heads: bool,
    /// Whether the model is used without its decoder, so that a file without decoder is complete.
    pub without_decoder: bool,
    /// Whether to load a file that has only a part of the tensors that the model needs.
    pub partial: bool,
}

/// The tensors that were matched, changed and left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// Number of tensors of the model that were loaded from the file.
    pub matched: usize,
    /// Tensors of the model, within the scope, that the file does not have.
    pub missing: Vec<String>,
    /// Tensors of the file that the model, within the scope, does not have. If their values cannot be read, with the reason.
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
        write!(f, "loaded {} of {}", self.matched, counted(total, "tensor"))?;
        // A head that was not loaded is also missing if the model has it.
        let name = |skipped: &str| skipped.split(' ').next().unwrap_or(skipped).to_owned();
        let is_missing = |skipped: &&String| self.missing.contains(&name(skipped));
        let (replaced, skipped): (Vec<&String>, Vec<&String>) = self.skipped.iter().partition(is_missing);
        let is_absent = |missing: &&String| !replaced.iter().any(|skipped| name(skipped) == **missing);
        for (label, names) in [
            ("resized", self.resized.iter().collect::<Vec<_>>()),
            ("derived", self.derived.iter().collect()),
            ("left out", skipped),
            ("not taken from the file, so they start at random", replaced.clone()),
            (
                "not in the file, so they start at random",
                self.missing.iter().filter(is_absent).collect(),
            ),
            ("not used", self.unexpected.iter().collect()),
        ] {
            let names: Vec<String> = names.into_iter().cloned().collect();
            if !names.is_empty() {
                write!(f, "\n{label}: {}", abbreviate(&names))?;
            }
        }
        Ok(())
    }
}

/// Joins names. If there are more than `NAMES_SHOWN`, those with the same first components are counted: `transformer.blocks.* (24)`.
pub fn abbreviate(names: &[String]) -> String {
    if names.len() <= NAMES_SHOWN {
        return names.join(", ");
    }
    let group = |name: &str| -> Option<String> {
        let name = name.split(' ').next().unwrap_or(name);
        let (first, rest) = name.split_once('.')?;
        let second = rest.split_once('.').filter(|_| format!("{first}.") == BACKBONE_PREFIX);
        Some(match second {
            Some((second, _)) => format!("{first}.{second}.*"),
            None => format!("{first}.*"),
        })
    };
    let mut groups: IndexMap<String, Vec<&String>> = IndexMap::new();
    for name in names {
        groups
            .entry(group(name).unwrap_or_else(|| name.clone()))
            .or_default()
            .push(name);
    }
    let described: Vec<String> = groups
        .into_iter()
        .map(|(group, names)| match names.as_slice() {
            [name] => (*name).clone(),
            names => format!("{group} ({})", names.len()),
        })
        .collect();
    match described.len().checked_sub(2 * NAMES_SHOWN) {
        None | Some(0) => described.join(", "),
        Some(more) => format!("{} and {more} more", described[..2 * NAMES_SHOWN].join(", ")),
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
    /// The file has fewer than nearly all tensors that the model needs.
    #[error(
        "the file has {loaded} of the {needed} tensors that the model needs, not {missing}{unused}",
        unused = if unused.is_empty() { String::new() } else { format!("; the model has no use for {unused}") }
    )]
    Incomplete {
        /// Number of needed tensors that the file has.
        loaded: usize,
        /// Number of needed tensors.
        needed: usize,
        /// Names of the tensors that the file does not have.
        missing: String,
        /// Names of tensors of the file that the model does not have.
        unused: String,
    },
    /// A tensor of the model has values in the file that cannot be read.
    #[error("tensor {}, which the model needs, {problem}", one_line(name))]
    Unreadable {
        /// The name of the tensor.
        name: String,
        /// The reason.
        problem: TensorProblem,
    },
    /// A tensor of the model has values in the file that are NaN or infinite.
    #[error(
        "{count} of the {values} values of tensor {name} are NaN or infinite: use weights from before the values became so"
    )]
    NotFinite {
        /// The model's name of the tensor.
        name: String,
        /// Number of values that are NaN or infinite.
        count: usize,
        /// Number of values.
        values: usize,
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
/// in order; `unreadable` are tensors of the file whose values cannot be read.
///
/// # Errors
/// Returns an [`AdaptError`] if a shape differs and no rule adapts it, the values of a tensor of the model cannot be read, the file has no
/// tensor of the model, or, unless [`Options::partial`] is set, fewer than nearly all that the model needs.
pub(crate) fn plan<'f>(
    file: impl Iterator<Item = (&'f str, &'f [usize], Dtype)>,
    unreadable: &IndexMap<String, TensorProblem>,
    target: &[(String, Vec<usize>)],
    options: Options,
) -> Result<Plan, AdaptError> {
    let mut plan = Plan::default();
    let report = &mut plan.report;
    let mut source = Source::new(file);
    let found = source.names();
    if options.skip_heads {
        report.skipped = source.drop_heads();
    }
    let indices = in_scope(target, options.scope);
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
                    let starts_fresh =
                        options.skip_heads && (is_head(name) || CLASSIFIER_HEAD.contains(&name.as_str()));
                    if let Some((name, problem)) = unreadable_tensor(unreadable, name).filter(|_| !starts_fresh) {
                        return Err(AdaptError::Unreadable {
                            name: name.clone(),
                            problem: problem.clone(),
                        });
                    }
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
    let has_classifier_norm = source.contains(CLASSIFIER_NORM[0]);
    report.unexpected = source.unused_names();
    report
        .unexpected
        .extend(unreadable.iter().map(|(name, problem)| format!("{name} ({problem})")));
    if plan.steps.iter().all(|step| step.source.is_none()) {
        let wanted: Vec<String> = indices.iter().map(|i| target[*i].0.clone()).collect();
        return Err(AdaptError::NothingMatched {
            found: one_line(&abbreviate(&found)),
            wanted: abbreviate(&wanted),
        });
    }
    let is_needed = |name: &String| is_needed(name, options, has_classifier_norm);
    let needed = indices.iter().filter(|i| is_needed(&target[**i].0)).count();
    let missing: Vec<String> = report.missing.iter().filter(|name| is_needed(name)).cloned().collect();
    let is_nearly_all = missing.len() * NEARLY_ALL <= needed && missing.len() < BLOCK_TENSORS;
    if !is_nearly_all && !options.partial {
        return Err(AdaptError::Incomplete {
            loaded: needed - missing.len(),
            needed,
            missing: abbreviate(&missing),
            unused: one_line(&abbreviate(&report.unexpected)),
        });
    }
    Ok(plan)
}

/// Whether a run that starts from weights needs this tensor of the model from the file. The heads of downstream tasks start fresh if the
/// file does not have them, and the position ids are known. Weights of a backbone alone need no decoder, which published image classifiers
/// do not have, and a classifier can have another last norm. Head and norm of a classifier start fresh, too.
fn is_needed(name: &str, options: Options, has_classifier_norm: bool) -> bool {
    if is_head(name) || name == POSITION_IDS || CLASSIFIER_HEAD.contains(&name) || CLASSIFIER_NORM.contains(&name) {
        return false;
    }
    let is_last_norm = || {
        name.strip_prefix(BACKBONE_PREFIX)
            .unwrap_or(name)
            .starts_with(LAST_NORM)
    };
    match options.scope {
        Scope::Backbone => !(is_of_decoder(name) || has_classifier_norm && is_last_norm()),
        Scope::Model => !(options.without_decoder && is_of_decoder(name)),
    }
}

/// Whether a tensor of the model belongs to the decoder of masked autoencoding.
pub fn is_of_decoder(name: &str) -> bool {
    let name = name.strip_prefix(BACKBONE_PREFIX).unwrap_or(name);
    DECODER.iter().any(|decoder| name.starts_with(decoder))
}

/// Whether a tensor belongs to the head of a downstream task.
fn is_head(name: &str) -> bool {
    HEADS.iter().any(|head| name.starts_with(head))
}

/// Returns name and reason of the unreadable tensor for a tensor of the model, whose name may lack the backbone's prefix or have it.
fn unreadable_tensor<'u>(
    unreadable: &'u IndexMap<String, TensorProblem>,
    name: &str,
) -> Option<(&'u String, &'u TensorProblem)> {
    let other = match name.strip_prefix(BACKBONE_PREFIX) {
        Some(stripped) => stripped.to_owned(),
        None => format!("{BACKBONE_PREFIX}{name}"),
    };
    unreadable
        .get_key_value(name)
        .or_else(|| unreadable.get_key_value(&other))
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

/// The file's tensors.
struct Source<'f> {
    tensors: IndexMap<String, Found<'f>>,
}

impl<'f> Source<'f> {
    fn new(file: impl Iterator<Item = (&'f str, &'f [usize], Dtype)>) -> Self {
        let tensors = file.enumerate().map(|(index, (name, shape, dtype))| {
            let tensor = Found {
                index,
                shape,
                dtype,
                is_taken: false,
            };
            (name.to_owned(), tensor)
        });
        Self {
            tensors: tensors.collect(),
        }
    }

    /// Whether the file has a tensor of this name, with or without the backbone's prefix.
    fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name) || self.tensors.contains_key(&format!("{BACKBONE_PREFIX}{name}"))
    }

    fn names(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
    }

    /// Removes the heads of downstream tasks and of classifiers, and returns the names of their tensors.
    fn drop_heads(&mut self) -> Vec<String> {
        let is_head = |name: &str| is_head(name) || CLASSIFIER_HEAD.contains(&name);
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
