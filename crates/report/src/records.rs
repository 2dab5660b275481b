//! The records of a run's `metrics.jsonl`, and curves made from them.

use std::path::Path;

use log::warn;
use serde_json::Value;
use vlct_train::error::{Result, TrainError};
use vlct_util::at;

/// The records of a run.
#[derive(Default)]
pub(crate) struct Records {
    /// The records, in order.
    pub values: Vec<Value>,
    /// Number of lines that are not JSON, which are left out.
    pub damaged: usize,
}

/// Reads the records of `metrics.jsonl`.
///
/// # Errors
/// Returns an error if the file cannot be read, or no line of it is a record.
pub(crate) fn records(run_directory: &Path) -> Result<Records> {
    let path = run_directory.join(vlct_logs::metrics::FILE_NAME);
    let bytes = std::fs::read(&path).map_err(at::<TrainError>(&path))?;
    let text = String::from_utf8_lossy(&bytes);
    let values: Vec<Value> = text
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    let damaged = text.lines().count() - values.len();
    if values.is_empty() && damaged > 0 {
        return Err(TrainError::NoRecords { path });
    }
    if values.is_empty() {
        warn!("{}: no record yet, so the page has no curves", path.display());
    }
    Ok(Records { values, damaged })
}

/// Returns `(step, value)` of the records that have the metric `key`.
pub(crate) fn curve(records: &[Value], key: &str) -> Vec<(f64, f64)> {
    records
        .iter()
        .filter_map(|r| Some((r["step"].as_f64()?, r.get(key)?.as_f64()?)))
        .collect()
}

/// Reduces a curve to at most a hundred points by averaging groups of neighbouring points.
pub(crate) fn thin(points: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    let group = points.len().div_ceil(100).max(1);
    points
        .chunks(group)
        .map(|c| {
            let n = c.len() as f64;
            (
                c.iter().map(|p| p.0).sum::<f64>() / n,
                c.iter().map(|p| p.1).sum::<f64>() / n,
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_lines_are_left_out_and_a_file_without_records_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(vlct_logs::metrics::FILE_NAME);
        std::fs::write(&path, b"{\"step\": 1}\n\xff{\n{\"step\": 3}\n{\"st").unwrap();
        let read = records(directory.path()).unwrap();
        assert_eq!(
            read.values.iter().map(|r| r["step"].as_u64()).collect::<Vec<_>>(),
            [Some(1), Some(3)]
        );
        assert_eq!(read.damaged, 2);
        std::fs::write(&path, "garbage").unwrap();
        assert!(matches!(records(directory.path()), Err(TrainError::NoRecords { .. })));
        std::fs::write(&path, "").unwrap();
        assert!(records(directory.path()).unwrap().values.is_empty());
    }
}
