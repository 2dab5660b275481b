//! `vlct predict vqa`, `match`, `nlvr2` and `classify`: names with probabilities.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};
use vlct_predict::classify::{Classifier, ZeroShot};
use vlct_predict::matching::Matching;
use vlct_predict::nlvr2::Nlvr2;
use vlct_predict::vqa::Vqa;
use vlct_predict::{Head, Item, PairItem, PredictError, Preparation, Record, Scored, batches, records};

use super::format::{Answer, Cell, FormatOptions, Printer, number};
use super::options::{InputList, InputOptions, ModelOptions};
use crate::output::Failure;

/// Answer a question about an image
///
/// The probability of an answer is the sigmoid of its logit: the model judges every answer separately, so probabilities do not
/// sum to 100 %.
#[derive(Args)]
#[command(
    override_usage = "vlct predict vqa --load PATH [OPTIONS] IMAGE QUESTION",
    after_help = "\
Lines of --input have the keys image and question: {\"image\": \"photo.jpg\", \"question\": \"what color is the car?\"}

Examples:
  vlct predict vqa --load result/finetune_vqa_randaug_seed0_from_vlc_baseset/version_0 photo.jpg \"how many dogs are there?\"
  vlct predict vqa --load vlc_vqa.ckpt --answers coco_vqa_label_info.pkl --json photo.jpg \"what is this?\"
  vlct predict vqa --load hf-hub:dandelin/vilt-b32-finetuned-vqa --image photo.jpg --question \"how many dogs are there?\"
  vlct predict vqa --load RUN --csv --top-k 1 photos \"is it raining?\"
  vlct predict vqa --load RUN --json --input questions.jsonl > answers.jsonl"
)]
pub struct VqaArgs {
    /// An image file or a directory of images, then the question
    #[arg(value_name = "IMAGE QUESTION", num_args = 0..=2)]
    pub words: Vec<String>,
    /// The image file or the directory of images, instead of the first argument
    #[arg(long, value_name = "IMAGE", requires = "question", conflicts_with = "words")]
    pub image: Option<String>,
    /// The question, instead of the second argument
    #[arg(long, value_name = "QUESTION", requires = "image", conflicts_with = "words")]
    pub question: Option<String>,
    /// Names of the answers, for weights that lack them: the published pickle, a JSON list, or a config.json with id2label
    #[arg(long, value_name = "FILE")]
    pub answers: Option<PathBuf>,
    #[command(flatten)]
    pub model: ModelOptions,
    #[command(flatten)]
    pub inputs: InputOptions,
    #[command(flatten)]
    pub format: FormatOptions,
}

/// Tell whether a text belongs to an image
///
/// The probability of `yes` is that of the matching head: the softmax of its two logits.
#[derive(Args)]
#[command(
    override_usage = "vlct predict match --load PATH [OPTIONS] IMAGE TEXT",
    after_help = "\
Lines of --input have the keys image and text.

Examples:
  vlct predict match --load vlc_baseset.ckpt photo.jpg \"a dog on a surfboard\"
  vlct predict match --load RUN --csv photos \"a red car\""
)]
pub struct MatchArgs {
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

/// Tell whether a statement is true of two images
#[derive(Args)]
#[command(
    override_usage = "vlct predict nlvr2 --load PATH [OPTIONS] LEFT RIGHT STATEMENT",
    after_help = "\
Lines of --input have the keys image_0 (left), image_1 (right) and statement.

Examples:
  vlct predict nlvr2 --load RUN left.jpg right.jpg \"both images show two dogs\"
  vlct predict nlvr2 --load RUN --json --input pairs.jsonl"
)]
pub struct Nlvr2Args {
    /// The left and the right image, then the statement
    #[arg(value_name = "LEFT RIGHT STATEMENT", num_args = 0..=3)]
    pub words: Vec<String>,
    #[command(flatten)]
    pub model: ModelOptions,
    #[command(flatten)]
    pub inputs: InputOptions,
    #[command(flatten)]
    pub format: FormatOptions,
}

