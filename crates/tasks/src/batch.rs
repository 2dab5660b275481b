//! Samples and batches: plain data, the same for all tasks.

use std::ops::Range;

use vlct_data::loader::{Pixels, Position};
use vlct_model::{Inputs, Sequence};
use vlct_tensor::{Device, Planes, Tensor};

use crate::sample::Unreadable;

/// A tokenised text from `[CLS]` to `[SEP]`, without padding.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Text {
    /// Token ids, after masking.
    pub ids: Vec<u32>,
    /// The MLM label (original id) of each token, `None` for tokens that are not masked. Empty if no token is masked.
    pub labels: Vec<Option<u32>>,
}

impl Text {
    /// Returns a text without masked tokens.
    pub fn unmasked(ids: Vec<u32>) -> Self {
        Self {
            ids,
            labels: Vec::new(),
        }
    }
}

/// The target of a whole sample, in addition to the labels of its tokens.
#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    /// No target.
    None,
    /// Id of the correct class.
    Class(u32),
    /// Ids of classes with scores from 0 to 1. If an id occurs twice, the later score counts.
    Scores(Vec<(u32, f32)>),
}

/// The inputs and target that a task makes from one item of a dataset.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Index of the item in the dataset.
    pub item: usize,
    /// Images of the sample, normalised, `[3, height, width]` each.
    pub images: Vec<Pixels>,
    /// Texts of the sample.
    pub texts: Vec<Text>,
    /// Sequences, ordered by group; they refer to `images` and `texts` by index.
    pub sequences: Vec<Sequence>,
    /// Target of the whole sample.
    pub target: Target,
}

/// A micro-batch of samples.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// Epoch, and index of the micro-batch in the epoch.
    pub position: Position,
    /// For each sample, the index of its item in the dataset.
    pub items: Vec<usize>,
    /// Images of all samples.
    pub images: Vec<Pixels>,
    /// Texts of all samples.
    pub texts: Vec<Text>,
    /// Sequences of all samples, ordered by (group, sample); they refer to `images` and `texts` by index.
    pub sequences: Vec<Sequence>,
    /// The target of each sample.
    pub targets: Vec<Target>,
    /// Key of the random generator for dropout (seed, purpose, epoch, batch); `None` disables dropout.
    pub dropout: Option<[u64; 4]>,
    /// The items whose images could not be read, so that others have replaced them.
    pub unreadable: Vec<Unreadable>,
}

impl Batch {
    /// Concatenates samples and sorts their sequences by group.
    pub fn collate(position: Position, samples: Vec<Sample>) -> Self {
        let mut batch = Self {
            position,
            items: Vec::with_capacity(samples.len()),
            images: Vec::new(),
            texts: Vec::new(),
            sequences: Vec::new(),
            targets: Vec::with_capacity(samples.len()),
            dropout: None,
            unreadable: Vec::new(),
        };
        for sample in samples {
            let (first_image, first_text) = (batch.images.len() as u32, batch.texts.len() as u32);
            batch
                .sequences
                .extend(sample.sequences.into_iter().map(|sequence| Sequence {
                    image: sequence.image.map(|image| first_image + image),
                    text: sequence.text.map(|text| first_text + text),
                    ..sequence
                }));
            batch.items.push(sample.item);
            batch.images.extend(sample.images);
            batch.texts.extend(sample.texts);
            batch.targets.push(sample.target);
        }
        // The sort is stable, so samples keep their order within a group.
        batch.sequences.sort_by_key(|sequence| sequence.group);
        batch
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there is no sample.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Returns the inputs of the encoder.
    pub fn inputs(&self) -> Inputs<'_> {
        Inputs {
            images: self.images.iter().map(planes).collect(),
            texts: self.texts.iter().map(|text| text.ids.as_slice()).collect(),
            sequences: &self.sequences,
        }
    }

    /// Returns the range of the group's sequences in [`Batch::sequences`].
    pub fn group(&self, group: u8) -> Range<usize> {
        let start = self.sequences.partition_point(|sequence| sequence.group < group);
        start..self.sequences.partition_point(|sequence| sequence.group <= group)
    }

