//! The tensors of a file with the model's names, and query, key and value of Hugging Face's attention joined to one tensor.

use std::collections::{HashMap, HashSet};

use indexmap::IndexMap;

use super::error::TensorProblem;
use super::hugging_face::vilt::{
    CLASSIFIER_OF_ONE, CLASSIFIER_OF_PAIRS, HIDDEN_LAYER, MASKED_WORDS_BIAS, MASKED_WORDS_LAYER, MASKED_WORDS_WEIGHT,
};
use super::hugging_face::{PARTS, whole};
use super::view::{RawIndex, TensorView, WeightIndex};
use super::{Style, Summary, names};

impl<'a> RawIndex<'a> {
    /// Gives the tensors the names that the model has for them, and joins those that the model has in one tensor.
    pub fn with_plain_names(self) -> WeightIndex<'a> {
        let original: Vec<&str> = self.tensors.keys().map(String::as_str).collect();
        let plain = names::plain(&original);
        let style = Style::detect(plain.names.iter().map(String::as_str));
        let named = plain.names.into_iter().zip(self.tensors);
        let found: IndexMap<_, _> = match plain.hugging_face {
            true => {
                let mut joined = join(named.collect());
                if style == Style::Vlc {
                    finish_vilt(&mut joined);
                }
                joined
            }
            false => named.map(|(name, (_, tensor))| (name, tensor)).collect(),
        };
        let (mut tensors, mut unreadable) = (IndexMap::with_capacity(found.len()), IndexMap::new());
        for (name, tensor) in found {
            match tensor {
                Ok(tensor) => drop(tensors.insert(name, tensor)),
                Err(problem) => drop(unreadable.insert(name, problem)),
            }
        }
        WeightIndex {
            tensors,
            unreadable,
            averages: self.averages,
            format: self.format,
            style,
            summary: Summary {
                removed_prefixes: plain.removed,
                hugging_face: plain.hugging_face,
                ..self.summary
            },
        }
    }
}

/// A tensor of a file, or the reason why it cannot be read.
type Found<'a> = Result<TensorView<'a>, TensorProblem>;

