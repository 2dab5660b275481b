//! Ranking scores of pairs of images and texts.

use std::sync::atomic::{AtomicBool, Ordering};

use vlct_model::{EmbeddedRows, Vlc};
use vlct_tensor::{Planes, Tape};

use super::plan::{Plan, Tile};
use crate::error::Result;

/// Computes the ranking scores of a model. All patches of an image are visible, unless [`PairScorer::with_patches`] selects some.
pub struct PairScorer<'a> {
    model: &'a Vlc,
    visible: Option<VisiblePatches>,
}

/// Returns the visible patches of an image with this number of patches per column and per row.
pub type VisiblePatches = fn([usize; 2]) -> Vec<u32>;

impl<'a> PairScorer<'a> {
    /// Makes a scorer.
    pub fn new(model: &'a Vlc) -> Self {
        Self { model, visible: None }
    }

    /// Makes a scorer for which only some patches of an image are visible.
    pub fn with_patches(model: &'a Vlc, visible: VisiblePatches) -> Self {
        Self {
            model,
            visible: Some(visible),
        }
    }

    /// Largest number of tokens of an image.
    pub(super) fn image_length(&self) -> usize {
        let config = self.model.config();
        let of_square = self.patches().map_or(config.patches(), |patches| patches.len());
        1 + (of_square * config.most_patches()).div_ceil(config.patches())
    }

    /// The visible patches of an image with the patches of the position table; `None` if all are visible.
    pub(super) fn patches(&self) -> Option<Vec<u32>> {
        self.visible.map(|visible| visible([self.model.config().grid(); 2]))
    }

    /// The model.
    pub(super) fn model(&self) -> &'a Vlc {
        self.model
    }

    /// Embeds images.
    ///
    /// # Panics
    /// Panics under the conditions of [`Vlc::embed_images`].
    pub fn embed_images(&self, images: &[Planes]) -> EmbeddedRows {
        let tape = Tape::inference(self.model.compute());
        self.model.embed_images(&tape, images, self.visible)
    }

    /// Restores embedded images from their [values](EmbeddedRows::values), `[tokens, width]` each.
    ///
    /// # Panics
    /// Panics under the conditions of [`Vlc::embedded_images`].
    pub fn restore_images(&self, images: &[&[f32]]) -> EmbeddedRows {
        self.model
            .embedded_images(&Tape::inference(self.model.compute()), images)
    }

    /// Embeds texts, given as token ids from `[CLS]` to `[SEP]`.
    ///
    /// # Panics
    /// Panics under the conditions of [`Vlc::embed_texts`].
    pub fn embed_texts(&self, texts: &[&[u32]]) -> EmbeddedRows {
        self.model.embed_texts(&Tape::inference(self.model.compute()), texts)
    }

    /// Returns the score of each pair of an image and a text, given by their indices, in one forward pass.
    ///
    /// # Panics
    /// Panics if there is no pair, an index is out of range, or the model has neither a ranking nor a matching head.
    pub fn score_pairs(&self, images: &EmbeddedRows, texts: &EmbeddedRows, pairs: &[(u32, u32)]) -> Vec<f32> {
        let tape = Tape::inference(self.model.compute());
        let pooled = self.model.encode_pairs(&tape, images, texts, pairs);
        self.model.rank_scores(&tape, &pooled).tensor().to_host().into_owned()
    }

    /// Returns the scores of all pairs, `[images, texts]`, of texts given as token ids from `[CLS]` to `[SEP]`. Returns `None` if `stop`
    /// is set before the end. Calls `on_pass` with the number of scored pairs after each forward pass.
    ///
    /// # Panics
    /// Panics under the conditions of [`PairScorer::embed_texts`] and [`PairScorer::score_pairs`].
    pub fn score_all(
        &self,
        images: &EmbeddedRows,
        texts: &[Vec<u32>],
        stop: &AtomicBool,
        on_pass: &mut dyn FnMut(u64),
    ) -> Option<Vec<f32>> {
        let lengths = texts.iter().map(Vec::len).collect();
        let plan = Plan::of_block(self.model.config(), images.len(), self.image_length(), lengths);
        let mut scores = Vec::with_capacity(plan.pairs() as usize);
        let complete = self.score_block(&plan, 0, images, texts, 0, stop, &mut |pass| {
            scores.extend_from_slice(pass);
            on_pass(scores.len() as u64);
            Ok(())
        });
        // `on_pass` returns no error.
        matches!(complete, Ok(true)).then(|| plan.rows(0, &scores).concat())
    }

    /// Scores the pairs of a block of a plan in order, without the first `skip` pairs, which must end with a forward pass. Calls `on_pass`
    /// with the scores of each pass. Returns whether all pairs were scored; they are not if `stop` is set.
    ///
    /// # Errors
    /// Returns errors of `on_pass`.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn score_block(
        &self,
        plan: &Plan,
        block: usize,
        images: &EmbeddedRows,
        texts: &[Vec<u32>],
        skip: u64,
        stop: &AtomicBool,
        on_pass: &mut dyn FnMut(&[f32]) -> Result<()>,
    ) -> Result<bool> {
        let mut scored = 0;
        for tile in plan.tiles(block) {
            let start = scored;
            scored += tile.pairs.len() as u64;
            if scored <= skip {
                continue;
            }
            let embedded = self.embed_tile(&tile, texts);
            for pass in plan.passes(&tile) {
                if start + (pass.start as u64) < skip {
                    continue;
                }
                if stop.load(Ordering::Relaxed) {
                    return Ok(false);
                }
                on_pass(&self.score_pairs(images, &embedded, &tile.pairs[pass]))?;
            }
        }
        Ok(true)
    }

    fn embed_tile(&self, tile: &Tile, texts: &[Vec<u32>]) -> EmbeddedRows {
        let texts: Vec<&[u32]> = tile.texts.iter().map(|text| texts[*text as usize].as_slice()).collect();
        self.embed_texts(&texts)
    }
}

