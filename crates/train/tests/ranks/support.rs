//! Synthetic data, runs on several ranks, and the comparison of their results.

#![allow(dead_code, reason = "each test program uses some of these functions")]

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;
use tempfile::TempDir;
use vlct_config::{Config, resolve};
use vlct_synthetic::{self as synthetic, SyntheticConfig};
use vlct_tasks::mixup::MixupMode;
use vlct_tensor::collectives::{self, Single};
use vlct_tensor::{CollectiveError, Collectives, Device, DeviceName, Tensor};
use vlct_train::Result;
use vlct_train::imagenet::{Augmentation, Optimisation, Settings, Sizes};
use vlct_train::trainer::{Control, Finished, Threads, run_rank, use_threads};

/// Numbers of ranks that are compared.
pub const RANKS: [usize; 3] = [1, 2, 4];

/// Largest relative difference of losses between numbers of ranks.
pub const TOLERANCE: f64 = 1e-5;

/// Returns the directory of the synthetic datasets: 28 captioned images for training and 12 for validation, 16 with questions, and classes.
pub fn data() -> &'static Path {
    static DATA: OnceLock<TempDir> = OnceLock::new();
    let directory = DATA.get_or_init(|| {
        // Rendering starts the compute threads, too, and a process starts them only once.
        use_threads(Threads::default()).expect("threads");
        let directory = tempfile::tempdir().expect("a directory");
        let config = SyntheticConfig {
            side: 32,
            train: 24,
            restval: 4,
            val: 12,
            test: 12,
            vqa_train: 16,
            vqa_val: 14,
            vqa_test: 5,
            nlvr2_train: 0,
            labels_train: 0,
            class_train: 70,
            class_val: 26,
            ..SyntheticConfig::default()
        };
        synthetic::write(directory.path(), &config, &mut |_, _| ()).expect("synthetic datasets");
        directory
    });
    directory.path()
}

/// Returns the configuration of a tiny model in f32, whose optimiser steps have 4 micro-batches of 4 samples.
pub fn config(named: &str, words: &[&str]) -> Config {
    let data = data().display();
    let fixed = [
        named.to_string(),
        format!("data_root={data}"),
        format!("tokenizer={data}/vocab.txt"),
    ];
    let tiny = [
        "vocab_size=128",
        "max_text_len=24",
        "image_size=32",
        "patch_size=8",
        "hidden_size=32",
        "depth=2",
        "heads=2",
        "decoder_width=16",
        "decoder_depth=1",
        "decoder_heads=2",
        "batch_size=16",
        "per_gpu_batchsize=4",
        "precision=32",
        "f32_products=fma",
        "sanity_steps=1",
        "log_every=1",
    ];
    let words = fixed
        .iter()
        .map(String::as_str)
        .chain(tiny)
        .chain(words.iter().copied());
    resolve(&words.collect::<Vec<_>>()).expect("a configuration").config
}

/// Returns the settings of a tiny image classifier: fine-tuning with drop path, mixed and augmented images, or linear probing.
pub fn classifier_settings(linear_probe: bool) -> Settings {
    Settings {
        batch_size: 4,
        epochs: 3,
        start_epoch: 0,
        accum_iter: 4,
        ranks: 1,
        model: "vit_base_patch16".into(),
        sizes: Sizes {
            patch_size: Some(8),
            width: Some(16),
            depth: Some(2),
            heads: Some(2),
            layer_norm_eps: None,
        },
        input_size: 32,
        linear_probe,
        drop_path: if linear_probe { 0.0 } else { 0.2 },
        global_pool: !linear_probe,
        finetune: None,
        data_path: data().join("classes"),
        val_fraction: 0.0,
        device: DeviceName::Cpu,
        seed: 0,
        num_workers: 2,
        keep: Some(1),
        optimisation: Optimisation {
            clip_grad: None,
            weight_decay: if linear_probe { 0.0 } else { 0.05 },
            lr: Some(3e-3),
            blr: 1e-3,
            layer_decay: 0.75,
            min_lr: 1e-6,
            warmup_epochs: 1.0,
            ema_decay: None,
        },
        augmentation: Augmentation {
            color_jitter: None,
            aa: if linear_probe {
                String::new()
            } else {
                "rand-m9-mstd0.5-inc1".into()
            },
            min_crop_area: 0.08,
            hflip: 0.5,
            smoothing: if linear_probe { 0.0 } else { 0.1 },
            reprob: if linear_probe { 0.0 } else { 0.25 },
            remode: "pixel".into(),
            recount: 1,
            mixup: if linear_probe { 0.0 } else { 0.8 },
            cutmix: if linear_probe { 0.0 } else { 1.0 },
            cutmix_minmax: None,
            mixup_prob: 1.0,
            mixup_switch_prob: 0.5,
            mixup_mode: MixupMode::Batch,
        },
    }
}

