//! `vlct predict align`: heat maps of words, clusters of patches, and similarities over a dataset.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};
use vlct_image::RgbImage;
use vlct_predict::clusters::{colours, k_means};
use vlct_predict::fill::Fill;
use vlct_predict::overlay::{cluster_map, heat_map};
use vlct_predict::preparation::LoadedImage;
use vlct_predict::probes::alignment::{Alignment, Word, align, opacity, words};
use vlct_predict::{Head, Item, PredictError, Predictor, batches};

use super::answers::image_and_text;
use super::format::{Answer, Cell, FormatOptions, Printer, number};
use super::images::ImageWriter;
use super::options::{InputOptions, ModelOptions};
use super::statistics;
use crate::output::Failure;
use crate::values::parse_count;

/// Show which patches of an image belong to a word
///
/// Writes a PNG for each word: the image, transparent where the optimal transport plan between words and patches has small values for the
/// word. As in the original, a map is standardised, clipped to 1 to 3 standard deviations above its mean and stretched. Masked words are filled
/// first, the most confident one at a time.
#[derive(Args)]
#[command(
    override_usage = "vlct predict align --load PATH [OPTIONS] IMAGE TEXT\n       vlct predict align --load PATH --stats DATA --save FILE [OPTIONS]",
    after_help = "\
Files are IMAGE_WORD_INDEX.png; INDEX is the position of the word's first token, where [CLS] has position 0. Lines of --input have the
keys image and text.

--clusters N also writes IMAGE_clusters.png: k-means of the features of the patches in the last layer.

--stats DATA collects the standardised similarities of words over captions with images: an .arrow file or a tar, a directory of them, a .csv,
.tsv, .jsonl or .parquet table, whose paths of images begin at --root. --nouns counts only the words of a list. --save writes the values;
--histogram draws them, with those saved for other models (--over) over each other.

Examples:
  vlct predict align --load vlc_baseset.ckpt --out maps photo.jpg \"a dog on a surfboard\"
  vlct predict align --load vlc_baseset.ckpt --word dog --clusters 8 photo.jpg \"a dog on a [MASK]\"
  vlct predict align --load vilt.ckpt --stats nocaps.csv --nouns nouns.txt --save vilt.npy
  vlct predict align --load vlc_baseset.ckpt --stats nocaps.csv --nouns nouns.txt --save ours.npy \\
      --histogram similarities.svg --over vilt.npy"
)]
pub struct AlignArgs {
    /// An image file or a directory of images, then the text
    #[arg(value_name = "IMAGE TEXT", num_args = 0..=2)]
    pub words: Vec<String>,
    /// Directory of the files to write
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub out: PathBuf,
    /// A word of the text; may be given several times [default: all words]
    #[arg(long, value_name = "WORD")]
    pub word: Vec<String>,
    /// Number of clusters of patches
    #[arg(long, value_name = "N", value_parser = parse_count)]
    pub clusters: Option<usize>,
    /// Seed of the clusters and their colours
    #[arg(long, value_name = "N", default_value_t = 1024)]
    pub seed: u64,
    #[command(flatten)]
    pub statistics: statistics::StatisticsOptions,
    #[command(flatten)]
    pub model: ModelOptions,
    #[command(flatten)]
    pub inputs: InputOptions,
    #[command(flatten)]
    pub format: FormatOptions,
}

/// The results of one input.
struct Aligned {
    image: RgbImage,
    maps: Vec<(Word, Vec<f32>)>,
    /// The cluster of each patch.
    clusters: Option<Vec<usize>>,
    grid: [usize; 2],
}

