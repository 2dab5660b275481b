//! From a configuration to tokeniser, data, model and how it is updated.

use crate::config::Config;
use crate::error::{Result, TrainError};
use crate::groups::{Parameter, groups};
use crate::objectives::Objectives;
use log::info;
use std::path::Path;
use std::sync::Arc;
use vlct_data::datasets::{CaptionDataset, Shards, Split};
use vlct_data::loader::{Loader, LoaderConfig, Position};
use vlct_data::random::{Purpose, stream};
use vlct_data::text::Tokenizer;
use vlct_image::TransformKind;
use vlct_model::config::Heads;
use vlct_model::files::{self, Options, Scope};
use vlct_model::initialise::initialise;
use vlct_model::{Vlc, VlcConfig};
use vlct_tensor::optimizer::{Rule, Setting};
use vlct_tensor::{Compute, Precision};

/// Batches that the loader works ahead.
const PREFETCH: usize = 4;

/// Which batches to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// For training: shuffled, endless, unreadable pictures replaced.
    Training,
    /// For evaluation: one pass in order, an unreadable picture is an error.
    Evaluation,
}

/// The tokeniser that a configuration names.
///
/// # Errors
/// If there is no such tokeniser, or it has more tokens than the model has words.
pub fn tokenizer(config: &Config) -> Result<Tokenizer> {
    let tokenizer = Tokenizer::named(&config.tokenizer)?;
    if tokenizer.len() > config.vocab_size {
        return Err(TrainError::Invalid(format!(
            "tokenizer={:?} has {} tokens, more than vocab_size={}: set vocab_size={}",
            config.tokenizer,
            tokenizer.len(),
            config.vocab_size,
            tokenizer.len()
        )));
    }
    Ok(tokenizer)
}

/// The captions and pictures of a split of the configured datasets.
///
/// # Errors
/// If `data_root` is not set, or files are missing or not what they should be.
pub fn dataset(config: &Config, split: Split) -> Result<Arc<CaptionDataset>> {
    if config.data_root.is_empty() {
        let advice = "name the folder of the Arrow files; `vlct quickstart` makes its own";
        return Err(TrainError::Invalid(format!("data_root is not set: {advice}")));
    }
    let shards = match config.fewer_shards {
        true => Shards::AsFound,
        false => Shards::All,
    };
    let dataset = CaptionDataset::open_with(&config.data_root, &config.datasets, split, shards)?;
    Ok(Arc::new(dataset))
}

/// Batches of a dataset, from `start` on.
///
/// # Errors
/// If the transform is unknown or the dataset is empty.
pub fn loader(
    config: &Config,
    dataset: &Arc<CaptionDataset>,
    tokenizer: &Tokenizer,
    purpose: Use,
    start: Position,
) -> Result<Loader> {
    let training = purpose == Use::Training;
    let keys = if training {
        &config.train_transform_keys
    } else {
        &config.val_transform_keys
    };
    let name = keys.first().map(String::as_str).unwrap_or_default();
    let transform: TransformKind = name.parse()?;
    let loader_config = LoaderConfig {
        seed: config.seed,
        batch_size: config.per_gpu_batchsize as usize,
        image_size: config.image_size,
        transform,
        max_text_len: config.max_text_len,
        whole_word_masking: config.whole_word_masking,
        mlm_prob: config.mlm_prob,
        draw_false_image: objectives(config).itm,
        training,
        threads: config.num_workers.max(1),
        prefetch: PREFETCH,
        end_epoch: (!training).then_some(1),
    };
    Ok(Loader::new(
        Arc::clone(dataset),
        tokenizer.clone(),
        loader_config,
        start,
    )?)
}

/// What a configuration trains.
pub fn objectives(config: &Config) -> Objectives {
    let names = &config.loss_names;
    Objectives {
        mlm: names.mlm >= 1.0,
        mae: (config.use_mae && names.mlm >= 1.0).then_some(config.mae_weight as f32),
        itm: names.itm >= 1.0,
    }
}

/// Refuses tasks that this version does not train.
///
/// # Errors
/// If such a task is active, or none is.
pub fn check_tasks(config: &Config) -> Result<()> {
    let names = &config.loss_names;
    for (task, value) in [("vqa", names.vqa), ("nlvr2", names.nlvr2), ("irtr", names.irtr)] {
        if value >= 1.0 {
            return Err(TrainError::Invalid(format!(
                "loss_names.{task}={value}: this version trains itm, mlm and mae; the task {task} is not there yet"
            )));
        }
    }
    if names.active().next().is_none() {
        return Err(TrainError::Invalid(
            "no task is active: set loss_names.mlm=1 or loss_names.itm=1".into(),
        ));
    }
    Ok(())
}

