//! `vlct imagenet`: fine-tuning of an image classifier, with the flags of MAE's script `main_finetune.py`.

mod evaluate;
mod start;
mod values;

use std::fmt::Write;
use std::path::{Path, PathBuf};

use clap::{Args, FromArgMatches};
use log::{info, warn};
use vlct_tasks::mixup::MixupMode;
use vlct_tensor::DeviceName;
use vlct_train::TrainError;
use vlct_train::imagenet::{Augmentation, HFLIP, MIN_CROP_AREA, Optimisation, Settings, Sizes};
use vlct_train::trainer::classifiers;
use vlct_train::trainer::{Control, Finished};

use crate::output::{Failure, print};
use crate::ranks::{Place, check_interruption, quiet_other_ranks};
use crate::references::optional_local_path;
use crate::shell::shell_word;
use crate::signals::Signals;
use start::Start;
use values::{
    parse_mixup_mode, parse_neighbours, parse_not_negative, parse_positive, parse_probability, parse_workers,
};

/// The model if there are no weights that determine its sizes, as in the script.
const DEFAULT_MODEL: &str = "vit_large_patch16";
/// Directory of a run without `--output_dir`, as in the script.
const DEFAULT_OUTPUT: &str = "./output_dir";
/// Side of the images in pixels, as in the script.
const DEFAULT_SIZE: usize = 224;

