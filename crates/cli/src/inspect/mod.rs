//! `vlct inspect PATH`: describes a file or directory and checks it for damage.

mod sheet;
mod tables;
mod weights;

use std::fmt::Write;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use vlct_checkpoint as checkpoint;
use vlct_data::DataError;
use vlct_data::webdataset::{compression, tar_stem};
use vlct_model::files;
use vlct_train::imagenet::RunSettings;
use vlct_train::trainer::CONFIG_FILE;
use vlct_util::{IoError, at, open_file};

use crate::args::Inspect;
use crate::data_files::data_files;
use crate::imagenet;
use crate::output::{Failure, print, with_thousands_separators};
use crate::references::local_path;
use vlct_util::text::counted;

/// First bytes of every Arrow IPC file.
const ARROW_MAGIC: &[u8] = b"ARROW1";
/// First bytes of every Arrow IPC stream.
const ARROW_STREAM: &[u8] = &[0xff; 4];

/// Extensions of tables that `vlct prepare` reads.
const TABLES: [&str; 4] = ["jsonl", "csv", "tsv", "parquet"];

/// Describes the file or directory. With `--sheet`, also writes the contact sheet.
///
/// # Errors
/// Returns an error if a file cannot be read or is damaged, if a directory has nothing to describe, or if `--sheet` is given for a run
/// directory, which has no images.
pub fn run(args: &Inspect) -> Result<(), Failure> {
    let path = &*local_path(&args.path)?;
    let metadata = std::fs::metadata(path).map_err(at::<IoError>(path))?;
    if !metadata.is_dir() {
        print(&describe_file(path, args.tensors)?)?;
        return write_sheet(args, &[path.to_path_buf()]);
    }
    if is_run(path) {
        if args.sheet.is_some() {
            let reason = "a run directory has no images; omit --sheet";
            return Err(Failure::Failed(format!("{}: {reason}", path.display())));
        }
        return print_run(path);
    }
    let files = data_files(path)?;
    if files.is_empty()
        && args.sheet.is_none()
        && let Ok(file) = files::find(path)
    {
        return print(&weights::describe(&file, args.tensors)?);
    }
    if files.is_empty() {
        return Err(Failure::Failed(format!(
            "{}: neither a run directory (config.toml, last/, best/) nor a directory of .arrow or .tar files or of weights",
            path.display()
        )));
    }
    for file in &files {
        print(&describe_file(file, false)?)?;
    }
    write_sheet(args, &files)
}

/// Writes the contact sheet if `--sheet` is given.
fn write_sheet(args: &Inspect, files: &[PathBuf]) -> Result<(), Failure> {
    let Some(out) = &args.sheet else {
        return Ok(());
    };
    if !out
        .extension()
        .is_some_and(|extension| extension.eq_ignore_ascii_case("png"))
    {
        let reason = "the sheet is a PNG file: give --sheet a name that ends in .png";
        return Err(Failure::Failed(format!("{}: {reason}", out.display())));
    }
    let count = sheet::write(files, args.sheet_images, out)?;
    print(&format!("wrote {}: {}\n", out.display(), counted(count, "row")))
}

fn describe_file(path: &Path, list_tensors: bool) -> Result<String, Failure> {
    let mut first_bytes = Vec::new();
    open_file(path)?
        .take(ARROW_MAGIC.len() as u64)
        .read_to_end(&mut first_bytes)
        .map_err(at::<IoError>(path))?;
    if first_bytes == ARROW_MAGIC || first_bytes.starts_with(ARROW_STREAM) {
        return tables::describe_arrow(path);
    }
    if tar_stem(path).is_some() {
        return tables::describe_tar(path);
    }
    if let Some((compression, program)) = compression(&first_bytes) {
        return Err(DataError::Compressed {
            path: path.to_path_buf(),
            compression,
            program,
        }
        .into());
    }
    if let Some(format) = TABLES
        .iter()
        .find(|format| path.extension().is_some_and(|e| e.eq_ignore_ascii_case(format)))
    {
        let reason = format!("a table, which inspect does not read; vlct prepare {format} makes Arrow files of it");
        return Err(Failure::Failed(format!("{}: {reason}", path.display())));
    }
    weights::describe(path, list_tensors)
}

fn is_run(path: &Path) -> bool {
    path.join(CONFIG_FILE).is_file() || checkpoint::last_path(path).is_file() || checkpoint::best_path(path).is_file()
}

/// Lists what differs from the settings of a run without any.
fn describe_settings(settings: &RunSettings, text: &mut String) -> Result<(), Failure> {
    match settings {
        RunSettings::Keys(config) => {
            text.push_str("  keys that differ from the base configuration:\n");
            for key in config.changed() {
                let _ = writeln!(text, "    {} = {}", key.name, (key.get)(config));
            }
        }
        RunSettings::Classifier(settings) => {
            text.push_str(
                "  fine-tuning of an image classifier (vlct imagenet); options that differ from the defaults:\n",
            );
            for change in settings.changes(&imagenet::default_settings()?) {
                let now = change.now.unwrap_or_else(|| "not set".into());
                let _ = writeln!(text, "    {} = {now}", change.name);
            }
        }
    }
    Ok(())
}

fn print_run(path: &Path) -> Result<(), Failure> {
    let mut text = format!("{}\n  run directory\n", path.display());
    let config = path.join(CONFIG_FILE);
    match std::fs::read_to_string(&config) {
        Ok(toml) => {
            let settings = RunSettings::parse(&toml);
            let settings = settings.map_err(|e| Failure::Failed(format!("{}: {e}", config.display())))?;
            describe_settings(&settings, &mut text)?;
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let _ = writeln!(text, "  no {CONFIG_FILE}");
        }
        Err(e) => return Err(at::<IoError>(&config)(e).into()),
    }
    if let Ok(file) = File::open(path.join("metrics.jsonl")) {
        let lines = BufReader::new(file).lines().map_while(Result::ok);
        let (count, last) = lines.fold((0u64, String::new()), |(count, _), line| (count + 1, line));
        let _ = writeln!(
            text,
            "  metrics.jsonl: {}, the last: {last}",
            counted(with_thousands_separators(count), "line")
        );
    }
    print(&text)?;
    let mut first_damage = None;
    let kept = checkpoint::steps(path).map_err(at::<IoError>(path))?;
    let kept = kept.into_iter().map(|step| checkpoint::step_path(path, step));
    for path in [checkpoint::last_path(path), checkpoint::best_path(path)]
        .into_iter()
        .chain(kept)
    {
        if !path.is_file() {
            print(&format!("{}\n  does not exist\n", path.display()))?;
            continue;
        }
        match weights::describe(&path, false) {
            Ok(text) => print(&text)?,
            Err(Failure::Failed(damage)) => first_damage = first_damage.or(Some(damage)),
            Err(failure) => return Err(failure),
        }
    }
    first_damage.map_or(Ok(()), |damage| Err(Failure::Failed(damage)))
}
