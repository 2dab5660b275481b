//! Fine-tuning of the image encoder on classes of images, as ImageNet has them: from the pre-trained weights, and from scratch.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use log::info;
use vlct_checkpoint::last_path;
use vlct_classes::ClassSplits;
use vlct_config::Config;
use vlct_data::datasets::Dataset;
use vlct_tasks::mixup::MixupMode;
use vlct_train::TrainError;
use vlct_train::imagenet::{Augmentation, HFLIP, Optimisation, Settings, Sizes};
use vlct_train::trainer::classifiers;
use vlct_train::trainer::{self, Control};
use vlct_util::text::counted;

use super::error::{QuickstartError, Result};
use super::{RunLength, with_suffix};
use crate::{Metric, NumberFormat};

/// The dataset, whose label is the class of an image. Its texts are not used.
const DATASET: &str = "colors";
/// Images per optimiser step.
const BATCH_SIZE: u64 = 64;
/// Fraction of the quickstart's time for each of the two runs, in addition to the time of the other tasks.
pub(super) const SHARE: f64 = 0.025;
/// Number of steps as a multiple of that of pre-training, if the user gives the latter.
pub(super) const STEPS: f64 = 0.15;

/// A classifier that begins with the pre-trained encoder, and its twin from scratch.
pub(super) struct Classifier {
    /// Directory of the run from the pre-trained weights.
    pub run: PathBuf,
    /// The file of a held-out image.
    pub image: Vec<u8>,
    epochs: u64,
    images: usize,
    classes: usize,
    accuracy: f64,
    from_scratch: f64,
}

impl Classifier {
    /// Returns the metric for the page.
    pub fn metric(&self) -> Metric {
        Metric {
            key: "fine_tuning/classes".into(),
            name: "Classes of images, as in ImageNet".into(),
            value: self.accuracy,
            format: NumberFormat::Percent,
            chance: Some(1.0 / self.classes as f64),
            baseline: None,
            from_scratch: Some(self.from_scratch),
            explanation: format!(
                "Accuracy of the colour of the objects in held-out images, without a text: the image encoder alone, with a new head. {} of \
                 {} each.",
                counted(self.epochs, "epoch"),
                counted(self.images, "image")
            ),
        }
    }
}

/// Fine-tunes an image classifier from the last checkpoint of the run `pretrained` with the configuration `pretrain`, and from scratch, for
/// `length` each. The runs are in `directory` and `{directory}-scratch`.
///
/// # Errors
/// Returns [`QuickstartError::Stopped`] if `control.stop` is set, and the errors of the runs.
pub(super) fn run(
    pretrain: &Config,
    pretrained: &Path,
    directory: &Path,
    length: RunLength,
    control: &Control,
) -> Result<Classifier> {
    let mut settings = settings(pretrain);
    let splits = ClassSplits::open(&settings.data_path, &settings.rules()).map_err(TrainError::from)?;
    let names = splits.train.class_names().to_vec();
    let image = first_image(&splits.val)?;
    settings.epochs = epochs(&settings, &splits, length, control.stop)?;
    let accuracy = |settings: &Settings, directory: &Path| -> Result<f64> {
        let control = Control {
            run_directory: Some(directory.to_path_buf()),
            device: None,
            ..*control
        };
        let splits = ClassSplits::open(&settings.data_path, &settings.rules()).map_err(TrainError::from)?;
        let finished = classifiers::train(settings.run_spec(names.clone())?, splits, &control)?;
        if finished.interrupted {
            return Err(QuickstartError::Stopped);
        }
        let metric = finished.metrics.iter().find(|(name, _)| name == ACCURACY);
        Ok(metric.map_or(f64::NAN, |(_, value)| *value))
    };
    info!(
        "     Classes of images: {} from scratch",
        counted(settings.epochs, "epoch")
    );
    let from_scratch = accuracy(&settings, &with_suffix(directory, "scratch"))?;
    settings.finetune = Some(last_path(pretrained));
    info!(
        "     Classes of images: {} from the pre-trained weights",
        counted(settings.epochs, "epoch")
    );
    Ok(Classifier {
        accuracy: accuracy(&settings, directory)?,
        from_scratch,
        run: directory.to_path_buf(),
        image,
        epochs: settings.epochs,
        images: splits.train.len(),
        classes: names.len(),
    })
}

/// Returns the file of the first image of a split.
fn first_image(split: &dyn Dataset) -> Result<Vec<u8>> {
    let example = split.example(0).map_err(TrainError::from)?;
    let image = example.images.into_iter().flatten().next();
    Ok(image.map(|bytes| bytes.to_vec()).unwrap_or_default())
}

/// The metric of a validation.
const ACCURACY: &str = "images/val/accuracy_epoch";

/// Returns the settings of the run from scratch, with the sizes of the encoder of pre-training.
fn settings(pretrain: &Config) -> Settings {
    Settings {
        batch_size: BATCH_SIZE,
        epochs: 1,
        start_epoch: 0,
        accum_iter: 1,
        ranks: 1,
        model: "vit_base_patch16".into(),
        sizes: Sizes {
            patch_size: pretrain.patch_size,
            width: pretrain.hidden_size,
            depth: pretrain.depth,
            heads: pretrain.heads,
            layer_norm_eps: None,
        },
        input_size: pretrain.image_size,
        linear_probe: false,
        drop_path: 0.0,
        // Few steps train the class token better than the mean of the patches.
        global_pool: false,
        finetune: None,
        data_path: Path::new(&pretrain.data_root).join(DATASET),
        val_fraction: 0.0,
        seed: pretrain.seed,
        device: pretrain.device.parse().unwrap_or_default(),
        num_workers: pretrain.num_workers,
        keep: Some(1),
        optimisation: Optimisation {
            clip_grad: None,
            weight_decay: 0.05,
            lr: Some(1e-3),
            blr: 1e-3,
            layer_decay: 0.8,
            min_lr: 1e-6,
            warmup_epochs: 1.0,
            ema_decay: None,
        },
        augmentation: Augmentation {
            color_jitter: None,
            aa: String::new(),
            // Small crops would show no object.
            min_crop_area: 0.8,
            hflip: HFLIP,
            smoothing: 0.1,
            reprob: 0.0,
            remode: "pixel".into(),
            recount: 1,
            mixup: 0.0,
            cutmix: 0.0,
            cutmix_minmax: None,
            mixup_prob: 1.0,
            mixup_switch_prob: 0.5,
            mixup_mode: MixupMode::Batch,
        },
    }
}

/// Returns the number of epochs of a run of this length.
fn epochs(settings: &Settings, splits: &ClassSplits, length: RunLength, stop: &AtomicBool) -> Result<u64> {
    let per_epoch = (splits.train.len() as u64 / BATCH_SIZE).max(1);
    let steps = match length {
        RunLength::Steps(steps) => steps,
        RunLength::Seconds(seconds) => {
            let spec = settings.run_spec(splits.train.class_names().to_vec())?;
            let per_step = trainer::seconds_per_micro_batch(&spec, stop)?.ok_or(QuickstartError::Stopped)?;
            (seconds / per_step) as u64
        }
    };
    Ok((steps / per_epoch).max(1))
}