/// Fine-tune an image classifier on ImageNet-1K, or on any directory of classes
///
/// Takes the flags of MAE's main_finetune.py, which VLC uses for ImageNet, and with --linear_probe those of main_linprobe.py. The vision
/// part of a VLC checkpoint, of a MAE or of a classifier is loaded directly, and position tables are resized. DIR has train/CLASS and
/// val/CLASS, Arrow files of labels, or WebDataset tars with cls members.
#[derive(Args, Clone)]
#[command(
    args_override_self = true,
    after_help = "\
Examples:
  vlct imagenet --batch_size 32 --model vit_base_patch16 --finetune vlc_baseset.ckpt --epochs 100 --input_size 384 \\
      --blr 5e-4 --layer_decay 0.65 --weight_decay 0.05 --drop_path 0.1 --reprob 0.25 --mixup 0.8 --cutmix 1.0 \\
      --dist_eval --data_path IMAGENET --output_dir OUT
  vlct imagenet --data_path birds --val_fraction 0.1 --finetune mae.pth --model vit_base_patch16 --epochs 20
  vlct imagenet --resume OUT                               continue a run that was stopped, with the flags that it began with
  vlct imagenet --eval --finetune OUT --data_path IMAGENET
  vlct imagenet --eval ... --output_dir PREDICTIONS        also write the prediction for each image
  vlct imagenet --linear_probe --finetune vlc_baseset.ckpt --data_path IMAGENET --model vit_base_patch16 --output_dir PROBE
  vlct imagenet --knn --finetune vlc_baseset.ckpt --data_path birds --model vit_base_patch16"
)]
pub struct Imagenet {
    /// Samples per micro-batch
    #[arg(long = "batch_size", value_name = "N", default_value = "64", default_value_if("linear_probe", "true", "512"), value_parser = clap::value_parser!(u64).range(1..))]
    batch_size: u64,
    /// Number of epochs
    #[arg(long, value_name = "N", default_value = "50", default_value_if("linear_probe", "true", "90"), value_parser = clap::value_parser!(u64).range(1..))]
    epochs: u64,
    /// Micro-batches per optimiser step
    #[arg(long = "accum_iter", value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    accum_iter: u64,
    /// vit_base_patch16, vit_large_patch16 or vit_huge_patch14 [default: the sizes of the given weights; without weights,
    /// vit_large_patch16]
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// Side of the images in pixels [default: 224; with --eval, --knn and --linear_probe, that of the weights]
    #[arg(long = "input_size", value_name = "N")]
    input_size: Option<usize>,
    /// Largest probability that a sublayer is left out for an image
    #[arg(long = "drop_path", value_name = "P", default_value = "0.1", default_value_if("linear_probe", "true", "0"), value_parser = parse_probability)]
    drop_path: f64,
    /// Largest norm of the gradients [default: no limit]
    #[arg(long = "clip_grad", value_name = "NORM", value_parser = parse_positive)]
    clip_grad: Option<f64>,
    /// Weight decay
    #[arg(long = "weight_decay", value_name = "X", default_value = "0.05", default_value_if("linear_probe", "true", "0"), value_parser = parse_not_negative)]
    weight_decay: f64,
    /// Peak learning rate [default: that of --blr]
    #[arg(long, value_name = "LR", value_parser = parse_not_negative)]
    lr: Option<f64>,
    /// Peak learning rate for 256 samples per optimiser step
    #[arg(long, value_name = "LR", default_value = "0.001", default_value_if("linear_probe", "true", "0.1"), value_parser = parse_not_negative)]
    blr: f64,
    /// Ratio of a layer's learning rate to that of the layer above
    #[arg(long = "layer_decay", value_name = "X", default_value_t = 0.75, value_parser = parse_positive)]
    layer_decay: f64,
    /// Learning rate at the end
    #[arg(long = "min_lr", value_name = "LR", default_value = "0.000001", default_value_if("linear_probe", "true", "0"), value_parser = parse_not_negative)]
    min_lr: f64,
    /// Epochs of the warm-up
    #[arg(long = "warmup_epochs", value_name = "N", default_value = "5", default_value_if("linear_probe", "true", "10"), value_parser = parse_not_negative)]
    warmup_epochs: f64,
    /// Strength of colour jitter, only with an empty --aa
    #[arg(long = "color_jitter", value_name = "X", value_parser = parse_not_negative)]
    color_jitter: Option<f64>,
    /// Augmentation policy, as timm names it; empty for none
    #[arg(
        long,
        value_name = "POLICY",
        default_value = "rand-m9-mstd0.5-inc1",
        default_value_if("linear_probe", "true", "")
    )]
    aa: String,
    /// Smallest area of a random crop, as a fraction of the image
    #[arg(long = "min_crop_area", value_name = "X", default_value_t = MIN_CROP_AREA, value_parser = parse_probability)]
    min_crop_area: f64,
    /// Probability that an image is mirrored; 0 for images such as digits, whose mirror images have another meaning
    #[arg(long, value_name = "P", default_value_t = HFLIP, value_parser = parse_probability)]
    hflip: f64,
    /// Label smoothing
    #[arg(long, value_name = "X", default_value = "0.1", default_value_if("linear_probe", "true", "0"), value_parser = parse_probability)]
    smoothing: f64,
    /// Probability of random erasing
    #[arg(long, value_name = "P", default_value = "0.25", default_value_if("linear_probe", "true", "0"), value_parser = parse_probability)]
    reprob: f64,
    /// What fills erased boxes: pixel, rand or const
    #[arg(long, value_name = "MODE", default_value = "pixel")]
    remode: String,
    /// Largest number of erased boxes
    #[arg(long, value_name = "N", default_value_t = 1)]
    recount: u32,
    /// Accepted and without effect, as in the script
    #[arg(long)]
    resplit: bool,
    /// Alpha of mixup; 0 for none
    #[arg(long, value_name = "ALPHA", default_value_t = 0.0, value_parser = parse_not_negative)]
    mixup: f64,
    /// Alpha of CutMix; 0 for none
    #[arg(long, value_name = "ALPHA", default_value_t = 0.0, value_parser = parse_not_negative)]
    cutmix: f64,
    /// Smallest and largest side of the box of CutMix, as fractions; replaces its alpha
    #[arg(long = "cutmix_minmax", value_names = ["MIN", "MAX"], num_args = 2, value_parser = parse_probability)]
    cutmix_minmax: Option<Vec<f64>>,
    /// Probability of mixing
    #[arg(long = "mixup_prob", value_name = "P", default_value_t = 1.0, value_parser = parse_probability)]
    mixup_prob: f64,
    /// Probability of CutMix if both are possible
    #[arg(long = "mixup_switch_prob", value_name = "P", default_value_t = 0.5, value_parser = parse_probability)]
    mixup_switch_prob: f64,
    /// What is drawn once: batch, pair or elem
    #[arg(long = "mixup_mode", value_name = "MODE", default_value = "batch", value_parser = parse_mixup_mode)]
    mixup_mode: MixupMode,
    /// Weights to begin with: a checkpoint of VLC, MAE or a classifier, or hf-hub:ORG/NAME@REVISION
    #[arg(long, value_name = "FILE")]
    finetune: Option<PathBuf>,
    /// Train only a linear head, by LARS; changes the defaults of batch size (512), epochs (90), rates and augmentation to those of
    /// main_linprobe.py
    #[arg(long = "linear_probe")]
    linear_probe: bool,
    /// Print the accuracy of the K nearest neighbours on the features of --finetune, without training, and end
    #[arg(long, value_name = "K", num_args = 0..=1, require_equals = true, value_delimiter = ',',
        default_missing_value = "10,20,100,200", value_parser = parse_neighbours, conflicts_with_all = ["eval", "linear_probe", "resume"])]
    knn: Option<Vec<usize>>,
    /// The head reads the mean of the patches (default, except with --linear_probe and --knn; with --eval, as in training)
    #[arg(long = "global_pool", overrides_with = "cls_token")]
    global_pool: bool,
    /// The head reads the class token (default with --linear_probe and --knn, except for classifiers that read the mean)
    #[arg(long = "cls_token", overrides_with = "global_pool")]
    cls_token: bool,
    /// Directory of the images [default: with --resume, that of the run]
    #[arg(long = "data_path", value_name = "DIR", required_unless_present = "resume")]
    data_path: Option<PathBuf>,
    /// Part of the training images that is held out if there are no validation images
    #[arg(long = "val_fraction", value_name = "X", default_value_t = 0.0, value_parser = parse_probability)]
    val_fraction: f64,
    /// Number of classes; must be that of the images
    #[arg(long = "nb_classes", value_name = "N")]
    nb_classes: Option<usize>,
    /// Directory of checkpoints and logs; with --eval, of predictions.csv and confusion.csv [default: ./output_dir; with --resume RUN, that
    /// run; with --eval, none]
    #[arg(long = "output_dir", value_name = "DIR")]
    output_dir: Option<PathBuf>,
    /// Seed of all random decisions
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Run to continue: its directory, or a file checkpoint-EPOCH.pth of this program or of the script. Flags that are not given are those
    /// that the run began with
    #[arg(long, value_name = "PATH")]
    resume: Option<String>,
    /// First epoch, if the file of --resume has no optimiser
    #[arg(long = "start_epoch", value_name = "N", default_value_t = 0)]
    start_epoch: u64,
    /// Evaluate the weights of --finetune, or of --resume, on the validation images and end
    #[arg(long)]
    eval: bool,
    /// Threads that prepare images
    #[arg(long = "num_workers", value_name = "N", default_value_t = 10, value_parser = parse_workers)]
    num_workers: usize,
    /// Keep only the files checkpoint-EPOCH.pth of the last N epochs [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    keep: Option<u64>,
    /// Side of a patch, if it is not that of --model
    #[arg(long = "patch_size", value_name = "N")]
    patch_size: Option<usize>,
    /// Width of the model, if it is not that of --model
    #[arg(long, value_name = "N")]
    width: Option<usize>,
    /// Number of blocks, if it is not that of --model
    #[arg(long, value_name = "N")]
    depth: Option<usize>,
    /// Number of attention heads, if it is not that of --model
    #[arg(long, value_name = "N")]
    heads: Option<usize>,
    /// Decay of a moving average of the weights, which validations then use
    #[arg(long = "ema_decay", value_name = "X", value_parser = parse_probability)]
    ema_decay: Option<f64>,
    /// Where to compute: auto (a GPU if there is one, else the CPU), cpu, cuda, or cuda:N for the GPU with this number, from 0
    #[arg(long, value_name = "D", default_value_t)]
    device: DeviceName,
    /// Number of GPUs of each machine, with a process for each; -1 for all. With --device cpu, number of processes on the CPU
    /// [default: 1, or as torchrun, srun or mpirun has started the processes]
    #[arg(long = "num_gpus", value_name = "N")]
    num_gpus: Option<i64>,
    /// Number of machines, on each of which the command is started with NODE_RANK, MASTER_ADDR and MASTER_PORT set
    #[arg(long = "num_nodes", value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    num_nodes: u64,
    #[command(flatten)]
    without_effect: WithoutEffect,
}