    /// Returns the values of the sequence's image, if it has one.
    pub fn image_of(&self, sequence: &Sequence) -> Option<Planes<'_>> {
        sequence.image.map(|image| planes(&self.images[image as usize]))
    }

    /// Returns the sequence's text, if it has one.
    pub fn text_of(&self, sequence: &Sequence) -> Option<&Text> {
        sequence.text.map(|text| &self.texts[text as usize])
    }

    /// Returns the class of each sample; `None` if a sample's target is not a class.
    pub fn classes(&self) -> Option<Vec<u32>> {
        let class = |target: &Target| match target {
            Target::Class(class) => Some(*class),
            Target::None | Target::Scores(_) => None,
        };
        self.targets.iter().map(class).collect()
    }

    /// Returns the position from which a loader continues after this batch.
    pub fn next_position(&self) -> Position {
        Position {
            epoch: self.position.epoch,
            batch: self.position.batch + 1,
        }
    }
}

/// Returns the values of an image for a model.
pub fn planes(image: &Pixels) -> Planes<'_> {
    let [height, width] = image.size();
    Planes::new(image, height, width)
}

/// Returns target scores `[samples, classes]`, 0 for classes that a target does not list; `None` if a sample's target does not have
/// scores. With `smoothing` (ε), a score `y` becomes `ε/classes + (1 − ε)·y`.
///
/// # Panics
/// Panics if a class is not less than `classes`.
pub(crate) fn target_scores(device: Device, targets: &[Target], classes: usize, smoothing: f32) -> Option<Tensor> {
    let mut rows = vec![smoothing / classes as f32; targets.len() * classes];
    for (row, target) in rows.chunks_exact_mut(classes).zip(targets) {
        let Target::Scores(scores) = target else { return None };
        for (class, score) in scores {
            row[*class as usize] = smoothing / classes as f32 + (1.0 - smoothing) * score;
        }
    }
    Some(device.tensor(targets.len(), classes, &rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_later_score_of_a_repeated_class_counts() {
        let target = |scores: &[(u32, f32)]| Target::Scores(scores.to_vec());
        let targets = [
            target(&[(2, 0.3), (0, 1.0), (2, 0.9)]),
            target(&[]),
            target(&[(1, 0.6)]),
        ];
        let rows = target_scores(Device::default(), &targets, 3, 0.0).unwrap();
        assert_eq!(*rows.to_host(), [1.0, 0.0, 0.9, 0.0, 0.0, 0.0, 0.0, 0.6, 0.0]);
        assert!(target_scores(Device::default(), &[target(&[]), Target::None], 3, 0.0).is_none());
        let smooth = target_scores(Device::default(), &targets[..1], 4, 0.4).unwrap();
        let want = [0.7, 0.1, 0.64, 0.1];
        assert!(
            smooth
                .to_host()
                .iter()
                .zip(want)
                .all(|(got, want)| (got - want).abs() < 1e-6)
        );
    }

    fn sample(item: usize, groups: &[u8]) -> Sample {
        let sequence = |(i, group): (usize, &u8)| Sequence {
            group: *group,
            text: Some(i as u32),
            image: Some(0),
            token_type: 1,
            mask: None,
        };
        Sample {
            item,
            images: vec![Pixels::square(vec![item as f32; 3])],
            texts: groups.iter().map(|_| Text::unmasked(vec![item as u32])).collect(),
            sequences: groups.iter().enumerate().map(sequence).collect(),
            target: Target::Class(item as u32),
        }
    }

    #[test]
    fn sequences_are_ordered_by_group_and_sample() {
        let batch = Batch::collate(
            Position::default(),
            vec![sample(7, &[0, 1]), sample(8, &[1]), sample(9, &[0, 1])],
        );
        assert_eq!(batch.items, [7, 8, 9]);
        let order: Vec<(u8, u32)> = batch
            .sequences
            .iter()
            .map(|s| (s.group, batch.text_of(s).unwrap().ids[0]))
            .collect();
        assert_eq!(order, [(0, 7), (0, 9), (1, 7), (1, 8), (1, 9)]);
        assert!(
            batch
                .sequences
                .iter()
                .all(|s| batch.image_of(s).unwrap().values[0] as u32 == batch.text_of(s).unwrap().ids[0])
        );
        assert_eq!([batch.group(0), batch.group(1), batch.group(2)], [0..2, 2..5, 5..5]);
        assert_eq!(batch.targets, [7, 8, 9].map(Target::Class));
    }
}
