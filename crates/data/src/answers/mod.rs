//! Answers to questions about pictures: how they are spelled, numbered and scored.
//!
//! VQA is a choice among the answers that people gave often. [`normalize_word`] gives every answer one spelling, a
//! [`Vocabulary`] numbers the frequent ones, [`score`] says how much a choice is worth.
//!
//! ```
//! use vlct_data::answers::{Vocabulary, normalize_word, score};
//!
//! assert_eq!(normalize_word("The U.S.A."), "usa");
//! let vocabulary = Vocabulary::of_majority_answers(["Two"; 9].into_iter().chain(["a cat"; 8]));
//! assert_eq!((vocabulary.id("2"), vocabulary.id("cat")), (Some(0), None));
//! assert_eq!(score(3), 0.9);
//! ```

mod file;
mod normalise;
mod prepared;
mod vocabulary;

pub use normalise::normalize_word;
pub use vocabulary::{MAX_ANSWERS, MIN_OCCURRENCES, Vocabulary};

/// What an answer is worth that `count` of a question's ten annotators gave, 0 to 1.
///
/// VQA's measure, min(1, count / 3), with the values that the original has instead of thirds (`get_score` in
/// `vlc/utils/write_vqa.py`).
pub fn score(count: usize) -> f64 {
    match count {
        0 => 0.0,
        1 => 0.3,
        2 => 0.6,
        3 => 0.9,
        _ => 1.0,
    }
}

#[cfg(test)]
mod tests;
