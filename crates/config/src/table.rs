//! The table of configuration keys with name, type, base value, range and help of each.

use crate::types::{
    DecayPower, FastDevRun, KeyType, LossNames, NumGpus, Range, ValCheckInterval, Warmup, above, at_least, between,
    half_open,
};
use crate::value::Value;
use vlct_image::{Background, Orientation};
use vlct_tensor::Precision;

/// One key of the configuration.
pub struct Key {
    /// The name on the command line and in config files.
    pub name: &'static str,
    /// The section of the table that contains the key.
    pub section: &'static str,
    /// The meaning, in one line.
    pub help: &'static str,
    /// The allowed values.
    pub range: Range,
    /// Returns the name of the type.
    pub type_name: fn() -> String,
    /// Returns the value of the key in a configuration.
    pub get: fn(&Config) -> Value,
    /// Sets the key in a configuration. Returns `false` if the value has the wrong type.
    pub(crate) set: fn(&mut Config, &Value) -> bool,
}

impl Key {
    /// Returns the value in the base configuration.
    pub fn default(&self) -> Value {
        (self.get)(&Config::default())
    }

    /// Returns the key of this name.
    pub fn find(name: &str) -> Option<&'static Key> {
        KEYS.iter().find(|key| key.name == name)
    }
}

macro_rules! table {
    ($($section:literal { $($name:ident: $type:ty = $default:expr, $range:expr, $help:literal;)+ })+) => {
        /// The configuration of a run, one field per key; see [`KEYS`].
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

/// The value of `f32_products` that selects the faster method when a run begins, and of `device` that selects a GPU if there is one.
pub const AUTO: &str = "auto";

/// The backbone of ViLT: its position table is learned, and images keep their proportions.
const VILT: &str = "vit_base_patch32_384";

/// Short and long names of the backbones: the values of `vit`.
pub(crate) const VITS: &[&str] = &[
    "mae_vit_base_patch16",
    "mae_vit_large_patch16",
    "mae_vit_huge_patch14",
    "mae_vit_base_patch16_dec512d8b",
    "mae_vit_large_patch16_dec512d8b",
    "mae_vit_huge_patch14_dec512d8b",
    VILT,
];

/// Names of the image transforms: the values allowed in `train_transform_keys` and `val_transform_keys`.
const TRANSFORMS: &[&str] = &["mae", "mae_randaug", "mae_test", "pixelbert", "pixelbert_randaug"];

fn strings(words: &[&str]) -> Vec<String> {
    words.iter().map(|w| w.to_string()).collect()
}

// The upper ends of ranges are far above practical values. They prevent overflow when a few sizes are multiplied in 64 bits.
table! {
    "Run" {
        exp_name: String = "vlc".into(), Range::Any, "Name of the experiment; part of the run directory's name.";
        seed: u64 = 0, at_least(0.0), "Seed of every random decision.";
        log_dir: String = "result".into(), Range::Any, "Directory that contains the run directories.";
        test_only: bool = false, Range::Any, "Evaluate the model on the test split instead of training.";
        fast_dev_run: FastDevRun = FastDevRun(0), at_least(0.0), "Trial run of this many training and validation batches (True means 1), at most one epoch, without sanity check, checkpoints and logs.";
        log_every: u64 = 10, at_least(1.0), "Optimiser steps between log entries.";
        num_gpus: NumGpus = NumGpus::Count(1), Range::Any, "Devices per machine, with a process for each: a count, -1 for all, or a list of numbers; 0 means the CPU. With device='cpu', the number of processes on the CPU.";
        device: String = AUTO.into(), Range::Any, "Where to compute: 'cpu', 'cuda' or 'cuda:N' for the NVIDIA GPU with this number, from 0; 'auto' uses a GPU if there is one, else the CPU.";
        num_nodes: u64 = 1, at_least(1.0), "Number of machines, on each of which the command is started with NODE_RANK, MASTER_ADDR and MASTER_PORT set.";
        threads: usize = 0, between(0.0, 4096.0), "Number of compute threads; 0 means one per CPU.";
        pin_threads: bool = false, Range::Any, "Bind each compute thread to one CPU (Linux only); useful if no other program runs on the machine.";
        precision: Option<Precision> = None, Range::Any, "Number format of matrix products and saved activations: 32 for f32, 16 or 'bf16' for bfloat16; None selects bfloat16 on GPUs and on CPUs with fast bfloat16 instructions, else 32.";
        f32_products: String = AUTO.into(), Range::OneOf(&[AUTO, "fma", "bf16x3"]), "Method of f32 matrix products: fused multiply-add ('fma') or three bfloat16 values per f32 on AMX ('bf16x3'). 'auto' measures both when a run begins and selects the faster one; resumed runs and tests use the method of the run that saved the checkpoint.";
        activation_recompute: bool = false, Range::Any, "Use less memory at the cost of time: layers save only their input and recompute the rest for the backward pass. Results are identical.";
    }
    "Tasks" {
        loss_names: LossNames = LossNames { itm: 1.0, mlm: 1.0, ..LossNames::default() }, at_least(0.0), "Switches of the tasks, not factors of their losses: a value above 0 adds the head to the model, a value of at least 1 trains it.";
        is_pretrain: bool = true, Range::Any, "Pre-training: mask image patches and use the pre-training parameter groups.";
        use_mae: bool = false, Range::Any, "Compute the masked-autoencoding loss together with mlm.";
        mae_weight: f64 = 1.0, at_least(0.0), "Weight of the masked-autoencoding loss.";
        mask_ratio: f64 = 0.75, half_open(0.0, 1.0), "Fraction of the image patches that are masked in pre-training.";
        mlm_prob: f64 = 0.15, between(0.0, 1.0), "Fraction of the text tokens that are selected for masked language modelling.";
        whole_word_masking: bool = false, Range::Any, "Mask all WordPiece tokens of a word together.";
        get_recall_metric: bool = false, Range::Any, "Compute retrieval recalls in each validation and test, from the scores of all images with all captions.";
    }
    "Data" {
        data_root: String = String::new(), Range::Any, "Directory of the Arrow files.";
        datasets: Vec<String> = strings(&["coco", "vg", "sbu", "gcc"]), Range::OneOfOrName(&vlct_data::datasets::NAMES), "Datasets, concatenated in this order: published ones or custom ones. In data_root, a custom dataset NAME is the files NAME_train_0.arrow, … or a directory NAME of WebDataset tars.";
        fewer_shards: bool = false, Range::Any, "Accept datasets such as gcc and sbu with fewer numbered files than published or prepared.";
        honest_validation: bool = false, Range::Any, "Validate on data that is neither trained nor tested on: for coco and f30k the Karpathy validation split, for nlvr2 dev. If False, splits are those of the original, which selects checkpoints by test data.";
        val_fraction: f64 = 0.0, half_open(0.0, 1.0), "For custom datasets without validation files: fraction of the training rows that the run validates on and does not train on. The rows are the same for every seed.";
        vgqa: bool = false, Range::Any, "Add Visual Genome's questions, vgqa_train.arrow, to the training split of vqa.";
        vqa_test_split: String = "test".into(), Range::OneOf(&["test", "test-dev", "rest_val"]), "Questions of vqa that test_only=True answers: test, test-dev, or rest_val, the validation questions that are not trained on.";
        vqa_annotations: String = String::new(), Range::Any, "Annotation file of VQA, such as v2_mscoco_val2014_annotations.json: evaluations of vqa report the official accuracy of the questions that it contains.";
        vqa_answers: String = String::new(), Range::Any, "File with the answer of each id (coco_vqa_label_info.pkl, or JSON), for test_only=True with weights that do not contain the answers, if data_root has no training questions.";
        train_transform_keys: Vec<String> = strings(&["mae"]), Range::OneOf(TRANSFORMS), "Image transform of training.";
        val_transform_keys: Vec<String> = strings(&["mae"]), Range::OneOf(TRANSFORMS), "Image transform of validation and test.";
        image_size: usize = 384, between(1.0, 8192.0), "Side of the square input images, in pixels; with the pixelbert transforms their shorter side, while the longer side is at most 1333/800 times as long and both are multiples of size_divisor.";
        size_divisor: usize = 32, between(1.0, 8192.0), "The sides of images of the pixelbert transforms are multiples of this number of pixels. No effect with other transforms.";
        image_mean: Option<[f64; 3]> = None, Range::Any, "Mean of red, green and blue, where 1 is full brightness, which is subtracted from pixels; None means 0.5 with the pixelbert transforms and ImageNet's with others.";
        image_std: Option<[f64; 3]> = None, above(0.0), "Standard deviation of red, green and blue, where 1 is full brightness, by which the differences are divided; None means 0.5 with the pixelbert transforms and ImageNet's with others.";
        draw_false_image: u64 = 1, between(0.0, 1024.0), "Number of false images drawn per sample; itm needs at least 1.";
        draw_false_text: u64 = 0, between(0.0, 1024.0), "Number of false captions drawn per sample; irtr needs at least 1.";
        background: Option<Background> = None, Range::Any, "What is behind transparent pixels: 'keep' (alpha is dropped, and hidden colours become visible), 'white', 'black' or '#rrggbb'. None means what prepare recorded in the file; without a record 'white' for custom datasets and 'keep' for published ones.";
        orientation: Option<Orientation> = None, Range::Any, "Whether the EXIF orientation of images is applied: 'upright' or 'as_stored'. None means what prepare recorded in the file; without a record 'upright' for custom datasets and 'as_stored' for published ones.";
        image_only: bool = false, Range::Any, "Whether datasets have no text; no task supports this.";
        tokenizer: String = "bert-base-uncased".into(), Range::Any, "WordPiece tokeniser: bert-base-uncased or the path of a vocabulary. Text is lower-cased if the name contains 'uncased'.";
        max_text_len: usize = 40, between(2.0, 65536.0), "Maximum number of tokens of a caption or question, including CLS and SEP; longer texts are truncated.";
        num_workers: usize = 1, between(0.0, 4096.0), "Number of threads that prepare batches.";
    }
    "Model" {
        vit: String = VITS[0].into(), Range::OneOf(VITS), "Backbone: determines patch size, width, depth and heads of encoder and decoder, unless the keys below set them. vit_base_patch32_384 is that of ViLT, without a decoder and with a learned position table.";
        hidden_size: Option<usize> = None, between(4.0, 65536.0), "Width of the encoder; None means the backbone's. With another width, heads must be set, too.";
        depth: Option<usize> = None, between(1.0, 1024.0), "Number of blocks of the encoder; None means the backbone's.";
        heads: Option<usize> = None, between(1.0, 1024.0), "Number of attention heads of the encoder; None means the backbone's.";
        patch_size: Option<usize> = None, between(1.0, 1024.0), "Side of an image patch in pixels; None means the backbone's.";
        position_size: Option<usize> = None, between(1.0, 8192.0), "Side in pixels of the square for which a learned position table has a row per patch; it is interpolated to the patches of each image. None means the backbone's. No effect with the backbones of MAE, whose table is that of image_size.";
        layer_norm_eps: Option<f64> = None, Range::Numbers { low: 0.0, low_included: false, high: 1.0, high_included: false }, "Epsilon of the layer norms of the encoder; None means 1e-6. Models of Hugging Face have 1e-12.";
        text_layer_norm_eps: Option<f64> = None, Range::Numbers { low: 0.0, low_included: false, high: 1.0, high_included: false }, "Epsilon of the layer norms of the text embedding and of masked language modelling; None means 1e-12.";
        decoder_width: Option<usize> = None, between(4.0, 65536.0), "Width of the masked-autoencoding decoder; None means the backbone's.";
        decoder_depth: Option<usize> = None, between(1.0, 1024.0), "Number of blocks of the decoder; None means the backbone's.";
        decoder_heads: Option<usize> = None, between(1.0, 1024.0), "Number of attention heads of the decoder; None means the backbone's.";
        vocab_size: usize = 30522, between(104.0, 16777216.0), "Vocabulary size: rows of the word embedding and outputs of masked language modelling.";
        vqav2_label_size: usize = 3129, between(1.0, 16777216.0), "Number of answers of visual question answering with the published dataset vqa; other datasets have as many as their training split.";
        drop_rate: f64 = 0.1, half_open(0.0, 1.0), "Dropout probability of the text embedding; the model has no other dropout.";
        num_heads: usize = 12, Range::Any, "No effect: vit or heads sets the number of heads.";
        num_layers: usize = 12, Range::Any, "No effect: vit or depth sets the depth.";
        mlp_ratio: usize = 4, Range::Any, "No effect: the ratio is always 4.";
        max_image_len: i64 = -1, Range::Any, "Largest number of patches of an image that the encoder sees, as in the pre-training of ViLT: of a larger image, this many random ones. 0 and less mean all. No effect with the backbones of MAE.";
    }
    "Weights" {
        load_path: String = String::new(), Range::Any, "Weights to start from or to evaluate: a weight file, a checkpoint, a run directory, which means its best checkpoint, or hf-hub:ORG/NAME@REVISION (REVISION may be left out).";
        pretrain_path: String = String::new(), Range::Any, "MAE weights for the image backbone: a file, a directory, or hf-hub:ORG/NAME@REVISION (REVISION may be left out).";
        resume_from: Option<String> = None, Range::Any, "Run directory or checkpoint from which training continues, with optimiser state and position in the data.";
        load_ema: bool = false, Range::Any, "Whether to load the moving average of the weights from the checkpoint load_path instead of the weights.";
        load_heads: bool = false, Range::Any, "Whether training loads the VQA, NLVR2, label and retrieval heads of load_path; otherwise it initialises them.";
        load_partial: bool = false, Range::Any, "Whether training may start from a load_path or pretrain_path that has only a part of the tensors that the model needs; the others start at random. Otherwise such a file is an error.";
    }
    "Optimisation" {
        batch_size: u64 = 4096, between(1.0, 1e9), "Samples per optimiser step, accumulated over micro-batches.";
        per_gpu_batchsize: u64 = 0, between(0.0, 1e6), "Samples per micro-batch; must be set.";
        optim_type: String = "adamw".into(), Range::OneOf(&["adamw", "adam", "sgd"]), "Optimiser.";
        learning_rate: f64 = 1e-4, above(0.0), "Peak learning rate.";
        weight_decay: f64 = 0.01, at_least(0.0), "Weight decay of all parameters except biases and layer norms.";
        decay_power: DecayPower = DecayPower::Polynomial(1.0), at_least(0.0), "Learning-rate decay after the warm-up: power of a polynomial, or 'cosine'.";
        end_lr: f64 = 0.0, at_least(0.0), "Learning rate at the end of a polynomial decay.";
        warmup_steps: Warmup = Warmup::Steps(2500), Range::FractionOrCount { least: 0 }, "Length of the warm-up: an int is a number of optimiser steps, a float a fraction of all steps.";
        max_steps: Option<u64> = Some(25000), between(1.0, 1e15), "Number of optimiser steps of the run; None trains for max_epoch epochs.";
        max_epoch: u64 = 100, between(1.0, 1e9), "Number of epochs of the run; used only if max_steps is None.";
        clip_grad_norm: Option<f64> = None, at_least(0.0), "Largest L2 norm of all gradients of an optimiser step together; larger gradients are scaled down to it. None or 0 means no limit.";
        ema_decay: Option<f64> = None, half_open(0.0, 1.0), "Decay of the exponential moving average of all trained weights, such as 0.999; the checkpoints contain the average. None or 0 computes no average.";
        freeze_image_embedding: bool = false, Range::Any, "Do not train the projection of image patches and the class token.";
        freeze_text_embedding: bool = false, Range::Any, "Do not train the embedding of texts. With both embeddings, the table of token types is frozen too.";
        freeze_blocks: usize = 0, between(0.0, 1024.0), "Number of encoder blocks that are not trained, from the first. If both embeddings are frozen too, the backward pass ends above these blocks.";
        lr_mult: f64 = 1.0, at_least(0.0), "Learning-rate factor of the task heads; used only with is_pretrain or the backbone of ViLT.";
        layer_decay: f64 = 0.5, Range::Numbers { low: 0.0, low_included: false, high: 1.0, high_included: true }, "Learning-rate factor from each layer to the layer below; used only without is_pretrain.";
    }
    "Validation and checkpoints" {
        val_check_interval: ValCheckInterval = ValCheckInterval::Fraction(1.0), Range::FractionOrCount { least: 1 }, "Interval between validations: a float is a fraction of an epoch, an int a number of micro-batches.";
        check_val_every_n_epoch: u64 = 1, between(1.0, 1e9), "Validate in every N-th epoch only, as in PyTorch Lightning.";
        sanity_steps: u64 = 2, at_least(0.0), "Number of validation batches evaluated before training, as a check.";
        limit_val_batches: u64 = 0, at_least(0.0), "Maximum number of batches of a validation; 0 means all.";
        keep_checkpoints: u64 = 0, at_least(0.0), "Number of checkpoints to keep in addition to the last and the best one: those of the latest validations, as step_000123. 0 keeps none.";
        patience: u64 = 0, at_least(0.0), "End the run after this many successive validations without a new best value of val/the_metric; 0 means never.";
        ema_evaluation: bool = false, Range::Any, "Validate with the moving average of the weights instead of the weights, and save it as the best checkpoint.";
        recall_limit: usize = 0, at_least(0.0), "With get_recall_metric: number of images that each validation and test scores, the first ones of the split with their captions; 0 means all.";
        recall_rerank: usize = 0, at_least(0.0), "With get_recall_metric: two-stage retrieval. The exact score is computed only for this many candidates of each query, those with the best scores with a quarter of the image patches visible. The metrics are named recalls_two_stage; 0 computes the exact score of all pairs.";
        checkpoint_every: u64 = 0, at_least(0.0), "Optimiser steps between saves of the last checkpoint; 0 saves only after validations.";
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vlct_image::TransformKind;

    #[test]
    fn table_lists_all_transforms_and_only_known_backbones() {
        assert_eq!(
            TRANSFORMS.to_vec(),
            TransformKind::ALL.map(TransformKind::name).to_vec()
        );
        assert!(
            VITS.iter()
                .all(|vit| vlct_model::config::Backbone::from_name(vit).is_some())
        );
    }
}
