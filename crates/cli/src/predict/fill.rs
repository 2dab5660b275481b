//! `vlct predict fill`: words in place of `[MASK]`.

use clap::Args;
use serde_json::{Value, json};
use vlct_predict::Item;
use vlct_predict::fill::{Fill, Filled, FilledMask, masked_text};
use vlct_text::Tokenizer;

use super::answers::{answer_all, image_and_text};
use super::format::{Answer, Cell, FormatOptions, Printer, number};
use super::options::{InputOptions, ModelOptions};
use crate::output::Failure;

/// Fill each `[MASK]` of a text about an image
///
/// Several masks are filled one at a time, as in the original: the most confident prediction of all masks is committed, then the remaining
/// masks are predicted again. The candidates of a mask are those of the moment when it was filled. The score is the softmax over the
/// vocabulary.
#[derive(Args)]
#[command(
    override_usage = "vlct predict fill --load PATH [OPTIONS] IMAGE TEXT",
    after_help = "\
Lines of --input have the keys image and text. --json prints score, token, token_str and sequence of each candidate; for a text with
several masks, a list of such lists, in the order of the text.

Examples:
  vlct predict fill --load vlc_baseset.ckpt photo.jpg \"a [MASK] dog on a [MASK]\"
  vlct predict fill --load RUN --top-k 1 --csv photos \"a photo of a [MASK]\""
)]
pub struct FillArgs {
    /// An image file or a directory of images, then the text
    #[arg(value_name = "IMAGE TEXT", num_args = 0..=2)]
    pub words: Vec<String>,
    #[command(flatten)]
    pub model: ModelOptions,
    #[command(flatten)]
    pub inputs: InputOptions,
    #[command(flatten)]
    pub format: FormatOptions,
}

/// Fills masks.
pub fn run(args: &FillArgs) -> Result<(), Failure> {
    let list = image_and_text(&args.inputs, &args.words, "IMAGE TEXT")?;
    let predictor = args.model.open(&[Fill::HEAD])?;
    let task = Fill::new(&predictor)?;
    let printer = Printer::new(&args.format, &["mask", "token", "score", "sequence"], list.many)?;
    let preparation = predictor.preparation();
    answer_all(
        list,
        &args.inputs,
        printer,
        |record| {
            let text = masked_text(preparation, record.text()?)?;
            Ok(Item {
                image: Some(preparation.image(record.image()?)?.values),
                text,
            })
        },
        |items| task.fill(items, args.format.top_k),
        |filled| answer(&filled, preparation.tokenizer()),
    )
}

fn answer(filled: &Filled, tokenizer: &Tokenizer) -> Answer {
    let document = |mask: &FilledMask| -> Value {
        let candidates = mask.candidates.iter().map(|candidate| {
            json!({
                "score": number(candidate.probability),
                "token": candidate.id,
                "token_str": candidate.token,
                "sequence": mask.sequence(candidate, tokenizer),
            })
        });
        candidates.collect()
    };
    let mut documents: Vec<Value> = filled.masks.iter().map(document).collect();
    let mut rows = Vec::new();
    for (i, mask) in filled.masks.iter().enumerate() {
        rows.extend(mask.candidates.iter().map(|candidate| {
            vec![
                Cell::Text((i + 1).to_string()),
                Cell::Text(candidate.token.clone()),
                Cell::Probability(candidate.probability),
                Cell::Text(mask.sequence(candidate, tokenizer)),
            ]
        }));
    }
    Answer {
        json: match documents.len() {
            1 => documents.remove(0),
            _ => documents.into(),
        },
        rows,
    }
}
