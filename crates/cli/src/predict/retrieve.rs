//! `vlct predict retrieve`: the images that fit a text, or the texts that fit an image.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};
use vlct_logs::progress::Progress;
use vlct_predict::retrieve::{Cache, Retrieval, read_image};
use vlct_predict::{PredictError, Record, batches, records};
use vlct_tasks::probabilities::top;

use super::format::{Answer, Cell, FormatOptions, Printer, number};
use super::options::{BatchOptions, ModelOptions};
use crate::hints::with_hint;
use crate::output::Failure;

/// Find the images that fit a text, or the texts that fit an image
///
/// Scores are those of the ranking head or, if there is none, the matching logit that the text belongs to the image. They rank the
/// candidates of one query; they are not probabilities.
#[derive(Args)]
#[command(
    override_usage = "vlct predict retrieve --load PATH [OPTIONS] DIR TEXT\n       vlct predict retrieve --load PATH [OPTIONS] IMAGE --texts FILE",
    after_help = "\
Examples:
  vlct predict retrieve --load RUN --cache embedded photos \"a dog on a surfboard\"
  vlct predict retrieve --load RUN --cache embedded photos --texts queries.txt --json
  vlct predict retrieve --load vlc_baseset.ckpt photo.jpg --texts captions.txt --top-k 3"
)]
pub struct RetrieveArgs {
    /// A directory of images and a text, or an image
    #[arg(value_name = "IMAGES TEXT", num_args = 1..=2, required = true)]
    pub words: Vec<String>,
    /// File of texts, one per line: candidates for an image, or queries for a directory
    #[arg(long, value_name = "FILE")]
    pub texts: Option<PathBuf>,
    /// Directory that keeps embedded images, so that they are decoded once. An image whose content has changed is embedded again
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,
    #[command(flatten)]
    pub batch: BatchOptions,
    #[command(flatten)]
    pub model: ModelOptions,
    #[command(flatten)]
    pub format: FormatOptions,
}

/// Ranks images or texts.
pub fn run(args: &RetrieveArgs) -> Result<(), Failure> {
    let usage = "DIR TEXT, DIR --texts FILE or IMAGE --texts FILE";
    let (images, texts) = match (args.words.as_slice(), &args.texts) {
        ([images, text], None) => (Path::new(images), vec![text.clone()]),
        ([images], Some(file)) => (Path::new(images), records::lines(file)?),
        _ => return Err(Failure::Usage(format!("retrieve needs {usage}"))),
    };
    let paths = records::images(images)?;
    let predictor = args.model.open(&Retrieval::HEADS)?;
    let task = Retrieval::new(&predictor)?;
    let preparation = predictor.preparation();
    let single = !images.is_dir();
    // A text that the model cannot read is left out of the candidates, or has an error at its place among the queries.
    let prepared: Vec<Result<Vec<u32>, PredictError>> = texts.iter().map(|text| preparation.text(text)).collect();
    let tokens: Vec<Vec<u32>> = prepared.iter().flatten().cloned().collect();
    if args.texts.is_none()
        && let Some(Err(error)) = prepared.first()
    {
        return Err(Failure::Failed(with_hint(error)));
    }
    if tokens.is_empty() {
        return Err(Failure::Failed(
            "the model can read none of the texts: they are too long".into(),
        ));
    }
    let cache = args
        .cache
        .as_deref()
        .map(|directory| Cache::open(directory, &predictor))
        .transpose()?;

    let mut progress = match single {
        true => Progress::quiet(),
        false => Progress::counting("image", paths.len() as u64, 0),
    };
    let (mut scored, mut scores, mut failed) = (Vec::new(), Vec::new(), 0u64);
    batches::run(
        paths.into_iter().map(Ok),
        args.batch.batches(),
        |path: &PathBuf| read_image(path, preparation, cache.as_ref()),
        |images| match task.scores(images, &tokens) {
            Ok(rows) => rows.into_iter().map(Ok).collect(),
            Err(error) => {
                let mut rows: Vec<Result<Vec<f32>, PredictError>> = vec![Err(error)];
                rows.resize_with(images.len(), || Ok(Vec::new()));
                rows
            }
        },
        |path, result| {
            match result {
                Ok(Ok(row)) => {
                    scored.extend(path);
                    scores.extend(row);
                }
                // The cache cannot be written.
                Ok(Err(error)) => return Err(Failure::from(error)),
                Err(error) if single => return Err(Failure::from(error)),
                Err(error) => {
                    log::warn!("an image is left out: {}", with_hint(&error));
                    failed += 1;
                }
            }
            progress.reach(scored.len() as u64 + failed);
            Ok(())
        },
    )?;
    drop(progress);
    if scored.is_empty() {
        return Err(Failure::Failed(format!("{}: no image can be read", images.display())));
    }
    let top_k = args.format.top_k;
    if single {
        let mut printer = Printer::new(&args.format, &["text", "score"], false)?;
        let (mut readable, mut unreadable) = (Vec::new(), 0u64);
        for (text, result) in texts.iter().zip(&prepared) {
            match result {
                Ok(_) => readable.push(text),
                Err(error) => {
                    log::warn!("a text is left out: {}", with_hint(error));
                    unreadable += 1;
                }
            }
        }
        let best = top(&scores, top_k).into_iter();
        printer.print(None, Ok(answer("text", best.map(|i| (readable[i].clone(), scores[i])))))?;
        printer.finish()?;
        return all_read(unreadable, texts.len() as u64, "texts");
    }
    let mut printer = Printer::new(&args.format, &["image", "score"], texts.len() > 1)?;
    let mut columns = 0..tokens.len();
    for (text, result) in texts.iter().zip(prepared) {
        let answer = result.map(|_| {
            let first = columns.next().unwrap_or_default();
            let column: Vec<f32> = scores.iter().skip(first).step_by(tokens.len()).copied().collect();
            let best = top(&column, top_k).into_iter();
            answer(
                "image",
                best.map(|image| (scored[image].display().to_string(), column[image])),
            )
        });
        let query = Record {
            text: Some(text.clone()),
            ..Record::default()
        };
        printer.print(Some(&query), answer)?;
    }
    printer.finish()?;
    all_read(failed, scored.len() as u64 + failed, "images")
}

/// Ends the command with an error if some of `all` inputs could not be read.
fn all_read(failed: u64, all: u64, what: &str) -> Result<(), Failure> {
    match failed {
        0 => Ok(()),
        failed => Err(Failure::Failed(format!("{failed} of {all} {what} could not be read"))),
    }
}

fn answer(key: &str, ranked: impl Iterator<Item = (String, f32)>) -> Answer {
    let ranked: Vec<(String, f32)> = ranked.collect();
    Answer {
        json: ranked
            .iter()
            .map(|(name, score)| json!({"score": number(*score), key: name}))
            .collect::<Vec<Value>>()
            .into(),
        rows: ranked
            .into_iter()
            .map(|(name, score)| vec![Cell::Text(name), Cell::Number(score)])
            .collect(),
    }
}
