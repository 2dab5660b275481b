//! The command line: commands, options and their help.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use vlct_image::augment::{Erasing, ErasingMode};
use vlct_image::{ClassificationAugment, ColourAugment, ImageError, TransformKind, TransformSpec};
use vlct_tensor::DeviceName;

use crate::bench_answer::BenchAnswer;
use crate::check_images::CheckImages;
use crate::convert::Convert;
use crate::imagenet::Imagenet;
use crate::map_vg_mscoco::MapVgMscoco;
use crate::predict::Predict;
use crate::prepare::Prepare;
use crate::prepare::valid_vgqa::WriteValidVgqa;
use crate::self_test::SelfTest;
use crate::values::{PrecisionName, parse_count, parse_threads};

/// Vision-language training from image-caption pairs alone.
///
/// Pre-trains, fine-tunes and evaluates VLC, one transformer over words and image patches (arXiv 2205.09256). Reads and writes
/// PyTorch's files; needs neither Python nor a GPU, and uses an NVIDIA GPU if there is one.
#[derive(Parser)]
#[command(version = env!("VLCT_VERSION"), arg_required_else_help = true, subcommand_required = true, after_help = EXAMPLES)]
pub struct Cli {
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Examples:
  vlct quickstart                              try everything on synthetic images, in minutes
  vlct train photos --hours 1                  train on a dataset of your own, made by `vlct prepare`
  vlct report RUN                              a page about a run directory
  vlct prepare coco --root downloads/coco --out arrow
  vlct run help                                all configuration keys, with types, ranges and base values
  vlct run print_config with task_mlm_itm_mae  the resulting configuration
  vlct run with data_root=arrow task_mlm_itm_mae step25k per_gpu_batchsize=8 pretrain_path=mae.pth
  vlct run with data_root=arrow task_finetune_vqa_mae_randaug per_gpu_batchsize=4 load_path=vlc_baseset.ckpt
  vlct imagenet --data_path birds --val_fraction 0.1 --finetune vlc_baseset.ckpt --model vit_base_patch16
  vlct convert vlc_baseset.ckpt vlc.safetensors
  vlct convert RUN model --style hf            a directory for Hugging Face's transformers
  vlct inspect vlc_baseset.ckpt
  vlct predict match --load vlc_baseset.ckpt photo.jpg \"a dog on a surfboard\"
  vlct check-images train2014                  list damaged image files
  vlct map-vg-mscoco --root vgqa               select questions of Visual Genome for VQA
  vlct self-test                               check that the GPU, or the CPU, computes correctly

Exit status: 0 success, 1 failure (described on standard error), 2 wrong usage,
130 stopped by Ctrl-C, 143 by SIGTERM, 129 by SIGHUP.";

/// Commands of `vlct`.
#[derive(Subcommand)]
pub enum Command {
    Run(Run),
    Train(Train),
    Imagenet(Box<Imagenet>),
    Quickstart(Quickstart),
    Report(Report),
    Prepare(Box<Prepare>),
    Vocabulary(Vocabulary),
    Convert(Convert),
    Average(Average),
    Inspect(Inspect),
    Predict(Box<Predict>),
    CheckImages(CheckImages),
    MapVgMscoco(MapVgMscoco),
    WriteValidVgqa(WriteValidVgqa),
    Bench(Bench),
    SelfTest(SelfTest),
}

/// Train or evaluate; also show, save and explain configurations
#[derive(Args)]
#[command(after_help = RUN_HELP, override_usage = "vlct run [COMMAND] [with UPDATE...] [-p]")]
pub struct Run {
    /// A command, then `with` and updates, as below
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "WORD")]
    pub words: Vec<String>,
}

const RUN_HELP: &str = "\
Commands:
  (none)               train, or evaluate with test_only=True
  print_config         print the configuration; * marks what differs from the base
  print_named_configs  print the named configs and what they set
  save_config          write the configuration to config.json, or config_filename=PATH
  help [WORD]          explain all keys, or one key or named config

Updates (each is one word):
  KEY=VALUE            set a key; loss_names.itm=0.5 sets an entry of a dictionary
  NAME                 a named config, such as task_mlm_itm_mae or step25k
  PATH                 a .json or .toml file of keys and values, such as a run's config.toml

