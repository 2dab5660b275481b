//! `vlct prepare DATASET`: raw downloads to the Arrow files that training reads.

use std::fmt::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Instant;

use clap::{Args, ValueEnum};
use vlct_data::DataError;
use vlct_data::answers::Vocabulary;
use vlct_data::prepare::{self, Dataset, Outcome, Raw, Report, Shrink, Target, Treatment};
use vlct_train::logs::Progress;

use crate::output::{Failure, grouped, print, size, tell};
use crate::signals::Signals;

/// Turn the raw downloads of a data set into the Arrow files that training reads
///
/// Reads annotations and pictures below --root, decodes every picture once, leaves out those that cannot be decoded, and writes
/// the files to --out under the names that the original program reads. Files appear when they are whole. Stopped or killed, the
/// same command goes on where it was and ends with the same bytes.
#[derive(Args)]
#[command(after_help = AFTER_HELP)]
pub struct Prepare {
    /// The data set
    #[arg(value_enum, value_name = "DATASET", hide_possible_values = true)]
    pub dataset: Name,
    /// Folder that the downloads were unpacked into; the layouts are below
    #[arg(long, value_name = "DIR")]
    pub root: PathBuf,
    /// Folder for the Arrow files: data_root of `vlct run`. Created if it is missing
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Only these splits, with commas between them [default: all of the data set]
    #[arg(long, value_name = "SPLIT,…", value_delimiter = ',')]
    pub splits: Option<Vec<String>>,
    /// Decides the order of the rows
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Do not decode the pictures; damaged ones are then found in training
    #[arg(long)]
    pub no_validate: bool,
    /// Make larger pictures smaller, to this longest side in pixels, as JPEG
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(16..=65_535))]
    pub max_side: Option<u32>,
    /// JPEG quality of pictures that are made smaller
    #[arg(long, value_name = "Q", default_value_t = 90, requires = "max_side", value_parser = clap::value_parser!(u8).range(1..=100))]
    pub quality: u8,
    /// Of vgqa: the numbers of the answers, a label file (.pkl, .json) or a folder with prepared vqav2 files [default: the
    /// label file in --root]
    #[arg(long, value_name = "PATH")]
    pub labels: Option<PathBuf>,
    /// Rows per file of the data sets that are written as numbered files
    #[arg(long, value_name = "N", default_value_t = prepare::ROWS_PER_FILE as u64, value_parser = clap::value_parser!(u64).range(1..))]
    pub rows_per_file: u64,
    /// Replace files that are there already, made from other inputs or with other options
    #[arg(long)]
    pub overwrite: bool,
    /// Threads that read pictures; 0: one for each core
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=4096))]
    pub threads: u16,
    /// Print the report as JSON
    #[arg(long)]
    pub json: bool,
}

const AFTER_HELP: &str = "\
Data sets and what --root holds:
  coco                 karpathy/dataset_coco.json  train2014/  val2014/
  f30k                 karpathy/dataset_flickr30k.json  flickr30k-images/
  vg                   annotations/region_descriptions.json  images/VG_100K/  images/VG_100K_2/
  gcc                  train_annot.json  val_annot.json  images_train/*/  images_val/*/
  sbu                  annot.json  images_train/*/
  vqav2                v2_OpenEnded_mscoco_{train2014,val2014,test2015,test-dev2015}_questions.json
                       v2_mscoco_{train2014,val2014}_annotations.json  train2014/  val2014/  test2015/
  vgqa                 valid_vgqa_info.pkl (vlct map-vg-mscoco writes it)  coco_vqa_label_info.pkl  images/
                       or vg_qa_info.dict  vqa_labels_info.pkl  images/
  nlvr2                nlvr2/data/*.json  images/train/*/  dev/  test1/
  pretrain-vqa         vqa_annt.json  train2014/  val2014/
  pretrain-gqa         gqa_annt.json  images/
  pretrain-openimages  oi_annt.json  images/train/
  pretrain-f30k        flickr30k_annt.json  images/
  pretrain-vg          vgqa_annt.json  images/

The report, with every picture that was left out and why, is OUT/prepare_DATASET.json.

Examples:
  vlct prepare coco --root downloads/coco --out arrow
  vlct prepare vqav2 --root downloads/vqa --out arrow --splits train,val
  vlct prepare gcc --root downloads/gcc --out arrow --max-side 512 --quality 90";

/// A dataset's name as a word of the command line.
#[derive(Clone, Copy)]
pub struct Name(Dataset);

