//! Names with scores.

use vlct_tasks::probabilities::top;

/// A name with its score.
#[derive(Clone, Debug, PartialEq)]
pub struct Scored {
    /// An answer, a label, or another name.
    pub name: String,
    /// The score, usually a probability.
    pub score: f32,
}

/// Returns the `count` largest scores, the largest first, with the names of their indices.
pub(crate) fn best(scores: &[f32], count: usize, name: impl Fn(usize) -> String) -> Vec<Scored> {
    let scored = |i: usize| Scored {
        name: name(i),
        score: scores[i],
    };
    top(scores, count).into_iter().map(scored).collect()
}
