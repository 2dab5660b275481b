//! Batches of noise, of the sizes that captions and pictures have.

use crate::objectives::{Matching, Modelling, Pools, PretrainStep, VqaStep};
use rand::RngExt;
use vlct_data::random::{Purpose, stream};
use vlct_model::PatchMask;

/// Hidden part of the patches, as in the published recipe.
const MASK_RATIO: f64 = 0.6;

/// What every question is answered with.
const TARGET: &[(u32, f32)] = &[(7, 1.0)];

/// A made-up batch.
pub(super) struct MadeUp {
    texts: Vec<Vec<u32>>,
    masked: Vec<Vec<u32>>,
    labels: Vec<Vec<Option<u32>>>,
    pictures: Vec<Vec<f32>>,
    others: Vec<Vec<f32>>,
}

impl MadeUp {
    pub fn new(batch: usize, image_size: usize) -> Self {
        let random = &mut stream(0, Purpose::Synthetic, 0, 0);
        let mut noise = |n: usize| -> Vec<f32> { (0..n).map(|_| random.random_range(-1.7..1.7)).collect() };
        let (pictures, others) = (0..batch)
            .map(|_| (noise(3 * image_size * image_size), noise(3 * image_size * image_size)))
            .unzip();
        let random = &mut stream(0, Purpose::Synthetic, 0, 1);
        let texts: Vec<Vec<u32>> = (0..batch)
            .map(|_| {
                (0..random.random_range(9..19))
                    .map(|_| random.random_range(1000..30000))
                    .collect()
            })
            .collect();
        let chosen: Vec<Vec<bool>> = texts
            .iter()
            .map(|t| (0..t.len()).map(|i| i == 1 || random.random_bool(0.15)).collect())
            .collect();
        let pick = |f: &dyn Fn(u32, bool) -> u32| -> Vec<Vec<u32>> {
            texts
                .iter()
                .zip(&chosen)
                .map(|(t, c)| t.iter().zip(c).map(|(id, c)| f(*id, *c)).collect())
                .collect()
        };
        Self {
            masked: pick(&|id, chosen| if chosen { 103 } else { id }),
            labels: texts
                .iter()
                .zip(&chosen)
                .map(|(t, c)| t.iter().zip(c).map(|(id, c)| c.then_some(*id)).collect())
                .collect(),
            texts,
            pictures,
            others,
        }
    }

    /// Captions and pictures, seen whole.
    pub fn pools(&self) -> Pools<'_> {
        let mut pools = Pools::default();
        pools.extend(0, &slices(&self.texts), &slices(&self.pictures), None);
        pools
    }

    /// Input of a step of question answering.
    pub fn vqa_step(&self, step: u64) -> VqaStep<'_> {
        VqaStep {
            texts: slices(&self.texts),
            pictures: slices(&self.pictures),
            targets: vec![TARGET; self.texts.len()],
            dropout: dropout(step),
        }
    }

    /// Input of a step of pre-training, with masks of its own.
    pub fn pretrain_step(&self, step: u64, patches: usize) -> PretrainStep<'_> {
        let n = self.texts.len();
        let masks = |purpose| -> Option<Vec<PatchMask>> {
            let mask = |i| {
                let random = &mut stream(0, purpose, step, i as u64);
                PatchMask::from_noise(&(0..patches).map(|_| random.random()).collect::<Vec<f32>>(), MASK_RATIO)
            };
            Some((0..n).map(mask).collect())
        };
        let matched: Vec<bool> = (0..n).map(|i| i < n / 2).collect();
        let pictures = |i: usize| {
            if matched[i] {
                self.pictures[i].as_slice()
            } else {
                self.others[i].as_slice()
            }
        };
        PretrainStep {
            modelling: Some(Modelling {
                texts: slices(&self.masked),
                labels: slices(&self.labels),
                pictures: slices(&self.pictures),
                masks: masks(Purpose::PatchMaskMlm),
            }),
            matching: Some(Matching {
                texts: slices(&self.texts),
                pictures: (0..n).map(pictures).collect(),
                matched: matched.clone(),
                masks: masks(Purpose::PatchMaskItm),
            }),
            dropout: dropout(step),
        }
    }
}

fn slices<T>(lists: &[Vec<T>]) -> Vec<&[T]> {
    lists.iter().map(Vec::as_slice).collect()
}

fn dropout(step: u64) -> Option<[u64; 4]> {
    Some([0, Purpose::Dropout as u64, step, 0])
}
