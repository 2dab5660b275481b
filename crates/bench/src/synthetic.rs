//! Synthetic batches of random captions and images.

use super::MASK_RATIO;
use rand::RngExt;
use vlct_data::loader::{Pixels, Position};
use vlct_data::random::{Purpose, stream};
use vlct_model::{PatchMask, Sequence};
use vlct_tasks::pretrain::{MATCHING, MODELLING};
use vlct_tasks::{Batch, Sample, Target, Text};

/// Answer id and score that are the target of every question.
const TARGET: (u32, f32) = (7, 1.0);

/// Token id of `[MASK]`.
const MASK: u32 = 103;

/// A batch whose patch masks and dropout change from step to step.
pub(super) struct Synthetic {
    batch: Batch,
    /// Number of patches per image; `None` if all are visible.
    patches: Option<usize>,
}

impl Synthetic {
    /// Makes a pre-training batch: 15 % of the tokens are masked, and half of the samples have false images.
    pub fn pretrain(batch: usize, image_size: usize, patches: usize) -> Self {
        let samples = captions(batch).into_iter().zip(images(batch, image_size)).enumerate();
        let samples = samples.map(|(i, ((ids, is_masked), [own, false_image]))| {
            let labels: Vec<Option<u32>> = ids.iter().zip(is_masked).map(|(id, m)| m.then_some(*id)).collect();
            let masked_ids = ids.iter().zip(&labels).map(|(id, label)| label.map_or(*id, |_| MASK));
            let masked_text = Text {
                ids: masked_ids.collect(),
                labels,
            };
            let matched = i < batch / 2;
            Sample {
                item: i,
                images: if matched { vec![own] } else { vec![own, false_image] },
                texts: vec![masked_text, Text::unmasked(ids)],
                sequences: vec![sequence(MODELLING, 0, 0), sequence(MATCHING, 1, !matched as u32)],
                target: Target::Class(matched as u32),
            }
        });
        Self {
            batch: Batch::collate(Position::default(), samples.collect()),
            patches: Some(patches),
        }
    }

    /// Makes a batch of questions with all patches visible. The batch has a loss only if `has_targets` is set.
    pub fn vqa(batch: usize, image_size: usize, has_targets: bool) -> Self {
        let samples = captions(batch).into_iter().zip(images(batch, image_size)).enumerate();
        let samples = samples.map(|(i, ((ids, _), [image, _]))| Sample {
            item: i,
            images: vec![image],
            texts: vec![Text::unmasked(ids)],
            sequences: vec![sequence(0, 0, 0)],
            target: if has_targets {
                Target::Scores(vec![TARGET])
            } else {
                Target::None
            },
        });
        Self {
            batch: Batch::collate(Position::default(), samples.collect()),
            patches: None,
        }
    }

    /// Makes a batch of images, each of one of `classes` classes.
    pub fn imagenet(batch: usize, image_size: usize, classes: usize) -> Self {
        let samples = images(batch, image_size).enumerate().map(|(i, [image, _])| Sample {
            item: i,
            images: vec![image],
            texts: Vec::new(),
            sequences: vec![Sequence::FIRST_IMAGE],
            target: Target::Class((i % classes) as u32),
        });
        Self {
            batch: Batch::collate(Position::default(), samples.collect()),
            patches: None,
        }
    }

    /// Returns the batch with the patch masks of a step and, in training, its dropout.
    pub fn batch_of_step(&mut self, step: u64, training: bool) -> &Batch {
        self.batch.dropout = training.then_some([0, Purpose::Dropout as u64, step, 0]);
        if let Some(patches) = self.patches {
            let samples = self.batch.len();
            for (i, sequence) in self.batch.sequences.iter_mut().enumerate() {
                let purpose = match sequence.group {
                    MODELLING => Purpose::PatchMaskMlm,
                    _ => Purpose::PatchMaskItm,
                };
                let random = &mut stream(0, purpose, step, (i % samples) as u64);
                let noise: Vec<f32> = (0..patches).map(|_| random.random()).collect();
                sequence.mask = Some(PatchMask::from_noise(&noise, MASK_RATIO));
            }
        }
        &self.batch
    }
}

fn sequence(group: u8, text: u32, image: u32) -> Sequence {
    Sequence {
        group,
        text: Some(text),
        image: Some(image),
        token_type: 1,
        mask: None,
    }
}

/// Returns images, and token ids of captions.
pub(super) fn images_and_texts(image_count: usize, text_count: usize, size: usize) -> (Vec<Pixels>, Vec<Vec<u32>>) {
    let images = images(image_count, size).map(|[image, _]| image).collect();
    let texts = captions(text_count).into_iter().map(|(ids, _)| ids).collect();
    (images, texts)
}

/// Returns two images for each sample: its own and a false one.
fn images(batch: usize, size: usize) -> impl Iterator<Item = [Pixels; 2]> {
    let mut random = stream(0, Purpose::Synthetic, 0, 0);
    (0..batch).map(move |_| {
        std::array::from_fn(|_| {
            let values: Vec<f32> = (0..3 * size * size).map(|_| random.random_range(-1.7..1.7)).collect();
            Pixels::square(values)
        })
    })
}

/// Returns captions of 9 to 18 tokens, and for each token whether it is masked. The token at index 1 is always masked.
fn captions(batch: usize) -> Vec<(Vec<u32>, Vec<bool>)> {
    let random = &mut stream(0, Purpose::Synthetic, 0, 1);
    let texts: Vec<Vec<u32>> = (0..batch)
        .map(|_| {
            let length = random.random_range(9..19);
            (0..length).map(|_| random.random_range(1000..30000)).collect()
        })
        .collect();
    let mut draw_mask = |text: &Vec<u32>| (0..text.len()).map(|i| i == 1 || random.random_bool(0.15)).collect();
    let masks: Vec<Vec<bool>> = texts.iter().map(&mut draw_mask).collect();
    texts.into_iter().zip(masks).collect()
}