Values are Python literals: 4096, 5e-4, True, None, '[\"coco\", \"vg\"]'; anything else is text.
Lists of texts need neither quotes nor brackets: datasets=coco,vg
KEY=VALUE overrides named configs and files, at any position; among named configs and files, the last one wins.

Option, at any position:
  -p, --print_config   print the configuration first, then run

Examples:
  vlct run with data_root=arrow num_gpus=1 num_nodes=1 task_mlm_itm_mae per_gpu_batchsize=8 \\
      whole_word_masking=True step25k image_size=384 pretrain_path=mae.pth log_dir=result
  vlct run with RUN/config.toml resume_from=RUN
  vlct run with data_root=arrow datasets=coco loss_names.irtr=0.5 get_recall_metric=True \\
      test_only=True is_pretrain=False val_transform_keys='[\"mae_test\"]' per_gpu_batchsize=8 \\
      load_path=vlc_baseset.ckpt
  vlct run with data_root=arrow task_finetune_nlvr2_mae_randaug per_gpu_batchsize=4 load_path=vlc_baseset.ckpt
  vlct run with data_root=arrow task_finetune_nlvr2_mae_randaug per_gpu_batchsize=4 test_only=True load_path=RUN
  vlct run print_config with quickstart batch_size=32
  vlct run help learning_rate";

/// Train on a dataset of your own: choose the model and the length of the run for data, machine and time
///
/// Counts the captions, measures the speed of this machine, chooses sizes, batch, learning rate, warm-up, steps and validation, prints
/// what it has chosen and why, and trains: masked words, masked patches, image-text matching. Without validation files, a tenth of the
/// images is held out.
#[derive(Args)]
#[command(after_help = "\
Examples:
  vlct prepare csv --root photos --annotations photos.csv --name photos --out data
  vlct train photos --hours 1
  vlct train photos laion --data-root data --hours 8 seed=1
  vlct train photos --plan                                        print the choices, do not train
  vlct train photos --hours 24 pretrain_path=mae_pretrain_vit_base_full.pth
  vlct run with RUN/config.toml resume_from=RUN                   continue a run that was stopped")]
pub struct Train {
    /// Names of datasets: the --name of `vlct prepare`, or directories of tars in DIR; and changes to the configuration, as in `vlct
    /// run`: KEY=VALUE. Keys that are given are not chosen
    #[arg(value_name = "DATASET|KEY=VALUE", required = true)]
    pub words: Vec<String>,
    /// Directory of the datasets, the --out of `vlct prepare`
    #[arg(long, value_name = "DIR", default_value = "data")]
    pub data_root: PathBuf,
    /// Approximate time of the run in hours. Ignored if max_steps is given
    #[arg(long, value_name = "N", value_parser = parse_hours, default_value = "1")]
    pub hours: f64,
    /// Print what is chosen and why, and do not train
    #[arg(long)]
    pub plan: bool,
    /// With --plan: print JSON
    #[arg(long, requires = "plan")]
    pub json: bool,
}

/// Train a WordPiece vocabulary on the texts of datasets, for other languages and for jargon
///
/// The vocabulary has the special tokens of BERT, the characters of the texts, and the most frequent sequences of characters. A model
/// needs the vocabulary that it was trained with; its checkpoints contain it.
#[derive(Args)]
#[command(after_help = "\
Examples:
  vlct vocabulary photos --out vocab.txt
  vlct vocabulary fotos --size 16000 --cased --out vocab-de.txt
  vlct train photos tokenizer=vocab.txt")]
pub struct Vocabulary {
    /// Names of datasets, whose training splits are read
    #[arg(value_name = "DATASET", required = true, value_delimiter = ',')]
    pub datasets: Vec<String>,
    /// Directory of the datasets, the --out of `vlct prepare`
    #[arg(long, value_name = "DIR", default_value = "data")]
    pub data_root: PathBuf,
    /// Largest number of tokens
    #[arg(long, value_name = "N", value_parser = parse_vocabulary_size, default_value = "8000")]
    pub size: usize,
    /// Keep upper-case letters and accents; otherwise text is lower-cased and accents are removed, as in bert-base-uncased
    #[arg(long)]
    pub cased: bool,
    /// File to write, one token per line
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Replace an existing file
    #[arg(long)]
    pub overwrite: bool,
}

fn parse_hours(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(hours) if (0.01..=10_000.0).contains(&hours) => Ok(hours),
        _ => Err("expected a number from 0.01 to 10000".into()),
    }
}