/// Writes heat maps, or collects similarities.
pub fn run(args: &AlignArgs) -> Result<(), Failure> {
    if let Some(data) = &args.statistics.stats {
        if !args.words.is_empty() || !args.word.is_empty() || args.clusters.is_some() || args.inputs.input.is_some() {
            return Err(Failure::Usage(
                "--stats takes its images and texts from DATA: leave out IMAGE TEXT, --word, --clusters and --input"
                    .into(),
            ));
        }
        return statistics::run(data, &args.statistics, &args.model, &args.inputs);
    }
    let list = image_and_text(&args.inputs, &args.words, "IMAGE TEXT")?;
    let predictor = args.model.open(&[Head::MaskedWords])?;
    let preparation = predictor.preparation();
    let mut writer = ImageWriter::new(&args.out)?;
    let mut printer = Printer::new(&args.format, &["word", "index", "file"], list.many)?;
    batches::run(
        list.records,
        args.inputs.batches(),
        |record| {
            let text = preparation.text(record.text()?)?;
            Ok((preparation.image(record.image()?)?, text))
        },
        |inputs| {
            inputs
                .iter()
                .map(|(image, text)| aligned(&predictor, args, image, text))
                .collect()
        },
        |record, result: Result<Result<Aligned, PredictError>, PredictError>| {
            let answer = match result.and_then(|result| result) {
                Ok(aligned) => {
                    let image = record.as_ref().and_then(|record| record.images.first());
                    let stem = writer.stem(image.map_or("image".as_ref(), |image| image.as_path()));
                    Ok(write(&aligned, &writer, &stem, args)?)
                }
                Err(error) => Err(error),
            };
            printer.print(record.as_ref(), answer)
        },
    )?;
    printer.finish()
}

/// Fills masks, aligns words and patches, and selects the words.
fn aligned(
    predictor: &Predictor,
    args: &AlignArgs,
    image: &LoadedImage,
    text: &[u32],
) -> Result<Aligned, PredictError> {
    let tokenizer = predictor.preparation().tokenizer();
    let mut text = text.to_vec();
    if text.contains(&tokenizer.mask()) {
        let item = Item {
            image: Some(image.values.clone()),
            text,
        };
        let filled = Fill::new(predictor)?.fill(&[item], 1).pop();
        text = filled.map(|filled| filled.text).unwrap_or_default();
    }
    let all = words(tokenizer, &text);
    let mut chosen = Vec::new();
    for word in &args.word {
        let wanted = if tokenizer.lower_case() {
            word.to_lowercase()
        } else {
            word.clone()
        };
        let found: Vec<&Word> = all.iter().filter(|word| word.text == wanted).collect();
        if found.is_empty() {
            let names: Vec<&str> = all.iter().map(|word| word.text.as_str()).collect();
            let reason = format!("the word {word:?} is not in the text; its words: {}", names.join(", "));
            return Err(PredictError::Invalid(reason));
        }
        chosen.extend(found.into_iter().cloned());
    }
    if args.word.is_empty() {
        chosen = all;
    }
    let alignment: Alignment = align(predictor.model(), &text, &image.values);
    let width = predictor.model().config().backbone.width;
    Ok(Aligned {
        image: image.image.clone(),
        maps: chosen
            .into_iter()
            .map(|word| (word.clone(), alignment.scores(word.tokens)))
            .collect(),
        clusters: args
            .clusters
            .map(|clusters| k_means(alignment.patches(), width, clusters, args.seed)),
        grid: alignment.grid,
    })
}

/// Writes the images of an input.
fn write(aligned: &Aligned, writer: &ImageWriter, stem: &str, args: &AlignArgs) -> Result<Answer, Failure> {
    let mut documents: Vec<Value> = Vec::new();
    let mut rows = Vec::new();
    for (word, scores) in &aligned.maps {
        let index = word.tokens.start;
        let map = heat_map(&aligned.image, aligned.grid, &opacity(scores));
        let path = writer.write_with_alpha(stem, &format!("{}_{index}", word.text), &map)?;
        let path = path.display().to_string();
        let scores: Value = scores.iter().copied().map(number).collect();
        documents.push(json!({"word": word.text, "index": index, "file": path, "scores": scores}));
        rows.push(vec![
            Cell::Text(word.text.clone()),
            Cell::Text(index.to_string()),
            Cell::Text(path),
        ]);
    }
    if let Some(labels) = &aligned.clusters {
        let count = labels.iter().max().map_or(0, |label| label + 1);
        let map = cluster_map(
            aligned.image.dimensions(),
            aligned.grid,
            labels,
            &colours(count, args.seed),
        );
        let path = writer.write(stem, "clusters", &map)?.display().to_string();
        documents.push(json!({"clusters": labels, "file": path}));
        rows.push(vec![
            Cell::Text("(clusters)".into()),
            Cell::Text(String::new()),
            Cell::Text(path),
        ]);
    }
    Ok(Answer {
        json: documents.into(),
        rows,
    })
}
