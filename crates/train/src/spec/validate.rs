//! Checks that the values of a configuration agree with each other.

use vlct_data::datasets;
use vlct_image::TransformKind;
use vlct_tensor::Precision;

use super::device;
use super::optimisation;
use super::size::{check_image_size, model_size, position_size};
use crate::plan;
use vlct_config::{Config, ConfigError, DecayPower, ValCheckInterval, Warmup};
use vlct_util::text::quoted;

/// Published datasets whose samples are not images with captions.
const DATASETS_WITHOUT_CAPTIONS: [&str; 2] = ["vqa", "nlvr2"];

/// Checks that the values of a configuration agree.
///
/// Returns warnings, one line each, about values that have no effect or probably not the intended effect.
///
/// # Errors
/// Returns the first contradiction.
pub fn validate(config: &Config) -> Result<Vec<String>, ConfigError> {
    validate_of_ranks(config, super::ranks_of(config)?)
}

/// Checks a configuration of a run on this number of ranks, as [`validate`] does.
///
/// # Errors
/// Returns the first contradiction.
pub fn validate_of_ranks(config: &Config, ranks: usize) -> Result<Vec<String>, ConfigError> {
    super::device(config)?;
    check_name(config)?;
    model_size(config)?;
    check_masking(config)?;
    check_data(config)?;
    let grad_steps = plan::grad_steps(config.batch_size, config.per_gpu_batchsize, ranks as u64, 1)?;
    check_schedule(config)?;
    check_weights(config)?;
    optimisation::check(config)?;
    check_patience(config)?;
    Ok(warnings(config, grad_steps, ranks))
}

/// Checks `use_mae`, `loss_names.mae`, `loss_names.mlm`, `is_pretrain` and `mask_ratio`.
fn check_masking(config: &Config) -> Result<(), ConfigError> {
    let (mlm, mae) = (config.loss_names.mlm >= 1.0, config.loss_names.mae >= 1.0);
    if config.use_mae != mae {
        let reason = if config.use_mae {
            "use_mae=True needs loss_names.mae=1, which reports the loss: set both or neither"
        } else {
            "loss_names.mae=1 needs use_mae=True, which computes the loss: set both or neither"
        };
        return contradiction(reason.into());
    }
    let size = model_size(config)?;
    if position_size(config).is_some() && config.is_pretrain {
        return contradiction(format!(
            "is_pretrain=True masks patches for masked autoencoding, which vit={:?} does not have: set is_pretrain=False",
            config.vit
        ));
    }
    let patches = (config.image_size / size.patch_size).pow(2);
    let kept = (patches as f64 * (1.0 - config.mask_ratio)) as usize;
    if config.is_pretrain && kept == 0 {
        return contradiction(format!(
            "mask_ratio={} keeps 0 of {patches} patches: no part of an image would be visible",
            config.mask_ratio
        ));
    }
    if !mae {
        return Ok(());
    }
    if !mlm {
        return contradiction(
            "use_mae=True needs loss_names.mlm=1: masked autoencoding uses the forward pass of mlm".into(),
        );
    }
    if !config.is_pretrain {
        return contradiction("use_mae=True needs is_pretrain=True: without is_pretrain no patch is masked".into());
    }
    if kept >= patches {
        return contradiction(format!(
            "mask_ratio={} keeps {kept} of {patches} patches: masked autoencoding needs visible and masked patches",
            config.mask_ratio
        ));
    }
    Ok(())
}

/// Checks that the name of the experiment, which is part of a directory's name, is not a path.
fn check_name(config: &Config) -> Result<(), ConfigError> {
    match config.exp_name.contains(['/', '\\']) || config.exp_name.chars().any(char::is_control) {
        true => contradiction(format!(
            "exp_name={} is not a name: it becomes part of a directory's name; log_dir is the directory of all runs",
            quoted(&config.exp_name)
        )),
        false => Ok(()),
    }
}

fn check_data(config: &Config) -> Result<(), ConfigError> {
    let Some(task) = config.loss_names.active().next() else {
        return contradiction("no task is active: set at least one entry of loss_names to 1".into());
    };
    if config.datasets.is_empty() {
        return contradiction("datasets is empty: name at least one, such as datasets='[\"coco\"]'".into());
    }
    for (name, keys) in [
        ("train_transform_keys", &config.train_transform_keys),
        ("val_transform_keys", &config.val_transform_keys),
    ] {
        if keys.is_empty() {
            return contradiction(format!("{name} is empty: name a transform, such as {name}='[\"mae\"]'"));
        }
    }
    check_transforms(config)?;
    if config.image_only {
        return contradiction(format!(
            "image_only=True leaves no text, which loss_names.{task} needs: use image_only=False"
        ));
    }
    check_datasets_fit_tasks(config)?;
    check_negatives(config)?;
    check_recalls(config)?;
    if config.data_root.is_empty() {
        return contradiction("data_root is not set: set it to the directory of the Arrow files".into());
    }
    Ok(())
}

