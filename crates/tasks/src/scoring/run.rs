//! A scoring: a plan, a model, texts and the images of a dataset.

use std::hash::Hasher;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use vlct_data::loader::{Pixels, Share};
use vlct_model::Vlc;
use vlct_tensor::{Collectives, Planes};
use xxhash_rust::xxh3::Xxh3;

use super::images::DatasetImages;
use super::plan::{Plan, Selection};
use super::scorer::PairScorer;
use super::store::{Found, ScoreStore};
use crate::batch::planes;
use crate::error::Result;
use crate::gather;

/// Version of the order and the values of scores, which is part of every fingerprint. It must change if the same inputs give other scores, or
/// the same scores in another order, than before.
const VERSION: &str = "1";

/// Time after which [`Event::Estimate`] is reported.
const ESTIMATE_AFTER: Duration = Duration::from_secs(2);

/// A part of a scoring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// All pairs, with all patches of the images.
    Exact,
    /// All pairs, with a cheaper score that selects candidates.
    Candidates,
    /// The candidates, with all patches of the images.
    Rerank,
}

/// An event of a scoring, for logs and progress displays.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Event {
    /// The scoring begins.
    Started {
        /// The part of the scoring.
        stage: Stage,
        /// Number of images.
        images: usize,
        /// Number of texts.
        texts: usize,
        /// Number of pairs.
        pairs: u64,
        /// The scores of an interrupted scoring.
        found: Found,
    },
    /// The first measurement of the rate, reported once.
    Estimate {
        /// Pairs per second.
        rate: f64,
        /// Time for the remaining pairs.
        left: Duration,
    },
    /// Pairs have been scored.
    Progress {
        /// Number of scored pairs, including those of an interrupted scoring.
        scored: u64,
        /// Number of pairs.
        pairs: u64,
    },
}

/// A scoring of the first images of a dataset.
pub(super) struct Scoring<'a> {
    pub stage: Stage,
    pub scorer: PairScorer<'a>,
    pub plan: Plan,
    pub texts: &'a [Vec<u32>],
    pub images: &'a DatasetImages,
    /// The ranks that score: block `b` is scored by rank `b mod ranks`.
    pub collectives: &'a dyn Collectives,
}

impl<'a> Scoring<'a> {
    /// Makes a scoring of `count` images with the texts of a selection.
    pub fn new(
        stage: Stage,
        scorer: PairScorer<'a>,
        count: usize,
        texts: &'a [Vec<u32>],
        images: &'a DatasetImages,
        selection: Selection,
        collectives: &'a dyn Collectives,
    ) -> Self {
        let lengths = texts.iter().map(Vec::len).collect();
        let plan = Plan::new(
            scorer.model().config(),
            count,
            scorer.image_length(),
            lengths,
            selection,
        );
        Self {
            stage,
            scorer,
            plan,
            texts,
            images,
            collectives,
        }
    }

    /// Returns a hash of everything that determines the scores, in hexadecimal digits. `selection` describes the selected pairs.
    ///
    /// # Errors
    /// Returns an error that names file and row if an image is missing.
    pub fn fingerprint(&self, selection: &str) -> Result<String> {
        let mut hash = Xxh3::new();
        hash_model(self.scorer.model(), &mut hash);
        let patches = self.scorer.patches();
        let head = format!(
            "{VERSION} {:?} {selection} {patches:?} {}",
            self.stage,
            self.texts.len()
        );
        Hasher::write(&mut hash, head.as_bytes());
        for text in self.texts {
            Hasher::write(&mut hash, format!("{text:?}").as_bytes());
        }
        self.images.hash(self.plan.images(), &mut hash)?;
        Ok(format!("{:032x}", hash.digest128()))
    }

    /// Scores the pairs that `store` does not have yet. Returns whether all pairs are scored; they are not if `stop` is set. `found` is what
    /// was found when `store` was opened. Calls `on_image` with the values of each image that this rank reads.
    ///
    /// With several ranks, all call this function with stores of the same length, and only that of rank 0 keeps the scores.
    ///
    /// # Errors
    /// Returns an error that names file and row if an image cannot be read, [`TaskError::Io`](crate::TaskError::Io) if scores cannot be
    /// stored, and errors of other ranks.
    pub fn run(
        &self,
        store: &mut ScoreStore,
        found: Found,
        stop: &AtomicBool,
        watch: &mut dyn FnMut(Event),
        on_image: &mut dyn FnMut(&Pixels),
    ) -> Result<bool> {
        let pairs = self.plan.pairs();
        watch(Event::Started {
            stage: self.stage,
            images: self.plan.images(),
            texts: self.texts.len(),
            pairs,
            found,
        });
        store.truncate(self.plan.pass_start(store.len()))?;
        let complete = self.score_blocks(store, stop, watch, on_image);
        // An error of an image must not lose the scores before it.
        let committed = store.commit();
        let complete = complete?;
        committed?;
        Ok(complete)
    }

