//! Candidates of two-stage retrieval: the best captions of each image and the best images of each caption, by a cheaper score.
//!
//! The cheaper score is the ranking score with a quarter of the patches visible. The model has learned to match texts with images that are
//! partly masked, and a pair has about a quarter of the tokens. `docs/performance.md` compares it with other cheap scores.

use serde::{Deserialize, Serialize};

use super::plan::Selection;
use super::recalls::{ranking_order, top_k};
use super::run::Scoring;
use super::store::ScoreStore;
use crate::error::Result;

/// Returns the patches with which candidates are selected, of an image with `rows` rows and `columns` columns of patches: a quarter of
/// them, evenly spread, so that each row and each column of patches has visible ones.
pub(super) fn candidate_patches([rows, columns]: [usize; 2]) -> Vec<u32> {
    let is_small = rows.min(columns) < 4;
    let is_visible = |patch: &usize| (2 * (patch / columns) + patch % columns) % 4 == 1 || is_small;
    (0..rows * columns)
        .filter(is_visible)
        .map(|patch| patch as u32)
        .collect()
}

/// The candidates that are scored again.
#[derive(Serialize, Deserialize)]
pub(super) struct Candidates {
    /// For each image, the indices of its best captions, in ascending order.
    pub of_images: Vec<Vec<u32>>,
    /// For each caption, the indices of its best images, in ascending order.
    of_captions: Vec<Vec<u32>>,
}

impl Candidates {
    /// Selects the best `k` captions of each image and the best `k` images of each caption.
    ///
    /// # Errors
    /// Returns [`TaskError::Io`](crate::TaskError::Io) if the scores cannot be read.
    pub fn select(scoring: &Scoring, scores: &ScoreStore, k: usize) -> Result<Self> {
        let mut of_images = Vec::with_capacity(scoring.plan.images());
        let mut best_images: Vec<Best> = scoring.texts.iter().map(|_| Best::new(k)).collect();
        scoring.for_each_row(scores, &mut |image, row| {
            let captions = top_k(row, k).into_iter().map(|caption| caption as u32);
            of_images.push(sorted(captions));
            for (best, score) in best_images.iter_mut().zip(row) {
                best.add(*score, image as u32);
            }
        })?;
        Ok(Self {
            of_images,
            of_captions: best_images.into_iter().map(Best::into_sorted_indices).collect(),
        })
    }

    /// Whether `image` is a candidate of `caption`.
    pub fn is_candidate_image(&self, image: usize, caption: usize) -> bool {
        self.of_captions[caption].binary_search(&(image as u32)).is_ok()
    }

    /// Returns the pairs in which one is a candidate of the other.
    pub fn selection(&self) -> Selection {
        let mut lists = self.of_images.clone();
        for (caption, images) in self.of_captions.iter().enumerate() {
            for image in images {
                lists[*image as usize].push(caption as u32);
            }
        }
        for list in &mut lists {
            list.sort_unstable();
            list.dedup();
        }
        Selection::Lists(lists)
    }
}

fn sorted(indices: impl Iterator<Item = u32>) -> Vec<u32> {
    let mut indices: Vec<u32> = indices.collect();
    indices.sort_unstable();
    indices
}

/// The best candidates among those that were added.
struct Best {
    /// Score and index of at most `2·k` candidates, among them the best `k`.
    candidates: Vec<(f32, u32)>,
    k: usize,
}

impl Best {
    fn new(k: usize) -> Self {
        Self {
            candidates: Vec::new(),
            k,
        }
    }

    fn add(&mut self, score: f32, index: u32) {
        self.candidates.push((score, index));
        if self.candidates.len() >= 2 * self.k {
            self.drop_others();
        }
    }

    /// Drops all but the best `k` candidates.
    fn drop_others(&mut self) {
        if self.candidates.len() > self.k {
            let order = |a: &(f32, u32), b: &(f32, u32)| ranking_order(a.0, a.1 as usize, b.0, b.1 as usize);
            self.candidates.select_nth_unstable_by(self.k, order);
            self.candidates.truncate(self.k);
        }
    }

    fn into_sorted_indices(mut self) -> Vec<u32> {
        self.drop_others();
        sorted(self.candidates.iter().map(|(_, index)| *index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_quarter_of_the_patches_is_visible_in_every_row_and_column() {
        for grid in [4, 8, 14, 24, 36] {
            let patches = candidate_patches([grid, grid]);
            let quarter = grid * grid / 4;
            assert!(
                patches.len().abs_diff(quarter) <= grid / 4 + 1,
                "{grid}: {}",
                patches.len()
            );
            for line in 0..grid as u32 {
                assert!(
                    patches.iter().any(|patch| patch / grid as u32 == line),
                    "row {line} of {grid}"
                );
            }
        }
        assert_eq!(candidate_patches([2, 2]), [0, 1, 2, 3]);
        assert_eq!(candidate_patches([4, 6]), [1, 5, 9, 13, 17, 21]);
    }

    proptest! {
        #[test]
        fn best_candidates_are_the_first_of_the_ranking(
            scores in prop::collection::vec(prop_oneof![(0i8..9).prop_map(f32::from), Just(f32::NAN)], 0..60),
            k in 1usize..20,
        ) {
            let mut best = Best::new(k);
            for (i, score) in scores.iter().enumerate() {
                best.add(*score, i as u32);
            }
            let want = sorted(top_k(&scores, k).into_iter().map(|i| i as u32));
            prop_assert_eq!(best.into_sorted_indices(), want);
        }
    }
}
