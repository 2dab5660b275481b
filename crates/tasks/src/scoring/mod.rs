//! Retrieval evaluation: ranking scores of all images with all captions, and recall at 1, 5 and 10.
//!
//! A plan orders the pairs in tiles of a few images and a few texts. [`PairScorer`] embeds the images and texts of a tile
//! once and scores its pairs in forward passes of many pairs. The scores are appended to a [`ScoreStore`], from which an interrupted
//! scoring continues. The recalls are counted image by image, so that the scores of all pairs are never in memory together.
//!
//! Two-stage retrieval selects the candidates of each query by a cheaper score and ranks them by the exact score.
//!
//! [`score_image`] computes the same scores without sharing, for comparison.

mod evaluate;
mod images;
mod plan;
#[cfg(test)]
mod ranks_tests;
mod recalls;
mod run;
mod scorer;
mod store;
#[cfg(test)]
mod testing;
mod two_stage;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use vlct_data::datasets::{Dataset, TableDataset};
use vlct_data::loader::Pixels;
use vlct_model::{Inputs, Sequence, Vlc};
use vlct_tensor::collectives::Single;
use vlct_tensor::{Planes, Tape};

use crate::error::Result;
use crate::inputs::InputSpec;
use images::DatasetImages;
use plan::Selection;
use run::Scoring;

pub use evaluate::{RecallEvaluator, RecallSpec, ScorePlace, StoredScores};
pub use recalls::{Recalls, rank, top_k};
pub use run::{Event, Stage};
pub use scorer::{PairScorer, VisiblePatches};
pub use store::{Found, ScoreStore};

/// Pairs per forward pass of [`score_image`].
const PAIRS_PER_PASS: usize = 64;

/// Returns the ranking score of one image with each text; all patches are visible. Nothing is shared between pairs but the
/// patch projection: [`PairScorer`] is faster.
pub fn score_image(model: &Vlc, image: Planes, texts: &[Vec<u32>]) -> Vec<f32> {
    let score = |texts: &[Vec<u32>]| {
        let sequence = |text| Sequence {
            text: Some(text),
            ..Sequence::FIRST_PAIR
        };
        let sequences: Vec<Sequence> = (0..texts.len() as u32).map(sequence).collect();
        let inputs = Inputs {
            images: vec![image],
            texts: texts.iter().map(Vec::as_slice).collect(),
            sequences: &sequences,
        };
        let tape = Tape::inference(model.compute());
        let pooled = model.encode_pooled(&tape, &inputs, None);
        model.rank_scores(&tape, &pooled).tensor().to_host().into_owned()
    };
    texts.chunks(PAIRS_PER_PASS).flat_map(score).collect()
}

/// Scores the images of a dataset, in order, with each text of a list.
pub struct RetrievalScorer {
    data: Arc<TableDataset>,
    images: DatasetImages,
    texts: Vec<Vec<u32>>,
}

impl RetrievalScorer {
    /// Makes a scorer for `texts`, given as token ids from `[CLS]` to `[SEP]`. `threads` threads read the images.
    pub fn new(data: Arc<TableDataset>, inputs: Arc<InputSpec>, texts: Vec<Vec<u32>>, threads: usize) -> Self {
        let images = DatasetImages::new(&data, inputs, threads);
        Self { data, images, texts }
    }

    /// Returns the scores of the first `limit` images, `[images, texts]`, or `None` if `stop` is set before the end. Calls `on_image`
    /// with the values of each image.
    ///
    /// # Errors
    /// Returns an error that names file and row if an image cannot be read: omitting the image would change the ranks of other images.
    pub fn scores(
        &self,
        model: &Vlc,
        limit: usize,
        stop: &AtomicBool,
        on_image: &mut dyn FnMut(&Pixels),
    ) -> Result<Option<Vec<f32>>> {
        let count = self.data.rows().min(limit);
        let scorer = PairScorer::new(model);
        let scoring = Scoring::new(
            Stage::Exact,
            scorer,
            count,
            &self.texts,
            &self.images,
            Selection::All,
            &Single,
        );
        let mut store = ScoreStore::in_memory();
        if !scoring.run(&mut store, Found::Nothing, stop, &mut |_| (), on_image)? {
            return Ok(None);
        }
        let mut scores = Vec::with_capacity(store.len() as usize);
        scoring.for_each_row(&store, &mut |_, row| scores.extend_from_slice(row))?;
        Ok(Some(scores))
    }
}
