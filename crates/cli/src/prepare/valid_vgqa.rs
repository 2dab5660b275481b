//! `vlct write-valid-vgqa`: `vlct prepare vgqa` under the name of the published script.

use std::path::PathBuf;

use clap::Args;
use vlct_prepare::RawDataset;
use vlct_prepare::vgqa::{self, Layout};

use super::open_vocabulary;
use super::writing::WriteArgs;
use crate::output::Failure;
use crate::signals::Signals;

/// Write vgqa_train.arrow, the questions of Visual Genome that VQA can use
///
/// Does the same as `vlct prepare vgqa`, with the file names that the published script reads.
#[derive(Args)]
#[command(after_help = "\
What --root holds: valid_vgqa_info.pkl or .json, which vlct map-vg-mscoco writes; images/ID.jpg; and, unless --labels is given,
coco_vqa_label_info.pkl or .json.

Examples:
  vlct write-valid-vgqa --root downloads/vg --out arrow
  vlct write-valid-vgqa --root downloads/vg --out arrow --labels arrow")]
pub struct WriteValidVgqa {
    /// Directory of the questions and images
    #[arg(long, value_name = "DIR")]
    pub root: PathBuf,
    /// Where to read the answer vocabulary: a label file (.pkl, .json), or a directory with prepared vqav2 files [default: the
    /// label file in --root]
    #[arg(long, value_name = "PATH")]
    pub labels: Option<PathBuf>,
    /// Where and how the file is written.
    #[command(flatten)]
    pub writing: WriteArgs,
}

/// Writes the file and prints what was written.
pub fn run(args: &WriteValidVgqa) -> Result<(), Failure> {
    let signals = Signals::listen()?;
    let labels = args.labels.as_deref().map(open_vocabulary).transpose()?;
    let plan = vgqa::plan(&RawDataset::new(&args.root), Layout::ValidVgqa, labels.as_ref())?;
    args.writing.write("vgqa", &plan, None, &signals)
}