/// Flags of the script that this program does not need: the variables of torchrun, srun and mpirun say the same.
#[derive(Args, Clone)]
#[command(next_help_heading = "Accepted and without effect")]
struct WithoutEffect {
    /// Validation on several processes
    #[arg(long = "dist_eval")]
    dist_eval: bool,
    /// Pinned memory
    #[arg(long = "pin_mem")]
    pin_mem: bool,
    /// No pinned memory
    #[arg(long = "no_pin_mem")]
    no_pin_mem: bool,
    /// Number of processes
    #[arg(long = "world_size", value_name = "N")]
    world_size: Option<u64>,
    /// Index of the process
    #[arg(long = "local_rank", value_name = "N", allow_hyphen_values = true)]
    local_rank: Option<i64>,
    /// Processes of MPI
    #[arg(long = "dist_on_itp")]
    dist_on_itp: bool,
    /// Address of the processes
    #[arg(long = "dist_url", value_name = "URL")]
    dist_url: Option<String>,
    /// Directory of TensorBoard, which is the output directory
    #[arg(long = "log_dir", value_name = "DIR")]
    log_dir: Option<PathBuf>,
}

impl WithoutEffect {
    /// Returns the names of the flags that were given and change nothing.
    fn given(&self) -> Vec<&'static str> {
        let flags = [
            (self.dist_eval, "--dist_eval"),
            (self.pin_mem, "--pin_mem"),
            (self.no_pin_mem, "--no_pin_mem"),
            (self.world_size.is_some_and(|size| size != 1), "--world_size"),
            (self.local_rank.is_some_and(|rank| rank > 0), "--local_rank"),
            (self.dist_on_itp, "--dist_on_itp"),
            (self.dist_url.is_some(), "--dist_url"),
            (self.log_dir.is_some(), "--log_dir"),
        ];
        flags
            .into_iter()
            .filter_map(|(is_given, name)| is_given.then_some(name))
            .collect()
    }
}

