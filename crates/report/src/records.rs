//! The records of a run's `metrics.jsonl`, and curves made from them.

use std::path::Path;

use serde_json::Value;
use vlct_train::error::{Result, TrainError};
use vlct_util::at;

/// Reads the records of `metrics.jsonl`. Lines that are not JSON are skipped.
pub(crate) fn records(run_directory: &Path) -> Result<Vec<Value>> {
    let path = run_directory.join(vlct_train::logs::metrics::FILE_NAME);
    let text = std::fs::read_to_string(&path).map_err(at::<TrainError>(&path))?;
    Ok(text
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect())
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
