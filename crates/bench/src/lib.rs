//! Timing of steps on synthetic batches, for comparison with other implementations of the same model.

mod gemm;
mod score;
mod synthetic;

pub use gemm::{GemmResult, measure_gemm};
pub use score::{ScoreOptions, ScoreResult, ScoredModel, measure_scoring};
use serde::Serialize;
use std::time::{Duration, Instant};
use synthetic::Synthetic;
use vlct_data::random::{Purpose, stream};
use vlct_model::config::{Backbone, Heads};
use vlct_model::initialise::{initialise, initialise_vit};
use vlct_model::{Model, Vit, VitConfig, Vlc, VlcConfig};
use vlct_tasks::images::ImagesSpec;
use vlct_tasks::pretrain::PretrainSpec;
use vlct_tasks::vqa::VqaSpec;
use vlct_tasks::{Task, TaskSpec};
use vlct_tensor::optimizer::{Hyperparameters, Optimizer, Rule};
use vlct_tensor::profile::{self, Entry};
use vlct_tensor::{Compute, Gradients, Tape};
pub use vlct_tensor::{Device, Precision};
use vlct_text::MaskingConfig;
use vlct_train::memory;

/// The measured work. The model is the base model with the heads for masked language modelling and image-text matching; for `Vqa` and
/// `Infer` it also has the question-answering head. For `Imagenet` it is the image classifier of the base size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workload {
    /// A pre-training step with all losses: forward, backward, AdamW.
    Pretrain,
    /// A fine-tuning step of question answering, all patches visible: forward, backward, AdamW.
    Vqa,
    /// The forward pass of question answering, all patches visible.
    Infer,
    /// A fine-tuning step of an image classifier with 1,000 classes: forward, backward, AdamW.
    Imagenet,
}

impl Workload {
    /// Returns the name in results.
    pub fn name(self) -> &'static str {
        match self {
            Workload::Pretrain => "pretrain",
            Workload::Vqa => "vqa",
            Workload::Infer => "infer",
            Workload::Imagenet => "imagenet",
        }
    }
}

/// The options of [`measure`].
#[derive(Clone, Copy, Debug)]
pub struct BenchOptions {
    /// The measured work.
    pub workload: Workload,
    /// Side of the images in pixels.
    pub image_size: usize,
    /// Samples per step.
    pub batch: usize,
    /// The device.
    pub device: Device,
    /// Number format.
    pub precision: Precision,
    /// Whether to measure the time of each operation.
    pub profile: bool,
    /// Number of measured steps, in addition to one warm-up step.
    pub steps: usize,
}

/// The result of [`measure`], printed as one line of JSON. The keys are those of the PyTorch program used for comparison.
#[derive(Clone, Debug, Serialize)]
pub struct BenchResult {
    /// Name of the workload.
    pub task: &'static str,
    /// The measured program, always `vlct`.
    pub style: &'static str,
    /// Model of the device.
    pub device: &'static str,
    /// Number format.
    pub precision: &'static str,
    /// Side of the images in pixels.
    pub image_size: usize,
    /// Samples per step.
    pub batch: usize,
    /// Median time of a step.
    pub seconds_per_step: f64,
    /// `batch / seconds_per_step`.
    pub samples_per_second: f64,
    /// Peak resident memory of the process in MiB; on a GPU, the largest memory that was allocated on it.
    pub peak_mib: u64,
}

/// Fraction of masked patches, as in the published pre-training.
const MASK_RATIO: f64 = 0.6;

/// Number of answers, as in the published fine-tuning on VQAv2.
const ANSWERS: usize = 3129;

/// Number of classes of an image classifier, as in ImageNet-1K.
const CLASSES: usize = 1000;

/// The operations of the measured steps (see [`vlct_tensor::profile`]), displayed as a table.
pub struct Profile {
    /// The operations, sorted by time in descending order.
    pub entries: Vec<Entry>,
    /// Number of measured steps.
    pub steps: usize,
    /// Total time of the measured steps.
    pub total: Duration,
}