/// Checks that the transforms make images for the model, and have the same kind of images.
fn check_transforms(config: &Config) -> Result<(), ConfigError> {
    let keys = [
        ("train_transform_keys", &config.train_transform_keys),
        ("val_transform_keys", &config.val_transform_keys),
    ];
    let kinds = keys.map(|(name, keys)| {
        let kind: Option<TransformKind> = keys.first().and_then(|key| key.parse().ok());
        (name, kind)
    });
    let proportional = kinds.map(|(name, kind)| (name, kind.filter(|kind| kind.keeps_proportions())));
    if position_size(config).is_none()
        && let Some((name, kind)) = proportional.iter().find_map(|(name, kind)| Some((name, (*kind)?)))
    {
        return contradiction(format!(
            "{name}={kind} gives images of any proportions, but vit={:?} has a position table for squares: use \
             vit='vit_base_patch32_384', or the transform mae, mae_randaug or mae_test",
            config.vit
        ));
    }
    match proportional {
        [(_, Some(_)), (other, None)] | [(other, None), (_, Some(_))] => contradiction(format!(
            "{other} gives squares and the other transform keeps the proportions of images: use pixelbert for both, with \
             pixelbert_randaug for training"
        )),
        [(name, Some(_)), _] => {
            let (size, least) = (config.image_size, config.size_divisor);
            let patch_size = model_size(config)?.patch_size;
            if !least.is_multiple_of(patch_size) {
                return contradiction(format!(
                    "patch_size={patch_size} does not divide size_divisor={least}, of which {name}=pixelbert makes the sides of images \
                     multiples: use 1, 2, 4, 8, 16 or 32 for both, or a multiple of {patch_size} as size_divisor"
                ));
            }
            match size < least {
                true => contradiction(format!(
                    "image_size={size} is too small for {name}=pixelbert, which gives sides of multiples of {least}"
                )),
                false => Ok(()),
            }
        }
        _ => check_image_size("image_size", config.image_size, model_size(config)?.patch_size),
    }
}

/// Checks that each published dataset has samples for each active task.
fn check_datasets_fit_tasks(config: &Config) -> Result<(), ConfigError> {
    for task in config.loss_names.active() {
        for dataset in &config.datasets {
            // The contents of a custom dataset are checked when its files are opened.
            if !datasets::NAMES.contains(&dataset.as_str()) {
                continue;
            }
            let has_captions = !DATASETS_WITHOUT_CAPTIONS.contains(&dataset.as_str());
            let has_samples = match task {
                "vqa" | "nlvr2" => dataset == task,
                "labels" => false,
                _ => has_captions,
            };
            if !has_samples {
                return contradiction(format!(
                    "loss_names.{task} is active, but dataset {dataset:?} has no samples for this task: set \
                     loss_names.{task}=0 or change datasets"
                ));
            }
        }
    }
    Ok(())
}

/// Checks that image-text matching has false images, and retrieval has false captions.
fn check_negatives(config: &Config) -> Result<(), ConfigError> {
    if config.loss_names.itm >= 1.0 && config.draw_false_image == 0 {
        return contradiction(
            "loss_names.itm is active and needs a false image per sample: set draw_false_image=1".into(),
        );
    }
    if config.loss_names.irtr >= 1.0 && config.draw_false_text == 0 {
        return contradiction(
            "loss_names.irtr is active and needs false captions: set draw_false_text=15, as published".into(),
        );
    }
    Ok(())
}

/// Checks that recalls have a head that scores pairs and a dataset of captions.
fn check_recalls(config: &Config) -> Result<(), ConfigError> {
    if !config.get_recall_metric {
        return Ok(());
    }
    if config.loss_names.irtr <= 0.0 && config.loss_names.itm <= 0.0 {
        return contradiction(
            "get_recall_metric=True needs a head that scores pairs: set loss_names.itm=1 or loss_names.irtr=1".into(),
        );
    }
    let first = config.datasets[0].as_str();
    if datasets::NAMES.contains(&first) && !matches!(first, "coco" | "f30k") {
        return contradiction(format!(
            "get_recall_metric=True needs coco, f30k or a custom dataset as the first of datasets, not {first:?}"
        ));
    }
    for (key, value) in [
        ("recall_limit", config.recall_limit),
        ("recall_rerank", config.recall_rerank),
    ] {
        if (1..10).contains(&value) {
            return contradiction(format!(
                "{key}={value} is less than the 10 candidates that recall at 10 needs: use {key}=10 or more, or 0 for all"
            ));
        }
    }
    Ok(())
}