/// Joins query, key and value of each block to `attn.qkv`, which gets the place of the first of them. `tensors` are names from
/// [`names::plain`], each with the name in the file and the tensor. A tensor of which a part is missing, unreadable or of another shape is
/// unreadable.
fn join(tensors: Vec<(String, (String, Found<'_>))>) -> IndexMap<String, Found<'_>> {
    let names: HashSet<String> = tensors.iter().map(|(name, _)| name.clone()).collect();
    let mut parts: HashMap<String, [Option<(String, Found)>; 3]> = HashMap::new();
    let mut joined = IndexMap::with_capacity(tensors.len());
    for (name, (original, tensor)) in tensors {
        match whole(&name).filter(|(whole, _)| !names.contains(whole)) {
            None => drop(joined.insert(name, tensor)),
            Some((whole, part)) => {
                // The place is filled when all parts are known.
                joined.insert(whole.clone(), Err(TensorProblem::Malformed("tensor")));
                parts.entry(whole).or_default()[part] = Some((original, tensor));
            }
        }
    }
    for (whole, parts) in parts {
        joined.insert(whole, join_parts(parts));
    }
    joined
}

fn join_parts(parts: [Option<(String, Found<'_>)>; 3]) -> Found<'_> {
    let mut views = Vec::with_capacity(PARTS.len());
    let other = parts
        .iter()
        .enumerate()
        .find_map(|(i, part)| Some((i, part.as_ref()?.0.clone())));
    for (part, found) in PARTS.iter().zip(parts) {
        let Some((_, view)) = found else {
            let name = other.map(|(other, name)| replace_last(&name, PARTS[other], part));
            return Err(TensorProblem::MissingPart(name.unwrap_or_else(|| (*part).to_owned())));
        };
        views.push(view?);
    }
    TensorView::joined(views)
}

/// Completes the tensors of a model of ViLT with Hugging Face's names: a classifier of pairs of images gets its name, and a head for masked
/// words without a weight of its own gets the word table.
fn finish_vilt(tensors: &mut IndexMap<String, Found<'_>>) {
    let hidden = tensors.get(&format!("{CLASSIFIER_OF_ONE}{HIDDEN_LAYER}"));
    let is_square = |tensor: &TensorView| matches!(tensor.shape(), [rows, columns] if rows == columns);
    if matches!(hidden, Some(Ok(tensor)) if is_square(tensor)) {
        let renamed = std::mem::take(tensors).into_iter().map(|(name, tensor)| {
            let of_pairs = name
                .strip_prefix(CLASSIFIER_OF_ONE)
                .map(|rest| format!("{CLASSIFIER_OF_PAIRS}{rest}"));
            (of_pairs.unwrap_or(name), tensor)
        });
        *tensors = renamed.collect();
    }
    // The two names of the bias have the same values.
    tensors.shift_remove(MASKED_WORDS_BIAS[0]);
    if tensors.contains_key(MASKED_WORDS_LAYER) && !tensors.contains_key(MASKED_WORDS_WEIGHT) {
        let words = tensors.get("text_embeddings.word_embeddings.weight");
        if let Some(Ok(words)) = words.cloned() {
            tensors.insert(MASKED_WORDS_WEIGHT.to_owned(), Ok(words));
        }
    }
}

/// Replaces the last component `from` of a name.
fn replace_last(name: &str, from: &str, to: &str) -> String {
    let mut components: Vec<&str> = name.split('.').collect();
    if let Some(last) = components.iter_mut().rfind(|component| **component == from) {
        *last = to;
    }
    components.join(".")
}

#[cfg(test)]
mod tests {
    use super::super::Dtype;
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Parts of any shape and type, in any order and number, are joined or reported.
        #[test]
        fn any_parts_are_joined_or_reported(
            parts in prop::collection::vec(
                ((0usize..2), (0usize..4), prop::collection::vec(0usize..3, 0..3), any::<bool>()),
                0..12,
            ),
        ) {
            let bytes = [0u8; 64];
            let mut tensors: IndexMap<String, (String, Found)> = IndexMap::new();
            for (block, part, shape, is_half) in parts {
                let part = ["query", "key", "value", "qkv"][part];
                let dtype = if is_half { Dtype::F16 } else { Dtype::F32 };
                let size = shape.iter().product::<usize>() * dtype.size();
                let view = TensorView::contiguous(shape, dtype, &bytes[..size], false);
                let name = format!("blocks.{block}.attn.{part}.weight");
                tensors.insert(name.clone(), (format!("file.{name}"), Ok(view)));
            }
            let names: Vec<String> = tensors.keys().cloned().collect();
            let joined = join(tensors.into_iter().collect());
            for block in 0..2 {
                let of_block: Vec<&String> =
                    names.iter().filter(|name| name.starts_with(&format!("blocks.{block}."))).collect();
                let found = joined.get(&format!("blocks.{block}.attn.qkv.weight"));
                prop_assert_eq!(found.is_some(), !of_block.is_empty());
                let has_whole = of_block.iter().any(|name| name.contains("qkv"));
                match found {
                    Some(Ok(view)) => {
                        prop_assert!(has_whole || of_block.len() == 3);
                        let count = view.shape().iter().product::<usize>();
                        prop_assert_eq!(view.decode().data.len(), count);
                        prop_assert_eq!(view.read_f32(&mut vec![1.0; count]), Some(true));
                        prop_assert_eq!(view.non_finite(), 0);
                    }
                    Some(Err(TensorProblem::MissingPart(name))) => {
                        prop_assert!(of_block.len() < 3);
                        let is_given = names.iter().any(|given| format!("file.{given}") == *name);
                        prop_assert!(!is_given);
                    }
                    Some(Err(problem)) => prop_assert!(matches!(problem, TensorProblem::PartsDiffer(_)), "{}", problem),
                    None => {}
                }
            }
        }
    }
}