/// Runs `work` on each of `ranks` ranks, with the rank and a stop flag of its own, and returns the results in the order of ranks.
pub fn on_ranks<T: Send>(
    ranks: usize,
    work: &(dyn Fn(&dyn Collectives, &AtomicBool) -> Result<T> + Sync),
) -> Vec<Result<T>> {
    if ranks == 1 {
        return vec![work(&Single, &AtomicBool::new(false))];
    }
    std::thread::scope(|scope| {
        let threads: Vec<_> = collectives::Threads::new(ranks, Device::cpu())
            .into_iter()
            .map(|rank| scope.spawn(move || work(&rank, &AtomicBool::new(false))))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("no panic"))
            .collect()
    })
}

/// Runs a configuration on several ranks, with the run directory `run`. Returns the result of rank 0.
///
/// # Panics
/// Panics if a rank fails, or the results of the ranks differ.
pub fn run(config: &Config, ranks: usize, run: &Path) -> Finished {
    let results = on_ranks(ranks, &|collectives, stop| {
        run_rank(config, &control(stop, collectives, run), collectives)
    });
    let mut results: Vec<Finished> = results.into_iter().map(|result| result.expect("a run")).collect();
    for (rank, other) in results.iter().enumerate() {
        assert_eq!(other.metrics, results[0].metrics, "rank {rank}");
        assert_eq!(
            (other.steps, other.best),
            (results[0].steps, results[0].best),
            "rank {rank}"
        );
        assert_eq!(other.run.is_some(), rank == 0, "only rank 0 has a run directory");
    }
    results.swap_remove(0)
}

/// Only rank 0 gets a run directory.
pub fn control<'a>(stop: &'a AtomicBool, collectives: &dyn Collectives, run: &Path) -> Control<'a> {
    Control {
        stop,
        progress: false,
        run_directory: (collectives.rank() == 0).then(|| run.to_path_buf()),
        device: None,
    }
}

/// A rank that sets its stop flag, or fails, in its gradient sum of step `step`.
pub struct Disturbed<'a> {
    pub collectives: &'a dyn Collectives,
    pub step: usize,
    /// Whether the rank fails; otherwise it sets `stop`.
    pub fails: bool,
    pub stop: &'a AtomicBool,
    pub sums: Cell<usize>,
}

impl<'a> Disturbed<'a> {
    pub fn new(collectives: &'a dyn Collectives, step: usize, fails: bool, stop: &'a AtomicBool) -> Self {
        Self {
            collectives,
            step,
            fails,
            stop,
            sums: Cell::new(0),
        }
    }
}

