//! What is known of a dataset before a run: counts, sizes of images, lengths of captions.

use vlct_data::datasets::{self, Dataset, Published, Split, TableDataset};
use vlct_text::Tokenizer;

use super::sizes::Candidate;
use crate::data;
use crate::error::{Result, TrainError};
use crate::spec::RunSpec;
use vlct_config::{Config, KEYS};

/// Number of images that are decoded for the typical size.
const SAMPLED_IMAGES: usize = 48;
/// Number of captions that are tokenised for the typical length.
const SAMPLED_CAPTIONS: usize = 2000;

/// Datasets whose training files `val_fraction` divides.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Divisible {
    /// The names of the datasets.
    pub names: Vec<String>,
    /// Number of their captions.
    pub captions: u64,
    /// Number of their images.
    pub images: u64,
}

impl Divisible {
    fn of(train: &TableDataset, spec: &RunSpec) -> Result<Self> {
        let mut divisible = Self::default();
        let data = &spec.data;
        for ((name, items), rows) in train.datasets().zip(train.rows_of_datasets()) {
            let is_divisible = Published::find(name).is_none()
                && datasets::files(&data.root, name, Split::Val, &data.rules)?.is_empty();
            if is_divisible {
                divisible.names.push(name.into());
                divisible.captions += items.len() as u64;
                divisible.images += rows as u64;
            }
        }
        Ok(divisible)
    }
}

/// What is known of the data of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Facts {
    /// Number of captions of the training files.
    pub captions: u64,
    /// Number of images of the training files.
    pub images: u64,
    /// Number of captions of the validation files; 0 if there are none.
    pub validation_captions: u64,
    /// The custom datasets without validation files, whose training files `val_fraction` divides.
    pub divisible: Divisible,
    /// Median of the shorter side of the images, in pixels; 0 if no sampled image can be decoded.
    pub side: usize,
    /// Number of tokens, with `[CLS]` and `[SEP]`, that 99 % of the captions do not exceed.
    pub tokens: usize,
    /// Mean number of tokens of a word.
    pub tokens_per_word: f64,
    /// Fraction of the words that are `[UNK]`.
    pub unknown_words: f64,
}

impl Facts {
    /// Reads the training and validation files of a configuration, without dividing them (`val_fraction` is ignored).
    ///
    /// # Errors
    /// Returns an error if a dataset does not exist, cannot be read, or has no captions.
    pub(super) fn read(config: &Config) -> Result<Self> {
        // The sizes of the model are not chosen yet, so those that are given need not agree with the base values.
        let mut config = config.clone();
        let base = Config::default();
        for key in KEYS.iter().filter(|key| Candidate::has_key(key.name)) {
            config.set(key.name, &(key.get)(&base))?;
        }
        let mut spec = RunSpec::resolve(&config)?;
        spec.data.rules.val_fraction = 0.0;
        let train = data::open(&spec, Split::Train)?;
        let validation = data::open(&spec, Split::Val)?;
        if train.is_empty() {
            return Err(TrainError::EmptyTraining {
                datasets: spec.data.datasets.clone(),
            });
        }
        let captions = Captions::sample(&train, &Tokenizer::named(&spec.data.tokenizer)?)?;
        Ok(Self {
            captions: train.len() as u64,
            images: train.rows() as u64,
            validation_captions: validation.len() as u64,
            divisible: Divisible::of(&train, &spec)?,
            side: typical_side(&train)?,
            tokens: captions.length,
            tokens_per_word: captions.tokens_per_word,
            unknown_words: captions.unknown_words,
        })
    }
}

/// Returns `count` of `len` indices, or all, at equal distances.
fn spread(len: usize, count: usize) -> impl Iterator<Item = usize> {
    let count = count.min(len);
    (0..count).map(move |i| i * len / count)
}

/// Returns the median of the shorter side of sampled images, in pixels; 0 if none of them can be decoded.
fn typical_side(dataset: &TableDataset) -> Result<usize> {
    let mut sides = Vec::new();
    for row in spread(dataset.rows(), SAMPLED_IMAGES) {
        // Images that cannot be decoded are reported by the run.
        if let Ok(image) = vlct_image::decode(dataset.image_at(&dataset.locate_row(row)?)?) {
            sides.push(image.width().min(image.height()) as usize);
        }
    }
    sides.sort_unstable();
    Ok(sides.get(sides.len() / 2).copied().unwrap_or(0))
}

/// Statistics of sampled captions.
struct Captions {
    length: usize,
    tokens_per_word: f64,
    unknown_words: f64,
}

impl Captions {
    fn sample(dataset: &TableDataset, tokenizer: &Tokenizer) -> Result<Self> {
        let (mut lengths, mut words, mut tokens, mut unknown) = (Vec::new(), 0u64, 0u64, 0u64);
        for item in spread(dataset.len(), SAMPLED_CAPTIONS) {
            let Some(text) = dataset.text(item)? else { continue };
            let ids = tokenizer.encode(&text, usize::MAX);
            lengths.push(ids.len());
            for id in &ids[1..ids.len() - 1] {
                tokens += 1;
                words += u64::from(!tokenizer.is_continuation(*id));
                unknown += u64::from(*id == tokenizer.unk());
            }
        }
        lengths.sort_unstable();
        let share = |count: u64| count as f64 / words.max(1) as f64;
        Ok(Self {
            length: lengths.get(lengths.len() * 99 / 100).copied().unwrap_or(2),
            tokens_per_word: share(tokens),
            unknown_words: share(unknown),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_are_spread_over_the_whole_range() {
        assert_eq!(spread(10, 3).collect::<Vec<_>>(), [0, 3, 6]);
        assert_eq!(spread(2, 5).collect::<Vec<_>>(), [0, 1]);
        assert_eq!(spread(0, 5).count(), 0);
    }
}