fn check_weights(config: &Config) -> Result<(), ConfigError> {
    match &config.resume_from {
        Some(from) if config.test_only && config.load_path.is_empty() => contradiction(format!(
            "test_only=True evaluates the weights of load_path, which is not set: use load_path={from} instead of resume_from"
        )),
        _ => Ok(()),
    }
}

/// Checks that early stopping has a metric that can improve.
fn check_patience(config: &Config) -> Result<(), ConfigError> {
    if config.patience > 0 && config.loss_names.irtr >= 1.0 && !config.get_recall_metric {
        return contradiction(format!(
            "patience={} needs a validation metric, which retrieval has only with recalls: set get_recall_metric=True",
            config.patience
        ));
    }
    Ok(())
}

fn check_schedule(config: &Config) -> Result<(), ConfigError> {
    if matches!(config.decay_power, DecayPower::Polynomial(_)) && config.learning_rate <= config.end_lr {
        return contradiction(format!(
            "learning_rate={} must be greater than end_lr={}, the learning rate at the end",
            config.learning_rate, config.end_lr
        ));
    }
    Ok(())
}

fn warnings_of_device(config: &Config, warn: &mut dyn FnMut(String)) {
    if let Some(warning) = device::warning(config) {
        warn(warning);
    }
    let is_slow = super::device(config).is_ok_and(|device| !device.bf16_is_fast());
    if config.precision == Some(Precision::Bf16) && is_slow {
        warn("precision='bf16' is computed in f32: this CPU has no fast bfloat16 (AMX, or AVX-512 on AMD)".into());
    }
}

fn warnings(config: &Config, grad_steps: u64, ranks: usize) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut warn = |message: String| warnings.push(message);

    let actual_batch = grad_steps * config.per_gpu_batchsize * ranks as u64;
    if !config.test_only && actual_batch != config.batch_size {
        let times_ranks = match ranks {
            1 => String::new(),
            _ => format!(" times {ranks} ranks"),
        };
        warn(format!(
            "batch_size={} is not a multiple of per_gpu_batchsize={}{times_ranks}: an optimiser step takes {actual_batch} samples",
            config.batch_size, config.per_gpu_batchsize
        ));
    }
    warnings_of_device(config, &mut warn);
    if config.loss_names.itm > 0.0 && config.per_gpu_batchsize == 1 && !config.test_only {
        warn(
            "per_gpu_batchsize=1: a micro-batch of one sample has no matching pair, so image-text matching learns only that nothing \
             matches; use an even number"
                .into(),
        );
    }
    let mut names: Vec<&String> = config.datasets.iter().collect();
    names.sort();
    if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        warn(format!(
            "datasets has {0} more than once: each of its items counts as often in an epoch",
            twice[0]
        ));
    }
    if let Ok(size) = model_size(config) {
        let base = Config::default();
        for (name, value, default, actual) in [
            ("num_heads", config.num_heads, base.num_heads, size.heads),
            ("num_layers", config.num_layers, base.num_layers, size.depth),
            ("mlp_ratio", config.mlp_ratio, base.mlp_ratio, 4),
        ] {
            if value != default && value != actual {
                warn(format!("{name}={value} has no effect: the model has {actual}"));
            }
        }
    }
    if config.val_check_interval == ValCheckInterval::Batches(1) {
        warn("val_check_interval=1 validates after every micro-batch; 1.0 validates once per epoch".into());
    }
    for (name, keys) in [
        ("train_transform_keys", &config.train_transform_keys),
        ("val_transform_keys", &config.val_transform_keys),
    ] {
        if keys.len() > 1 {
            warn(format!(
                "{name} has {} entries; only the first, {:?}, is used",
                keys.len(),
                keys[0]
            ));
        }
    }
    warnings.extend(data_warnings(config));
    warnings.extend(if config.test_only {
        test_warnings(config)
    } else {
        training_warnings(config)
    });
    warnings
}