impl ValueEnum for Name {
    fn value_variants<'a>() -> &'a [Self] {
        const NAMES: [Name; Dataset::ALL.len()] = {
            let mut names = [Name(Dataset::Coco); Dataset::ALL.len()];
            let mut i = 0;
            while i < names.len() {
                names[i] = Name(Dataset::ALL[i]);
                i += 1;
            }
            names
        };
        &NAMES
    }

    fn to_possible_value(&self) -> Option<clap::builder::PossibleValue> {
        Some(clap::builder::PossibleValue::new(self.0.name()))
    }
}

/// Prepares and says what was written.
pub fn run(args: &Prepare) -> Result<(), Failure> {
    let signals = Signals::listen()?;
    let Name(dataset) = args.dataset;
    let raw = Raw {
        root: args.root.clone(),
        seed: args.seed,
        splits: args.splits.clone(),
        rows_per_file: usize::try_from(args.rows_per_file).unwrap_or(usize::MAX),
        labels: args.labels.as_deref().map(vocabulary).transpose()?,
    };
    let shrink = args.max_side.map(|max_side| Shrink {
        max_side,
        quality: args.quality,
    });
    let target = Target {
        out: args.out.clone(),
        treatment: Treatment {
            validate: !args.no_validate,
            shrink,
        },
        overwrite: args.overwrite,
        threads: match args.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => usize::from(threads),
        },
    };
    tell(&format!(
        "{dataset}: reading the annotations and the names of the pictures"
    ));
    let plan = dataset.plan(&raw)?;
    let started = Instant::now();
    let (mut shown, mut begun, mut bytes) = (None, 0, 0);
    let mut watch = |now: prepare::Progress| {
        match &mut shown {
            None => {
                begun = now.done;
                if begun > 0 {
                    tell(&format!(
                        "{} of {} rows are there already",
                        grouped(begun),
                        grouped(now.total)
                    ));
                }
                shown = Some(Progress::counting("row", now.total, begun));
            }
            Some(progress) => progress.reach(now.done),
        }
        bytes = now.bytes;
        match signals.stop().load(Ordering::Relaxed) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    };
    let outcome = prepare::write(dataset.name(), &plan, &target, &mut watch)?;
    drop(shown);
    match outcome {
        Outcome::Stopped => {
            tell("stopped; the same command goes on from here");
            signals.outcome()
        }
        Outcome::WasDone(report) => {
            tell("everything is there already, made from the same inputs");
            show(args, &report)
        }
        Outcome::Done(report) => {
            let seconds = started.elapsed().as_secs_f64();
            let rows = plan.rows() - begun;
            tell(&format!(
                "{} rows in {seconds:.1} s: {:.0} rows/s, {:.1} MB/s of pictures",
                grouped(rows),
                rows as f64 / seconds,
                bytes as f64 / 1e6 / seconds
            ));
            show(args, &report)
        }
    }
}

/// An answer vocabulary from a label file or from a folder of prepared files.
fn vocabulary(path: &Path) -> Result<Vocabulary, DataError> {
    match path.is_dir() {
        true => Vocabulary::from_prepared(path),
        false => Vocabulary::open(path),
    }
}

fn show(args: &Prepare, report: &Report) -> Result<(), Failure> {
    if args.json {
        let text = serde_json::to_string(report)?;
        return print(&format!("{text}\n"));
    }
    let mut text = String::new();
    for file in &report.files {
        let path = args.out.join(&file.file);
        let _ = writeln!(
            text,
            "wrote {}: {} rows, {}",
            path.display(),
            grouped(file.rows),
            size(file.bytes)
        );
    }
    for part in &report.coverage {
        let _ = writeln!(
            text,
            "{}: {} pictures found, {} annotated; {} have both{}",
            part.part,
            grouped(part.found as u64),
            grouped(part.annotated as u64),
            grouped(part.kept as u64),
            match &part.examples[..] {
                [] => String::new(),
                examples => {
                    let dots = if part.without_picture > examples.len() {
                        ", …"
                    } else {
                        ""
                    };
                    let count = grouped(part.without_picture as u64);
                    format!("; no picture for {count} ({}{dots})", examples.join(", "))
                }
            }
        );
    }
    for remark in &report.remarks {
        let _ = writeln!(text, "{remark}");
    }
    const SHOWN: usize = 5;
    if !report.left_out.is_empty() {
        let _ = writeln!(
            text,
            "{} rows left out, since a picture cannot be used:",
            grouped(report.left_out.len() as u64)
        );
        for left_out in report.left_out.iter().take(SHOWN) {
            let _ = writeln!(text, "  {}: {}", left_out.picture, left_out.reason);
        }
        if report.left_out.len() > SHOWN {
            let path = Report::path(&args.out, &report.dataset);
            let _ = writeln!(text, "  … all of them in {}", path.display());
        }
    }
    print(&text)
}
