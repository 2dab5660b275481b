//! Options that the tasks of `vlct predict` share.

use std::io::{BufReader, stdin};
use std::path::{Path, PathBuf};

use clap::Args;
use vlct_image::{Background, Orientation};
use vlct_model::sizes::GivenHeads;
use vlct_predict::batches::BatchSpec;
use vlct_predict::images::ImageClassifier;
use vlct_predict::{Head, OpenOptions, PredictError, Predictor, Record, records};
use vlct_tensor::{Device, DeviceName, Precision};
use vlct_text::Tokenizer;
use vlct_train::trainer::{Threads, use_threads};
use vlct_util::open_file;

use crate::output::Failure;
use crate::references::local_path;
use crate::values::{PrecisionName, open_device, parse_count, parse_threads};

/// Name of `--input` for standard input.
const STANDARD_INPUT: &str = "-";
/// Largest number of threads that prepare inputs.
const MAX_LOADERS: usize = 8;

/// The model and its settings.
#[derive(Args)]
pub struct ModelOptions {
    /// Weights: a run directory (its best checkpoint, else the last), a checkpoint, a published .ckpt, any .pth or .safetensors, or
    /// hf-hub:ORG/NAME@REVISION
    #[arg(long, value_name = "PATH", help_heading = "Model")]
    pub load: PathBuf,
    /// Side of the images in pixels; position tables are resized [default: that of the weights]
    #[arg(long, value_name = "N", help_heading = "Model")]
    pub image_size: Option<usize>,
    /// bert-base-uncased, or a vocab.txt [default: that of the checkpoint, else bert-base-uncased]
    #[arg(long, value_name = "NAME", help_heading = "Model")]
    pub tokenizer: Option<String>,
    /// Where to compute: auto (a GPU if there is one, else the CPU), cpu, cuda, or cuda:N for the GPU with this number, from 0
    #[arg(long, value_name = "D", default_value_t, help_heading = "Model")]
    pub device: DeviceName,
    /// Precision [default: bf16 on a GPU and on a CPU with fast bfloat16, else f32]
    #[arg(long, value_enum, value_name = "P", help_heading = "Model")]
    pub precision: Option<PrecisionName>,
    /// Number of threads; 0: one per available CPU
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = parse_threads, help_heading = "Model")]
    pub threads: usize,
    /// Number of attention heads, for weights that do not state it [default: one per 64 of the width]
    #[arg(long, value_name = "N", value_parser = parse_count, help_heading = "Model")]
    pub heads: Option<usize>,
    /// Use images as they are stored; otherwise their EXIF orientation is applied, unless the model was trained without
    #[arg(long, help_heading = "Model")]
    pub as_stored: bool,
    /// What is behind transparent pixels: white, black, #rrggbb, or keep, which makes their hidden colours visible [default: that of the
    /// training on custom data, else white]
    #[arg(long, value_name = "COLOUR", help_heading = "Model")]
    pub background: Option<Background>,
    /// Truncate texts that are longer than the limit of the model; otherwise they are errors
    #[arg(long, help_heading = "Model")]
    pub truncate: bool,
}

impl ModelOptions {
    /// Opens the model with those of `heads` that the file has.
    pub fn open(&self, heads: &[Head]) -> Result<Predictor, Failure> {
        self.open_with(heads, |_| ())
    }

    /// Opens the model with settings that `change` changes.
    pub fn open_with(&self, heads: &[Head], change: impl FnOnce(&mut OpenOptions)) -> Result<Predictor, Failure> {
        let (device, precision) = self.prepare_computation()?;
        let mut options = OpenOptions {
            image_size: self.image_size,
            tokenizer: self.tokenizer.as_deref().map(Tokenizer::named).transpose()?,
            device,
            precision,
            heads: GivenHeads {
                encoder: self.heads,
                decoder: None,
            },
            background: self.background,
            orientation: self.as_stored.then_some(Orientation::AsStored),
            truncate: self.truncate,
        };
        change(&mut options);
        let predictor = Predictor::open(&local_path(&self.load)?, heads, &options)?;
        predictor.notes().iter().for_each(|note| log::info!("note: {note}"));
        Ok(predictor)
    }

    /// Opens the model if it is an image classifier of a run; `None` for other files.
    pub fn open_image_classifier(&self) -> Result<Option<ImageClassifier>, Failure> {
        let (device, precision) = self.prepare_computation()?;
        let weights = local_path(&self.load)?;
        Ok(ImageClassifier::open(
            &weights,
            vlct_predict::compute(device, precision),
        )?)
    }