/// Returns warnings about keys of datasets and answers that have no effect.
fn data_warnings(config: &Config) -> Vec<String> {
    let trains_vqa = config.loss_names.vqa >= 1.0;
    let has_vqa = config.datasets.iter().any(|name| name == "vqa");
    let has_honest_files = config
        .datasets
        .iter()
        .filter_map(|name| datasets::Published::find(name))
        .any(|dataset| dataset.honest.is_some());
    let base = Config::default();
    let cases = [
        (
            config.vgqa && !has_vqa,
            "vgqa=True has no effect without the dataset vqa".to_string(),
        ),
        (
            config.vqa_test_split != base.vqa_test_split && !(config.test_only && has_vqa),
            format!(
                "vqa_test_split={:?} has no effect without test_only=True and the dataset vqa",
                config.vqa_test_split
            ),
        ),
        (
            !config.vqa_annotations.is_empty() && !trains_vqa,
            "vqa_annotations has no effect without loss_names.vqa=1".to_string(),
        ),
        (
            !(config.vqa_answers.is_empty() || config.test_only && trains_vqa),
            "vqa_answers has no effect without test_only=True and loss_names.vqa=1".to_string(),
        ),
        (
            config.recall_limit > 0 && !config.get_recall_metric,
            format!(
                "recall_limit={} has no effect without get_recall_metric=True",
                config.recall_limit
            ),
        ),
        (
            config.recall_rerank > 0 && !config.get_recall_metric,
            format!(
                "recall_rerank={} has no effect without get_recall_metric=True",
                config.recall_rerank
            ),
        ),
        (
            config.load_heads && config.load_path.is_empty(),
            "load_heads=True has no effect without load_path".to_string(),
        ),
        (
            config.load_partial && config.load_path.is_empty() && config.pretrain_path.is_empty(),
            "load_partial=True has no effect without load_path or pretrain_path".to_string(),
        ),
        (
            config.vqav2_label_size != base.vqav2_label_size && trains_vqa && !has_vqa,
            format!(
                "vqav2_label_size={} has no effect: the number of answers of custom datasets is that of their training split",
                config.vqav2_label_size
            ),
        ),
        (
            config.honest_validation && !has_honest_files,
            "honest_validation=True has no effect: no validation split of these datasets is also trained or tested on"
                .to_string(),
        ),
    ];
    cases
        .into_iter()
        .filter_map(|(applies, message)| applies.then_some(message))
        .collect()
}

/// Returns warnings about an evaluation of the test split.
fn test_warnings(config: &Config) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut warn = |message: String| warnings.push(message);
    if config.load_path.is_empty() && config.pretrain_path.is_empty() {
        warn("test_only=True without load_path evaluates randomly initialised weights".into());
    }
    if config.resume_from.is_some() {
        warn("resume_from has no effect with test_only=True, which evaluates load_path".into());
    }
    if config.load_partial {
        warn("load_partial has no effect with test_only=True, which needs all tensors of the model".into());
    }
    if position_size(config).is_some() && config.max_image_len > 0 {
        warn(format!(
            "max_image_len={0} hides patches in evaluation too, as in the original: of larger images, {0} random ones are visible; with \
             max_image_len=-1 all are",
            config.max_image_len
        ));
    }
    if config.is_pretrain {
        warn(format!(
            "is_pretrain=True masks {} % of the image patches in evaluation too; with is_pretrain=False all are visible",
            100.0 * config.mask_ratio
        ));
    }
    warnings
}

/// Returns warnings about training.
fn training_warnings(config: &Config) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut warn = |message: String| warnings.push(message);
    if let Some(steps) = config.max_steps {
        if config.max_epoch != Config::default().max_epoch {
            warn(format!(
                "max_epoch={} has no effect: max_steps={steps} ends the run",
                config.max_epoch
            ));
        }
        if let Warmup::Steps(warmup) = config.warmup_steps
            && warmup >= steps
        {
            warn(format!(
                "warmup_steps={warmup} is not less than max_steps={steps}: the learning rate does not reach its peak"
            ));
        }
    }
    if config.decay_power == DecayPower::Cosine && config.end_lr > 0.0 {
        warn(format!(
            "end_lr={} has no effect with decay_power='cosine', which ends at 0",
            config.end_lr
        ));
    }
    if config.lr_mult != 1.0 && !config.is_pretrain && position_size(config).is_none() {
        warn(format!(
            "lr_mult={} has no effect with is_pretrain=False",
            config.lr_mult
        ));
    }
    if config.loss_names.irtr >= 1.0 && !config.get_recall_metric {
        warn(
            "without get_recall_metric=True retrieval has no validation metric: the best checkpoint is always the first, \
             use the last one"
                .into(),
        );
    }
    warnings.extend(optimisation::warnings(config));
    warnings
}

fn contradiction<T>(message: String) -> Result<T, ConfigError> {
    Err(ConfigError::Contradiction(message))
}

#[cfg(test)]
mod tests;
