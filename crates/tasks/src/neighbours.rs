//! The accuracy of k nearest neighbours on the features of a frozen encoder: how well they separate the classes, without any training.
//!
//! As published for DINO: features have length 1, the similarity of two images is their cosine, and each of the `k` most similar training
//! images votes for its class with the weight `exp(similarity / 0.07)`.

use std::collections::HashSet;
use std::sync::atomic::AtomicBool;

use vlct_data::datasets::{Contents, Dataset};
use vlct_model::Model;
use vlct_tensor::{Compute, Device, Tape, Tensor, Var};

use crate::batch::{Batch, Sample};
use crate::error::Result;
use crate::evaluate::SplitEvaluator;
use crate::images::Images;
use crate::metrics::{Phase, Report, Tally};
use crate::probabilities::top;
use crate::rows::Rows;
use crate::sample::{SampleContext, SampleError};
use crate::task::{Outcome, Task};

/// Divisor of similarities in the weights of votes.
const TEMPERATURE: f64 = 0.07;
/// Number of training images whose similarities are computed at a time.
const CHUNK: usize = 4096;
/// Number of classes with the most votes that count for the second accuracy.
const TOP: usize = 5;

/// The features of images, as a task: the input of the head instead of logits.
pub struct Features(pub Images);

impl Task for Features {
    fn contents(&self) -> Contents {
        self.0.contents()
    }

    fn sample(&self, cx: &mut SampleContext<'_>) -> std::result::Result<Sample, SampleError> {
        self.0.sample(cx)
    }

    /// Computes the features `[images, width]` as logits.
    ///
    /// # Panics
    /// Panics if the model is not an image classifier.
    fn forward(&self, model: &Model, tape: &Tape, batch: &Batch) -> Outcome {
        let images: Vec<&[f32]> = batch.images.iter().map(|image| &**image).collect();
        Outcome {
            logits: Some(model.vit().features(tape, &images, None)),
            ..Outcome::default()
        }
    }

    fn record(&self, _: &dyn Dataset, _: &Batch, _: &Outcome, _: &mut Rows) -> vlct_data::Result<()> {
        Ok(())
    }

    fn report(&self, _: Phase, _: &Tally, _: &Rows) -> Report {
        Report::default()
    }
}

/// The accuracy with `k` neighbours, as fractions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NeighbourAccuracy {
    /// Number of neighbours.
    pub k: usize,
    /// Part of the images whose class has most votes.
    pub accuracy: f64,
    /// Part of the images whose class is among the five with most votes.
    pub top5: f64,
}

/// Computes the accuracy on the images of `val` for each number of neighbours `ks` among the images of `train`. The tasks of both must be
/// [`Features`]. Images that cannot be read are left out if the loaders replace them by others. Calls `on_batch` with each batch. Returns
/// `None` if `stop` is set before the end.
///
/// # Errors
/// Returns an error that names the file if an image cannot be read.
pub fn accuracies(
    model: &Model,
    [train, val]: [&SplitEvaluator; 2],
    ks: &[usize],
    stop: &AtomicBool,
    on_batch: &mut dyn FnMut(&Batch),
) -> Result<Option<Vec<NeighbourAccuracy>>> {
    let most = ks.iter().copied().max().unwrap_or_default();
    let mut index = Index::new(model.compute().device, most);
    // An image that replaces an unreadable one counts once.
    let mut seen = HashSet::new();
    let is_complete = train.each(model, stop, &mut |batch, outcome| {
        for (features, class, item) in samples(batch, outcome) {
            if seen.insert(item) {
                index.add(&features, class);
            }
        }
        on_batch(batch);
        Ok(())
    })?;
    if !is_complete {
        return Ok(None);
    }
    index.finish_chunk();
    seen.clear();
    let mut correct = vec![[0usize; 2]; ks.len()];
    let is_complete = val.each(model, stop, &mut |batch, outcome| {
        let samples = samples(batch, outcome);
        let rows = index.neighbours(samples.iter().flat_map(|(features, ..)| features).copied().collect());
        for (neighbours, (_, class, item)) in rows.iter().zip(&samples) {
            if !seen.insert(*item) {
                continue;
            }
            for (k, [first, among]) in ks.iter().zip(&mut correct) {
                let best = vote(&neighbours[..neighbours.len().min(*k)]);
                *first += usize::from(best.first() == Some(class));
                *among += usize::from(best.contains(class));
            }
        }
        on_batch(batch);
        Ok(())
    })?;
    let part = |count: usize| count as f64 / seen.len().max(1) as f64;
    let accuracies = ks.iter().zip(correct).map(|(k, [first, among])| NeighbourAccuracy {
        k: *k,
        accuracy: part(first),
        top5: part(among),
    });
    Ok(is_complete.then(|| accuracies.collect()))
}

/// Returns the features of each image of a batch, with length 1, its class and its item.
fn samples(batch: &Batch, outcome: &Outcome) -> Vec<(Vec<f32>, u32, usize)> {
    let (Some(features), Some(classes)) = (&outcome.logits, batch.classes()) else {
        return Vec::new();
    };
    let values = features.tensor().to_host();
    let rows = values.chunks_exact(features.columns()).map(of_length_1);
    let samples = rows.zip(classes).zip(&batch.items);
    samples
        .map(|((features, class), item)| (features, class, *item))
        .collect()
}

fn of_length_1(row: &[f32]) -> Vec<f32> {
    let length = row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
    let scale = if length > 0.0 { 1.0 / length } else { 0.0 };
    row.iter().map(|v| (f64::from(*v) * scale) as f32).collect()
}

/// A training image that is similar to an image.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Neighbour {
    similarity: f32,
    class: u32,
}