#[cfg(test)]
mod tests {
    use super::super::score_image;
    use super::super::testing::{image, small_model, texts};
    use super::*;
    use crate::batch::planes;
    use vlct_data::loader::Pixels;
    use vlct_golden::assert_close;

    #[test]
    fn scores_of_all_pairs_equal_those_of_single_images() {
        let model = small_model(1);
        let images: Vec<Pixels> = (0..5).map(|i| Pixels::square(image(i))).collect();
        let texts = texts(70);
        let scorer = PairScorer::new(&model);
        let views: Vec<Planes> = images.iter().map(planes).collect();
        let embedded = scorer.embed_images(&views);
        let no_stop = AtomicBool::new(false);
        let mut scored = 0;
        let scores = scorer
            .score_all(&embedded, &texts, &no_stop, &mut |n| scored = n)
            .unwrap();
        assert_eq!(scored, 5 * 70);
        let want: Vec<f32> = images
            .iter()
            .flat_map(|image| score_image(&model, planes(image), &texts))
            .collect();
        assert_close("scores", &scores, &want, 1e-5);
        let values: Vec<Vec<f32>> = (0..5).map(|i| embedded.values(i)).collect();
        let views: Vec<&[f32]> = values.iter().map(Vec::as_slice).collect();
        let restored = scorer.restore_images(&views);
        assert_eq!(scorer.score_all(&restored, &texts, &no_stop, &mut |_| ()), Some(scores));
        assert_eq!(scorer.score_all(&restored, &[], &no_stop, &mut |_| ()), Some(vec![]));
        assert_eq!(
            scorer.score_all(&embedded, &texts, &AtomicBool::new(true), &mut |_| ()),
            None
        );
    }

    #[test]
    fn hidden_patches_change_the_scores() {
        let model = small_model(1);
        let (image, texts) = (Pixels::square(image(1)), texts(3));
        let no_stop = AtomicBool::new(false);
        let score = |scorer: PairScorer| {
            let embedded = scorer.embed_images(&[planes(&image)]);
            scorer.score_all(&embedded, &texts, &no_stop, &mut |_| ()).unwrap()
        };
        let all = score(PairScorer::new(&model));
        let every = |[rows, columns]: [usize; 2]| (0..(rows * columns) as u32).collect();
        assert_eq!(score(PairScorer::with_patches(&model, every)), all);
        assert_ne!(score(PairScorer::with_patches(&model, |_| vec![0, 3])), all);
    }
}
