//! `vlct inspect PATH`: describes a file or directory and checks it for damage.

mod sheet;
mod tables;

use std::fmt::Write;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use vlct_data::DataError;
use vlct_data::webdataset::{compression, tar_stem};
use vlct_model::checkpoint;
use vlct_model::files;
use vlct_train::config::Config;
use vlct_util::text::escape_control;
use vlct_util::{IoError, at, open_file};

use crate::args::Inspect;
use crate::data_files::data_files;
use crate::output::{Failure, format_bytes, print, with_thousands_separators};

/// First bytes of every Arrow IPC file.
const ARROW_MAGIC: &[u8] = b"ARROW1";
/// First bytes of every Arrow IPC stream.
const ARROW_STREAM: &[u8] = &[0xff; 4];

/// Extensions of tables that `vlct prepare` reads.
const TABLES: [&str; 4] = ["jsonl", "csv", "tsv", "parquet"];

/// Maximum number of characters printed of each entry (other than tensors) of a weight file.
const MAX_ENTRY_CHARS: usize = 160;

/// Describes the file or directory. With `--sheet`, also writes the contact sheet.
///
/// # Errors
/// Returns an error if a file cannot be read or is damaged, if a directory has nothing to describe, or if `--sheet` is given for a run
/// directory, which has no images.
pub fn run(args: &Inspect) -> Result<(), Failure> {
    let path = args.path.as_path();
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
    if files.is_empty() {
        return Err(Failure::Failed(format!(
            "{}: neither a run directory (config.toml, last/, best/) nor a directory of .arrow or .tar files",
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
    print(&format!("wrote {}: {count} rows\n", out.display()))
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
    if path.extension().is_some_and(|e| e == "safetensors")
        && let Ok(summary) = checkpoint::inspect(path)
    {
        return match &summary.damage {
            None => Ok(describe_checkpoint(&summary)),
            Some(damage) => Err(Failure::Failed(format!("{}: {damage}", path.display()))),
        };
    }
    describe_weights(path, list_tensors)
}

fn describe_weights(path: &Path, list_tensors: bool) -> Result<String, Failure> {
    let file = files::read(path)?;
    let mut text = format!("{}\n", path.display());
    let _ = writeln!(text, "  {}, {} names", file.format, file.style);
    let _ = writeln!(
        text,
        "  {} tensors, {} values",
        file.state.len(),
        with_thousands_separators(file.state.parameters() as u64)
    );
    if let Some(key) = &file.summary.weights_under {
        let _ = writeln!(text, "  weights under {key:?}");
    }
    if let Some(epoch) = file.summary.epoch {
        let _ = writeln!(text, "  epoch {epoch}");
    }
    if let Some(step) = file.summary.global_step {
        let _ = writeln!(text, "  optimiser step {step}");
    }
    for (key, value) in &file.summary.entries {
        if key != "epoch" && key != "global_step" {
            let _ = writeln!(text, "  also holds {}: {}", escape_control(key), truncated(value));
        }
    }
    if !file.summary.skipped.is_empty() {
        let _ = writeln!(text, "  not tensors, left out: {}", file.summary.skipped.join(", "));
    }
    if list_tensors {
        for (name, tensor) in file.state.iter() {
            let _ = writeln!(
                text,
                "    {} {} {:?}",
                escape_control(name),
                tensor.data.dtype(),
                tensor.shape
            );
        }
    }
    text.push_str("  intact\n");
    Ok(text)
}

/// Truncates a text after [`MAX_ENTRY_CHARS`] characters.
fn truncated(text: &str) -> String {
    match text.char_indices().nth(MAX_ENTRY_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.into(),
    }
}

fn describe_checkpoint(summary: &checkpoint::Summary) -> String {
    let mut text = format!("{}\n", summary.path.display());
    let _ = writeln!(
        text,
        "  checkpoint of {} with {} tensors, {} values, {}{}",
        format_bytes(summary.bytes),
        summary.tensors,
        with_thousands_separators(summary.parameters),
        if summary.optimizer {
            "and the optimiser's state"
        } else {
            "without the optimiser's state"
        },
        if summary.averages {
            ", and averages of the weights"
        } else {
            ""
        }
    );
    let mut position = Vec::new();
    position.extend(summary.step.map(|step| format!("step {step}")));
    position.extend(summary.epoch.map(|epoch| format!("epoch {epoch}")));
    position.extend(summary.metric.map(|metric| format!("best metric {metric}")));
    if !position.is_empty() {
        let _ = writeln!(text, "  {}", position.join(", "));
    }
    text.push_str("  intact: the checksum matches\n");
    text
}

fn is_run(path: &Path) -> bool {
    path.join("config.toml").is_file() || checkpoint::last_path(path).is_file() || checkpoint::best_path(path).is_file()
}

fn print_run(path: &Path) -> Result<(), Failure> {
    let mut text = format!("{}\n  run directory\n", path.display());
    let config = path.join("config.toml");
    match std::fs::read_to_string(&config) {
        Ok(toml) => {
            let config = Config::from_toml(&toml).map_err(|e| Failure::Failed(format!("{}: {e}", config.display())))?;
            text.push_str("  keys that differ from the base configuration:\n");
            for key in config.changed() {
                let _ = writeln!(text, "    {} = {}", key.name, (key.get)(&config));
            }
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => text.push_str("  no config.toml\n"),
        Err(e) => return Err(at::<IoError>(&config)(e).into()),
    }
    if let Ok(file) = File::open(path.join("metrics.jsonl")) {
        let lines = BufReader::new(file).lines().map_while(Result::ok);
        let (count, last) = lines.fold((0u64, String::new()), |(count, _), line| (count + 1, line));
        let _ = writeln!(
            text,
            "  metrics.jsonl: {} lines, the last: {last}",
            with_thousands_separators(count)
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
        let summary = checkpoint::inspect(&path)?;
        match &summary.damage {
            None => print(&describe_checkpoint(&summary))?,
            Some(damage) => first_damage = first_damage.or(Some(format!("{}: {damage}", path.display()))),
        }
    }
    first_damage.map_or(Ok(()), |damage| Err(Failure::Failed(damage)))
}
