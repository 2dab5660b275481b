//! `metrics.jsonl`: one JSON object per line.
//!
//! `{"step":120,"epoch":0,"time":43.2,"mlm/train/loss":5.25,"mlm/train/accuracy":0.125}`: optimiser step, epoch, seconds
//! of training (including those before interruptions), and the values under the original's names. Non-finite values are `null`.

use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader, BufWriter, Write},
    path::Path,
};

use serde_json::{Map, Value};

use super::append::{AppendFile, Result, log_error};

/// Name of the file in a run directory.
pub const FILE_NAME: &str = "metrics.jsonl";

/// Maximum length of a line in bytes. A longer line is not a record.
const MAX_LINE: u64 = 1 << 20;

/// Writer of `metrics.jsonl`.
#[derive(Debug)]
pub struct MetricsWriter {
    file: AppendFile,
}

impl MetricsWriter {
    /// Opens `<run>/metrics.jsonl` for appending; creates the file if it is missing.
    ///
    /// # Errors
    /// Returns an error if the file cannot be opened.
    pub fn open(run: &Path) -> Result<Self> {
        let file = AppendFile::open(&run.join(FILE_NAME))?;
        Ok(Self { file })
    }

    /// Appends one record, without buffering. If several values have the same name, the last one is written.
    ///
    /// # Errors
    /// Returns an error if the file cannot be written, for instance on a full disk. Earlier records are then unchanged.
    pub fn write(&mut self, step: u64, epoch: u64, seconds: f64, values: &[(&str, f64)]) -> Result<()> {
        let mut record = Map::new();
        record.insert("step".into(), step.into());
        record.insert("epoch".into(), epoch.into());
        record.insert("time".into(), ((seconds * 1000.0).round() / 1000.0).into());
        for &(name, value) in values {
            // `Value::from` turns non-finite values, which JSON does not have, into null.
            record.insert(name.into(), value.into());
        }
        let mut line = Value::Object(record).to_string();
        line.push('\n');
        self.file.append(line.as_bytes())
    }
}

/// Removes from `<run>/metrics.jsonl` the records of steps after `step` and all lines that are not records, such as the incomplete
/// last line of a killed run. Returns the number of removed lines, 0 if there is no file.
///
/// # Errors
/// Returns an error if the file cannot be read or replaced. The file is then unchanged.
pub fn truncate_after(run: &Path, step: u64) -> Result<u64> {
    let path = run.join(FILE_NAME);
    let temporary = run.join(format!(".{FILE_NAME}.tmp"));
    let truncate = || -> io::Result<u64> {
        let mut reader = match File::open(&path) {
            Ok(file) => BufReader::new(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            Err(error) => return Err(error),
        };
        let mut kept = BufWriter::new(File::create(&temporary)?);
        let mut removed = 0;
        let mut line = Vec::new();
        while next_line(&mut reader, &mut line)? {
            match record_step(&line) {
                Some(record_step) if record_step <= step => kept.write_all(&line)?,
                _ => removed += 1,
            }
        }
        let kept = kept.into_inner().map_err(|error| error.into_error())?;
        if removed > 0 {
            kept.sync_all()?;
            fs::rename(&temporary, &path)?;
        } else {
            fs::remove_file(&temporary)?;
        }
        Ok(removed)
    };
    truncate().map_err(|source| {
        let _ = fs::remove_file(&temporary);
        log_error(&path, "shortened", source)
    })
}

/// Reads a line, including the newline, into `line`. Returns `false` at the end of the file. The bytes of a line beyond
/// [`MAX_LINE`] are skipped.
fn next_line(reader: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    io::Read::take(&mut *reader, MAX_LINE).read_until(b'\n', line)?;
    if line.len() as u64 == MAX_LINE && !line.ends_with(b"\n") {
        reader.skip_until(b'\n')?;
    }
    Ok(!line.is_empty())
}

/// Returns the step of a record; `None` if the line is not a complete record.
fn record_step(line: &[u8]) -> Option<u64> {
    if !line.ends_with(b"\n") {
        return None;
    }
    serde_json::from_slice::<Map<String, Value>>(line)
        .ok()?
        .get("step")?
        .as_u64()
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    fn text(run: &TempDir) -> String {
        fs::read_to_string(run.path().join(FILE_NAME)).unwrap()
    }

    #[test]
    fn writes_one_line_per_record() {
        let run = TempDir::new().unwrap();
        let mut writer = MetricsWriter::open(run.path()).unwrap();
        writer
            .write(
                10,
                0,
                1.23456,
                &[("mlm/train/loss", 5.25), ("mlm/train/accuracy", f64::NAN)],
            )
            .unwrap();
        drop(writer);
        let mut writer = MetricsWriter::open(run.path()).unwrap();
        writer
            .write(20, 1, 2.0, &[("a\"\n/loss", f64::INFINITY), ("x", 1.0), ("x", 2.0)])
            .unwrap();
        let expected = concat!(
            r#"{"step":10,"epoch":0,"time":1.235,"mlm/train/loss":5.25,"mlm/train/accuracy":null}"#,
            "\n",
            r#"{"step":20,"epoch":1,"time":2.0,"a\"\n/loss":null,"x":2.0}"#,
            "\n"
        );
        assert_eq!(text(&run), expected);
    }

    #[test]
    fn truncate_after_removes_later_and_incomplete_records() {
        let run = TempDir::new().unwrap();
        assert_eq!(truncate_after(run.path(), 5).unwrap(), 0);
        let mut writer = MetricsWriter::open(run.path()).unwrap();
        for step in 1..=6 {
            writer.write(step, 0, 0.0, &[("loss", 1.0)]).unwrap();
        }
        let records = text(&run);
        let long_line = format!("{{\"step\":1,\"x\":\"{}\"}}\n", "y".repeat(2 << 20));
        fs::write(
            run.path().join(FILE_NAME),
            format!("{long_line}{records}not json\n{{\"step\":2,\"epo"),
        )
        .unwrap();
        assert_eq!(truncate_after(run.path(), 4).unwrap(), 5);
        let expected: String = records.split_inclusive('\n').take(4).collect();
        assert_eq!(text(&run), expected);
        assert_eq!(truncate_after(run.path(), 4).unwrap(), 0);
        let mut writer = MetricsWriter::open(run.path()).unwrap();
        writer.write(5, 0, 0.0, &[]).unwrap();
        assert_eq!(
            text(&run),
            format!("{expected}{{\"step\":5,\"epoch\":0,\"time\":0.0}}\n")
        );
        assert_eq!(fs::read_dir(run.path()).unwrap().count(), 1);
    }

    #[test]
    fn errors_name_the_file() {
        let run = TempDir::new().unwrap();
        let error = MetricsWriter::open(&run.path().join("absent")).unwrap_err().to_string();
        assert!(error.contains(FILE_NAME) && error.contains("opened"), "{error}");
    }
}
