//! Retrieval evaluation: scores of all images with all captions, and recall at 1, 5 and 10.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use serde::Serialize;
use vlct_data::datasets::{Contents, Dataset, RowsOf, TableDataset};
use vlct_data::loader::Position;
use vlct_data::random::Purpose;
use vlct_model::{Inputs, Sequence, Vlc};
use vlct_tensor::{Tape, Var};

use crate::batch::{Batch, Sample, Target};
use crate::error::{Result, TaskError};
use crate::evaluate::{Evaluator, evaluate_batches};
use crate::inputs::{InputSpec, Mode};
use crate::loader::{Loader, LoaderSpec};
use crate::metrics::{Phase, Report, Tally};
use crate::rows::Rows;
use crate::sample::{SampleContext, SampleError};
use crate::task::{Outcome, Task};

/// Image-text pairs per forward pass.
const PAIRS_PER_PASS: usize = 64;

/// Images that the loader reads ahead.
const PREFETCH: usize = 8;

/// Recall at k: the fraction of queries with a correct candidate among the k best.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
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
        let images = scores.len() / texts;
        let column = |t: usize| -> Vec<f32> { (0..images).map(|i| scores[i * texts + t]).collect() };
        let caption_ranks: Vec<usize> = (0..texts).map(|t| rank(&column(t), |i| i == owner[t])).collect();
        let image_ranks: Vec<usize> = (0..images)
            .map(|i| rank(&scores[i * texts..][..texts], |t| owner[t] == i))
            .collect();
        let recall = |ranks: &[usize], k: usize| ranks.iter().filter(|r| **r < k).count() as f64 / ranks.len() as f64;
        Self {
            ir_r1: recall(&caption_ranks, 1),
            ir_r5: recall(&caption_ranks, 5),
            ir_r10: recall(&caption_ranks, 10),
            tr_r1: recall(&image_ranks, 1),
            tr_r5: recall(&image_ranks, 5),
            tr_r10: recall(&image_ranks, 10),
        }
    }

    /// Returns the recalls under the original's names. The sum of the two recalls at 1 selects the best checkpoint.
    pub fn report(&self) -> Report {
        let values = [
            ("recalls/ir_r1", self.ir_r1),
            ("recalls/ir_r5", self.ir_r5),
            ("recalls/ir_r10", self.ir_r10),
            ("recalls/tr_r1", self.tr_r1),
            ("recalls/tr_r5", self.tr_r5),
            ("recalls/tr_r10", self.tr_r10),
        ];
        Report {
            values: values.map(|(name, value)| (name.to_string(), value)).to_vec(),
            selection: vec![self.ir_r1 + self.tr_r1],
            ..Report::default()
        }
    }
}

/// Returns the rank, from 0, of the best candidate for which `is_correct` holds; the number of candidates if there is none.
pub fn rank(scores: &[f32], is_correct: impl Fn(usize) -> bool) -> usize {
    // NaN counts as the lowest score, and a candidate whose score is NaN is never correct.
    let scores: Vec<f32> = scores
        .iter()
        .map(|s| if s.is_nan() { f32::NEG_INFINITY } else { *s })
        .collect();
    let is_correct = |i: usize| scores[i] > f32::NEG_INFINITY && is_correct(i);
    let best = (0..scores.len())
        .filter(|i| is_correct(*i))
        .max_by(|a, b| scores[*a].total_cmp(&scores[*b]).then(b.cmp(a)));
    let Some(best) = best else { return scores.len() };
    (0..scores.len())
        .filter(|i| scores[*i] > scores[best] || (scores[*i] == scores[best] && *i < best))
        .count()
}