/// The features of all training images.
struct Index {
    device: Device,
    /// Number of neighbours that are found.
    most: usize,
    /// Features `[up to CHUNK images, width]` and classes.
    chunks: Vec<(Var, Vec<u32>)>,
    /// Features and classes that are not in a chunk yet.
    values: Vec<f32>,
    classes: Vec<u32>,
    width: usize,
}

impl Index {
    fn new(device: Device, most: usize) -> Self {
        Self {
            device,
            most,
            chunks: Vec::new(),
            values: Vec::new(),
            classes: Vec::new(),
            width: 1,
        }
    }

    fn add(&mut self, features: &[f32], class: u32) {
        self.width = features.len();
        self.values.extend(features);
        self.classes.push(class);
        if self.classes.len() == CHUNK {
            self.finish_chunk();
        }
    }

    fn finish_chunk(&mut self) {
        if !self.classes.is_empty() {
            let features = self.matrix(&self.values);
            self.chunks
                .push((Var::constant(features), std::mem::take(&mut self.classes)));
            self.values.clear();
        }
    }

    fn matrix(&self, values: &[f32]) -> Tensor {
        self.device.tensor(values.len() / self.width, self.width, values)
    }

    /// Returns the nearest neighbours of each row of features, the most similar first. Of equally similar images, the first in the split
    /// comes first.
    fn neighbours(&self, rows: Vec<f32>) -> Vec<Vec<Neighbour>> {
        let queries = Var::constant(self.matrix(&rows));
        let mut found: Vec<Vec<Neighbour>> = vec![Vec::new(); queries.rows()];
        for (features, classes) in &self.chunks {
            // Similarities are computed in f32, whatever the number format of the model is.
            let tape = Tape::inference(Compute {
                device: self.device,
                ..Compute::default()
            });
            let similarities = tape.linear(&queries, features, None, None);
            let mut values = similarities.tensor().to_host().into_owned();
            // -0 becomes 0, so that the order of the images decides between them.
            values.iter_mut().for_each(|similarity| *similarity += 0.0);
            for (found, similarities) in found.iter_mut().zip(values.chunks_exact(classes.len())) {
                found.extend(top(similarities, self.most).into_iter().map(|i| Neighbour {
                    similarity: similarities[i],
                    class: classes[i],
                }));
                // The sort is stable.
                found.sort_by(|a, b| b.similarity.total_cmp(&a.similarity));
                found.truncate(self.most);
            }
        }
        found
    }
}

/// Returns the classes with the largest sums of votes, at most [`TOP`], the largest first. Of equal ones, the lower class is first.
fn vote(neighbours: &[Neighbour]) -> Vec<u32> {
    let mut votes: Vec<(u32, f64)> = Vec::new();
    for Neighbour { similarity, class } in neighbours {
        let weight = (f64::from(*similarity) / TEMPERATURE).exp();
        match votes.iter_mut().find(|(voted, _)| voted == class) {
            Some((_, sum)) => *sum += weight,
            None => votes.push((*class, weight)),
        }
    }
    votes.sort_by(|(class, a), (other, b)| b.total_cmp(a).then(class.cmp(other)));
    votes.truncate(TOP);
    votes.into_iter().map(|(class, _)| class).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn index(rows: &[([f32; 2], u32)], most: usize) -> Index {
        let mut index = Index::new(Device::cpu(), most);
        for (row, class) in rows {
            index.add(row, *class);
            // The chunks have different lengths.
            if *class == 0 {
                index.finish_chunk();
            }
        }
        index.finish_chunk();
        index
    }

    #[test]
    fn votes_are_weighted_by_similarity() {
        let of = |list: &[(f32, u32)]| {
            let list: Vec<Neighbour> = list
                .iter()
                .map(|(similarity, class)| Neighbour {
                    similarity: *similarity,
                    class: *class,
                })
                .collect();
            vote(&list)
        };
        // exp(0.1 / 0.07) = 4.2: one image outvotes four that are less similar by 0.1, and not five.
        assert_eq!(of(&[(0.9, 3), (0.8, 1), (0.8, 1), (0.8, 1), (0.8, 1)]), [3, 1]);
        assert_eq!(
            of(&[(0.9, 3), (0.8, 1), (0.8, 1), (0.8, 1), (0.8, 1), (0.8, 1)]),
            [1, 3]
        );
        assert_eq!(of(&[(0.5, 2), (0.5, 1)]), [1, 2]);
        let many: Vec<(f32, u32)> = (0..9).map(|class| (0.9 - class as f32 / 100.0, class)).collect();
        assert_eq!(of(&many), [0, 1, 2, 3, 4]);
        assert!(of(&[]).is_empty());
    }

    proptest! {
        #[test]
        fn neighbours_are_those_of_a_full_sort(
            train in prop::collection::vec((-8i8..8, -8i8..8, 0u32..4), 1..30),
            query in (-8i8..8, -8i8..8),
            most in 1usize..8,
        ) {
            let row = |(a, b): (i8, i8)| [f32::from(a) / 8.0, f32::from(b) / 8.0];
            let rows: Vec<([f32; 2], u32)> = train.iter().map(|(a, b, class)| (row((*a, *b)), *class)).collect();
            let query = row(query);
            let found = index(&rows, most).neighbours(query.to_vec());
            let mut all: Vec<Neighbour> = rows
                .iter()
                .map(|(row, class)| Neighbour { similarity: row[0] * query[0] + row[1] * query[1] + 0.0, class: *class })
                .collect();
            all.sort_by(|a, b| b.similarity.total_cmp(&a.similarity));
            all.truncate(most);
            prop_assert_eq!(&found[0], &all);
        }
    }
}