fn parse_vocabulary_size(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(size) if (104..=1 << 20).contains(&size) => Ok(size),
        _ => Err("expected a number from 104 to 1048576".into()),
    }
}

/// Generate images, pre-train a small model on them, fine-tune it and write a report
#[derive(Args)]
#[command(after_help = "\
Examples:
  vlct quickstart
  vlct quickstart --out try --minutes 2
  vlct quickstart --minutes 30 depth=6 hidden_size=192
  vlct quickstart --with-imagenet                          also fine-tune a classifier of images")]
pub struct Quickstart {
    /// Directory for images, run and report
    #[arg(long, value_name = "DIR", default_value = "quickstart")]
    pub out: PathBuf,
    /// Approximate total time in minutes, most of it for training. Ignored if max_steps is given
    #[arg(long, value_name = "N", value_parser = parse_minutes, default_value = "12")]
    pub minutes: f64,
    /// Also fine-tune a classifier of images without texts, as vlct imagenet does, in a twentieth of --minutes in addition
    #[arg(long = "with-imagenet")]
    pub with_imagenet: bool,
    /// Changes to the configuration, as in `vlct run`: KEY=VALUE. Keys of the data, such as data_root, cannot be set
    #[arg(value_name = "UPDATE")]
    pub updates: Vec<String>,
}

/// Write a page about a run: curves, held-out numbers, and examples with the model's predictions
#[derive(Args)]
#[command(after_help = "\
The page is one file without scripts or external links, report.html; report.json has its values. Examples come from the
validation split, with the best checkpoint of the run or, if there is none, the last; they need the data of the run.

Examples:
  vlct report result/finetune_vqa_randaug_seed0_from_vlc_baseset/version_0
  vlct report result/mlm_itm_mae_seed0_from_/version_0 --out page --without-examples")]
pub struct Report {
    /// A run directory
    #[arg(value_name = "RUN")]
    pub run: PathBuf,
    /// Directory for report.html and report.json [default: the run directory]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Leave out the examples, for which the model is run
    #[arg(long)]
    pub without_examples: bool,
}

fn parse_minutes(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(minutes) if (0.1..=10_000.0).contains(&minutes) => Ok(minutes),
        _ => Err("expected a number from 0.1 to 10000".into()),
    }
}

/// Average the weights of several checkpoints of one model
#[derive(Args)]
#[command(after_help = "\
The mean is computed in double precision. With the extension .safetensors, FILE keeps the description of the model
(sizes, task, inputs, names of answers or labels) if the inputs are checkpoints of this program.

Examples:
  vlct average result/mlm_itm_mae_seed0_from_/version_0 --out average.safetensors   the checkpoints of keep_checkpoints=N
  vlct average step10k.ckpt step20k.ckpt --out average.ckpt")]
pub struct Average {
    /// Weight files, directories of a checkpoint, or run directories, which stand for the checkpoints that they keep
    #[arg(value_name = "IN", required = true)]
    pub inputs: Vec<PathBuf>,
    /// File to write; its extension determines the format: .safetensors, .ckpt, .pth, .pt or .bin
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Replace an existing file
    #[arg(long)]
    pub overwrite: bool,
}

/// Describe a file or directory, and check it for damage
#[derive(Args)]
#[command(after_help = "\
Reads Arrow tables, WebDataset shards (.tar, .tar.gz), directories of tables or shards, weight files (.ckpt, .pth, .safetensors),
checkpoints and run directories. The exit status is 1 if something is damaged.

Examples:
  vlct inspect vlc_baseset.ckpt
  vlct inspect arrow/coco_caption_karpathy_train.arrow --sheet look.png
  vlct inspect laion/00000.tar
  vlct inspect result/mlm_itm_mae_seed0_from_/version_0")]
pub struct Inspect {
    /// A file or directory, or weights hf-hub:ORG/NAME@REVISION
    #[arg(value_name = "PATH")]
    pub path: PathBuf,
    /// For weight files (not for checkpoints in a run directory): also list every tensor with its shape
    #[arg(long)]
    pub tensors: bool,
    /// For data: also write a contact sheet (PNG) with rows sampled at equal intervals, each with its image and first text
    #[arg(long, value_name = "FILE")]
    pub sheet: Option<PathBuf>,
    /// Number of rows on the contact sheet
    #[arg(long, alias = "sheet-pictures", value_name = "N", default_value = "40", requires = "sheet", value_parser = parse_count)]
    pub sheet_images: usize,
}

