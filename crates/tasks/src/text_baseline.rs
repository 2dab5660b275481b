//! A baseline that predicts a class from the text alone, without the image. A model that uses the image must be better.

use std::collections::HashMap;
use std::hash::Hash;

use vlct_data::datasets::{Answer, Dataset};

use crate::labels::Labels;
use crate::metrics::{Phase, Tally};
use crate::rows::{Row, Rows};
use crate::spec::TaskSpec;
use crate::task::Task;

/// Number of items of each class, in order of first occurrence.
type Counts<C> = Vec<(C, f64)>;

/// Predicts the most frequent class of the training items with the same text. For a new text, it is the most frequent class of the items
/// whose texts begin with the same words, as many words as possible.
#[derive(Clone, Debug)]
pub struct TextOnlyBaseline<C> {
    /// Weights of the classes by the first words of a text. The key of a whole text ends in a line break.
    classes: HashMap<String, Counts<C>>,
}

impl<C: Copy + Eq + Hash> Default for TextOnlyBaseline<C> {
    fn default() -> Self {
        Self {
            classes: HashMap::new(),
        }
    }
}

impl<C: Copy + Eq + Hash> TextOnlyBaseline<C> {
    /// Adds a training item: its text, and its class with a weight, such as the score of an answer.
    pub fn add(&mut self, text: &str, class: C, weight: f64) {
        for prefix in prefixes(text) {
            let counts = self.classes.entry(prefix).or_default();
            match counts.iter_mut().find(|(known, _)| *known == class) {
                Some((_, count)) => *count += weight,
                None => counts.push((class, weight)),
            }
        }
    }

    /// Returns the prediction for a text; `None` if there are no training items.
    pub fn predict(&self, text: &str) -> Option<C> {
        prefixes(text)
            .into_iter()
            .find_map(|prefix| most_frequent(self.classes.get(&prefix)?))
    }

    /// Returns the most frequent class of all training items.
    pub fn most_frequent(&self) -> Option<C> {
        most_frequent(self.classes.get("")?)
    }
}

/// Results of baselines on held-out items: the score of answers, the accuracy of statements, or the macro F1 of labels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BaselineScores {
    /// Always predicting the most frequent class of the training items.
    pub most_frequent: f64,
    /// Predicting from the text alone.
    pub text_only: f64,
}

/// Fits the baselines to the items of `train` and evaluates them on those of `held_out`. Returns `None` for tasks that do not predict
/// classes from a text, and for labels of which an item may have several.
///
/// # Errors
/// Returns an error that names file and row if an item is damaged.
pub fn baseline_scores(
    task: &TaskSpec,
    train: &dyn Dataset,
    held_out: &dyn Dataset,
) -> vlct_data::Result<Option<BaselineScores>> {
    match task {
        TaskSpec::Vqa(_) | TaskSpec::Nlvr2(_) => {}
        TaskSpec::Labels(labels) if !labels.several => {}
        _ => return Ok(None),
    }
    let mut baseline = TextOnlyBaseline::default();
    for item in 0..train.len() {
        let (text, classes) = text_and_classes(task, train, item)?;
        for (class, weight) in classes {
            baseline.add(&text, class, weight);
        }
    }
    let Some(most_frequent) = baseline.most_frequent() else {
        return Ok(None);
    };
    let (mut constant, mut from_text) = (Vec::new(), Vec::new());
    for item in 0..held_out.len() {
        let (text, classes) = text_and_classes(task, held_out, item)?;
        let class = baseline.predict(&text).unwrap_or(most_frequent);
        from_text.push((class, classes.clone()));
        constant.push((most_frequent, classes));
    }
    Ok(Some(BaselineScores {
        most_frequent: score(task, &constant),
        text_only: score(task, &from_text),
    }))
}

