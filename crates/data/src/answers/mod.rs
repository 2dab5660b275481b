//! Answers to questions about images.
//!
//! VQA is classification over the frequent answers. [`normalize_word`] normalises the spelling of an answer, a [`Vocabulary`] assigns
//! ids to the frequent answers, and [`score`] computes the target value of an answer.
//!
//! ```
//! use vlct_data::answers::{Vocabulary, normalize_word, score};
//!
//! assert_eq!(normalize_word("The U.S.A."), "usa");
//! let vocabulary = Vocabulary::of_majority_answers(["Two"; 9].into_iter().chain(["a cat"; 8]));
//! assert_eq!((vocabulary.id("2"), vocabulary.id("cat")), (Some(0), None));
//! assert_eq!(score(3), 0.9);
//! ```

mod annotations;
mod file;
mod normalise;
mod prepared;
mod vocabulary;

pub use annotations::{Annotations, official_accuracy};
pub use normalise::normalize_word;
pub use vocabulary::{MAX_ANSWERS, MIN_OCCURRENCES, Vocabulary};

/// Returns the score, from 0 to 1, of an answer given by `count` of the ten annotators of a question.
///
/// VQA defines the score as min(1, count / 3). The original uses 0.3, 0.6 and 0.9 for 1 to 3 (`get_score` in `vlc/utils/write_vqa.py`).
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