impl Collectives for Disturbed<'_> {
    fn rank(&self) -> usize {
        self.collectives.rank()
    }

    fn ranks(&self) -> usize {
        self.collectives.ranks()
    }

    fn sum(&self, tensors: &mut [&mut Tensor]) -> std::result::Result<(), CollectiveError> {
        self.sums.set(self.sums.get() + 1);
        if self.sums.get() == self.step {
            if self.fails {
                return Err(CollectiveError::Failed {
                    rank: self.rank(),
                    message: "the cable is unplugged".into(),
                });
            }
            self.stop.store(true, Ordering::Relaxed);
        }
        self.collectives.sum(tensors)
    }

    fn broadcast(&self, tensors: &mut [&mut Tensor]) -> std::result::Result<(), CollectiveError> {
        self.collectives.broadcast(tensors)
    }

    fn all_gather(&self, bytes: Vec<u8>) -> std::result::Result<Vec<Vec<u8>>, CollectiveError> {
        self.collectives.all_gather(bytes)
    }

    fn fail(&self, message: &str) {
        self.collectives.fail(message);
    }
}

/// Returns the records of `metrics.jsonl` without the time.
pub fn records(run: &Path) -> Vec<Value> {
    json_lines(&run.join("metrics.jsonl"))
}

/// Returns the values of a file of JSON lines.
pub fn json_lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    text.lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect()
}

/// Compares records: the same keys; counts and fractions of items are equal, and other numbers differ by at most [`TOLERANCE`], relatively.
/// Returns the largest relative difference.
pub fn assert_same(what: &str, got: &[Value], want: &[Value]) -> f64 {
    assert_eq!(got.len(), want.len(), "{what}: number of records");
    let (mut largest, mut losses): (f64, usize) = (0.0, 0);
    for (number, (got, want)) in got.iter().zip(want).enumerate() {
        let (got, want) = (
            got.as_object().expect("an object"),
            want.as_object().expect("an object"),
        );
        let names = |record: &serde_json::Map<String, Value>| record.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(got), names(want), "{what}: record {number}");
        for (name, want) in want
            .iter()
            .filter(|(name, _)| !["time", "seconds"].contains(&name.as_str()))
        {
            let is_rounded = name.contains("loss") || name.contains("norm") || name.contains("the_metric");
            let case = format!("{what}: {name} of record {number}");
            match (is_rounded, got[name].as_f64(), want.as_f64()) {
                (true, Some(got), Some(want)) => {
                    let difference = (got - want).abs() / want.abs().max(1e-3);
                    assert!(difference <= TOLERANCE, "{case}: {got} instead of {want}");
                    largest = largest.max(difference);
                    losses += 1;
                }
                _ => assert_eq!(&got[name], want, "{case}"),
            }
        }
    }
    assert!(
        losses >= got.len(),
        "{what}: only {losses} losses in {} records",
        got.len()
    );
    largest
}

/// Compares the weights, moments and averages of two checkpoints. Returns the largest difference, relative to the largest value of its
/// tensor.
pub fn assert_same_checkpoints(what: &str, got: &Path, want: &Path) -> f32 {
    let load = |run: &Path| vlct_checkpoint::load(&vlct_checkpoint::last_path(run)).expect("a checkpoint");
    let (got, want) = (load(got), load(want));
    assert!(got.names().eq(want.names()), "{what}");
    let mut largest: f32 = 0.0;
    for name in want.names() {
        let values = |file: &vlct_checkpoint::Checkpoint| {
            let mut values = file.values(name).expect("values");
            if name.ends_with("attn.qkv.bias") {
                // Softmax does not depend on the biases of keys. Their gradients are rounding errors, which AdamW scales to whole steps.
                let width = values.len() / 3;
                values[width..2 * width].fill(0.0);
            }
            values
        };
        let (got, want) = (values(&got), values(&want));
        let scale = want.iter().fold(1e-6, |scale: f32, value| scale.max(value.abs()));
        let differences = got.iter().zip(&want).map(|(got, want)| (got - want).abs() / scale);
        let difference = differences.fold(0.0, f32::max);
        assert!(difference < 1e-4, "{what}: {name} differs by {difference}");
        largest = largest.max(difference);
    }
    largest
}

/// Returns the path of a run in `directory` for this number of ranks.
pub fn run_of(directory: &TempDir, ranks: usize) -> PathBuf {
    directory.path().join(format!("ranks-{ranks}"))
}
