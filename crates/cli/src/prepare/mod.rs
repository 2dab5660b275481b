//! `vlct prepare DATASET`: turns raw downloads or a custom dataset into the Arrow files that training reads.

mod custom;
pub mod valid_vgqa;
mod writing;

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use clap::builder::PossibleValue;
use clap::{Args, ValueEnum};
use log::info;
use vlct_data::DataError;
use vlct_data::answers::Vocabulary;
use vlct_image::Reading;
use vlct_prepare::custom::InputFormat;
use vlct_prepare::{self as prepare, Dataset, Plan, RawDataset};

use crate::output::Failure;
use crate::signals::Signals;
use custom::CustomArgs;
use writing::WriteArgs;

/// Turn the raw downloads of a dataset, or a custom dataset, into the Arrow files that training reads
///
/// Reads annotations and images below --root, decodes every image once, leaves out those that cannot be decoded, and writes the
/// files to --out under the names that the original program reads. A file gets its name when it is complete. If the command is
/// stopped or killed, the same command resumes, and the files have the same bytes as without interruption.
#[derive(Args)]
#[command(after_help = AFTER_HELP)]
pub struct Prepare {
    /// A published dataset, or the input format of a custom dataset
    #[arg(value_enum, value_name = "DATASET", hide_possible_values = true)]
    pub dataset: DatasetArg,
    /// Directory that the downloads were unpacked into; the layouts are below
    #[arg(long, value_name = "DIR")]
    pub root: PathBuf,
    /// Splits to prepare, separated by commas [default: all]
    #[arg(long, value_name = "SPLIT,…", value_delimiter = ',')]
    pub splits: Option<Vec<String>>,
    /// Seed of the order of rows
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// For vgqa: where to read the answer vocabulary: a label file (.pkl, .json), or a directory with prepared vqav2 files
    /// [default: the label file in --root]
    #[arg(long, value_name = "PATH")]
    pub labels: Option<PathBuf>,
    /// Rows per file, for datasets that are written as numbered files
    #[arg(long, value_name = "N", default_value_t = prepare::ROWS_PER_FILE as u64, value_parser = clap::value_parser!(u64).range(1..))]
    pub rows_per_file: u64,
    /// Where and how the files are written.
    #[command(flatten)]
    pub writing: WriteArgs,
    /// Options of custom datasets.
    #[command(flatten)]
    pub custom: CustomArgs,
}

const AFTER_HELP: &str = "\
Published datasets and what --root holds:
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

Custom datasets, under --name NAME, and what --root holds:
  jsonl csv tsv        images; the --annotations file has their paths, with captions or with questions and answers; or
                       images, texts or both with class labels (label or labels); or pairs (image_0, image_1, statement, label)
  parquet              train*.parquet, …, with paths of images or the images themselves
  webdataset           *.tar, or train/*.tar  val/*.tar  test/*.tar, as img2dataset writes them; also .tar.gz
                       (vlct run reads .tar directly)
  files                x.jpg with x.txt, x.caption or x.json beside it, in any directories; those in train/  val/  test/ are of this split
  imagefolder          metadata.jsonl, .csv or .parquet (file_name, text) with images, also in train/  validation/  test/;
                       or CLASS/*.jpg, or train/CLASS/*.jpg  val/CLASS/*.jpg: the name of the class is the caption

The report, OUT/prepare_DATASET.json (for custom datasets OUT/prepare_NAME.json), lists every image that was left out, and why.

Examples:
  vlct prepare coco --root downloads/coco --out arrow
  vlct prepare vqav2 --root downloads/vqa --out arrow --splits train,val
  vlct prepare gcc --root downloads/gcc --out arrow --max-side 512 --quality 90
  vlct prepare csv --root photos --annotations photos.csv --text-column alt --name photos --out arrow
  vlct prepare files --root downloads --name photos --out arrow
  vlct prepare jsonl --root posters --annotations films.jsonl --labels-column genres --name films --out arrow";

/// The argument DATASET.
#[derive(Clone, Copy)]
pub enum DatasetArg {
    /// A published dataset.
    Published(Dataset),
    /// A custom dataset in this input format.
    Custom(InputFormat),
}

impl ValueEnum for DatasetArg {
    fn value_variants<'a>() -> &'a [Self] {
        static VARIANTS: LazyLock<Vec<DatasetArg>> = LazyLock::new(|| {
            let published = Dataset::ALL.map(DatasetArg::Published);
            let custom = InputFormat::ALL.map(DatasetArg::Custom);
            published.into_iter().chain(custom).collect()
        });
        &VARIANTS
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(match self {
            Self::Published(dataset) => PossibleValue::new(dataset.name()),
            // Earlier versions call it "folders".
            Self::Custom(InputFormat::ImageFolder) => {
                PossibleValue::new(InputFormat::ImageFolder.name()).alias("folders")
            }
            Self::Custom(format) => PossibleValue::new(format.name()),
        })
    }
}

fn rows_per_file(args: &Prepare) -> usize {
    usize::try_from(args.rows_per_file).unwrap_or(usize::MAX)
}

/// Returns the name of the dataset, the plan of its files, and how the images of a custom dataset become pixels.
fn plan(args: &Prepare) -> Result<(String, Plan, Option<Reading>), Failure> {
    let log_start = |name: &str| info!("{name}: reading annotations and image names");
    match args.dataset {
        DatasetArg::Published(dataset) => {
            if args.custom.any_given() {
                let reason = "--name, --annotations, --background, --as-stored, --min-answers and columns are options of custom datasets";
                return Err(Failure::Usage(format!("prepare {dataset}: {reason}")));
            }
            let raw = RawDataset {
                root: args.root.clone(),
                seed: args.seed,
                splits: args.splits.clone(),
                rows_per_file: rows_per_file(args),
                vocabulary: args.labels.as_deref().map(open_vocabulary).transpose()?,
            };
            log_start(dataset.name());
            Ok((dataset.name().to_string(), dataset.plan(&raw)?, None))
        }
        DatasetArg::Custom(format) => {
            if !args.root.is_dir() {
                return Err(Failure::Failed(format!(
                    "{}: no such directory, which --root names",
                    args.root.display()
                )));
            }
            let dataset = custom::custom_dataset(args, format)?;
            dataset.check()?;
            log_start(&dataset.name);
            let plan = dataset.plan()?;
            Ok((dataset.name, plan, Some(args.custom.reading())))
        }
    }
}

/// Prepares the dataset and prints what was written.
pub fn run(args: &Prepare) -> Result<(), Failure> {
    let signals = Signals::listen()?;
    let (name, plan, reading) = plan(args)?;
    args.writing.write(&name, &plan, reading, &signals)
}

/// Opens the answer vocabulary of a label file, or of a directory with prepared vqav2 files.
pub fn open_vocabulary(path: &Path) -> Result<Vocabulary, DataError> {
    if path.is_dir() {
        Vocabulary::from_prepared(path)
    } else {
        Vocabulary::open(path)
    }
}
