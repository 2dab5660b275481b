//! `vlct predict align --stats`: similarities of words and patches over captions with images.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};
use vlct_data::datasets::{Contents, Table};
use vlct_data::loader::Pixels;
use vlct_logs::progress::Progress;
use vlct_predict::similarities::{Series, Similarities, chart};
use vlct_predict::{PredictError, Preparation, batches, npy, records};
use vlct_prepare::tables::{self, ColumnNames, ImageSource, TableFormat};
use vlct_util::{IoError, at, atomic, read_at_most};

use super::format::number;
use super::options::{InputOptions, ModelOptions};
use crate::data_files::data_files;
use crate::hints::with_hint;
use crate::output::{Failure, check_directory, print};
use vlct_util::text::counted;

/// Maximum size of a file of saved values in bytes.
const MAX_SAVED_BYTES: u64 = 16 << 30;
/// Maximum number of messages about captions that are left out.
const MAX_WARNINGS: usize = 4;

/// Options of similarities over a dataset.
#[derive(Args)]
pub struct StatisticsOptions {
    /// Captions with images, over which similarities are collected
    #[arg(
        long,
        value_name = "DATA",
        requires = "save",
        help_heading = "Similarities over a dataset"
    )]
    pub stats: Option<PathBuf>,
    /// File of words to count, one per line [default: all words]
    #[arg(
        long,
        value_name = "FILE",
        requires = "stats",
        help_heading = "Similarities over a dataset"
    )]
    pub nouns: Option<PathBuf>,
    /// File for the values: .npy or .json
    #[arg(
        long,
        value_name = "FILE",
        requires = "stats",
        help_heading = "Similarities over a dataset"
    )]
    pub save: Option<PathBuf>,
    /// Chart of the values (SVG)
    #[arg(
        long,
        value_name = "FILE.svg",
        requires = "stats",
        help_heading = "Similarities over a dataset"
    )]
    pub histogram: Option<PathBuf>,
    /// Values of another model, saved by --save, for the same chart; may be given several times
    #[arg(
        long,
        value_name = "FILE",
        requires = "histogram",
        help_heading = "Similarities over a dataset"
    )]
    pub over: Vec<PathBuf>,
}

/// A caption and the source of its image.
type Pair = (Source, String);

/// The source of an image.
enum Source {
    File(PathBuf),
    Bytes(Vec<u8>),
}

/// Collects similarities, saves and draws them.
pub fn run(
    data: &Path,
    options: &StatisticsOptions,
    model: &ModelOptions,
    inputs: &InputOptions,
) -> Result<(), Failure> {
    let Some(save) = &options.save else {
        return Err(Failure::Usage("--stats needs --save".into()));
    };
    let extension = save.extension().unwrap_or_default().to_string_lossy().to_lowercase();
    if !["npy", "json"].contains(&extension.as_str()) {
        return Err(Failure::Usage("--save takes a file .npy or .json".into()));
    }
    check_directory(save)?;
    if let Some(path) = &options.histogram {
        if !path
            .extension()
            .is_some_and(|extension| extension.eq_ignore_ascii_case("svg"))
        {
            return Err(Failure::Usage("--histogram takes a file .svg".into()));
        }
        check_directory(path)?;
    }
    // Files are read before the computation, so that a wrong name is an error at once.
    let mut series: Vec<Series> = options.over.iter().map(|path| read(path)).collect::<Result<_, _>>()?;
    let nouns = options.nouns.as_deref().map(records::lines).transpose()?;
    let (pairs, count) = pairs(data, inputs.root())?;
    // As in the original, long captions are truncated.
    let predictor = model.open_with(&[], |options| options.truncate = true)?;
    let preparation = predictor.preparation();
    let mut similarities = Similarities::new(&predictor, nouns.as_deref());
    let (mut captions, mut failed) = (0usize, 0usize);
    let mut progress = Progress::counting("caption", count as u64, 0);
    batches::run(
        pairs,
        inputs.batches(),
        |pair| prepare(preparation, pair),
        |items: &[(Vec<u32>, Pixels)]| {
            items
                .iter()
                .map(|(text, pixels)| similarities.add(text, pixels))
                .collect()
        },
        |_, result: Result<(), PredictError>| -> Result<(), Failure> {
            match result {
                Ok(()) => captions += 1,
                Err(error) => {
                    failed += 1;
                    if failed <= MAX_WARNINGS {
                        log::warn!("a caption is left out: {}", with_hint(&error));
                    }
                }
            }
            progress.reach((captions + failed) as u64);
            Ok(())
        },
    )?;
    drop(progress);
    if similarities.count == 0 {
        return Err(Failure::Failed(format!(
            "{}: no caption has a word to count",
            data.display()
        )));
    }
    let name = save.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    write(save, &extension, &name, &similarities)?;
    print(&format!(
        "wrote {}: {} in {}\n",
        save.display(),
        counted(similarities.count, "word"),
        counted(captions, "caption")
    ))?;
    if let Some(path) = &options.histogram {
        let values = std::mem::take(&mut similarities.values);
        series.push(Series { name, values });
        let title = format!("Word-patch similarities, {}", data.display());
        let svg = chart(&title, &series);
        let written = atomic::write(path, |out| out.write_all(svg.as_bytes()));
        written.map_err(|error| PredictError::from(at::<IoError>(path)(error)))?;
        print(&format!("wrote {}\n", path.display()))?;
    }
    match failed {
        0 => Ok(()),
        failed => Err(Failure::Failed(format!(
            "{failed} of {} could not be read",
            counted(failed + captions, "caption")
        ))),
    }
}