/// Measure the speed of one kind of work and print it as one line of JSON
///
/// The JSON keys are those of the Python benchmark that vlct is compared with.
#[derive(Args)]
#[command(
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "\
Examples:
  vlct bench pretrain --image-size 384 --batch 8
  vlct bench vqa --image-size 384 --batch 4 --threads 2
  vlct bench infer --image-size 224 --batch 1 --steps 20
  vlct bench score --image-size 384 --images 2 --texts 32
  vlct bench answer --load vlc_baseset.ckpt
  vlct bench gemm --precision bf16
  vlct bench loader --transform mae_randaug images/

`vlct bench TASK --help` explains the options of a task."
)]
pub struct Bench {
    /// What to measure
    #[command(subcommand)]
    pub task: BenchTask,
}

/// Workloads that can be measured; models have the base size unless an option selects another.
#[derive(Subcommand)]
pub enum BenchTask {
    /// A pre-training step: forward, backward, optimiser
    Pretrain(BenchSteps),
    /// A training step of question answering: forward, backward, optimiser
    Vqa(BenchSteps),
    /// Answers to questions: forward only
    Infer(BenchSteps),
    /// A fine-tuning step of an image classifier: forward, backward, optimiser
    Imagenet(BenchSteps),
    Score(BenchScore),
    Answer(BenchAnswer),
    Gemm(BenchGemm),
    Loader(BenchLoader),
}

/// Options of `pretrain`, `vqa`, `infer` and `imagenet`.
#[derive(Args)]
#[command(
    after_help = "Prints a JSON object: task, style (the measured program, always vlct), device, precision, image_size, batch, seconds_per_step (the median), \
                  samples_per_second, peak_mib."
)]
pub struct BenchSteps {
    /// Side of the images in pixels, a multiple of 16
    #[arg(long, value_name = "N", default_value_t = 384, value_parser = parse_side)]
    pub image_size: usize,
    /// Samples per step
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = parse_count)]
    pub batch: usize,
    /// Measured steps, after one warm-up step
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = parse_count)]
    pub steps: usize,
    /// Also print a profile to standard error: calls, time, busy cores, GFLOP/s and GB/s of each operation
    #[arg(long)]
    pub profile: bool,
    #[command(flatten)]
    pub compute: BenchCompute,
}

/// Retrieval scores of all images with all texts, in tiles and with one forward pass per pair, alternately
///
/// Prints a JSON object: task, style, device, precision, model, image_size, images, texts, pairs_per_second (tiles) and naive_pairs_per_second, ratio
/// of both, arithmetic_bound (ratio of the operations that both need), fraction_of_bound, peak_mib. Rates are medians of the rounds.
#[derive(Args)]
pub struct BenchScore {
    /// Size of the model
    #[arg(long, value_enum, value_name = "M", default_value = "base")]
    pub model: BenchModel,
    /// Side of the images in pixels, a multiple of 16 [default: 384 for base, 64 for quickstart]
    #[arg(long, value_name = "N", value_parser = parse_side)]
    pub image_size: Option<usize>,
    /// Number of images
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = parse_count)]
    pub images: usize,
    /// Number of texts
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = parse_count)]
    pub texts: usize,
    /// Measured rounds, after one warm-up round
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = parse_count)]
    pub rounds: usize,
    #[command(flatten)]
    pub compute: BenchCompute,
}

/// Models whose scoring can be measured.
#[derive(Clone, Copy, ValueEnum)]
pub enum BenchModel {
    /// The base model
    Base,
    /// The model of the quickstart
    Quickstart,
}

/// Precision and threads of the tasks that run a model or its matrix products.
#[derive(Args)]
pub struct BenchCompute {
    /// Where to compute: auto (a GPU if there is one, else the CPU), cpu, cuda, or cuda:N for the GPU with this number, from 0
    #[arg(long, value_name = "D", default_value_t)]
    pub device: DeviceName,
    /// Precision [default: bf16 on a GPU and on a CPU with fast bfloat16, else f32]
    #[arg(long, value_enum, value_name = "P")]
    pub precision: Option<PrecisionName>,
    /// Number of threads; 0: one per available CPU
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = parse_threads)]
    pub threads: usize,
    /// Pin each thread to a core (Linux)
    #[arg(long)]
    pub pin_threads: bool,
}