/// A model of the configured sizes with freshly drawn weights.
///
/// # Errors
/// If the sizes contradict each other.
pub fn fresh_model(config: &Config) -> Result<Vlc> {
    let mut model = empty_model(config)?;
    initialise(&mut model, |parameter| {
        stream(config.seed, Purpose::Initialisation, 0, parameter)
    });
    Ok(model)
}

/// A model of the configured sizes whose weights are all zero, to be filled from a checkpoint.
///
/// # Errors
/// If the sizes contradict each other.
pub fn empty_model(config: &Config) -> Result<Vlc> {
    let names = &config.loss_names;
    let mut model = Vlc::new(VlcConfig {
        image_size: config.image_size,
        backbone: config.model_size()?,
        vocab_size: config.vocab_size,
        max_text_len: config.max_text_len,
        token_types: 2,
        drop_rate: config.drop_rate as f32,
        heads: Heads {
            mlm: names.mlm > 0.0,
            itm: names.itm > 0.0,
            vqa: (names.vqa > 0.0).then_some(config.vqav2_label_size),
            rank: names.irtr > 0.0,
        },
    });
    model.set_compute(compute(config));
    Ok(model)
}

/// How a configuration computes on this machine, in training and evaluation alike: bfloat16 only where it is fast.
pub fn compute(config: &Config) -> Compute {
    let precision = match config.precision {
        Some(Precision::F32) => Precision::F32,
        None | Some(Precision::Bf16) if Precision::bf16_is_fast() => Precision::Bf16,
        None | Some(Precision::Bf16) => Precision::F32,
    };
    Compute {
        precision,
        recompute: config.activation_recompute,
    }
}

/// What the first lines of a run say about its arithmetic: threads and number format.
pub(super) fn arithmetic(compute: Compute) -> String {
    let format = match compute.precision {
        Precision::F32 => "float32",
        Precision::Bf16 => "bfloat16",
    };
    let threads = rayon::current_num_threads();
    let recompute = if compute.recompute {
        ", activations computed again for the backward pass"
    } else {
        ""
    };
    format!("{threads} threads, {format}{recompute}")
}

/// Loads `pretrain_path` (MAE weights, into the backbone) and then `load_path` (a whole model); logs what matched.
///
/// # Errors
/// If a file cannot be read, nothing in it matches, or a tensor has another shape.
pub fn load_weights(model: &mut Vlc, config: &Config) -> Result<()> {
    for (path, scope) in [
        (&config.pretrain_path, Scope::Backbone),
        (&config.load_path, Scope::Model),
    ] {
        if path.is_empty() {
            continue;
        }
        let options = Options {
            scope,
            skip_heads: !config.test_only && !config.load_heads,
        };
        let state = files::read(Path::new(path))?.state;
        let (state, matched) =
            files::adapt(state, &model.shapes(), options).map_err(|e| TrainError::Invalid(format!("{path}: {e}")))?;
        model.load(&state)?;
        info!("weights of {path}: {matched}");
    }
    Ok(())
}

/// The update rule of `optim_type`, and its name in the logs.
pub fn rule(config: &Config) -> (Rule, &'static str) {
    match config.optim_type.as_str() {
        "sgd" => (Rule::Sgd, "SGD"),
        "adam" => (Rule::Adam, "Adam"),
        _ => (Rule::AdamW, "AdamW"),
    }
}

/// For each parameter the learning-rate factor (in place of a rate) and the weight decay; for each group the factor.
pub fn settings(config: &Config, model: &Vlc) -> (Vec<Setting>, Vec<f64>) {
    let parameters: Vec<Parameter> = model
        .parameters()
        .iter()
        .map(|(_, p)| Parameter {
            name: &p.name,
            dimensions: p.shape.len(),
            frozen: !p.trainable,
        })
        .collect();
    let groups = groups(config, &parameters, model.config().backbone.depth);
    let mut settings = vec![
        Setting {
            learning_rate: 0.0,
            weight_decay: 0.0
        };
        parameters.len()
    ];
    for group in &groups {
        for id in group.members.iter().filter_map(|name| model.parameters().id(name)) {
            settings[id.index()] = Setting {
                learning_rate: group.learning_rate_scale,
                weight_decay: group.weight_decay,
            };
        }
    }
    (settings, groups.iter().map(|g| g.learning_rate_scale).collect())
}
