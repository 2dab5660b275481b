//! Timing of steps on made-up batches, for comparison with other implementations of the same model.

use crate::objectives::{Matching, Modelling, Objectives, PretrainStep};
use rand::RngExt;
use serde::Serialize;
use std::time::Instant;
use vlct_data::random::{Purpose, stream};
use vlct_model::config::{Backbone, Heads};
use vlct_model::initialise::initialise;
use vlct_model::{PatchMask, Vlc, VlcConfig};
use vlct_tensor::optimizer::{Optimizer, Rule, Setting};
use vlct_tensor::{Gradients, Tape};

/// What to time.
#[derive(Clone, Copy, Debug)]
pub struct BenchOptions {
    /// Side of the pictures in pixels.
    pub image_size: usize,
    /// Samples of a step.
    pub batch: usize,
    /// Timed steps, after one that is not.
    pub steps: usize,
}

/// One line of result, with the keys of the PyTorch program that it is compared with.
#[derive(Clone, Debug, Serialize)]
pub struct BenchResult {
    /// What was timed.
    pub task: &'static str,
    /// Which program.
    pub style: &'static str,
    /// Number format.
    pub precision: &'static str,
    /// Side of the pictures in pixels.
    pub image_size: usize,
    /// Samples of a step.
    pub batch: usize,
    /// Median time of a step.
    pub seconds_per_step: f64,
    /// Samples divided by that.
    pub samples_per_second: f64,
    /// Largest resident size of the process.
    pub peak_mib: u64,
}

/// Hidden part of the patches, as in the published recipe.
const MASK_RATIO: f64 = 0.6;

/// Times pre-training steps of the base model: forward, backward, AdamW. Captions have 9 to 18 tokens, as in MS-COCO, of
/// which 15 % are masked; all parts of the objective are on, with dropout.
pub fn pretrain(options: BenchOptions) -> BenchResult {
    let BenchOptions {
        image_size,
        batch,
        steps,
    } = options;
    let backbone = Backbone::named("mae_vit_base_patch16").unwrap_or_else(|| unreachable!("a published name"));
    let heads = Heads {
        mlm: true,
        itm: true,
        ..Heads::default()
    };
    let config = VlcConfig {
        image_size,
        backbone,
        vocab_size: 30522,
        max_text_len: 40,
        token_types: 2,
        drop_rate: 0.1,
        heads,
    };
    let mut model = Vlc::new(config);
    initialise(&mut model, |i| stream(0, Purpose::Initialisation, 0, i));
    let mut optimizer = Optimizer::new(Rule::AdamW, model.parameters());
    let mut gradients = Gradients::new(model.parameters());

    let made = MadeUp::new(batch, image_size);
    let objectives = Objectives {
        mlm: true,
        mae: Some(1.0),
        itm: true,
    };
    let mut times: Vec<f64> = (0..=steps as u64)
        .map(|step| {
            let start = Instant::now();
            let tape = Tape::new();
            let outcome = made.step(step, model.config().patches()).run(&model, &tape, objectives);
            gradients.clear();
            tape.backward(&outcome.total, 1.0, &mut gradients);
            drop(outcome);
            optimizer.step(model.parameters_mut(), &gradients, |_| Setting {
                learning_rate: 1e-4,
                weight_decay: 0.01,
            });
            start.elapsed().as_secs_f64()
        })
        .skip(1)
        .collect();
    times.sort_by(f64::total_cmp);
    let n = times.len();
    let seconds = if n == 0 {
        f64::NAN
    } else {
        (times[(n - 1) / 2] + times[n / 2]) / 2.0
    };
    let round = |value: f64, digits: i32| (value * 10f64.powi(digits)).round() / 10f64.powi(digits);
    BenchResult {
        task: "pretrain",
        style: "vlct",
        precision: "f32",
        image_size,
        batch,
        seconds_per_step: round(seconds, 4),
        samples_per_second: round(batch as f64 / seconds, 3),
        peak_mib: peak_resident_mib(),
    }
}

/// A made-up batch.
struct MadeUp {
    texts: Vec<Vec<u32>>,
    masked: Vec<Vec<u32>>,
    labels: Vec<Vec<Option<u32>>>,
    pictures: Vec<Vec<f32>>,
    others: Vec<Vec<f32>>,
}

impl MadeUp {
    fn new(batch: usize, image_size: usize) -> Self {
        let random = &mut stream(0, Purpose::World, 0, 0);
        let mut noise = |n: usize| -> Vec<f32> { (0..n).map(|_| random.random_range(-1.7..1.7)).collect() };
        let (pictures, others) = (0..batch)
            .map(|_| (noise(3 * image_size * image_size), noise(3 * image_size * image_size)))
            .unzip();
        let random = &mut stream(0, Purpose::World, 0, 1);
        let texts: Vec<Vec<u32>> = (0..batch)
            .map(|_| {
                (0..random.random_range(9..19))
                    .map(|_| random.random_range(1000..30000))
                    .collect()
            })
            .collect();
        let chosen: Vec<Vec<bool>> = texts
            .iter()
            .map(|t| (0..t.len()).map(|i| i == 1 || random.random_bool(0.15)).collect())
            .collect();
        let pick = |f: &dyn Fn(u32, bool) -> u32| -> Vec<Vec<u32>> {
            texts
                .iter()
                .zip(&chosen)
                .map(|(t, c)| t.iter().zip(c).map(|(id, c)| f(*id, *c)).collect())
                .collect()
        };
        Self {
            masked: pick(&|id, chosen| if chosen { 103 } else { id }),
            labels: texts
                .iter()
                .zip(&chosen)
                .map(|(t, c)| t.iter().zip(c).map(|(id, c)| c.then_some(*id)).collect())
                .collect(),
            texts,
            pictures,
            others,
        }
    }

    fn step(&self, step: u64, patches: usize) -> PretrainStep<'_> {
        let n = self.texts.len();
        let masks = |purpose| -> Option<Vec<PatchMask>> {
            let mask = |i| {
                let random = &mut stream(0, purpose, step, i as u64);
                PatchMask::from_noise(&(0..patches).map(|_| random.random()).collect::<Vec<f32>>(), MASK_RATIO)
            };
            Some((0..n).map(mask).collect())
        };
        let matched: Vec<bool> = (0..n).map(|i| i < n / 2).collect();
        let pictures = |i: usize| {
            if matched[i] {
                self.pictures[i].as_slice()
            } else {
                self.others[i].as_slice()
            }
        };
        PretrainStep {
            modelling: Some(Modelling {
                texts: self.masked.iter().map(Vec::as_slice).collect(),
                labels: self.labels.iter().map(Vec::as_slice).collect(),
                pictures: self.pictures.iter().map(Vec::as_slice).collect(),
                masks: masks(Purpose::PatchMaskMlm),
            }),
            matching: Some(Matching {
                texts: self.texts.iter().map(Vec::as_slice).collect(),
                pictures: (0..n).map(pictures).collect(),
                matched: matched.clone(),
                masks: masks(Purpose::PatchMaskItm),
            }),
            dropout: Some([0, Purpose::Dropout as u64, step, 0]),
        }
    }
}

/// Largest resident size of this process so far in MiB; 0 where the system does not tell.
pub fn peak_resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status
        .lines()
        .find_map(|l| l.strip_prefix("VmHWM:"))
        .unwrap_or_default();
    line.split_whitespace()
        .next()
        .and_then(|kib| kib.parse::<u64>().ok())
        .unwrap_or(0)
        / 1024
}
