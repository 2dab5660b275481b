//! Samples and batches: plain data, the same for all tasks.

use std::ops::Range;

use vlct_data::loader::{Pixels, Position};
use vlct_model::{Inputs, Sequence};

/// Token ids from `[CLS]` to `[SEP]`, without padding.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Text {
    /// The ids that the model reads.
    pub ids: Vec<u32>,
    /// The MLM label of each token; `None` if the token is not masked. Empty if no token is.
    pub labels: Vec<Option<u32>>,
}

impl Text {
    /// A text without tokens to predict.
    pub fn plain(ids: Vec<u32>) -> Self {
        Self {
            ids,
            labels: Vec::new(),
        }
    }
}

/// What is to be predicted of a sample as a whole.
#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    /// Nothing.
    None,
    /// One class.
    Class(u32),
    /// Classes with scores from 0 to 1; of a class named twice the later score counts.
    Scores(Vec<(u32, f32)>),
}

/// One item as a task reads it.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Index of the item in the dataset.
    pub item: usize,
    /// Images of the sample, normalised, `[3, size, size]` each.
    pub images: Vec<Pixels>,
    /// Texts of the sample.
    pub texts: Vec<Text>,
    /// Its sequences, ordered by group; indices into the two lists above.
    pub sequences: Vec<Sequence>,
    /// Its target.
    pub target: Target,
}

/// A micro-batch: samples put together.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// Epoch and number in the epoch.
    pub at: Position,
    /// The item of each sample.
    pub items: Vec<usize>,
    /// Images of all samples.
    pub images: Vec<Pixels>,
    /// Texts of all samples.
    pub texts: Vec<Text>,
    /// Sequences of all samples, ordered by (group, sample); indices into the two lists above.
    pub sequences: Vec<Sequence>,
    /// The target of each sample.
    pub targets: Vec<Target>,
    /// Key of dropout; `None` outside training.
    pub dropout: Option<[u64; 4]>,
    /// Number of images that could not be read and were replaced.
    pub replaced: u64,
    /// Reasons for the first few replacements.
    pub warnings: Vec<String>,
}

impl Batch {
    /// Concatenates samples.
    pub fn collate(at: Position, samples: Vec<Sample>) -> Self {
        let mut batch = Self {
            at,
            items: Vec::with_capacity(samples.len()),
            images: Vec::new(),
            texts: Vec::new(),
            sequences: Vec::new(),
            targets: Vec::with_capacity(samples.len()),
            dropout: None,
            replaced: 0,
            warnings: Vec::new(),
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
        // Stable: samples keep their order within a group.
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

    /// What the encoder reads.
    pub fn inputs(&self) -> Inputs<'_> {
        Inputs {
            images: self.images.iter().map(|image| &**image).collect(),
            texts: self.texts.iter().map(|text| text.ids.as_slice()).collect(),
            sequences: &self.sequences,
        }
    }

    /// The sequences of a group, by index.
    pub fn group(&self, group: u8) -> Range<usize> {
        let start = self.sequences.partition_point(|sequence| sequence.group < group);
        start..self.sequences.partition_point(|sequence| sequence.group <= group)
    }

    /// The image of a sequence, if it has one.
    pub fn image_of(&self, sequence: &Sequence) -> Option<&[f32]> {
        sequence.image.map(|image| &*self.images[image as usize])
    }

    /// The text of a sequence, if it has one.
    pub fn text_of(&self, sequence: &Sequence) -> Option<&Text> {
        sequence.text.map(|text| &self.texts[text as usize])
    }

    /// Where a loader continues after this batch.
    pub fn next_position(&self) -> Position {
        Position {
            epoch: self.at.epoch,
            batch: self.at.batch + 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            images: vec![Pixels::from(vec![item as f32])],
            texts: groups.iter().map(|_| Text::plain(vec![item as u32])).collect(),
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
        let shown: Vec<(u8, u32)> = batch
            .sequences
            .iter()
            .map(|s| (s.group, batch.text_of(s).unwrap().ids[0]))
            .collect();
        assert_eq!(shown, [(0, 7), (0, 9), (1, 7), (1, 8), (1, 9)]);
        assert!(
            batch
                .sequences
                .iter()
                .all(|s| batch.image_of(s).unwrap()[0] as u32 == batch.text_of(s).unwrap().ids[0])
        );
        assert_eq!([batch.group(0), batch.group(1), batch.group(2)], [0..2, 2..5, 5..5]);
        assert_eq!(batch.targets, [7, 8, 9].map(Target::Class));
    }
}