    fn score_blocks(
        &self,
        store: &mut ScoreStore,
        stop: &AtomicBool,
        watch: &mut dyn FnMut(Event),
        on_image: &mut dyn FnMut(&Pixels),
    ) -> Result<bool> {
        let (plan, pairs) = (&self.plan, self.plan.pairs());
        let first_block = plan.block_of(store.len());
        if first_block == plan.blocks() {
            return Ok(true);
        }
        let (rank, ranks) = (self.collectives.rank(), self.collectives.ranks());
        let share = Share {
            group: plan.block_len() as u64,
            ..Share::of_rank(rank, ranks)
        };
        let mut pixels = self.images.pixels(plan.block_images(first_block).start, share)?;
        let mut rate = RateEstimate::default();
        let mut append = |store: &mut ScoreStore, scores: &[f32]| {
            store.append(scores)?;
            watch(Event::Progress {
                scored: store.len(),
                pairs,
            });
            if let Some(rate) = rate.after(store.len()) {
                let left = (pairs - store.len()) as f64 / rate;
                let left = Duration::try_from_secs_f64(left).unwrap_or(Duration::MAX);
                watch(Event::Estimate { rate, left });
            }
            Ok(())
        };
        for round in first_block / ranks..plan.blocks().div_ceil(ranks) {
            let block = round * ranks + rank;
            if ranks == 1 {
                // Pass by pass, so that an interrupted block is not lost.
                let on_pass = &mut |store: &mut ScoreStore, scores: &[f32]| append(store, scores);
                if !self.score_next_block(block, store, &mut pixels, stop, on_image, on_pass)? {
                    return Ok(false);
                }
                continue;
            }
            let mut scores = Vec::new();
            let collect = &mut |_: &mut ScoreStore, pass: &[f32]| {
                scores.extend_from_slice(pass);
                Ok(())
            };
            // The first round can begin in its middle, and the last one end there.
            let is_scored = (first_block..plan.blocks()).contains(&block);
            let complete = !is_scored || self.score_next_block(block, store, &mut pixels, stop, on_image, collect)?;
            // The scores before the first incomplete block are consecutive.
            for (complete, scores) in gather::all(self.collectives, (complete, scores))? {
                append(store, &scores)?;
                if !complete {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Scores the pairs of a block that `store` does not have yet, with the next images. Calls `on_pass` with the store and the scores of each
    /// forward pass. Returns whether all pairs are scored; they are not if `stop` is set.
    fn score_next_block(
        &self,
        block: usize,
        store: &mut ScoreStore,
        pixels: &mut dyn Iterator<Item = Result<Pixels>>,
        stop: &AtomicBool,
        on_image: &mut dyn FnMut(&Pixels),
        on_pass: &mut dyn FnMut(&mut ScoreStore, &[f32]) -> Result<()>,
    ) -> Result<bool> {
        if stop.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let plan = &self.plan;
        let images: Vec<Pixels> = pixels.take(plan.block_images(block).len()).collect::<Result<_>>()?;
        images.iter().for_each(&mut *on_image);
        let views: Vec<Planes> = images.iter().map(planes).collect();
        let embedded = self.scorer.embed_images(&views);
        drop(images);
        let skip = store.len().saturating_sub(plan.block_pairs(block).start);
        self.scorer
            .score_block(plan, block, &embedded, self.texts, skip, stop, &mut |scores| {
                on_pass(store, scores)
            })
    }

    /// Calls `read` with each image and the scores of its texts, whose indices ascend.
    ///
    /// # Errors
    /// Returns [`TaskError::Io`](crate::TaskError::Io) if the scores cannot be read.
    pub fn for_each_row(&self, store: &ScoreStore, read: &mut dyn FnMut(usize, &[f32])) -> Result<()> {
        for block in 0..self.plan.blocks() {
            let scores = store.read(self.plan.block_pairs(block))?;
            let rows = self.plan.rows(block, &scores);
            for (image, row) in self.plan.block_images(block).zip(rows) {
                read(image, &row);
            }
        }
        Ok(())
    }
}

/// Measures the rate of scoring. The first forward pass is not measured, because it also packs the weights.
#[derive(Default)]
struct RateEstimate {
    /// Time and number of scored pairs after the first pass.
    start: Option<(Instant, u64)>,
    is_reported: bool,
}

impl RateEstimate {
    /// Returns the rate in pairs per second once, after [`ESTIMATE_AFTER`].
    fn after(&mut self, scored: u64) -> Option<f64> {
        let (start, before) = *self.start.get_or_insert_with(|| (Instant::now(), scored));
        let elapsed = start.elapsed();
        if self.is_reported || elapsed < ESTIMATE_AFTER || scored == before {
            return None;
        }
        self.is_reported = true;
        Some((scored - before) as f64 / elapsed.as_secs_f64())
    }
}

/// Adds to a hash the sizes, the weights and the number formats of a model.
fn hash_model(model: &Vlc, hash: &mut Xxh3) {
    Hasher::write(hash, format!("{:?} {:?}", model.config(), model.compute()).as_bytes());
    for (id, parameter) in model.parameters().iter() {
        Hasher::write(hash, parameter.name.as_bytes());
        for values in model.parameters().tensor(id).to_host().chunks(1 << 14) {
            let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            Hasher::write(hash, &bytes);
        }
    }
}
