//! What is known of a dataset before a run: counts, sizes of images, lengths of captions.

use vlct_data::datasets::{self, Dataset, Published, Split, TableDataset};
use vlct_tasks::texts::{TextStatistics, spread};
use vlct_text::Tokenizer;

use super::sizes::Candidate;
use vlct_config::{Config, KEYS};
use vlct_train::data;
use vlct_train::error::{Result, TrainError};
use vlct_train::paths;
use vlct_train::spec::RunSpec;
use vlct_train::vocabulary;

/// Number of images that are decoded for the typical size.
const SAMPLED_IMAGES: usize = 48;

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
    /// Lengths and words of sampled captions.
    pub texts: TextStatistics,
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
        Ok(Self {
            captions: train.len() as u64,
            images: train.rows() as u64,
            validation_captions: validation.len() as u64,
            divisible: Divisible::of(&train, &spec)?,
            side: typical_side(&train)?,
            texts: TextStatistics::sample(&train, &tokenizer(&spec)?)?,
        })
    }
}

/// Returns the tokenizer of a run: that of the weights if its file does not exist any more.
fn tokenizer(spec: &RunSpec) -> Result<Tokenizer> {
    match &spec.weights.vocabulary {
        Some(path) if vocabulary::is_gone(&spec.data.tokenizer) => {
            vocabulary::of_checkpoint(spec, &paths::find_weights(path)?)
        }
        _ => Ok(Tokenizer::named(&spec.data.tokenizer)?),
    }
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
