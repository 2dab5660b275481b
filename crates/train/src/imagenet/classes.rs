//! The classes of weights and those of the images of a run, compared by their names.

use std::collections::{BTreeMap, HashMap};

use log::warn;
use vlct_model::Vit;
use vlct_tasks::{Row, Rows};
use vlct_util::text::{counted, quoted};

/// Maximum number of names that a message lists.
const LISTED: usize = 3;

/// How the classes of weights are related to those of the images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Relation {
    /// The same names in the same order.
    Same,
    /// The same names in another order: for each class of the images, the index of the class of the weights.
    Reordered(Vec<usize>),
    /// Other names.
    Other,
}

/// Compares the names of the classes of weights with those of the images.
pub(crate) fn compare(weights: &[String], images: &[String]) -> Relation {
    if weights == images {
        return Relation::Same;
    }
    let ids: HashMap<&String, usize> = weights.iter().zip(0..).collect();
    let order: Option<Vec<usize>> = images.iter().map(|name| ids.get(name).copied()).collect();
    match order {
        Some(order) if weights.len() == images.len() => Relation::Reordered(order),
        _ => Relation::Other,
    }
}

/// Says how the names of the classes of weights differ from those of the images.
pub(crate) fn difference(weights: &[String], images: &[String]) -> String {
    fn only<'n>(names: &'n [String], others: &[String]) -> Vec<&'n str> {
        let only = names.iter().filter(|name| !others.contains(name));
        only.map(String::as_str).collect()
    }
    let mut parts = vec![format!(
        "the weights have {} and the images {}",
        counted(weights.len(), "class"),
        images.len()
    )];
    let (of_weights, of_images) = (only(weights, images), only(images, weights));
    for (whose, names) in [("weights", of_weights), ("images", of_images)] {
        if !names.is_empty() {
            parts.push(format!("only the {whose} have {}", list(&names)));
        }
    }
    parts.join("; ")
}

/// Orders the rows of a classifier's head: row `i` becomes what row `order[i]` was.
pub(crate) fn reorder(model: &mut Vit, order: &[usize]) {
    let weight = model.head_weight();
    let bias = weight.replace("weight", "bias");
    let parameters = model.parameters_mut();
    for name in [weight, bias] {
        let Some(id) = parameters.id(&name) else { continue };
        let before = parameters.tensor(id).to_host().into_owned();
        let row = before.len() / order.len().max(1);
        let values: Vec<f32> = order
            .iter()
            .flat_map(|from| &before[from * row..(from + 1) * row])
            .copied()
            .collect();
        parameters.set(id, &values);
    }
}

/// Warns of classes none of whose images can be read.
pub(crate) fn warn_of_unreadable(names: &[String], rows: &Rows) {
    let classes = unreadable(names, rows);
    if !classes.is_empty() {
        warn!("no validation image can be read of {}", list(&classes));
    }
}

/// Lists names for a message.
fn list(names: &[&str]) -> String {
    let listed: Vec<String> = names.iter().take(LISTED).map(|name| quoted(name)).collect();
    let more = if names.len() > LISTED { ", …" } else { "" };
    format!("{}{more}", listed.join(", "))
}

/// Returns the names of the classes that have images, none of which can be read.
fn unreadable<'n>(names: &'n [String], rows: &Rows) -> Vec<&'n str> {
    let mut readable: BTreeMap<u32, bool> = BTreeMap::new();
    for row in rows.values() {
        match row {
            Row::Class { class, .. } => *readable.entry(*class).or_default() = true,
            Row::Unreadable { class: Some(class), .. } => drop(readable.entry(*class).or_default()),
            _ => {}
        }
    }
    let without = readable.into_iter().filter(|(_, readable)| !readable);
    without
        .filter_map(|(class, _)| names.get(class as usize).map(String::as_str))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| name.to_string()).collect()
    }

    #[test]
    fn classes_are_compared_by_name() {
        let weights = names(&["a", "b", "c"]);
        assert_eq!(compare(&weights, &weights), Relation::Same);
        assert_eq!(
            compare(&weights, &names(&["c", "a", "b"])),
            Relation::Reordered(vec![2, 0, 1])
        );
        for other in [&["a", "b"][..], &["a", "b", "d"], &["a", "b", "c", "d"]] {
            assert_eq!(compare(&weights, &names(other)), Relation::Other, "{other:?}");
        }
        let text = difference(&weights, &names(&["a", "d", "e", "f", "g"]));
        assert_eq!(
            text,
            "the weights have 3 classes and the images 5; only the weights have \"b\", \"c\"; only the images have \"d\", \"e\", \"f\", …"
        );
    }

    #[test]
    fn classes_without_a_readable_image_are_named() {
        let class = |class| Row::Class { class, top: Vec::new() };
        let damaged = |class| Row::Unreadable {
            class,
            reason: String::new(),
        };
        let rows = [
            class(0),
            damaged(Some(0)),
            damaged(Some(1)),
            damaged(None),
            damaged(Some(1)),
        ];
        let rows: Rows = (0..).zip(rows).collect();
        assert_eq!(unreadable(&names(&["a", "b", "c"]), &rows), ["b"]);
    }
}
