//! `vlct predict repaint`: masked patches and their reconstruction.

use std::path::PathBuf;

use clap::Args;
use rand::RngExt;
use serde_json::json;
use vlct_data::loader::Pixels;
use vlct_data::random::{Purpose, stream};
use vlct_image::RgbImage;
use vlct_model::PatchMask;
use vlct_predict::probes::reconstruction::{Reconstruction, reconstruct};
use vlct_predict::{Head, Item, Preparation, batches};
use vlct_tasks::TaskSpec;

use super::format::{Answer, Cell, FormatOptions, Printer};
use super::images::ImageWriter;
use super::options::{InputOptions, ModelOptions};
use crate::output::Failure;
use crate::values::parse_count;

/// Fraction of masked patches of the published recipe.
const PUBLISHED_MASK_RATIO: f64 = 0.6;

/// Hide patches of an image and let the model reconstruct them
///
/// Writes IMAGE_reconstructed.png: the image in the size of the model, the same with masked patches, and the reconstruction, side by side. The
/// model predicts the shapes in a patch, not its colour and brightness, which are those of the original patch.
#[derive(Args)]
#[command(
    override_usage = "vlct predict repaint --load PATH [OPTIONS] IMAGE [TEXT]",
    after_help = "\
Lines of --input have the keys image and text; the text may be missing.

Examples:
  vlct predict repaint --load vlc_baseset.ckpt photo.jpg
  vlct predict repaint --load RUN --mask-ratio 0.3 --seed 7 --out reconstructed photos"
)]
pub struct RepaintArgs {
    /// An image file or a directory of images; then, optionally, a text that the model also reads
    #[arg(value_name = "IMAGE TEXT", num_args = 0..=2)]
    pub words: Vec<String>,
    /// Directory of the files to write
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub out: PathBuf,
    /// Fraction of masked patches, between 0 and 1 [default: that of the training, else 0.6]
    #[arg(long, value_name = "R", value_parser = parse_ratio)]
    pub mask_ratio: Option<f64>,
    /// Seed of the masked patches
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Number of attention heads of the decoder, for weights that do not state it [default: one per 32 of its width]
    #[arg(long, value_name = "N", value_parser = parse_count)]
    pub decoder_heads: Option<usize>,
    #[command(flatten)]
    pub model: ModelOptions,
    #[command(flatten)]
    pub inputs: InputOptions,
    #[command(flatten)]
    pub format: FormatOptions,
}

fn parse_ratio(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(ratio) if ratio > 0.0 && ratio < 1.0 => Ok(ratio),
        _ => Err("expected a number between 0 and 1".into()),
    }
}

/// Reconstructs masked patches.
pub fn run(args: &RepaintArgs) -> Result<(), Failure> {
    let usage = "IMAGE [TEXT]";
    let list = match args.words.as_slice() {
        [] => args.inputs.given(usage)?,
        [image, text @ ..] => {
            let text = text.first().map(String::as_str);
            args.inputs.records(&[image.as_ref()], text, usage)?
        }
    };
    let predictor = args
        .model
        .open_with(&[Head::Decoder], |options| options.heads.decoder = args.decoder_heads)?;
    predictor.require(&[Head::Decoder])?;
    let (model, preparation) = (predictor.model(), predictor.preparation());
    let ratio = args.mask_ratio.unwrap_or(match predictor.task() {
        Some(TaskSpec::Pretrain(spec)) => spec.mask_ratio.unwrap_or(PUBLISHED_MASK_RATIO),
        _ => PUBLISHED_MASK_RATIO,
    });
    let mut writer = ImageWriter::new(&args.out)?;
    let mut printer = Printer::new(&args.format, &["file"], list.many)?;
    let mut number = 0u64;
    batches::run(
        list.records,
        args.inputs.batches(),
        |record| {
            let text = preparation.text(record.text.as_deref().unwrap_or_default())?;
            Ok(Item {
                image: Some(preparation.image(record.image()?)?.values),
                text,
            })
        },
        |items| {
            let results = items.iter().filter_map(|item| {
                let pixels = item.image.as_ref()?;
                let mut random = stream(args.seed, Purpose::PatchMaskMlm, 0, number);
                number += 1;
                let noise: Vec<f32> = (0..model.config().patches()).map(|_| random.random()).collect();
                let mask = PatchMask::from_noise(&noise, ratio);
                Some((pixels.clone(), reconstruct(model, &item.text, pixels, &mask)))
            });
            results.collect()
        },
        |record, result| {
            let answer = match result {
                Ok((pixels, reconstruction)) => {
                    let image = record.as_ref().and_then(|record| record.images.first());
                    let stem = writer.stem(image.map_or("image".as_ref(), |image| image.as_path()));
                    let panels = side_by_side(&pixels, &reconstruction, preparation)?;
                    let path = writer.write(&stem, "reconstructed", &panels)?.display().to_string();
                    Ok(Answer {
                        json: json!({"file": path}),
                        rows: vec![vec![Cell::Text(path)]],
                    })
                }
                Err(error) => Err(error),
            };
            printer.print(record.as_ref(), answer)
        },
    )?;
    printer.finish()
}

/// Joins the image, the masked image and the reconstruction, which have the same size.
fn side_by_side(pixels: &Pixels, result: &Reconstruction, preparation: &Preparation) -> Result<RgbImage, Failure> {
    let panels = [pixels, &result.masked, &result.reconstructed];
    let panels: Vec<RgbImage> = panels
        .iter()
        .map(|values| preparation.denormalise(values))
        .collect::<Result<_, _>>()?;
    let (width, height) = panels[0].dimensions();
    Ok(RgbImage::from_fn(3 * width, height, |x, y| {
        *panels[(x / width) as usize].get_pixel(x % width, y)
    }))
}