    /// Sets the number of threads, and returns the device and the precision.
    fn prepare_computation(&self) -> Result<(Device, Option<Precision>), Failure> {
        use_threads(Threads {
            count: self.threads,
            ..Threads::default()
        })?;
        let device = open_device(self.device)?;
        if matches!(self.precision, Some(PrecisionName::Bf16)) && !device.bf16_is_fast() {
            log::warn!("this machine has no fast bfloat16 (AMX, or AVX-512 on AMD): f32 is used");
        }
        let precision = self.precision.map(|precision| match precision {
            PrecisionName::F32 => Precision::F32,
            PrecisionName::Bf16 => Precision::Bf16,
        });
        Ok((device, precision))
    }
}

/// Many inputs at once.
#[derive(Args)]
pub struct InputOptions {
    /// Inputs as lines of JSON instead of arguments; - reads standard input
    #[arg(long, value_name = "FILE.jsonl", help_heading = "Many inputs")]
    pub input: Option<PathBuf>,
    /// Directory at which relative paths of images in a file of inputs begin [default: the working directory]
    #[arg(long, value_name = "DIR", help_heading = "Many inputs")]
    pub root: Option<PathBuf>,
    #[command(flatten)]
    pub batch: BatchOptions,
}

/// Number of inputs per forward pass.
#[derive(Args)]
pub struct BatchOptions {
    /// Inputs per forward pass; with 1, a line that a program writes to standard input (--input -) is answered at once
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = parse_count, help_heading = "Many inputs")]
    pub batch: usize,
}

impl BatchOptions {
    /// Returns the settings of batches.
    pub fn batches(&self) -> BatchSpec {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        BatchSpec {
            batch_size: self.batch,
            threads: cpus.min(MAX_LOADERS),
        }
    }
}

/// The inputs of a command.
pub struct InputList {
    /// The records, or errors of single lines.
    pub records: Box<dyn Iterator<Item = Result<Record, PredictError>> + Send>,
    /// Whether there may be more than one: then every answer names its input, and an error does not end the command.
    pub many: bool,
}

impl InputOptions {
    /// Returns the inputs of a command without arguments: the lines of `--input`.
    ///
    /// # Errors
    /// Returns an error without `--input`. `usage` shows the arguments of the task.
    pub fn given(&self, usage: &str) -> Result<InputList, Failure> {
        match &self.input {
            Some(path) => self.lines(path),
            None => Err(Failure::Usage(format!("no input: give {usage}, or --input FILE.jsonl"))),
        }
    }

    /// Returns the inputs: the lines of `--input`, or those of the arguments, one image or all images of a directory, with one text.
    /// `usage` shows the arguments of the task.
    pub fn records(&self, images: &[&Path], text: Option<&str>, usage: &str) -> Result<InputList, Failure> {
        if let Some(path) = &self.input {
            if !images.is_empty() || text.is_some() {
                return Err(Failure::Usage(format!("either --input or {usage}, not both")));
            }
            return self.lines(path);
        }
        if self.root.is_some() {
            return Err(Failure::Usage("--root is for the paths in --input".into()));
        }
        let record = |images: Vec<PathBuf>| Record {
            images,
            text: text.map(str::to_owned),
        };
        match images {
            [image] if image.is_dir() => {
                let images = records::images(image)?.into_iter();
                Ok(InputList {
                    records: Box::new(
                        images
                            .map(|image| record(vec![image]))
                            .map(Ok)
                            .collect::<Vec<_>>()
                            .into_iter(),
                    ),
                    many: true,
                })
            }
            images => Ok(InputList {
                records: Box::new(std::iter::once(Ok(record(
                    images.iter().map(|i| i.to_path_buf()).collect(),
                )))),
                many: false,
            }),
        }
    }

    fn lines(&self, path: &Path) -> Result<InputList, Failure> {
        let root = self.root();
        let records: Box<dyn Iterator<Item = _> + Send> = if path.as_os_str() == STANDARD_INPUT {
            let name = Path::new("standard input");
            Box::new(records::json_lines(BufReader::new(stdin()), name, root))
        } else {
            let file = open_file(path)?;
            Box::new(records::json_lines(BufReader::new(file), path, root))
        };
        Ok(InputList { records, many: true })
    }

    /// Returns the directory at which relative paths in a file of inputs begin.
    pub fn root(&self) -> &Path {
        self.root.as_deref().unwrap_or(Path::new(""))
    }

    /// Returns the settings of batches.
    pub fn batches(&self) -> BatchSpec {
        self.batch.batches()
    }
}