impl std::fmt::Display for Profile {
    /// Writes a header, one line per operation, one line for the rest of a step and one for the whole step. The columns are: calls and
    /// milliseconds per step, percentage of the time, mean number of busy cores, throughput of computation and of memory.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let steps = self.steps.max(1) as f64;
        let total = self.total.as_secs_f64().max(f64::MIN_POSITIVE);
        writeln!(
            f,
            "{:<44} {:>6} {:>9} {:>6} {:>6} {:>9} {:>7}",
            "operation", "calls", "ms", "%", "cores", "GFLOP/s", "GB/s"
        )?;
        let (mut profiled, mut core_seconds) = (0.0, 0.0);
        let format_cores = |core_seconds: f64, seconds: f64| match core_seconds {
            0.0 => String::new(),
            _ => format!("{:.2}", core_seconds / seconds.max(f64::MIN_POSITIVE)),
        };
        for e in &self.entries {
            let seconds = e.time.as_secs_f64();
            let entry_core_seconds = e.core_time.as_secs_f64();
            profiled += seconds;
            core_seconds += entry_core_seconds;
            let format_rate = |amount: f64, digits: usize| match amount {
                0.0 => String::new(),
                _ => format!("{:.digits$}", amount / seconds.max(f64::MIN_POSITIVE) / 1e9),
            };
            let (calls, share) = (e.calls as f64 / steps, 100.0 * seconds / total);
            let (ms, flops, bytes) = (1e3 * seconds / steps, format_rate(e.flops, 0), format_rate(e.bytes, 1));
            writeln!(
                f,
                "{:<44} {calls:>6.0} {ms:>9.2} {share:>6.1} {:>6} {flops:>9} {bytes:>7}",
                e.name,
                format_cores(entry_core_seconds, seconds)
            )?;
        }
        let (other, all) = (1e3 * (total - profiled) / steps, 1e3 * total / steps);
        writeln!(
            f,
            "{:<44} {:>6} {other:>9.2} {:>6.1}",
            "anything else",
            "",
            100.0 * (total - profiled) / total
        )?;
        let busy = format_cores(core_seconds, profiled);
        write!(f, "{:<44} {:>6} {all:>9.2} {:>6.1} {busy:>6}", "step", "", 100.0)
    }
}

/// Measures steps of the base model on synthetic batches. Captions have 9 to 18 tokens, as in MS-COCO; pre-training masks 15 % of them.
/// Training uses dropout, except that of image classifiers, which smooths labels by 0.1.
///
/// Also returns the profile of the measured steps if [`BenchOptions::profile`] is set.
pub fn measure(options: BenchOptions) -> (BenchResult, Option<Profile>) {
    let BenchOptions {
        workload,
        image_size,
        batch,
        device,
        precision,
        profile,
        steps,
    } = options;
    let mut model = match workload {
        Workload::Imagenet => base_classifier(image_size),
        Workload::Pretrain => base_model(image_size, None).into(),
        Workload::Vqa | Workload::Infer => base_model(image_size, Some(ANSWERS)).into(),
    };
    model.set_compute(Compute {
        precision,
        recompute: false,
        device,
        f32_products: device.fastest_f32_products(),
    });
    let spec = match workload {
        Workload::Pretrain => TaskSpec::Pretrain(PretrainSpec {
            mlm: true,
            mae: Some(1.0),
            itm: true,
            masking: MaskingConfig {
                whole_word: false,
                probability: 0.15,
                max_text_len: MAX_TEXT_LEN,
            },
            mask_ratio: Some(MASK_RATIO),
        }),
        Workload::Vqa | Workload::Infer => TaskSpec::Vqa(VqaSpec::default()),
        Workload::Imagenet => TaskSpec::Images(ImagesSpec {
            names: (0..CLASSES).map(|class| class.to_string()).collect(),
            smoothing: 0.1,
            mixup: None,
        }),
    };
    let task = spec
        .build(&model.config())
        .unwrap_or_else(|error| unreachable!("{error}"));
    let mut synthetic = match workload {
        Workload::Pretrain => Synthetic::pretrain(batch, image_size, model.config().vlc().patches()),
        Workload::Imagenet => Synthetic::imagenet(batch, image_size, CLASSES),
        Workload::Vqa | Workload::Infer => Synthetic::vqa(batch, image_size, workload == Workload::Vqa),
    };
    let times = match workload {
        Workload::Pretrain | Workload::Vqa => time_training_steps(model, Rule::AdamW, options, &*task, synthetic),
        Workload::Imagenet => time_training_steps(model, Rule::AdamWPyTorch, options, &*task, synthetic),
        Workload::Infer => time_calls(device, steps, profile, |step| {
            let tape = Tape::inference(model.compute());
            task.forward(&model, &tape, synthetic.batch_of_step(step, false));
        }),
    };
    let profile = profile.then(|| Profile {
        entries: profile::finish(),
        steps,
        total: Duration::from_secs_f64(times.iter().sum()),
    });
    let seconds = median(times);
    let result = BenchResult {
        task: workload.name(),
        style: "vlct",
        device: device.model(),
        precision: format_name(precision),
        image_size,
        batch,
        seconds_per_step: round(seconds, 4),
        samples_per_second: round(batch as f64 / seconds, 3),
        peak_mib: peak_memory(device) >> 20,
    };
    (result, profile)
}

