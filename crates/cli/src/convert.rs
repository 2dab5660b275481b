//! `vlct convert IN OUT`: converts weight files between formats and between naming schemes.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use vlct_data::answers::Vocabulary;
use vlct_model::files::mapping::abbreviate;
use vlct_model::files::{self, ViltHead};
use vlct_model::sizes::GivenHeads;
use vlct_tasks::description::{self, ExportOptions, Names};
use vlct_text::Tokenizer;
use vlct_util::text::{counted, one_line};

use crate::output::{Failure, check_new, print, with_thousands_separators};
use crate::references::local_path;
use crate::values::parse_count;

/// Convert weights between PyTorch files, safetensors and directories of transformers, and between VLC's, ViLT's and MAE's names
///
/// What is known about a model stays with it: sizes, task, names of answers, vocabulary, how images are prepared. With --style hf, OUT is a
/// directory that transformers and the Hub of Hugging Face load: weights with one head, configuration, tokenizer and a model card.
#[derive(Args)]
#[command(after_help = "\
Examples:
  vlct convert vlc_baseset.ckpt vlc.safetensors      another format, same names
  vlct convert vlc.safetensors vlc.ckpt              a file that PyTorch loads
  vlct convert vlc_baseset.ckpt mae.pth --style mae  image backbone and decoder, under MAE's names
  vlct convert mae.pth backbone.ckpt --style vlc     VLC's names for the tensors of MAE
  vlct convert RUN vqa-model --style hf --license mit        a directory for transformers
  vlct convert vqa-model vilt_vqa.ckpt --style vilt          and back to a file of ViLT")]
pub struct Convert {
    /// Weights: .ckpt, .pth, .pt, .bin or .safetensors (the content determines the format), a directory of a run or of transformers, or
    /// hf-hub:ORG/NAME@REVISION
    #[arg(value_name = "IN")]
    pub input: PathBuf,
    /// File to write, whose extension determines the format; with --style hf a directory, which must be new or empty
    #[arg(value_name = "OUT")]
    pub output: PathBuf,
    /// Naming scheme of the tensors in OUT [default: that of IN, Hugging Face's become MAE's or ViLT's]
    #[arg(long, value_enum)]
    pub style: Option<Style>,
    /// Replace an existing file
    #[arg(long)]
    pub overwrite: bool,
    /// Number of attention heads, for weights that do not state it
    #[arg(long, value_name = "N", value_parser = parse_count)]
    pub heads: Option<usize>,
    #[command(flatten)]
    pub hf: HfOptions,
}

/// Options of directories for transformers.
#[derive(Args)]
pub struct HfOptions {
    /// The head to write, as a model in transformers has one [default: that of the task, or the only one]
    #[arg(long, value_enum, help_heading = "With --style hf")]
    pub head: Option<HeadName>,
    /// The tokenizer of the model: bert-base-uncased, or a vocab.txt [default: that of IN, else bert-base-uncased]
    #[arg(long, value_name = "NAME", help_heading = "With --style hf")]
    pub tokenizer: Option<String>,
    /// Names of the answers: coco_vqa_label_info.pkl, JSON of this form, a JSON list, or config.json [default: those of IN]
    #[arg(long, value_name = "FILE", help_heading = "With --style hf")]
    pub answers: Option<PathBuf>,
    /// License of the weights, as in model cards: mit, apache-2.0, cc-by-4.0 [default: unknown, which the model card says]
    #[arg(long, value_name = "NAME", value_parser = parse_license, help_heading = "With --style hf")]
    pub license: Option<String>,
}

impl HfOptions {
    /// Whether an option is given.
    pub fn is_given(&self) -> bool {
        let Self {
            head,
            tokenizer,
            answers,
            license,
        } = self;
        head.is_some() || tokenizer.is_some() || answers.is_some() || license.is_some()
    }
}

/// Heads that models in transformers have.
#[derive(Clone, Copy, ValueEnum)]
pub enum HeadName {
    /// Answers to questions
    Vqa,
    /// Whether a statement is true of two images
    Nlvr2,
    /// Ranking of texts and images
    Retrieval,
    /// Masked words
    MaskedWords,
    /// Labels of an image with a text
    Labels,
}

