//! Ranks of correct candidates and recall at 1, 5 and 10.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use crate::metrics::Report;

/// Recall at k: the fraction of queries with a correct candidate among the k best.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Recalls {
    /// Image retrieval (caption → image), recall at 1.
    pub ir_r1: f64,
    /// Image retrieval, recall at 5.
    pub ir_r5: f64,
    /// Image retrieval, recall at 10.
    pub ir_r10: f64,
    /// Text retrieval (image → caption), recall at 1.
    pub tr_r1: f64,
    /// Text retrieval, recall at 5.
    pub tr_r5: f64,
    /// Text retrieval, recall at 10.
    pub tr_r10: f64,
}

impl Recalls {
    /// Computes the recalls from `scores [images, texts]`, where text `t` belongs to image `owner[t]`.
    ///
    /// As in the original, an image counts as a hit if any of its captions is among the k best. If scores are equal, the lower
    /// index ranks first.
    pub fn from_scores(scores: &[f32], owner: &[usize]) -> Self {
        let texts = owner.len();
        if texts == 0 {
            return Self::default();
        }
        let rows = || scores.chunks_exact(texts).map(|row| row.iter().copied().enumerate());
        let mut ranks = Ranks::new(owner, scores.len() / texts);
        rows().enumerate().for_each(|(image, row)| ranks.read_own(image, row));
        for (image, row) in rows().enumerate() {
            ranks.count_captions(image, row);
            ranks.rank_image(image, &scores[image * texts..][..texts], |t| t);
        }
        ranks.recalls()
    }

    /// Returns the recalls under the original's names, after `prefix`. The sum of the two recalls at 1 selects the best checkpoint.
    pub fn report(&self, prefix: &str) -> Report {
        let values = [
            ("ir_r1", self.ir_r1),
            ("ir_r5", self.ir_r5),
            ("ir_r10", self.ir_r10),
            ("tr_r1", self.tr_r1),
            ("tr_r5", self.tr_r5),
            ("tr_r10", self.tr_r10),
        ];
        Report {
            values: values.map(|(name, value)| (format!("{prefix}/{name}"), value)).to_vec(),
            selection: vec![self.ir_r1 + self.tr_r1],
            ..Report::default()
        }
    }
}

/// Returns the rank, from 0, of the best candidate for which `is_correct` holds; the number of candidates if there is none.
pub fn rank(scores: &[f32], is_correct: impl Fn(usize) -> bool) -> usize {
    // A candidate whose score is NaN is never correct.
    let is_correct = |i: usize| comparable(scores[i]) > f32::NEG_INFINITY && is_correct(i);
    let best = (0..scores.len())
        .filter(|i| is_correct(*i))
        .max_by(|a, b| scores[*a].total_cmp(&scores[*b]).then(b.cmp(a)));
    let Some(best) = best else { return scores.len() };
    (0..scores.len())
        .filter(|i| is_better(scores[*i], *i, scores[best], best))
        .count()
}

/// Returns the indices of the `k` best candidates, best first. If scores are equal, the lower index ranks first; NaN is the lowest score.
pub fn top_k(scores: &[f32], k: usize) -> Vec<usize> {
    let order = |a: &usize, b: &usize| ranking_order(scores[*a], *a, scores[*b], *b);
    let mut indices: Vec<usize> = (0..scores.len()).collect();
    if k < indices.len() {
        indices.select_nth_unstable_by(k, order);
        indices.truncate(k);
    }
    indices.sort_unstable_by(order);
    indices
}

/// Replaces NaN, which counts as the lowest score.
fn comparable(score: f32) -> f32 {
    if score.is_nan() { f32::NEG_INFINITY } else { score }
}

/// Compares two candidates: the one with the larger score, or with the lower index if their scores are equal, comes first.
pub(super) fn ranking_order(score_a: f32, a: usize, score_b: f32, b: usize) -> Ordering {
    let by_score = comparable(score_b).partial_cmp(&comparable(score_a));
    by_score.unwrap_or(Ordering::Equal).then(a.cmp(&b))
}

/// Whether candidate `a` ranks before candidate `b`.
fn is_better(score_a: f32, a: usize, score_b: f32, b: usize) -> bool {
    ranking_order(score_a, a, score_b, b) == Ordering::Less
}

/// The ranks of correct candidates, from scores that are read image by image. All images are read twice: first
/// [`Ranks::read_own`], which stores the score of each caption with its own image, then the other functions.
pub(super) struct Ranks<'a> {
    owner: &'a [usize],
    images: usize,
    /// Score of each caption with its own image; `None` if this pair is not a candidate.
    own: Vec<Option<f32>>,
    /// Number of images that rank before the caption's own image.
    better_images: Vec<usize>,
    /// Rank of each image's best caption.
    image_ranks: Vec<usize>,
}

impl<'a> Ranks<'a> {
    /// Text `t` belongs to image `owner[t]`.
    pub fn new(owner: &'a [usize], images: usize) -> Self {
        Self {
            owner,
            images,
            own: vec![None; owner.len()],
            better_images: vec![0; owner.len()],
            image_ranks: Vec::with_capacity(images),
        }
    }

