//! The annotators' answers of VQA, and the official accuracy.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::normalize_word;
use crate::{DataError, Result};
use vlct_util::at;
use vlct_util::json;

/// Number of matching answers of other annotators that make an answer fully correct.
const FULL_AGREEMENT: f64 = 3.0;

/// The answers of the annotators to each question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Annotations {
    path: PathBuf,
    answers: HashMap<i64, Vec<String>>,
}

/// The fields of an annotation file (`v2_mscoco_val2014_annotations.json`) that are read.
#[derive(Deserialize)]
struct Content {
    annotations: Vec<Annotation>,
}

#[derive(Deserialize)]
struct Annotation {
    question_id: i64,
    answers: Vec<AnnotatedAnswer>,
}

#[derive(Deserialize)]
struct AnnotatedAnswer {
    answer: String,
}

impl Annotations {
    /// Reads an annotation file of VQA: JSON with `annotations`, a list of objects with `question_id` and `answers`, a list of objects
    /// with `answer`.
    ///
    /// # Errors
    /// Returns [`DataError::Io`] if the file cannot be read, and [`DataError::Format`] if it is not such a file.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let bytes = std::fs::read(path).map_err(at::<DataError>(path))?;
        let content: Content = json::from_slice(&bytes).map_err(|error| {
            let expected = "expected VQA annotations, such as v2_mscoco_val2014_annotations.json";
            DataError::format(path, format!("{expected}: {error}"))
        })?;
        let answers = content.annotations.into_iter().map(|annotation| {
            let answers = annotation.answers.into_iter().map(|a| clean(&a.answer)).collect();
            (annotation.question_id, answers)
        });
        Ok(Self {
            path: path.to_path_buf(),
            answers: answers.collect(),
        })
    }

    /// Returns the number of questions that have annotations.
    pub fn len(&self) -> usize {
        self.answers.len()
    }

    /// Whether no question has annotations.
    pub fn is_empty(&self) -> bool {
        self.answers.is_empty()
    }

    /// Returns how many of the questions have annotations.
    ///
    /// # Errors
    /// Returns [`DataError::Format`] if none has.
    pub fn check(&self, question_ids: impl Iterator<Item = i64>) -> Result<usize> {
        let annotated = question_ids.filter(|id| self.answers.contains_key(id)).count();
        if annotated > 0 {
            return Ok(annotated);
        }
        let reason = "none of its question ids is in the evaluated split; give the annotations of this split";
        Err(DataError::format(&self.path, reason))
    }

    /// Returns the mean official accuracy of answers to questions (question id, answer), from 0 to 1. Questions without annotations are
    /// left out; `None` if no question has annotations.
    pub fn accuracy<'a>(&self, answers: impl Iterator<Item = (i64, &'a str)>) -> Option<f64> {
        let (mut sum, mut count) = (0.0, 0u64);
        for (question, answer) in answers {
            if let Some(annotated) = self.answers.get(&question) {
                sum += official_accuracy(answer, annotated);
                count += 1;
            }
        }
        (count > 0).then(|| sum / count as f64)
    }
}

/// Returns the official accuracy of an answer, from 0 to 1: for each annotator, min(1, matching answers of the other annotators / 3),
/// averaged over annotators.
///
/// As in the official script, answers are normalised only if the annotators disagree.
pub fn official_accuracy(answer: &str, annotated: &[String]) -> f64 {
    let Some(first) = annotated.first() else { return 0.0 };
    let mut answer = clean(answer);
    let mut annotated = annotated.to_vec();
    if annotated.iter().any(|other| other != first) {
        answer = normalize_word(&answer);
        for other in &mut annotated {
            *other = normalize_word(other);
        }
    }
    let matching = annotated.iter().filter(|other| **other == answer).count();
    let of_annotator = |own: &String| {
        let others = matching - usize::from(*own == answer);
        (others as f64 / FULL_AGREEMENT).min(1.0)
    };
    annotated.iter().map(of_annotator).sum::<f64>() / annotated.len() as f64
}

/// Replaces line breaks and tabs by spaces and removes spaces at both ends.
fn clean(answer: &str) -> String {
    answer.replace(['\n', '\t'], " ").trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ten answers: `count` times `answer`, and others that differ from it and from each other.
    fn answers(answer: &str, count: usize) -> Vec<String> {
        let others = (count..10).map(|i| format!("other {i}"));
        std::iter::repeat_n(answer.to_string(), count).chain(others).collect()
    }

    #[test]
    fn accuracy_is_averaged_over_the_subsets_of_nine_annotators() {
        // With n matching answers, n annotators have n − 1 matching others and the rest have n.
        for (count, want) in [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)] {
            let accuracy = official_accuracy("yes", &answers("yes", count));
            assert!((accuracy - want).abs() < 1e-12, "{count}: {accuracy}");
        }
        assert_eq!(official_accuracy("yes", &[]), 0.0);
    }

    #[test]
    fn answers_are_normalised_if_annotators_disagree() {
        assert_eq!(official_accuracy("The Cat!", &answers("a cat", 5)), 1.0);
        assert_eq!(official_accuracy("The Cat!", &answers("a cat", 10)), 0.0);
        assert_eq!(official_accuracy("a cat\n", &answers("a cat", 10)), 1.0);
    }

    #[test]
    fn reads_annotations_and_reports_files_that_fit_no_question() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("annotations.json");
        let content = r#"{"info": {}, "annotations": [{"question_id": 7, "answer_type": "other",
            "answers": [{"answer": "red", "answer_confidence": "yes", "answer_id": 1}, {"answer": "red", "answer_id": 2}]}]}"#;
        std::fs::write(&path, content).unwrap();
        let annotations = Annotations::open(&path).unwrap();
        assert_eq!((annotations.len(), annotations.is_empty()), (1, false));
        assert_eq!(
            annotations.accuracy([(7, "red"), (8, "red")].into_iter()),
            Some(1.0 / 3.0)
        );
        assert_eq!(annotations.accuracy([(8, "red")].into_iter()), None);
        assert!(annotations.check([8, 7].into_iter()).is_ok());
        let error = annotations.check([8].into_iter()).unwrap_err().to_string();
        assert!(error.contains("none of its question ids"), "{error}");
        std::fs::write(&path, "[]").unwrap();
        let error = Annotations::open(&path).unwrap_err().to_string();
        assert!(error.contains("expected VQA annotations"), "{error}");
    }
}
