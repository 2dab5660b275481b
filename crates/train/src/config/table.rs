//! The table of configuration keys: name, type, default, allowed range and meaning of each, in one place.

use super::types::{
    DecayPower, FastDevRun, KeyType, LossNames, NumGpus, Range, ValCheckInterval, Warmup, above, between, from,
    from_below,
};
use super::value::Value;
use vlct_tensor::Precision;

/// One key of the configuration.
pub struct Key {
    /// The name on the command line and in config files.
    pub name: &'static str,
    /// The heading it stands under.
    pub section: &'static str,
    /// What it means, in one line.
    pub help: &'static str,
    /// The values it allows.
    pub range: Range,
    /// The name of its type.
    pub type_name: fn() -> String,
    /// Reads the key of a configuration.
    pub get: fn(&Config) -> Value,
    /// Writes the key of a configuration; `false` if the value has the wrong type.
    pub(super) set: fn(&mut Config, &Value) -> bool,
}

impl Key {
    /// The value of the base configuration.
    pub fn default(&self) -> Value {
        (self.get)(&Config::default())
    }

    /// The key of that name.
    pub fn find(name: &str) -> Option<&'static Key> {
        KEYS.iter().find(|key| key.name == name)
    }
}

macro_rules! table {
    ($($section:literal { $($name:ident: $type:ty = $default:expr, $range:expr, $help:literal;)+ })+) => {
        /// The configuration of a run. Field by field the published keys, then keys of this program; see [`KEYS`].
        #[derive(Clone, Debug, PartialEq)]
        pub struct Config {
            $($(#[doc = $help] pub $name: $type,)+)+
        }

        /// The base configuration.
        impl Default for Config {
            fn default() -> Self {
                Self { $($($name: $default,)+)+ }
            }
        }

        /// All keys, in the order in which they are printed.
        pub static KEYS: &[Key] = &[
            $($(Key {
                name: stringify!($name),
                section: $section,
                help: $help,
                range: $range,
                type_name: <$type as KeyType>::type_name,
                get: |config| config.$name.to_value(),
                set: |config, value| match <$type as KeyType>::from_value(value) {
                    Some(value) => {
                        config.$name = value;
                        true
                    }
                    None => false,
                },
            },)+)+
        ];
    };
}

/// The value of `f32_products` that is resolved when a run begins.
pub const AUTO: &str = "auto";

/// Names of the backbones, short and long.
pub(super) const VITS: &[&str] = &[
    "mae_vit_base_patch16",
    "mae_vit_large_patch16",
    "mae_vit_huge_patch14",
    "mae_vit_base_patch16_dec512d8b",
    "mae_vit_large_patch16_dec512d8b",
    "mae_vit_huge_patch14_dec512d8b",
];

/// Names of the image transforms.
const TRANSFORMS: &[&str] = &["mae", "mae_randaug", "mae_test"];

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|w| w.to_string()).collect()
}

