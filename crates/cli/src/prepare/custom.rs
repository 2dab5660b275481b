//! Options of custom datasets.

use clap::Args;
use vlct_image::{Background, Orientation, Reading};
use vlct_prepare::custom::{AnnotationTable, CustomDataset, InputFormat};
use vlct_prepare::tables::ColumnNames;

use super::Prepare;
use crate::output::Failure;

/// Options of custom datasets.
#[derive(Args, Default, PartialEq)]
#[command(next_help_heading = "Custom datasets")]
pub struct CustomArgs {
    /// Name of the dataset, for datasets=NAME in `vlct run`
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// A table and the split of its rows; may be repeated. Without SPLIT, the split of each row is read from the split column;
    /// without this column, all rows are training data
    /// [default: train.*, val.* and test.* in --root]
    #[arg(long, value_name = "[SPLIT=]FILE")]
    pub annotations: Vec<AnnotationTable>,
    /// Column of the images: paths relative to --root; in Parquet, paths or the bytes of image files
    #[arg(long, value_name = "COLUMN")]
    pub image_column: Option<String>,
    /// Column of the captions, of the texts of rows with labels, or of the statements about pairs
    #[arg(long, value_name = "COLUMN")]
    pub text_column: Option<String>,
    /// Column of the questions
    #[arg(long, value_name = "COLUMN")]
    pub question_column: Option<String>,
    /// Column of the answers
    #[arg(long, value_name = "COLUMN")]
    pub answer_column: Option<String>,
    /// Column with one class label per row; of pairs, whether the statement is true
    #[arg(long, value_name = "COLUMN", conflicts_with = "labels_column")]
    pub label_column: Option<String>,
    /// Column with any number of class labels per row: a list, or a text with | between labels
    #[arg(long, value_name = "COLUMN")]
    pub labels_column: Option<String>,
    /// Do not read the columns label and labels: the texts are captions
    #[arg(long, conflicts_with_all = ["label_column", "labels_column"])]
    pub ignore_labels: bool,
    /// Column of the image names
    #[arg(long, value_name = "COLUMN")]
    pub id_column: Option<String>,
    /// Column of the splits
    #[arg(long, value_name = "COLUMN")]
    pub split_column: Option<String>,
    /// What is behind transparent pixels: white, black, #rrggbb, or keep, which makes their hidden colours visible. Training and prediction
    /// read it from the Arrow files [default: white]
    #[arg(long, value_name = "COLOUR")]
    pub background: Option<Background>,
    /// Do not apply the EXIF orientation of images, by which cameras and phones say how they were held
    #[arg(long)]
    pub as_stored: bool,
    /// Keep an answer if it is the majority answer of at least N questions [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub min_answers: Option<u32>,
}

impl CustomArgs {
    /// Returns how the images become pixels.
    pub fn reading(&self) -> Reading {
        Reading {
            background: self.background.unwrap_or(Reading::CUSTOM.background),
            orientation: match self.as_stored {
                true => Orientation::AsStored,
                false => Reading::CUSTOM.orientation,
            },
        }
    }

    /// Returns whether any option is given.
    pub fn any_given(&self) -> bool {
        *self != Self::default()
    }
}

/// Returns the custom dataset that the command line describes.
pub fn custom_dataset(args: &Prepare, format: InputFormat) -> Result<CustomDataset, Failure> {
    let options = &args.custom;
    let Some(name) = &options.name else {
        return Err(Failure::Usage(format!(
            "prepare {format} needs --name NAME, the name of the dataset"
        )));
    };
    Ok(CustomDataset {
        name: name.clone(),
        format,
        root: args.root.clone(),
        annotations: options.annotations.clone(),
        columns: ColumnNames {
            image: options.image_column.clone(),
            text: options.text_column.clone(),
            question: options.question_column.clone(),
            answer: options.answer_column.clone(),
            label: options.label_column.clone(),
            labels: options.labels_column.clone(),
            id: options.id_column.clone(),
            split: options.split_column.clone(),
            ignore_labels: options.ignore_labels,
        },
        min_answers: options.min_answers.map_or(1, |count| count as usize),
        splits: args.splits.clone(),
        rows_per_file: super::rows_per_file(args),
    })
}
