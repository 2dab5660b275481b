//! Retrieval: every picture scored against every caption, and how often the right one is among the best.

use crate::error::{Result, TrainError};
use serde::Serialize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use vlct_data::datasets::{Dataset, TableDataset};
use vlct_data::loader::ImageLoader;
use vlct_data::text::Tokenizer;
use vlct_image::TransformKind;
use vlct_model::{Inputs, Sequence, Vlc};
use vlct_tensor::Tape;

/// Pairs that the encoder reads at once.
const PAIRS: usize = 64;

/// Pictures read ahead.
const PREFETCH: usize = 8;

/// Shares of queries whose right answer is among the best 1, 5 and 10.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Recalls {
    /// Caption → picture, at 1.
    pub ir_r1: f64,
    /// Caption → picture, at 5.
    pub ir_r5: f64,
    /// Caption → picture, at 10.
    pub ir_r10: f64,
    /// Picture → caption, at 1.
    pub tr_r1: f64,
    /// Picture → caption, at 5.
    pub tr_r5: f64,
    /// Picture → caption, at 10.
    pub tr_r10: f64,
}

impl Recalls {
    /// The values under the original's names.
    pub fn values(&self) -> [(&'static str, f64); 6] {
        [
            ("recalls/ir_r1", self.ir_r1),
            ("recalls/ir_r5", self.ir_r5),
            ("recalls/ir_r10", self.ir_r10),
            ("recalls/tr_r1", self.tr_r1),
            ("recalls/tr_r5", self.tr_r5),
            ("recalls/tr_r10", self.tr_r10),
        ]
    }
}

/// Scores of one picture `[3, S, S]`, all patches visible, against each text.
pub fn score_picture(model: &Vlc, pixels: &[f32], texts: &[Vec<u32>]) -> Vec<f32> {
    let score = |texts: &[Vec<u32>]| {
        let sequences: Vec<Sequence> = (0..texts.len() as u32)
            .map(|text| Sequence {
                group: 0,
                text: Some(text),
                image: Some(0),
                token_type: 1,
                mask: None,
            })
            .collect();
        let inputs = Inputs {
            images: vec![pixels],
            texts: texts.iter().map(Vec::as_slice).collect(),
            sequences: &sequences,
        };
        let tape = Tape::inference(model.compute());
        let pooled = model.read(&tape, &inputs, None);
        model.rank_scores(&tape, &pooled).tensor().to_host().into_owned()
    };
    texts.chunks(PAIRS).flat_map(score).collect()
}

/// Recalls of `scores [pictures, texts]`, where text `t` belongs to picture `owner[t]`.
///
/// As in the original, a picture counts as a hit if any of its captions is among the best. Of equal scores the first is
/// taken.
pub fn recalls(scores: &[f32], owner: &[usize]) -> Recalls {
    let texts = owner.len();
    if texts == 0 {
        return Recalls::default();
    }
    let pictures = scores.len() / texts;
    let column = |t: usize| -> Vec<f32> { (0..pictures).map(|p| scores[p * texts + t]).collect() };
    let of_text: Vec<usize> = (0..texts).map(|t| rank(&column(t), |p| p == owner[t])).collect();
    let of_picture: Vec<usize> = (0..pictures)
        .map(|p| rank(&scores[p * texts..][..texts], |t| owner[t] == p))
        .collect();
    let share = |ranks: &[usize], k: usize| ranks.iter().filter(|r| **r < k).count() as f64 / ranks.len() as f64;
    Recalls {
        ir_r1: share(&of_text, 1),
        ir_r5: share(&of_text, 5),
        ir_r10: share(&of_text, 10),
        tr_r1: share(&of_picture, 1),
        tr_r5: share(&of_picture, 5),
        tr_r10: share(&of_picture, 10),
    }
}

/// Rank (from 0) of the best candidate that is `right`; the number of candidates if none is.
pub fn rank(scores: &[f32], right: impl Fn(usize) -> bool) -> usize {
    // A score that is no number is the worst there is, and never right.
    let scores: Vec<f32> = scores
        .iter()
        .map(|s| if s.is_nan() { f32::NEG_INFINITY } else { *s })
        .collect();
    let right = |i: usize| scores[i] > f32::NEG_INFINITY && right(i);
    let best = (0..scores.len())
        .filter(|i| right(*i))
        .max_by(|a, b| scores[*a].total_cmp(&scores[*b]).then(b.cmp(a)));
    let Some(best) = best else { return scores.len() };
    (0..scores.len())
        .filter(|i| scores[*i] > scores[best] || (scores[*i] == scores[best] && *i < best))
        .count()
}

/// Whether recalls of so many pictures can be had: of the first ten ranks, that is.
///
/// # Errors
/// [`TrainError::TooFewForRetrieval`] if not.
pub fn check_size(pictures: usize) -> Result<()> {
    match pictures {
        10.. => Ok(()),
        images => Err(TrainError::TooFewForRetrieval { images }),
    }
}

/// Scores all pictures of a dataset against all its captions and gives the recalls; `None` if told to stop.
///
/// Memory: the captions' token ids and one score for each picture and caption.
///
/// # Errors
/// If a picture or caption cannot be read, or there are fewer than ten of either.
pub fn evaluate(
    model: &Vlc,
    dataset: &Arc<TableDataset>,
    tokenizer: &Tokenizer,
    max_text_len: usize,
    transform: TransformKind,
    threads: usize,
    stop: &AtomicBool,
) -> Result<Option<Recalls>> {
    check_size(dataset.rows())?;
    let (mut texts, mut owner) = (Vec::new(), Vec::new());
    for picture in 0..dataset.rows() {
        for index in dataset.items_of(picture)? {
            texts.push(tokenizer.encode(&dataset.text(index)?.unwrap_or_default(), max_text_len));
            owner.push(picture);
        }
    }
    let size = model.config().image_size;
    let mut scores = Vec::with_capacity(dataset.rows() * texts.len());
    for batch in ImageLoader::new(Arc::clone(dataset), transform, size, 1, threads, PREFETCH)? {
        for pixels in &batch?.images {
            if stop.load(Ordering::Relaxed) {
                return Ok(None);
            }
            scores.extend(score_picture(model, pixels, &texts));
        }
    }
    Ok(Some(recalls(&scores, &owner)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_count_what_is_better() {
        assert_eq!(rank(&[0.1, 0.9, 0.5], |i| i == 1), 0);
        assert_eq!(rank(&[0.1, 0.9, 0.5], |i| i == 0), 2);
        assert_eq!(rank(&[0.1, 0.9, 0.5], |i| i != 1), 1);
        assert_eq!(rank(&[0.5, 0.5], |i| i == 1), 1);
        assert_eq!(rank(&[0.5, 0.5], |_| false), 2);
        assert_eq!(rank(&[f32::NAN, f32::NAN], |i| i == 0), 2);
        assert_eq!(rank(&[f32::NAN, 0.5], |i| i == 1), 0);
    }

    #[test]
    fn recalls_of_a_small_case() {
        // Two pictures with two captions each; caption 1 is found at the wrong picture.
        let scores = [0.9, 0.1, 0.2, 0.3, 0.0, 0.8, 0.7, 0.1];
        let r = recalls(&scores, &[0, 0, 1, 1]);
        assert_eq!((r.ir_r1, r.ir_r5), (0.5, 1.0));
        assert_eq!((r.tr_r1, r.tr_r5), (0.5, 1.0));
    }
}