// The upper ends of sizes are far above any use. They keep products of a few sizes within 64 bits.
table! {
    "Run" {
        exp_name: String = "vlc".into(), Range::Any, "Name of the experiment; part of the run directory's name.";
        seed: u64 = 0, from(0.0), "Seed of every random decision.";
        log_dir: String = "result".into(), Range::Any, "Directory of the run directories.";
        test_only: bool = false, Range::Any, "Evaluate the test split once instead of training.";
        fast_dev_run: FastDevRun = FastDevRun(0), from(0.0), "Trial run: this many training and validation batches (True is 1), one epoch at most, no sanity check, no checkpoints, no logs.";
        log_every: u64 = 10, from(1.0), "Optimiser steps between log entries.";
        num_gpus: NumGpus = NumGpus::Count(1), Range::Any, "Devices per node: a count or a list; 0 and 1 run on this machine's CPU.";
        num_nodes: u64 = 1, from(1.0), "Number of machines.";
        threads: usize = 0, between(0.0, 4096.0), "Threads of the arithmetic; 0 takes all cores.";
        pin_threads: bool = false, Range::Any, "Bind each of these threads to one CPU (Linux), for machines that do nothing else.";
        precision: Option<Precision> = None, Range::Any, "Number format of products and kept activations: 32, or 16 and 'bf16', both of which mean bfloat16; None takes bfloat16 where the CPU is fast at it, else 32.";
        f32_products: String = AUTO.into(), Range::OneOf(&[AUTO, "fma", "bf16x3"]), "How f32 matrix products are computed: by fused multiply-add ('fma') or as products of three bfloat16 parts on AMX ('bf16x3'). 'auto' times both when a run begins; resumed runs and tests take what the run took.";
        activation_recompute: bool = false, Range::Any, "Less memory, more time: layers keep their input only and compute the rest again for the backward pass. Results stay the same.";
    }
    "Tasks" {
        loss_names: LossNames = LossNames { itm: 1.0, mlm: 1.0, ..LossNames::default() }, from(0.0), "Task switches: above 0 builds the head, 1 and more trains it. Not weights.";
        is_pretrain: bool = true, Range::Any, "Pre-training: mask image patches and use the pre-training parameter groups.";
        use_mae: bool = false, Range::Any, "Compute the masked-autoencoding loss together with mlm.";
        mae_weight: f64 = 1.0, from(0.0), "Weight of the masked-autoencoding loss.";
        mask_ratio: f64 = 0.75, from_below(0.0, 1.0), "Part of the image patches hidden from the encoder in pre-training.";
        mlm_prob: f64 = 0.15, between(0.0, 1.0), "Part of the text tokens chosen for masked language modelling.";
        whole_word_masking: bool = false, Range::Any, "Mask all pieces of a word together.";
        get_recall_metric: bool = false, Range::Any, "Score every image against every caption in each validation and test.";
    }
    "Data" {
        data_root: String = String::new(), Range::Any, "Directory of the Arrow files.";
        datasets: Vec<String> = words(&["coco", "vg", "sbu", "gcc"]), Range::OneOfOrName(&vlct_data::datasets::NAMES), "Datasets, concatenated in this order: published ones, or NAME for files NAME_train_0.arrow, … or a directory NAME of WebDataset tars in data_root.";
        fewer_shards: bool = false, Range::Any, "Take the numbered files of gcc, sbu and other published datasets that are there, though fewer than published.";
        train_transform_keys: Vec<String> = words(&["mae"]), Range::OneOf(TRANSFORMS), "Image transform of training.";
        val_transform_keys: Vec<String> = words(&["mae"]), Range::OneOf(TRANSFORMS), "Image transform of validation and test.";
        image_size: usize = 384, between(1.0, 16384.0), "Side of the square images given to the model, in pixels.";
        draw_false_image: u64 = 1, between(0.0, 1024.0), "False images drawn per sample; itm needs 1.";
        draw_false_text: u64 = 0, between(0.0, 1024.0), "False captions drawn per sample; irtr needs at least 1.";
        image_only: bool = false, Range::Any, "Datasets without text; no task can use them.";
        tokenizer: String = "bert-base-uncased".into(), Range::Any, "WordPiece tokeniser; lower-cases if the name contains 'uncased'.";
        max_text_len: usize = 40, between(2.0, 65536.0), "Tokens of a caption or question, the two special ones included; longer ones are cut.";
        num_workers: usize = 1, between(0.0, 4096.0), "Threads that prepare batches.";
    }
    "Model" {
        vit: String = VITS[0].into(), Range::OneOf(VITS), "Backbone: decides patch size, width, depth and heads of encoder and decoder, unless given below.";
        hidden_size: Option<usize> = None, between(4.0, 65536.0), "Width of the encoder; None takes the backbone's. Another width needs heads too.";
        depth: Option<usize> = None, between(1.0, 1024.0), "Blocks of the encoder; None takes the backbone's.";
        heads: Option<usize> = None, between(1.0, 1024.0), "Attention heads of the encoder; None takes the backbone's.";
        patch_size: Option<usize> = None, between(1.0, 1024.0), "Side of an image patch in pixels; None takes the backbone's.";
        decoder_width: Option<usize> = None, between(4.0, 65536.0), "Width of the masked-autoencoding decoder; None takes the backbone's.";
        decoder_depth: Option<usize> = None, between(1.0, 1024.0), "Blocks of the decoder; None takes the backbone's.";
        decoder_heads: Option<usize> = None, between(1.0, 1024.0), "Attention heads of the decoder; None takes the backbone's.";
        vocab_size: usize = 30522, between(104.0, 16777216.0), "Rows of the word embedding and outputs of masked language modelling.";
        vqav2_label_size: usize = 3129, between(1.0, 16777216.0), "Answers of visual question answering.";
        drop_rate: f64 = 0.1, from_below(0.0, 1.0), "Dropout in the text embedding, the only one of the model.";
        num_heads: usize = 12, Range::Any, "No effect: the heads come from vit or heads.";
        num_layers: usize = 12, Range::Any, "No effect: the depth comes from vit or depth.";
        mlp_ratio: usize = 4, Range::Any, "No effect: always 4.";
        max_image_len: i64 = -1, Range::Any, "No effect: all patches are used.";
    }
    "Weights" {
        load_path: String = String::new(), Range::Any, "Checkpoint to start from or to evaluate.";
        pretrain_path: String = String::new(), Range::Any, "MAE weights for the image backbone.";
        resume_from: Option<String> = None, Range::Any, "Run to continue, with optimiser, position and random state.";
        load_heads: bool = false, Range::Any, "Take the VQA, NLVR2 and retrieval heads of load_path too when training; they start afresh otherwise.";
    }
    "Optimisation" {
        batch_size: u64 = 4096, between(1.0, 1e9), "Samples per optimiser step, reached by accumulating micro-batches.";
        per_gpu_batchsize: u64 = 0, between(0.0, 1e6), "Samples per micro-batch; must be set.";
        optim_type: String = "adamw".into(), Range::OneOf(&["adamw", "adam", "sgd"]), "Optimiser.";
        learning_rate: f64 = 1e-4, above(0.0), "Peak learning rate.";
        weight_decay: f64 = 0.01, from(0.0), "Weight decay of the parameters that decay.";
        decay_power: DecayPower = DecayPower::Polynomial(1.0), from(0.0), "Decay after the warm-up: power of a polynomial, or 'cosine'.";
        end_lr: f64 = 0.0, from(0.0), "Learning rate at the end of a polynomial decay.";
        warmup_steps: Warmup = Warmup::Steps(2500), Range::PartOrCount { least: 0 }, "Warm-up: an int counts optimiser steps, a float is a part of all of them.";
        max_steps: Option<u64> = Some(25000), between(1.0, 1e15), "Optimiser steps of the run; None trains for max_epoch epochs.";
        max_epoch: u64 = 100, between(1.0, 1e9), "Epochs of the run; used only when max_steps is None.";
        lr_mult: f64 = 1.0, from(0.0), "Learning-rate factor of the task heads; only with is_pretrain.";
        layer_decay: f64 = 0.5, Range::Numbers { low: 0.0, low_included: false, high: 1.0, high_included: true }, "Learning-rate factor from each layer to the one below; only without is_pretrain.";
    }
    "Validation and checkpoints" {
        val_check_interval: ValCheckInterval = ValCheckInterval::Fraction(1.0), Range::PartOrCount { least: 1 }, "Distance of validations: a float is a part of an epoch, an int counts micro-batches.";
        sanity_steps: u64 = 2, from(0.0), "Validation batches tried before training.";
        limit_val_batches: u64 = 0, from(0.0), "Batches of each validation; 0 takes all.";
        checkpoint_every: u64 = 0, from(0.0), "Optimiser steps between saves of the last state; 0 saves at validations only.";
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vlct_image::TransformKind;

    #[test]
    fn allowed_names_exist() {
        assert_eq!(
            TRANSFORMS.to_vec(),
            TransformKind::ALL.map(TransformKind::name).to_vec()
        );
        assert!(
            VITS.iter()
                .all(|vit| vlct_model::config::Backbone::named(vit).is_some())
        );
    }
}