/// Runs the command. `is_given` says whether a flag is on the command line.
pub fn run(args: &Imagenet, is_given: &dyn Fn(&str) -> bool) -> Result<(), Failure> {
    quiet_other_ranks();
    let args = &args.with_local_paths()?;
    // Ctrl-C ends a download at once.
    let signals = Signals::listen()?;
    let ignored = args.without_effect.given();
    if !ignored.is_empty() {
        warn!("without effect: {}", ignored.join(", "));
    }
    // Starts the threads, which reading weights and listing images use, too.
    let place = Place::find_by_flags(args.num_gpus, args.num_nodes, args.device)?;
    let Start {
        settings,
        splits,
        resumed,
    } = Start::new(args, &place, is_given)?;
    let mut spec = settings.run_spec(splits.train.class_names().to_vec())?;
    if args.eval {
        return evaluate::evaluate(args, spec, splits, place, &signals);
    }
    if let Some(ks) = &args.knn {
        if place.ranks() > 1 {
            return Err(Failure::Usage(
                "--knn computes in one process: leave out --num_gpus and --num_nodes, and start one process".into(),
            ));
        }
        return evaluate::neighbours(args, &spec, splits, ks, &signals);
    }
    let out = start::output_directory(args, resumed.as_deref())?;
    start::check_training(&settings, &splits, &out, args.resume.is_some())?;
    spec.weights.resume_from = args.resume.clone();
    info!("learning rate {:.2e}", settings.learning_rate());
    let announcement = signals.announce();
    let ranks = place.join(&signals)?;
    let is_first = ranks.is_first();
    let control = Control {
        stop: signals.stop_flag(),
        progress: is_first,
        run_directory: Some(out.clone()),
        device: None,
    };
    let result = classifiers::train_rank(spec, splits, &control, ranks.collectives());
    announcement.make();
    let failure = |error: &TrainError| start::failure(error, args.resume.as_deref(), resumed.as_deref());
    let finished = ranks.finish(result, failure)?;
    if is_first {
        print(&summary(&finished, &out))?;
    }
    check_interruption(&finished, &signals)
}

