//! `vlct prepare DATASET`: raw downloads, or data of one's own, to the Arrow files that training reads.

mod custom;
pub mod valid_vgqa;
mod writing;

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use log::info;
use vlct_data::DataError;
use vlct_data::answers::Vocabulary;
use vlct_prepare::custom::InputFormat;
use vlct_prepare::{self as prepare, Dataset, Plan, RawDataset};

use crate::output::Failure;
use crate::signals::Signals;
use custom::CustomArgs;
use writing::Writing;

/// Turn the raw downloads of a data set, or data of your own, into the Arrow files that training reads
///
/// Reads annotations and pictures below --root, decodes every picture once, leaves out those that cannot be decoded, and writes
/// the files to --out under the names that the original program reads. Files appear when they are whole. Stopped or killed, the
/// same command goes on where it was and ends with the same bytes.
#[derive(Args)]
#[command(after_help = AFTER_HELP)]
pub struct Prepare {
    /// The data set, or the form of your own data
    #[arg(value_enum, value_name = "DATASET", hide_possible_values = true)]
    pub dataset: Name,
    /// Folder that the downloads were unpacked into; the layouts are below
    #[arg(long, value_name = "DIR")]
    pub root: PathBuf,
    /// Only these splits, with commas between them [default: all of the data set]
    #[arg(long, value_name = "SPLIT,…", value_delimiter = ',')]
    pub splits: Option<Vec<String>>,
    /// Decides the order of the rows
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Of vgqa: the numbers of the answers, a label file (.pkl, .json) or a folder with prepared vqav2 files [default: the
    /// label file in --root]
    #[arg(long, value_name = "PATH")]
    pub labels: Option<PathBuf>,
    /// Rows per file of the data sets that are written as numbered files
    #[arg(long, value_name = "N", default_value_t = prepare::ROWS_PER_FILE as u64, value_parser = clap::value_parser!(u64).range(1..))]
    pub rows_per_file: u64,
    /// Where and how the files are written.
    #[command(flatten)]
    pub writing: Writing,
    /// What is said about data of one's own.
    #[command(flatten)]
    pub custom: CustomArgs,
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

Your own data, under --name NAME, and what --root holds:
  jsonl csv tsv        pictures; --annotations has their paths with captions, or questions and answers
  parquet              train*.parquet, …; paths of pictures, or the pictures themselves
  webdataset           *.tar, or train/*.tar  val/*.tar  test/*.tar, as img2dataset writes them (vlct run reads them without this)
  folders              CLASS/*.jpg, or train/CLASS/*.jpg  val/CLASS/*.jpg; the name of the class is the caption

The report, with every picture that was left out and why, is OUT/prepare_DATASET.json or OUT/prepare_NAME.json.

Examples:
  vlct prepare coco --root downloads/coco --out arrow
  vlct prepare vqav2 --root downloads/vqa --out arrow --splits train,val
  vlct prepare gcc --root downloads/gcc --out arrow --max-side 512 --quality 90
  vlct prepare csv --root photos --annotations photos.csv --text-column alt --name photos --out arrow";

/// What is prepared, as a word of the command line.
#[derive(Clone, Copy)]
pub enum Name {
    /// A published dataset.
    Published(Dataset),
    /// Data of one's own in this form.
    Custom(InputFormat),
}

impl ValueEnum for Name {
    fn value_variants<'a>() -> &'a [Self] {
        const NAMES: [Name; Dataset::ALL.len() + InputFormat::ALL.len()] = {
            let mut names = [Name::Custom(InputFormat::ImageFolder); Dataset::ALL.len() + InputFormat::ALL.len()];
            let mut i = 0;
            while i < names.len() {
                names[i] = match i < Dataset::ALL.len() {
                    true => Name::Published(Dataset::ALL[i]),
                    false => Name::Custom(InputFormat::ALL[i - Dataset::ALL.len()]),
                };
                i += 1;
            }
            names
        };
        &NAMES
    }

    fn to_possible_value(&self) -> Option<clap::builder::PossibleValue> {
        Some(clap::builder::PossibleValue::new(match self {
            Self::Published(dataset) => dataset.name(),
            Self::Custom(format) => format.name(),
        }))
    }
}

fn rows_per_file(args: &Prepare) -> usize {
    usize::try_from(args.rows_per_file).unwrap_or(usize::MAX)
}

/// Name of the dataset in reports, and what is to be written.
fn plan(args: &Prepare) -> Result<(String, Plan), Failure> {
    let reading = |what: &str| info!("{what}: reading the annotations and the names of the pictures");
    match args.dataset {
        Name::Published(dataset) => {
            if args.custom.given() {
                let reason = "--name, --annotations, --min-answers and columns are for data of your own";
                return Err(Failure::Usage(format!("prepare {dataset}: {reason}")));
            }
            let raw = RawDataset {
                root: args.root.clone(),
                seed: args.seed,
                splits: args.splits.clone(),
                rows_per_file: rows_per_file(args),
                labels: args.labels.as_deref().map(vocabulary).transpose()?,
            };
            reading(dataset.name());
            Ok((dataset.name().to_string(), dataset.plan(&raw)?))
        }
        Name::Custom(format) => {
            let dataset = custom::custom_dataset(args, format)?;
            reading(&dataset.name);
            let plan = dataset.plan()?;
            Ok((dataset.name, plan))
        }
    }
}

/// Prepares and says what was written.
pub fn run(args: &Prepare) -> Result<(), Failure> {
    let signals = Signals::listen()?;
    let (name, plan) = plan(args)?;
    args.writing.write(&name, &plan, &signals)
}

/// An answer vocabulary from a label file or from a folder of prepared files.
pub fn vocabulary(path: &Path) -> Result<Vocabulary, DataError> {
    match path.is_dir() {
        true => Vocabulary::from_prepared(path),
        false => Vocabulary::open(path),
    }
}