fn prepare(preparation: &Preparation, (source, caption): &Pair) -> Result<(Vec<u32>, Pixels), PredictError> {
    let image = match source {
        Source::File(path) => preparation.image(path)?,
        Source::Bytes(bytes) => preparation.image_from_bytes(Path::new("an image of the dataset"), bytes)?,
    };
    Ok((preparation.text(caption)?, image.values))
}

/// Captions with the sources of their images, or the reasons why they cannot be read.
type Pairs = Box<dyn Iterator<Item = Result<Pair, PredictError>> + Send>;

/// Returns the captions of a table or of all Arrow files of a directory, with their images, and their number.
fn pairs(data: &Path, root: &Path) -> Result<(Pairs, usize), Failure> {
    let extension = data.extension().unwrap_or_default().to_string_lossy().to_lowercase();
    let format = match extension.as_str() {
        "csv" => TableFormat::Csv,
        "tsv" => TableFormat::Tsv,
        "jsonl" => TableFormat::Jsonl,
        "parquet" => TableFormat::Parquet,
        _ => return arrow_pairs(data),
    };
    let columns = ColumnNames::default();
    let mut pairs = Vec::new();
    for record in tables::read(data, format, &columns)? {
        let record = match record {
            Err(error) if error.is_of_row() => {
                log::warn!("left out: {error}");
                continue;
            }
            record => record?,
        };
        for caption in record.captions {
            let source = match &record.images[0] {
                Some(ImageSource::File(path)) => Source::File(root.join(path)),
                Some(ImageSource::Bytes(bytes)) => Source::Bytes(bytes.clone()),
                None => continue,
            };
            pairs.push(Ok((source, caption)));
        }
    }
    let count = pairs.len();
    Ok((Box::new(pairs.into_iter()), count))
}

/// Returns the captions of an Arrow file or tar, or of all in a directory, and their number.
fn arrow_pairs(data: &Path) -> Result<(Pairs, usize), Failure> {
    let files = match data.is_dir() {
        true => data_files(data)?,
        false => vec![data.to_path_buf()],
    };
    if files.is_empty() {
        let reason = "no .arrow or .tar file in this directory";
        return Err(Failure::Failed(format!("{}: {reason}", data.display())));
    }
    let tables: Vec<Table> = files
        .iter()
        .map(|path| Table::open_with_contents(path, Contents::Captions))
        .collect::<Result<_, _>>()?;
    let captions = |table: &Table, row| table.texts(row, Contents::Captions).map_or(1, |texts| texts.len());
    let count = tables
        .iter()
        .map(|table| (0..table.rows()).map(|row| captions(table, row)).sum::<usize>())
        .sum();
    let rows = tables.into_iter().flat_map(|table| {
        let rows = 0..table.rows();
        rows.flat_map(move |row| row_pairs(&table, row))
    });
    Ok((Box::new(rows), count))
}

/// Returns the captions of a row with copies of its image.
fn row_pairs(table: &Table, row: usize) -> Vec<Result<Pair, PredictError>> {
    let read = || -> Result<Vec<Pair>, vlct_data::DataError> {
        let image = table.image(row, "image")?;
        let texts = table.texts(row, Contents::Captions)?;
        Ok(texts
            .into_iter()
            .map(|text| (Source::Bytes(image.to_vec()), text.into_owned()))
            .collect())
    };
    match read() {
        Ok(pairs) => pairs.into_iter().map(Ok).collect(),
        Err(error) => vec![Err(error.into())],
    }
}

fn write(path: &Path, extension: &str, name: &str, similarities: &Similarities) -> Result<(), PredictError> {
    let values = &similarities.values;
    let written = atomic::write(path, |out| match extension {
        "npy" => npy::write(out, &[values.len()], values),
        _ => {
            let values: Value = values.iter().copied().map(number).collect();
            let document = json!({"name": name, "words": similarities.count, "values": values});
            out.write_all(document.to_string().as_bytes())
        }
    });
    written.map_err(|error| at::<IoError>(path)(error).into())
}

/// Reads saved values: an .npy file, the JSON that [`write()`] makes, or a JSON list of numbers.
fn read(path: &Path) -> Result<Series, Failure> {
    let bytes = read_at_most(path, MAX_SAVED_BYTES, "saved similarities").map_err(PredictError::from)?;
    let failure = |reason: &str| Failure::Failed(format!("{}: {reason}", path.display()));
    let series = |name: String, values: Vec<f32>| {
        let are_numbers = !values.is_empty() && values.iter().all(|value| value.is_finite());
        match are_numbers {
            true => Ok(Series { name, values }),
            false => Err(failure("has no values, or values that are not finite")),
        }
    };
    let mut name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    if path.extension().is_some_and(|extension| extension == "npy") {
        let values = npy::read(&bytes).map_err(failure)?;
        return series(name, values);
    }
    let document: Value = serde_json::from_slice(&bytes).map_err(|error| failure(&format!("not JSON: {error}")))?;
    if let Some(given) = document.get("name").and_then(Value::as_str) {
        name = given.to_owned();
    }
    let values = document.get("values").unwrap_or(&document).as_array();
    let values = values.ok_or_else(|| failure("neither a list of numbers nor an object with the key values"))?;
    let value = |value: &Value| value.as_f64().map(|value| value as f32);
    let values = values.iter().map(value).collect::<Option<Vec<f32>>>();
    series(name, values.ok_or_else(|| failure("a value is not a number"))?)
}