    /// Reads the scores of the captions of which `image` is a candidate: index and score of each caption.
    pub fn read_own(&mut self, image: usize, row: impl Iterator<Item = (usize, f32)>) {
        for (text, score) in row {
            if self.owner[text] == image {
                self.own[text] = Some(score);
            }
        }
    }

    /// Counts `image` for the captions of which it is a candidate and a better one than their own image.
    pub fn count_captions(&mut self, image: usize, row: impl Iterator<Item = (usize, f32)>) {
        for (text, score) in row {
            let Some(own) = self.own[text] else { continue };
            self.better_images[text] += usize::from(is_better(score, image, own, self.owner[text]));
        }
    }

    /// Ranks the captions that are candidates for `image`, the next image. `text_of` returns the index of a candidate's caption.
    pub fn rank_image(&mut self, image: usize, scores: &[f32], text_of: impl Fn(usize) -> usize) {
        self.image_ranks.push(rank(scores, |i| self.owner[text_of(i)] == image));
    }

    /// Returns the recalls.
    pub fn recalls(self) -> Recalls {
        let captions = self.own.iter().zip(&self.better_images);
        let caption_ranks: Vec<usize> = captions
            .map(|(own, better)| match own {
                Some(own) if comparable(*own) > f32::NEG_INFINITY => *better,
                Some(_) => self.images,
                None => usize::MAX,
            })
            .collect();
        let recall = |ranks: &[usize], k: usize| ranks.iter().filter(|r| **r < k).count() as f64 / ranks.len() as f64;
        Recalls {
            ir_r1: recall(&caption_ranks, 1),
            ir_r5: recall(&caption_ranks, 5),
            ir_r10: recall(&caption_ranks, 10),
            tr_r1: recall(&self.image_ranks, 1),
            tr_r5: recall(&self.image_ranks, 5),
            tr_r10: recall(&self.image_ranks, 10),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rank_is_the_number_of_better_candidates() {
        assert_eq!(rank(&[0.1, 0.9, 0.5], |i| i == 1), 0);
        assert_eq!(rank(&[0.1, 0.9, 0.5], |i| i == 0), 2);
        assert_eq!(rank(&[0.1, 0.9, 0.5], |i| i != 1), 1);
        assert_eq!(rank(&[0.5, 0.5], |i| i == 1), 1);
        assert_eq!(rank(&[0.5, 0.5], |_| false), 2);
        assert_eq!(rank(&[f32::NAN, f32::NAN], |i| i == 0), 2);
        assert_eq!(rank(&[f32::NAN, 0.5], |i| i == 1), 0);
        assert_eq!(rank(&[], |_| true), 0);
    }

    #[test]
    fn best_candidates_come_first() {
        let scores = [0.5, f32::NAN, 0.9, 0.5, f32::NEG_INFINITY];
        assert_eq!(top_k(&scores, 3), [2, 0, 3]);
        assert_eq!(top_k(&scores, 9), [2, 0, 3, 1, 4]);
        assert!(top_k(&scores, 0).is_empty());
        assert!(top_k(&[], 2).is_empty());
    }

    #[test]
    fn recalls_are_fractions_of_captions_and_of_images() {
        // Captions 1 and 3 have a higher score with the wrong image. Image 1 has its highest score with caption 1, a wrong caption.
        let scores = [0.9, 0.1, 0.2, 0.3, 0.0, 0.8, 0.7, 0.1];
        let r = Recalls::from_scores(&scores, &[0, 0, 1, 1]);
        assert_eq!((r.ir_r1, r.ir_r5), (0.5, 1.0));
        assert_eq!((r.tr_r1, r.tr_r5), (0.5, 1.0));
        assert_eq!(r.report("recalls").the_metric(), 1.0);
        assert_eq!(r.report("recalls").values[0], ("recalls/ir_r1".to_string(), 0.5));
        assert_eq!(Recalls::from_scores(&[], &[]), Recalls::default());
    }

    proptest! {
        #[test]
        fn recalls_equal_those_of_whole_columns(
            texts in 1usize..20,
            scores in prop::collection::vec(prop_oneof![(0i8..6).prop_map(f32::from), Just(f32::NAN), Just(f32::NEG_INFINITY)], 12 * 20),
        ) {
            let images = 12;
            let owner: Vec<usize> = (0..texts).map(|t| t % images).collect();
            let scores = &scores[..images * texts];
            let column = |t: usize| -> Vec<f32> { (0..images).map(|i| scores[i * texts + t]).collect() };
            let caption_ranks: Vec<usize> = (0..texts).map(|t| rank(&column(t), |i| i == owner[t])).collect();
            let image_ranks: Vec<usize> = (0..images).map(|i| rank(&scores[i * texts..][..texts], |t| owner[t] == i)).collect();
            let recall = |ranks: &[usize], k: usize| ranks.iter().filter(|r| **r < k).count() as f64 / ranks.len() as f64;
            let got = Recalls::from_scores(scores, &owner);
            prop_assert_eq!([got.ir_r1, got.ir_r5, got.ir_r10], [1, 5, 10].map(|k| recall(&caption_ranks, k)));
            prop_assert_eq!([got.tr_r1, got.tr_r5, got.tr_r10], [1, 5, 10].map(|k| recall(&image_ranks, k)));
        }
    }
}