fn parse_license(text: &str) -> Result<String, String> {
    let is_valid = |c: char| c.is_ascii_alphanumeric() || ['-', '.', '_'].contains(&c);
    match !text.is_empty() && text.len() <= 64 && text.chars().all(is_valid) {
        true => Ok(text.to_owned()),
        false => Err("expected an identifier of letters, digits, '-', '.' and '_', such as apache-2.0".into()),
    }
}

/// Naming schemes of tensors.
#[derive(Clone, Copy, ValueEnum)]
pub enum Style {
    /// The whole model: transformer.blocks.0.…, text_embeddings.…
    Vlc,
    /// The image backbone and its decoder alone: blocks.0.…, decoder_blocks.0.…
    Mae,
    /// A file of ViLT: VLC's names without the decoder, with ViLT's configuration
    Vilt,
    /// A directory for Hugging Face's transformers: vilt.encoder.layer.0.…
    Hf,
}

/// Converts the file and prints what was done.
pub fn run(args: &Convert) -> Result<(), Failure> {
    let names = match args.style {
        Some(Style::Hf) => return export(args),
        Some(Style::Vlc) => Some(Names::Vlc),
        Some(Style::Mae) => Some(Names::Mae),
        Some(Style::Vilt) => Some(Names::Vilt),
        None => None,
    };
    if args.hf.is_given() {
        let message =
            "--head, --tokenizer, --answers and --license are options of directories for transformers: add --style hf";
        return Err(Failure::Usage(message.into()));
    }
    let input = files::find(&local_path(&args.input)?)?;
    let canonical = |path: &Path| path.canonicalize().ok();
    if canonical(&input).is_some_and(|input| Some(input) == canonical(&args.output)) {
        let path = args.output.display();
        return Err(Failure::Failed(format!(
            "{path}: IN and OUT are the same file; name another OUT"
        )));
    }
    check_new(&args.output, args.overwrite)?;
    let converted = description::convert(&input, &args.output, names, heads(args))?;
    log_notes(&converted.notes);
    let of = of_input(args, &input);
    print(&format!("wrote {}{of}: {}\n", args.output.display(), converted.report))
}

/// Writes a directory for transformers and prints what was done.
fn export(args: &Convert) -> Result<(), Failure> {
    let answers = args.hf.answers.as_ref().map(Vocabulary::open).transpose()?;
    let options = ExportOptions {
        head: args.hf.head.map(|head| match head {
            HeadName::Vqa => ViltHead::Vqa,
            HeadName::Nlvr2 => ViltHead::Nlvr2,
            HeadName::Retrieval => ViltHead::Ranking,
            HeadName::MaskedWords => ViltHead::MaskedWords,
            HeadName::Labels => ViltHead::Labels,
        }),
        tokenizer: args.hf.tokenizer.as_deref().map(Tokenizer::named).transpose()?,
        names: answers.map(|answers| {
            let answer = |id| answers.answer(id).map(str::to_owned);
            (0..answers.len() as u32).map(answer).collect()
        }),
        license: args.hf.license.clone(),
        heads: heads(args),
    };
    let report = description::export(&local_path(&args.input)?, &args.output, &options)?;
    log_notes(&report.notes);
    let mut text = format!(
        "wrote {}{}: {}, {} with {}\n",
        args.output.display(),
        of_input(args, &report.input),
        report.architecture,
        counted(report.tensors, "tensor"),
        counted(with_thousands_separators(report.parameters as u64), "value"),
    );
    if !report.left_out.is_empty() {
        let names = one_line(&abbreviate(&report.left_out));
        text.push_str(&format!(
            "left out, because {} does not have them: {names}\n",
            report.architecture
        ));
    }
    if args.hf.license.is_none() {
        text.push_str("the model card says that the license is unknown; --license names it\n");
    }
    print(&text)
}

fn heads(args: &Convert) -> GivenHeads {
    GivenHeads {
        encoder: args.heads,
        decoder: None,
    }
}

/// Returns a clause about the weight file, if a directory was given.
fn of_input(args: &Convert, input: &Path) -> String {
    match input == args.input {
        true => String::new(),
        false => format!(" of {}", input.display()),
    }
}

fn log_notes(notes: &[String]) {
    notes.iter().for_each(|note| log::info!("note: {note}"));
}
