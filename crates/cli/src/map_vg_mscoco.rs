//! `vlct map-vg-mscoco`: selects questions of Visual Genome for VQA.

use std::path::PathBuf;

use clap::Args;
use log::warn;
use vlct_data::answers::Vocabulary;
use vlct_prepare::vgqa::{self, Layout, QuestionsFormat};
use vlct_util::text::counted;
use vlct_util::{IoError, at, atomic};

use crate::output::{Failure, check_new, print};

/// Select the questions of Visual Genome for VQA: those on COCO images with answers in the VQA vocabulary
///
/// Reads image_data.json and question_answers.json of Visual Genome. Keeps a question if its image has a coco_id and its answer,
/// normalised as in VQA, is in the vocabulary. Writes a dictionary from image ids to lists of (id, question, answer), and
/// prints how many questions are on COCO images and how many of these are kept.
#[derive(Args)]
#[command(after_help = "\
What --root holds:
  image_data.json  question_answers.json            of Visual Genome
  coco_vqa_label_info.pkl or .json                  the vocabulary, unless --labels or --vqa-arrow is given

A vocabulary is a pickle or JSON file: a dictionary with ans2label (answers to ids) and label2ans (list of answers). A JSON
file may contain only the list. Nothing in a pickle is executed.

Examples:
  vlct map-vg-mscoco --root vgqa
  vlct map-vg-mscoco --root vgqa --vqa-arrow arrow               the vocabulary of prepared VQA v2 files
  vlct map-vg-mscoco --root vgqa --labels answers.json --out questions.json")]
pub struct MapVgMscoco {
    /// Directory of the downloads
    #[arg(long, value_name = "DIR")]
    pub root: PathBuf,
    /// File of the answer vocabulary [default: coco_vqa_label_info.pkl or .json in --root]
    #[arg(long, value_name = "FILE", conflicts_with = "vqa_arrow")]
    pub labels: Option<PathBuf>,
    /// Use the vocabulary of prepared VQA v2 files (vqav2_train.arrow, …) in this directory
    #[arg(long, value_name = "DIR")]
    pub vqa_arrow: Option<PathBuf>,
    /// File to write: JSON if its extension is .json, otherwise a pickle for Python [default: valid_vgqa_info.pkl in --root]
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Replace an existing file
    #[arg(long)]
    pub overwrite: bool,
}

/// Selects the questions and prints their counts.
pub fn run(args: &MapVgMscoco) -> Result<(), Failure> {
    let default_path = || args.root.join("valid_vgqa_info.pkl");
    let out = args.out.clone().unwrap_or_else(default_path);
    check_new(&out, args.overwrite)?;
    let vocabulary = match (&args.labels, &args.vqa_arrow) {
        (Some(file), _) => Vocabulary::open(file)?,
        (None, Some(directory)) => Vocabulary::from_prepared(directory)?,
        (None, None) => Layout::ValidVgqa.vocabulary(&args.root)?,
    };
    let selection = vgqa::select(&args.root, &vocabulary)?;
    selection.remarks.iter().for_each(|remark| warn!("{remark}"));
    atomic::write(&out, |file| {
        vgqa::encode(&selection.images, QuestionsFormat::of(&out), file)
    })
    .map_err(at::<IoError>(&out))?;
    print(&format!(
        "wrote {}: {} on COCO images; {} kept, on {}\n",
        out.display(),
        counted(selection.considered, "question"),
        selection.kept,
        counted(selection.images.len(), "image")
    ))
}