/// Returns the ranking score of one image `[3, S, S]` with each text; all patches are visible.
pub fn score_image(model: &Vlc, image: &[f32], texts: &[Vec<u32>]) -> Vec<f32> {
    let score = |texts: &[Vec<u32>]| {
        let sequence = |text| Sequence {
            group: 0,
            text: Some(text),
            image: Some(0),
            token_type: 1,
            mask: None,
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

/// A task whose samples are single images; its forward pass scores each image with the same texts.
struct TextScoring {
    texts: Vec<Vec<u32>>,
}

impl Task for TextScoring {
    fn contents(&self) -> Contents {
        Contents::Captions
    }

    fn sample(&self, cx: &mut SampleContext<'_>) -> Result<Sample, SampleError> {
        Ok(Sample {
            item: cx.item(),
            images: vec![cx.image(0, &mut cx.rng(Purpose::Augmentation))?],
            texts: Vec::new(),
            sequences: Vec::new(),
            target: Target::None,
        })
    }

    /// Computes logits `[images, texts]`.
    fn forward(&self, model: &Vlc, tape: &Tape, batch: &Batch) -> Outcome {
        let rows = batch
            .images
            .iter()
            .flat_map(|image| score_image(model, image, &self.texts));
        let scores: Vec<f32> = rows.collect();
        Outcome {
            logits: Some(Var::constant(tape.device().tensor(
                batch.len(),
                self.texts.len(),
                &scores,
            ))),
            ..Outcome::default()
        }
    }

    fn report(&self, _phase: Phase, _tally: &Tally, _rows: &Rows) -> Report {
        Report::default()
    }
}

/// Scores each image of a dataset, in order, with each text of a list.
pub struct RetrievalScorer {
    task: Arc<TextScoring>,
    data: Arc<TableDataset>,
    inputs: Arc<InputSpec>,
    threads: usize,
}

impl RetrievalScorer {
    /// Makes a scorer for `texts`, given as token ids from `[CLS]` to `[SEP]`. `threads` threads read the images.
    pub fn new(data: Arc<TableDataset>, inputs: Arc<InputSpec>, texts: Vec<Vec<u32>>, threads: usize) -> Self {
        Self {
            task: Arc::new(TextScoring { texts }),
            data,
            inputs,
            threads,
        }
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
        on_image: &mut dyn FnMut(&[f32]),
    ) -> Result<Option<Vec<f32>>> {
        let spec = LoaderSpec {
            seed: 0,
            mode: Mode::Evaluate,
            batch_size: 1,
            threads: self.threads,
            prefetch: PREFETCH,
            end_epoch: Some(1),
        };
        let rows = Arc::new(RowsOf::new(Arc::clone(&self.data)));
        let (task, inputs) = (self.task.clone(), self.inputs.clone());
        let loader = Loader::new(task, rows, inputs, spec, Position::default())?;
        let mut scores = Vec::new();
        let complete = evaluate_batches(&*self.task, model, loader.take(limit), stop, &mut |batch, outcome| {
            batch.images.iter().for_each(|image| on_image(image));
            if let Some(logits) = &outcome.logits {
                scores.extend_from_slice(&logits.tensor().to_host());
            }
            Ok(())
        })?;
        Ok(complete.then_some(scores))
    }
}

/// Computes the recalls of a split from the scores of all its images with all its captions.
///
/// An evaluation holds the captions' token ids and one score per pair of image and caption in memory.
pub struct RecallEvaluator {
    data: Arc<TableDataset>,
    inputs: Arc<InputSpec>,
    threads: usize,
}

impl RecallEvaluator {
    /// Makes an evaluator of `data`. `threads` threads read the images.
    ///
    /// # Errors
    /// Returns [`TaskError::TooFewImages`] if there are fewer than 10 images.
    pub fn new(data: Arc<TableDataset>, inputs: Arc<InputSpec>, threads: usize) -> Result<Self> {
        match data.rows() {
            10.. => Ok(Self { data, inputs, threads }),
            images => Err(TaskError::TooFewImages(images)),
        }
    }
}

impl Evaluator for RecallEvaluator {
    fn run(&self, model: &Vlc, stop: &AtomicBool) -> Result<Option<Report>> {
        let (mut texts, mut owner) = (Vec::new(), Vec::new());
        for image in 0..self.data.rows() {
            for item in self.data.items_of(image)? {
                let text = self.data.text(item)?.unwrap_or_default();
                texts.push(self.inputs.tokenizer.encode(&text, self.inputs.max_text_len));
                owner.push(image);
            }
        }
        let scorer = RetrievalScorer::new(self.data.clone(), self.inputs.clone(), texts, self.threads);
        let scores = scorer.scores(model, usize::MAX, stop, &mut |_| ())?;
        Ok(scores.map(|scores| Recalls::from_scores(&scores, &owner).report()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rank_is_the_number_of_better_candidates() {
        assert_eq!(rank(&[0.1, 0.9, 0.5], |i| i == 1), 0);
        assert_eq!(rank(&[0.1, 0.9, 0.5], |i| i == 0), 2);
        assert_eq!(rank(&[0.1, 0.9, 0.5], |i| i != 1), 1);
        assert_eq!(rank(&[0.5, 0.5], |i| i == 1), 1);
        assert_eq!(rank(&[0.5, 0.5], |_| false), 2);
        assert_eq!(rank(&[f32::NAN, f32::NAN], |i| i == 0), 2);
        assert_eq!(rank(&[f32::NAN, 0.5], |i| i == 1), 0);
    }

    #[test]
    fn recalls_are_fractions_of_captions_and_of_images() {
        // Captions 1 and 3 have a higher score with the wrong image. Image 1 has its highest score with caption 1, a wrong caption.
        let scores = [0.9, 0.1, 0.2, 0.3, 0.0, 0.8, 0.7, 0.1];
        let r = Recalls::from_scores(&scores, &[0, 0, 1, 1]);
        assert_eq!((r.ir_r1, r.ir_r5), (0.5, 1.0));
        assert_eq!((r.tr_r1, r.tr_r5), (0.5, 1.0));
        assert_eq!(r.report().the_metric(), 1.0);
    }
}