/// Returns the text of an item, empty if it has none, and its classes with their scores.
fn text_and_classes(task: &TaskSpec, data: &dyn Dataset, item: usize) -> vlct_data::Result<(String, Vec<(u32, f64)>)> {
    let example = data.example(item)?;
    let classes = match (example.answer, task) {
        (Answer::Question { answers, .. }, _) => {
            let answers = answers.unwrap_or_default().into_iter();
            answers.map(|(_, id, score)| (id as u32, score)).collect()
        }
        (Answer::Truth(is_true), _) => vec![(u32::from(is_true), 1.0)],
        (Answer::Labels(labels), TaskSpec::Labels(spec)) => {
            let id = |label: &String| spec.names.iter().position(|name| name == label);
            labels.iter().filter_map(id).map(|id| (id as u32, 1.0)).collect()
        }
        _ => Vec::new(),
    };
    Ok((example.text.unwrap_or_default().into_owned(), classes))
}

/// Returns the task's metric of predictions, each with the classes of the item.
fn score(task: &TaskSpec, predictions: &[(u32, Vec<(u32, f64)>)]) -> f64 {
    let TaskSpec::Labels(spec) = task else {
        let score_of = |(prediction, classes): &(u32, Vec<(u32, f64)>)| {
            let class = classes.iter().rev().find(|(class, _)| class == prediction);
            class.map_or(0.0, |(_, score)| *score)
        };
        return predictions.iter().map(score_of).sum::<f64>() / predictions.len() as f64;
    };
    let row = |(prediction, classes): &(u32, Vec<(u32, f64)>)| {
        let mut scores = vec![0.0; spec.names.len()];
        scores[*prediction as usize] = 1.0;
        let labels = classes.iter().map(|(class, _)| *class).collect();
        Row::Labels { scores, labels }
    };
    let rows: Rows = predictions.iter().map(row).enumerate().collect();
    let report = Labels::new(spec.clone()).report(Phase::Val, &Tally::default(), &rows);
    let macro_f1 = report
        .values
        .iter()
        .find(|(name, _)| name == "labels/val/macro_f1_epoch");
    macro_f1.map_or(f64::NAN, |(_, value)| *value)
}

/// Returns the whole text, marked by a line break, then its beginnings, the longest first, and last the empty text.
fn prefixes(text: &str) -> Vec<String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let beginnings = (0..=words.len()).rev().map(|length| words[..length].join(" "));
    std::iter::once(format!("{}\n", words.join(" ")))
        .chain(beginnings)
        .collect()
}

/// Returns the class with the largest weight, the first of equal ones.
fn most_frequent<C: Copy>(counts: &Counts<C>) -> Option<C> {
    let best = counts.iter().fold(None, |best: Option<&(C, f64)>, entry| match best {
        Some(best) if best.1 >= entry.1 => Some(best),
        _ => Some(entry),
    });
    best.map(|(class, _)| *class)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backs_off_to_shorter_beginnings() {
        let mut baseline = TextOnlyBaseline::default();
        assert_eq!(baseline.predict("what color"), None);
        for (text, class) in [
            ("what color is it", 1),
            ("what color is it", 1),
            ("what color is it", 2),
            ("what color", 3),
            ("how many", 4),
            ("how many dogs", 4),
            ("how many dogs", 5),
            ("how many cats", 5),
            ("how many birds", 5),
        ] {
            baseline.add(text, class, 1.0);
        }
        assert_eq!(baseline.predict("what color"), Some(3), "the whole text");
        assert_eq!(
            baseline.predict("what  color is this"),
            Some(1),
            "the first three words"
        );
        assert_eq!(
            baseline.predict("how many dogs"),
            Some(4),
            "the first of equally frequent ones"
        );
        assert_eq!(baseline.predict("why"), Some(5));
        assert_eq!(baseline.most_frequent(), Some(5));
    }

    #[test]
    fn weights_count() {
        let mut baseline = TextOnlyBaseline::default();
        baseline.add("a", 1, 0.3);
        baseline.add("a", 1, 0.3);
        baseline.add("a", 2, 1.0);
        assert_eq!(baseline.predict("a"), Some(2));
    }
}
