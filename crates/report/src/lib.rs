//! The self-contained HTML report.
//!
//! [`ReportData`] says what happened in a run; [`ReportData::write`] turns it into `report.html`, one file without
//! scripts or links that reads on a phone, in light and dark, by eye and by screen reader, and `metrics.json` with the
//! same numbers for programs. Equal data gives equal bytes.

mod chart;
mod data;
mod html;
mod page;
mod picture;
pub mod quickstart;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value, json};

pub use data::{
    Chart, Curve, FillIn, HeatMap, Hit, Metric, NumberFormat, Reconstruction, ReportData, Retrieval, Token,
};

/// Name of the page.
pub const HTML_NAME: &str = "report.html";

/// Name of the file with the page's numbers.
pub const JSON_NAME: &str = "metrics.json";

/// A report that cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    /// A file cannot be written.
    #[error("{path}: report cannot be written: {source}", path = path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The data contradicts itself.
    #[error("report cannot be made: {0}")]
    Invalid(String),
}

/// Result with a [`ReportError`].
pub type Result<T> = std::result::Result<T, ReportError>;

impl ReportData {
    /// The page.
    ///
    /// Large pictures are shrunk, and examples are left out, with a note, once the pictures take about three megabytes.
    ///
    /// # Errors
    /// [`ReportError::Invalid`] for an empty picture, or a heat map whose grid or word does not exist.
    pub fn html(&self) -> Result<String> {
        page::render(self)
    }

    /// The numbers of the page: `{"format": "vlct-report-1", "title": …, "metrics": {key: {"value", "chance",
    /// "baseline"}}, "curves": {name: [[x, y], …]}, "timings": {name: seconds}, "facts": {name: text}}`. What is not
    /// known or not a number is `null`.
    pub fn metrics(&self) -> Value {
        let metrics = self.metrics.iter().map(|metric| {
            let numbers = json!({"value": metric.value, "chance": metric.chance, "baseline": metric.baseline});
            (metric.key.clone(), numbers)
        });
        let curves = self.charts.iter().flat_map(|chart| &chart.curves);
        let curves = curves.map(|curve| (curve.name.clone(), json!(curve.points)));
        let timings = self
            .timings
            .iter()
            .map(|(name, seconds)| (name.clone(), json!(seconds)));
        let facts = self.dataset.iter().map(|(name, fact)| (name.clone(), json!(fact)));
        json!({
            "format": "vlct-report-1",
            "title": self.title,
            "metrics": metrics.collect::<Map<_, _>>(),
            "curves": curves.collect::<Map<_, _>>(),
            "timings": timings.collect::<Map<_, _>>(),
            "facts": facts.collect::<Map<_, _>>(),
        })
    }

    /// Writes `report.html` and `metrics.json` into `folder`, which is created if it is missing, and returns the path of
    /// the page. Earlier files of these names are replaced.
    ///
    /// # Errors
    /// As [`html`](Self::html), before anything is written; [`ReportError::Io`] if a file cannot be written.
    pub fn write(&self, folder: &Path) -> Result<PathBuf> {
        let html = self.html()?;
        let io_error = |path: &Path, source| ReportError::Io {
            path: path.to_path_buf(),
            source,
        };
        fs::create_dir_all(folder).map_err(|source| io_error(folder, source))?;
        let json = format!("{:#}\n", self.metrics());
        for (name, text) in [(JSON_NAME, &json), (HTML_NAME, &html)] {
            let path = folder.join(name);
            fs::write(&path, text).map_err(|source| io_error(&path, source))?;
        }
        Ok(folder.join(HTML_NAME))
    }
}

#[cfg(test)]
mod tests;
