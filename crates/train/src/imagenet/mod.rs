//! Fine-tuning of image classifiers: the settings of MAE's scripts `main_finetune.py` and `main_linprobe.py`, and the run that they describe.

pub(crate) mod classes;
mod run;
mod saved;
mod settings;
mod weights;

pub use saved::RunSettings;
pub(crate) use saved::warn_of_changes;
pub use settings::{Augmentation, Change, HFLIP, MIN_CROP_AREA, Optimisation, Settings, Sizes};
pub use weights::WeightFacts;
