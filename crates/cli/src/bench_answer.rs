//! `vlct bench answer`: the time of the first answer of a model, beside that of reading its file and of a forward pass.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use clap::Args;
use serde_json::json;
use vlct_data::random::{Purpose, stream};
use vlct_image::{RgbImage, encode_jpeg};
use vlct_model::config::{Backbone, Heads};
use vlct_model::files::{self, Style};
use vlct_model::initialise::initialise;
use vlct_model::{Vlc, VlcConfig};
use vlct_predict::matching::Matching;
use vlct_predict::vqa::Vqa;
use vlct_predict::{Item, OpenOptions, PredictError, Predictor};
use vlct_tensor::{DeviceName, Precision};
use vlct_train::trainer::{Threads, use_threads};
use vlct_util::{IoError, at};

use crate::output::{Failure, print};
use crate::references::local_path;
use crate::values::{PrecisionName, open_device, parse_count, parse_threads};

/// The text of the measured answer.
const TEXT: &str = "a dog on a surfboard";

/// The first answer: from the start of `vlct predict match` or `vlct predict vqa` to its end
///
/// Prints task (match, or vqa for weights without a matching head), device, precision, image_size, file_mib and, as medians, the seconds of reading the file once (read_seconds), of a forward pass with one pair
/// (forward_seconds) and of the whole program (answer_seconds); ratio is answer_seconds / (read_seconds + forward_seconds). The file is in the
/// page cache.
#[derive(Args)]
pub struct BenchAnswer {
    /// Weights with a head for matching or for questions [default: random weights of the base model, in a temporary file]
    #[arg(long, value_name = "PATH")]
    pub load: Option<PathBuf>,
    /// Image file [default: an image of 640 x 480 pixels]
    #[arg(long, value_name = "FILE")]
    pub image: Option<PathBuf>,
    /// Repetitions of each measurement
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = parse_count)]
    pub steps: usize,
    /// Where to compute: auto (a GPU if there is one, else the CPU), cpu, cuda, or cuda:N for the GPU with this number, from 0
    #[arg(long, value_name = "D", default_value_t)]
    pub device: DeviceName,
    /// Precision [default: bf16 on a GPU and on a CPU with fast bfloat16, else f32]
    #[arg(long, value_enum, value_name = "P")]
    pub precision: Option<PrecisionName>,
    /// Number of threads; 0: one per available CPU
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = parse_threads)]
    pub threads: usize,
}

/// Measures the first answer.
pub fn run(args: &BenchAnswer) -> Result<(), Failure> {
    use_threads(Threads {
        count: args.threads,
        ..Threads::default()
    })?;
    let directory = tempfile::tempdir()?;
    let image = match &args.image {
        Some(image) => image.clone(),
        None => {
            let image = directory.path().join("image.jpg");
            write_image(&image)?;
            image
        }
    };
    let path = match &args.load {
        Some(path) => files::find(&local_path(path)?)?,
        None => {
            let path = directory.path().join("base.ckpt");
            write_base_model(&path)?;
            path
        }
    };
    let read = || std::fs::read(&path).map_err(at::<IoError>(&path));
    let bytes = read()?.len();
    let read_seconds = median(args.steps, || read().map(drop).map_err(PredictError::from))?;

    let precision = args.precision.map(|precision| match precision {
        PrecisionName::F32 => Precision::F32,
        PrecisionName::Bf16 => Precision::Bf16,
    });
    let device = open_device(args.device)?;
    let options = OpenOptions {
        device,
        precision,
        ..OpenOptions::default()
    };
    let Forward {
        task,
        seconds: forward_seconds,
        image_size,
        precision: used,
    } = forward(args, &path, &image, &options)?;
    let answer_seconds = median(args.steps, || answer(args, task, &path, &image))?;
    let seconds = |value: f64| (value * 1e4).round() / 1e4;
    let result = json!({
        "task": task,
        "device": device.model(),
        "precision": match used {
            Precision::F32 => "f32",
            Precision::Bf16 => "bf16",
        },
        "image_size": image_size,
        "file_mib": bytes >> 20,
        "read_seconds": seconds(read_seconds),
        "forward_seconds": seconds(forward_seconds),
        "answer_seconds": seconds(answer_seconds),
        "ratio": (100.0 * answer_seconds / (read_seconds + forward_seconds)).round() / 100.0,
    });
    print(&format!("{result}\n"))
}