/// Classify images, with or without a text, by the labels of the model or by any classes
///
/// A model of `vlct imagenet` classifies images alone. Without --classes, the labels are those that the model was trained for: their
/// probabilities sum to 100 %, unless an item may have several labels. With --classes, the matching head scores the image with one text per
/// class, without training for the classes; the probabilities are the softmax over the classes.
#[derive(Args)]
#[command(
    override_usage = "vlct predict classify --load PATH [OPTIONS] [IMAGE] [--text TEXT]",
    after_help = "\
Lines of --input have the keys image and text; one of them may be missing if the model has labels.

Examples:
  vlct predict classify --load RUN photo.jpg
  vlct predict classify --load RUN poster.jpg --text \"a story of two friends\"
  vlct predict classify --load vlc_baseset.ckpt photos --classes classes.txt --template \"a photo of a {}\" --csv"
)]
pub struct ClassifyArgs {
    /// An image file or a directory of images
    #[arg(value_name = "IMAGE")]
    pub image: Option<PathBuf>,
    /// Text that belongs to the image, or that is classified without an image
    #[arg(long, value_name = "TEXT", conflicts_with = "classes")]
    pub text: Option<String>,
    /// File with one class per line, for classification by matching
    #[arg(long, value_name = "FILE")]
    pub classes: Option<PathBuf>,
    /// Text of a class, with {} for its name
    #[arg(long, value_name = "TEXT", default_value = "a photo of {}", requires = "classes")]
    pub template: String,
    #[command(flatten)]
    pub model: ModelOptions,
    #[command(flatten)]
    pub inputs: InputOptions,
    #[command(flatten)]
    pub format: FormatOptions,
}

/// Answers questions.
pub fn vqa(args: &VqaArgs) -> Result<(), Failure> {
    let named = args.image.iter().chain(&args.question).cloned();
    let words: Vec<String> = args.words.iter().cloned().chain(named).collect();
    let list = image_and_text(&args.inputs, &words, "IMAGE QUESTION")?;
    let predictor = args.model.open(&[Vqa::HEAD])?;
    let task = Vqa::new(&predictor, args.answers.as_deref())?;
    let printer = Printer::new(&args.format, &["answer", "score"], list.many)?;
    let preparation = predictor.preparation();
    answer_all(
        list,
        &args.inputs,
        printer,
        |record| item_with_image(preparation, record),
        |items| task.logits(items),
        |logits| scored_answer("answer", &task.answers(&logits, args.format.top_k)),
    )
}

/// Classifies whether texts belong to images.
pub fn matching(args: &MatchArgs) -> Result<(), Failure> {
    let list = image_and_text(&args.inputs, &args.words, "IMAGE TEXT")?;
    let predictor = args.model.open(&[Matching::HEAD])?;
    let task = Matching::new(&predictor)?;
    let printer = Printer::new(&args.format, &["label", "score"], list.many)?;
    let preparation = predictor.preparation();
    answer_all(
        list,
        &args.inputs,
        printer,
        |record| item_with_image(preparation, record),
        |items| task.logits(items),
        |logits| two_labels(["no", "yes"], Matching::probability(logits)),
    )
}

/// Classifies statements about two images.
pub fn nlvr2(args: &Nlvr2Args) -> Result<(), Failure> {
    let usage = "LEFT RIGHT STATEMENT";
    let list = match args.words.as_slice() {
        [] => args.inputs.given(usage)?,
        [left, right, statement] => {
            let images = [left, right].map(Path::new);
            args.inputs.records(&images, Some(statement), usage)?
        }
        words => {
            return Err(Failure::Usage(format!(
                "nlvr2 needs two images and a statement ({usage}), not {} arguments",
                words.len()
            )));
        }
    };
    let predictor = args.model.open(&[Nlvr2::HEAD])?;
    let task = Nlvr2::new(&predictor)?;
    let printer = Printer::new(&args.format, &["label", "score"], list.many)?;
    let preparation = predictor.preparation();
    answer_all(
        list,
        &args.inputs,
        printer,
        |record| {
            let [left, right] = record.image_pair()?;
            Ok(PairItem {
                text: preparation.text(record.text()?)?,
                images: [preparation.image(left)?.values, preparation.image(right)?.values],
            })
        },
        |items| task.logits(items),
        |logits| two_labels(["false", "true"], Nlvr2::probability(logits)),
    )
}