/// Describes the result of a run.
fn summary(finished: &Finished, out: &Path) -> String {
    let out = shell_word(out.display());
    let continuation = format!("continue: vlct imagenet --resume {out}");
    let Some((_, step)) = finished.best else {
        let continuation = if finished.interrupted {
            format!("{continuation}\n")
        } else {
            String::new()
        };
        return format!("the run ended before its first validation\n{continuation}");
    };
    let mut text = format!("best checkpoint: step {step}\n");
    // The metrics are not known if the best validation was before the run was resumed.
    for (name, label) in [
        ("images/val/accuracy_epoch", "accuracy"),
        ("images/val/top5_epoch", "among the five most probable classes"),
    ] {
        if let Some((_, value)) = finished.best_metrics.iter().find(|(key, _)| key == name) {
            let _ = writeln!(text, "  {label}: {:.2} %", 100.0 * value);
        }
    }
    let _ = match finished.interrupted {
        true => writeln!(text, "{continuation}"),
        false => writeln!(
            text,
            "try it:\n  vlct predict classify --load {out} IMAGE\n  vlct report {out}"
        ),
    };
    text
}

/// Returns the settings of a run without options.
///
/// # Errors
/// Returns an error if an option of the command has become required.
pub fn default_settings() -> Result<Settings, clap::Error> {
    let command = Imagenet::augment_args(clap::Command::new("imagenet"));
    let matches = command.try_get_matches_from(["imagenet", "--data_path", "."])?;
    Ok(Imagenet::from_arg_matches(&matches)?.settings())
}

impl Imagenet {
    /// Returns the arguments with local paths instead of references.
    fn with_local_paths(&self) -> Result<Self, Failure> {
        let mut args = self.clone();
        args.finetune = optional_local_path(self.finetune.as_ref())?;
        let resume = optional_local_path(self.resume.as_ref().map(PathBuf::from).as_ref())?;
        args.resume = resume.map(|path| path.display().to_string());
        Ok(args)
    }

    /// Returns the weights or the run that the command begins with.
    fn weights(&self) -> Option<PathBuf> {
        self.resume.clone().map(PathBuf::from).or_else(|| self.finetune.clone())
    }

    /// Returns the settings of the run.
    fn settings(&self) -> Settings {
        let minmax = self.cutmix_minmax.as_deref();
        Settings {
            batch_size: self.batch_size,
            epochs: self.epochs,
            start_epoch: self.start_epoch,
            accum_iter: self.accum_iter,
            ranks: 1,
            model: self.model.clone().unwrap_or_else(|| DEFAULT_MODEL.into()),
            sizes: Sizes {
                patch_size: self.patch_size,
                width: self.width,
                depth: self.depth,
                heads: self.heads,
                layer_norm_eps: None,
            },
            input_size: self.input_size.unwrap_or(DEFAULT_SIZE),
            linear_probe: self.linear_probe,
            drop_path: self.drop_path,
            global_pool: match self.linear_probe || self.knn.is_some() {
                true => self.global_pool,
                false => !self.cls_token,
            },
            finetune: self.finetune.clone(),
            data_path: self.data_path.clone().unwrap_or_default(),
            val_fraction: self.val_fraction,
            device: self.device,
            seed: self.seed,
            num_workers: self.num_workers,
            keep: self.keep,
            optimisation: Optimisation {
                clip_grad: self.clip_grad,
                weight_decay: self.weight_decay,
                lr: self.lr,
                blr: self.blr,
                layer_decay: self.layer_decay,
                min_lr: self.min_lr,
                warmup_epochs: self.warmup_epochs,
                ema_decay: self.ema_decay,
            },
            augmentation: Augmentation {
                color_jitter: self.color_jitter,
                aa: self.aa.clone(),
                min_crop_area: self.min_crop_area,
                hflip: self.hflip,
                smoothing: self.smoothing,
                reprob: self.reprob,
                remode: self.remode.clone(),
                recount: self.recount,
                mixup: self.mixup,
                cutmix: self.cutmix,
                cutmix_minmax: minmax.and_then(|values| Some([*values.first()?, *values.get(1)?])),
                mixup_prob: self.mixup_prob,
                mixup_switch_prob: self.mixup_switch_prob,
                mixup_mode: self.mixup_mode,
            },
        }
    }
}