/// Maximum number of tokens of a text, as published.
const MAX_TEXT_LEN: usize = 40;

fn base_classifier(image_size: usize) -> Model {
    let config = VitConfig::from_name("vit_base_patch16", image_size, CLASSES);
    let mut model = Vit::new(config.unwrap_or_else(|| unreachable!("a published name")));
    initialise_vit(&mut model, |i| stream(0, Purpose::Initialisation, 0, i));
    model.into()
}

fn base_model(image_size: usize, answers: Option<usize>) -> Vlc {
    let backbone = Backbone::from_name("mae_vit_base_patch16").unwrap_or_else(|| unreachable!("a published name"));
    let heads = Heads {
        mlm: true,
        itm: true,
        vqa: answers,
        ..Heads::default()
    };
    let mut model = Vlc::new(VlcConfig {
        image_size,
        backbone,
        vocab_size: 30522,
        max_text_len: MAX_TEXT_LEN,
        token_types: 2,
        variant: vlct_model::config::Variant::VLC,
        drop_rate: 0.1,
        heads,
    });
    initialise(&mut model, |i| stream(0, Purpose::Initialisation, 0, i));
    model
}

/// Returns the seconds of each training step.
fn time_training_steps(
    mut model: Model,
    rule: Rule,
    options: BenchOptions,
    task: &dyn Task,
    mut synthetic: Synthetic,
) -> Vec<f64> {
    let mut optimizer = Optimizer::new(rule, model.parameters());
    let mut gradients = Gradients::new(model.parameters());
    time_calls(options.device, options.steps, options.profile, |step| {
        let tape = Tape::new(model.compute());
        let outcome = task.forward(&model, &tape, synthetic.batch_of_step(step, true));
        tape.backward(outcome.total(), 1.0, &mut gradients);
        drop(outcome);
        optimizer.step(model.parameters_mut(), &gradients, None, |_| Hyperparameters {
            learning_rate: 1e-4,
            weight_decay: 0.01,
        });
        gradients.clear();
    })
}

/// Calls `step(0)` as a warm-up, then `step(1)` to `step(steps)`. Returns the seconds of each call after the warm-up. Profiles these
/// calls if `profile` is set.
fn time_calls(device: Device, steps: usize, profile: bool, mut step: impl FnMut(u64)) -> Vec<f64> {
    let mut time_once = |number| {
        let start = Instant::now();
        step(number);
        device.synchronize();
        start.elapsed().as_secs_f64()
    };
    time_once(0);
    if profile {
        profile::start();
    }
    (1..=steps as u64).map(time_once).collect()
}

/// Returns the largest memory in bytes that was used: that of the device if it has its own, else that of the process.
fn peak_memory(device: Device) -> u64 {
    device
        .own_memory()
        .map_or_else(memory::peak_resident, |memory| memory.peak)
}

/// Returns the name that a number format has in results.
fn format_name(precision: Precision) -> &'static str {
    match precision {
        Precision::F32 => "f32",
        Precision::Bf16 => "bf16",
    }
}

fn round(value: f64, digits: i32) -> f64 {
    (value * 10f64.powi(digits)).round() / 10f64.powi(digits)
}

/// Returns the median, which for an even number of values is the mean of the middle two; NaN if there are no values.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        n => (values[(n - 1) / 2] + values[n / 2]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_call_is_not_measured() {
        let mut calls = Vec::new();
        assert_eq!(time_calls(Device::cpu(), 3, false, |step| calls.push(step)).len(), 3);
        assert_eq!(calls, [0, 1, 2, 3]);
    }

    #[test]
    fn median_of_an_even_number_is_the_mean_of_the_middle_two() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(Vec::new()).is_nan());
    }
}