/// Classifies images and texts.
pub fn classify(args: &ClassifyArgs) -> Result<(), Failure> {
    let images: Vec<&Path> = args.image.iter().map(PathBuf::as_path).collect();
    let usage = "[IMAGE] [--text TEXT]";
    let list = match (images.as_slice(), &args.text) {
        ([], None) => args.inputs.given(usage)?,
        (images, text) => args.inputs.records(images, text.as_deref(), usage)?,
    };
    let top_k = args.format.top_k;
    if args.classes.is_none()
        && let Some(classifier) = args.model.open_image_classifier()?
    {
        let printer = Printer::new(&args.format, &["label", "score"], list.many)?;
        return answer_all(
            list,
            &args.inputs,
            printer,
            |record| classifier.image(record.image()?),
            |images| classifier.logits(images),
            |logits| scored_answer("label", &classifier.classes(&logits, top_k)),
        );
    }
    let heads: &[Head] = match args.classes {
        Some(_) => &[ZeroShot::HEAD],
        None => &[Classifier::HEAD],
    };
    let predictor = args.model.open(heads)?;
    let preparation = predictor.preparation();
    let columns = &["label", "score"];
    if let Some(classes) = &args.classes {
        let task = ZeroShot::new(&predictor, records::lines(classes)?, &args.template)?;
        let printer = Printer::new(&args.format, columns, list.many)?;
        return answer_all(
            list,
            &args.inputs,
            printer,
            |record| Ok(preparation.image(record.image()?)?.values),
            |images| images.iter().map(|image| task.logits(image)).collect(),
            |logits| scored_answer("label", &task.classes(&logits, top_k)),
        );
    }
    let task = Classifier::new(&predictor)?;
    let printer = Printer::new(&args.format, columns, list.many)?;
    answer_all(
        list,
        &args.inputs,
        printer,
        |record| {
            let image = match record.images.is_empty() {
                true => None,
                false => Some(preparation.image(record.image()?)?.values),
            };
            let text = preparation.text(record.text.as_deref().unwrap_or_default())?;
            Ok(Item { image, text })
        },
        |items| task.logits(items),
        |logits| scored_answer("label", &task.labels(&logits, top_k)),
    )
}

/// Returns the inputs of a task whose arguments are an image and a text.
pub fn image_and_text(inputs: &InputOptions, words: &[String], usage: &str) -> Result<InputList, Failure> {
    match words {
        [] => inputs.given(usage),
        [image, text] => inputs.records(&[Path::new(image)], Some(text), usage),
        [_] | [_, _, _, ..] => Err(Failure::Usage(format!(
            "{usage} are needed, there is {} argument",
            words.len()
        ))),
    }
}

/// Prepares a record of one image and a text.
pub fn item_with_image(preparation: &Preparation, record: &Record) -> Result<Item, PredictError> {
    let text = preparation.text(record.text()?)?;
    Ok(Item {
        image: Some(preparation.image(record.image()?)?.values),
        text,
    })
}

/// Predicts from all inputs and prints the answers in order.
pub fn answer_all<P: Send, R>(
    list: InputList,
    inputs: &InputOptions,
    mut printer: Printer,
    prepare: impl Fn(&Record) -> Result<P, PredictError> + Sync,
    predict: impl FnMut(&[P]) -> Vec<R>,
    answer: impl Fn(R) -> Answer,
) -> Result<(), Failure> {
    batches::run(list.records, inputs.batches(), prepare, predict, |record, result| {
        printer.print(record.as_ref(), result.map(&answer))
    })?;
    printer.finish()
}

/// Returns names with probabilities. `key` is the key of the name in JSON.
fn scored_answer(key: &str, scored: &[Scored]) -> Answer {
    let document = |s: &Scored| json!({"score": number(s.score), key: s.name});
    Answer {
        json: scored.iter().map(document).collect::<Vec<Value>>().into(),
        rows: scored
            .iter()
            .map(|s| vec![Cell::Text(s.name.clone()), Cell::Probability(s.score)])
            .collect(),
    }
}

/// Returns the answer of two classes, the more probable one first. `probability` is that of the second label.
fn two_labels([first, second]: [&str; 2], probability: f32) -> Answer {
    let scored = |name: &str, score| Scored {
        name: name.into(),
        score,
    };
    let mut both = [scored(second, probability), scored(first, 1.0 - probability)];
    if both[0].score < both[1].score {
        both.reverse();
    }
    scored_answer("label", &both)
}
