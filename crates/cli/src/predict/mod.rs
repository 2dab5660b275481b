//! `vlct predict TASK`: predictions for image files and texts.

mod align;
mod answers;
mod features;
mod fill;
mod format;
mod images;
mod options;
mod repaint;
mod retrieve;
mod statistics;

use clap::{Args, Subcommand};

use crate::output::Failure;

/// Predict from image files and texts: answers, matches, masked words, labels, heat maps, features
///
/// Needs weights (--load) and nothing else: sizes, tokenizer and the names of answers or labels come from the file. Weights of a run
/// have everything. A published .ckpt lacks the names of answers, which --answers gives.
#[derive(Args)]
#[command(subcommand_required = true, arg_required_else_help = true, after_help = EXAMPLES)]
pub struct Predict {
    /// What to predict
    #[command(subcommand)]
    pub task: Task,
}

const EXAMPLES: &str = "\
Examples:
  vlct predict vqa --load RUN photo.jpg \"what is on the table?\"
  vlct predict match --load vlc_baseset.ckpt photo.jpg \"a dog on a surfboard\"
  vlct predict retrieve --load RUN photos \"a dog on a surfboard\"
  vlct predict fill --load vlc_baseset.ckpt photo.jpg \"a [MASK] on a [MASK]\"
  vlct predict align --load vlc_baseset.ckpt --out maps photo.jpg \"a dog on a surfboard\"
  vlct predict nlvr2 --load RUN left.jpg right.jpg \"both images show two dogs\"
  vlct predict classify --load vlc_baseset.ckpt photo.jpg --classes classes.txt --template \"a photo of a {}\"

An image can be a directory: then all images in it are inputs. Many inputs are lines of JSON in --input FILE.jsonl, or - for standard
input; `vlct predict TASK --help` names the keys. --json, --csv and --top-k choose the output. An input that cannot be read has an error at
its place in the output, the others are answered all the same, and the exit status is 1.

`vlct inspect --tensors FILE` lists the heads of published weights: vqa_classifier, nlvr2_classifier, labels_classifier, itm_score, rank_output,
mlm_score.";

/// Tasks of `vlct predict`.
#[derive(Subcommand)]
pub enum Task {
    Vqa(answers::VqaArgs),
    Match(answers::MatchArgs),
    Nlvr2(answers::Nlvr2Args),
    Classify(answers::ClassifyArgs),
    Retrieve(retrieve::RetrieveArgs),
    Fill(fill::FillArgs),
    Align(Box<align::AlignArgs>),
    Repaint(repaint::RepaintArgs),
    Features(features::FeaturesArgs),
}

/// Runs the command.
pub fn run(args: &Predict) -> Result<(), Failure> {
    match &args.task {
        Task::Vqa(args) => answers::vqa(args),
        Task::Match(args) => answers::matching(args),
        Task::Nlvr2(args) => answers::nlvr2(args),
        Task::Classify(args) => answers::classify(args),
        Task::Retrieve(args) => retrieve::run(args),
        Task::Fill(args) => fill::run(args),
        Task::Align(args) => align::run(args),
        Task::Repaint(args) => repaint::run(args),
        Task::Features(args) => features::run(args),
    }
}