/// The measured forward pass.
struct Forward {
    /// The task of `vlct predict`.
    task: &'static str,
    /// Median time.
    seconds: f64,
    image_size: usize,
    precision: Precision,
}

/// Measures a forward pass with one pair.
fn forward(args: &BenchAnswer, path: &Path, image: &Path, options: &OpenOptions) -> Result<Forward, Failure> {
    let predictor = Predictor::open(path, &[Matching::HEAD, Vqa::HEAD], options)?;
    let head = predictor.require(&[Matching::HEAD, Vqa::HEAD])?;
    let item = [Item {
        image: Some(predictor.preparation().image(image)?.values),
        text: predictor.preparation().text(TEXT)?,
    }];
    let (task, logits): (_, Box<dyn Fn()>) = match head {
        Matching::HEAD => {
            let task = Matching::new(&predictor)?;
            ("match", Box::new(move || drop(task.logits(&item))))
        }
        _ => {
            let task = Vqa::new(&predictor, None)?;
            ("vqa", Box::new(move || drop(task.logits(&item))))
        }
    };
    // The first pass rounds and packs the weights.
    logits();
    let seconds = median(args.steps, || {
        logits();
        Ok(())
    })?;
    Ok(Forward {
        task,
        seconds,
        image_size: predictor.preparation().image_size(),
        precision: predictor.model().compute().precision,
    })
}

/// Runs `vlct predict` with a task as another process.
fn answer(args: &BenchAnswer, task: &str, weights: &Path, image: &Path) -> Result<(), PredictError> {
    let program = std::env::current_exe().map_err(at::<IoError>("this program"))?;
    let mut command = Command::new(&program);
    command.args(["predict", task, "--threads", &args.threads.to_string()]);
    command.args(["--device", &args.device.to_string(), "--load"]);
    command.arg(weights);
    match args.precision {
        Some(PrecisionName::F32) => drop(command.args(["--precision", "f32"])),
        Some(PrecisionName::Bf16) => drop(command.args(["--precision", "bf16"])),
        None => {}
    }
    let output = command.arg(image).arg(TEXT).output().map_err(at::<IoError>(&program))?;
    if output.status.success() {
        return Ok(());
    }
    let reason = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(PredictError::Invalid(format!("the measured program failed: {reason}")))
}

/// Returns the median time of several calls in seconds.
fn median(count: usize, mut work: impl FnMut() -> Result<(), PredictError>) -> Result<f64, Failure> {
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        let start = Instant::now();
        work()?;
        times.push(start.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    Ok(times[count / 2])
}

/// Writes an image of the size of a photo in COCO.
fn write_image(path: &Path) -> Result<(), Failure> {
    let image = RgbImage::from_fn(640, 480, |x, y| {
        vlct_image::Rgb([(x / 3) as u8, (y / 2) as u8, ((x ^ y) & 0xff) as u8])
    });
    let bytes = encode_jpeg(&image, 90)?;
    Ok(std::fs::write(path, bytes).map_err(at::<IoError>(path))?)
}

/// Writes random weights of the pre-trained base model for images of 384 pixels.
fn write_base_model(path: &Path) -> Result<(), Failure> {
    let backbone = Backbone::from_name("mae_vit_base_patch16");
    let config = VlcConfig {
        image_size: 384,
        backbone: backbone.unwrap_or_else(|| unreachable!("a published name")),
        vocab_size: 30_522,
        max_text_len: 40,
        token_types: 2,
        variant: vlct_model::config::Variant::VLC,
        drop_rate: 0.0,
        heads: Heads {
            mlm: true,
            itm: true,
            ..Heads::default()
        },
    };
    let mut model = Vlc::new(config);
    initialise(&mut model, |parameter| stream(0, Purpose::Initialisation, 0, parameter));
    files::write(path, &model.state_dict(), &Style::Vlc.into())?;
    Ok(())
}