/// The matrix products of a linear layer from width 768 to 3072 on 1920 tokens: y = x·wᵀ + b, dx = dy·w, dw = dyᵀ·x
///
/// Prints a JSON object: task, style (the measured program, always vlct), device, precision, rows, inner, columns, and the medians forward_tflops,
/// input_gradient_tflops, weight_gradient_tflops.
#[derive(Args)]
pub struct BenchGemm {
    /// Repetitions of each product
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = parse_count)]
    pub steps: usize,
    #[command(flatten)]
    pub compute: BenchCompute,
}

/// Loading of images: from the bytes of their files to normalised pixels
///
/// Prints transform, image_size, pictures_per_second, cores (the number of threads). Files are read into memory before the
/// measurement, until 64 MiB are reached.
#[derive(Args)]
pub struct BenchLoader {
    /// Image files, .arrow files, or directories of them
    #[arg(value_name = "DATA", required = true)]
    pub data: Vec<PathBuf>,
    /// Transform of the images: mae, mae_randaug or mae_test, or those of vlct imagenet: classification_train (as published),
    /// classification_eval or linear_probe_train
    #[arg(long, value_name = "NAME", default_value = "mae", value_parser = parse_transform)]
    pub transform: TransformSpec,
    /// Side of the transformed images in pixels
    #[arg(long, value_name = "N", default_value_t = 384, value_parser = parse_count)]
    pub image_size: usize,
    /// Threads that load images; 0: one per available CPU
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = parse_threads)]
    pub threads: usize,
    /// Approximate time to measure, in seconds
    #[arg(long, value_name = "N", default_value = "5", value_parser = parse_seconds)]
    pub seconds: f64,
    /// Also print a profile to standard error: time per image of decoding, augmentation and resizing
    #[arg(long)]
    pub profile: bool,
}

fn parse_transform(text: &str) -> Result<TransformSpec, String> {
    match text {
        "classification_train" => {
            let policy = "rand-m9-mstd0.5-inc1"
                .parse()
                .map_err(|error: ImageError| error.to_string())?;
            let erasing = Erasing::new(0.25, ErasingMode::Pixel, 1).map_err(|error| error.to_string())?;
            Ok(TransformSpec::ClassificationTrain(Box::new(ClassificationAugment {
                colour: ColourAugment::Policy(policy),
                erasing: Some(erasing),
                ..ClassificationAugment::default()
            })))
        }
        "classification_eval" => Ok(TransformSpec::ClassificationEval),
        "linear_probe_train" => Ok(TransformSpec::LinearProbeTrain),
        name => {
            let named: Result<TransformKind, ImageError> = name.parse();
            named
                .map(TransformSpec::from)
                .map_err(|error| format!("{error}, classification_train, classification_eval, linear_probe_train"))
        }
    }
}

fn parse_side(text: &str) -> Result<usize, String> {
    match text.parse() {
        // An image of one patch cannot have both visible and masked patches.
        Ok(side) if (32..=4096).contains(&side) && side % 16 == 0 => Ok(side),
        _ => Err("expected a multiple of 16 from 32 to 4096".into()),
    }
}

fn parse_seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.0..=3600.0).contains(&seconds) => Ok(seconds),
        _ => Err("expected a number from 0 to 3600".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn definitions_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn run_takes_words_verbatim() {
        let cli = Cli::try_parse_from(["vlct", "run", "with", "a=-1", "-p", "--x", "--", "b"]).unwrap();
        let Command::Run(run) = cli.command else {
            panic!("not run");
        };
        assert_eq!(run.words, ["with", "a=-1", "-p", "--x", "--", "b"]);
    }

    #[test]
    fn rejects_minutes_that_are_not_a_number() {
        assert!(Cli::try_parse_from(["vlct", "quickstart", "--minutes", "nan"]).is_err());
    }

    #[test]
    fn accepts_names_of_earlier_versions() {
        let inspect = ["vlct", "inspect", "x", "--sheet", "a.png", "--sheet-pictures", "3"];
        assert!(Cli::try_parse_from(inspect).is_ok());
        let prepare = ["vlct", "prepare", "folders", "--root", "a", "--out", "b"];
        assert!(Cli::try_parse_from(prepare).is_ok());
    }
}
