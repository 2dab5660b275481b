//! The self-contained HTML report.
//!
//! [`ReportData`] holds the results of a run. [`ReportData::write`] writes them as `report.html`, one file without scripts
//! or external links that adapts to phones, dark mode and screen readers, and as `metrics.json`, the same values for
//! programs. Equal data gives equal bytes. [`quickstart`] generates data, trains on it and reports the results; [`run`] reports any run.

mod chart;
mod classes;
mod data;
mod examples;
mod html;
mod images;
mod page;
pub mod quickstart;
mod records;
pub mod run;

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use serde_json::{Map, Value, json};
use vlct_tasks::confusion::ClassResult;
use vlct_util::atomic;

pub use data::{
    AnswerExample, Chart, Curve, HeatMap, Hit, MaskedCaption, Metric, NumberFormat, Reconstruction, ReportData,
    Retrieval, Token,
};

/// File name of the page.
pub const HTML_NAME: &str = "report.html";

/// File name of the JSON file with the page's values.
pub const JSON_NAME: &str = "metrics.json";

/// An error while rendering or writing a report.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    /// A file or directory cannot be written.
    #[error("{path}: report cannot be written: {source}", path = path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The data is inconsistent. Holds the reason.
    #[error("report cannot be rendered: {0}")]
    Invalid(String),
}

/// Result with a [`ReportError`].
pub type Result<T> = std::result::Result<T, ReportError>;

impl ReportData {
    /// Returns the page as one HTML document.
    ///
    /// Large images are scaled down. Once the examples take about three megabytes, a section shows only its first example, with
    /// a note that counts the omitted ones.
    ///
    /// # Errors
    /// Returns [`ReportError::Invalid`] if an image is empty, if the values of a heat map do not fill
    /// its rows, or if the index of its word is out of range.
    pub fn html(&self) -> Result<String> {
        page::render(self)
    }

    /// Returns the values of the page: `{"format": "vlct-report-1", "title": …, "metrics": {key: {"value", "chance",
    /// "baseline", "from_scratch"}}, "curves": {name: [[x, y], …]}, "classes": {name: {"images", "correct"}}, "timings": {name: seconds,
    /// "total": seconds}, "facts": {name: text}, "faults": [text, …]}`. A value that is unknown or not finite is `null`.
    pub fn metrics(&self) -> Value {
        let metrics = self.metrics.iter().map(|metric| {
            let values = json!({
                "value": metric.value,
                "chance": metric.chance,
                "baseline": metric.baseline,
                "from_scratch": metric.from_scratch,
            });
            (metric.key.clone(), values)
        });
        let curves = self.charts.iter().flat_map(|chart| &chart.curves);
        let curves = curves.map(|curve| (curve.name.clone(), json!(curve.points)));
        let classes = self.classes.iter().flat_map(|confusion| {
            let of_class = |result: ClassResult| {
                let values = json!({"images": result.images, "correct": result.correct});
                (confusion.name(result.class).to_string(), values)
            };
            confusion.classes().into_iter().map(of_class)
        });
        let timings = self
            .timings
            .iter()
            .map(|(name, seconds)| (name.clone(), json!(seconds)))
            .chain([("total".to_string(), json!(self.total_time()))]);
        let facts = self.dataset.iter().map(|(name, fact)| (name.clone(), json!(fact)));
        json!({
            "format": "vlct-report-1",
            "title": self.title,
            "metrics": metrics.collect::<Map<_, _>>(),
            "curves": curves.collect::<Map<_, _>>(),
            "classes": classes.collect::<Map<_, _>>(),
            "timings": timings.collect::<Map<_, _>>(),
            "facts": facts.collect::<Map<_, _>>(),
            "faults": self.faults,
        })
    }

    /// Returns the total time of all stages in seconds.
    fn total_time(&self) -> f64 {
        self.timings.iter().map(|(_, seconds)| seconds).sum()
    }

    /// Writes `report.html` and `metrics.json` into `directory`, which is created if it is missing, and returns the path
    /// of the page. Existing files of these names are replaced.
    ///
    /// # Errors
    /// Returns the errors of [`html`](Self::html) before anything is written, and [`ReportError::Io`] if a write fails.
    pub fn write(&self, directory: &Path) -> Result<PathBuf> {
        self.write_as(directory, JSON_NAME)
    }

    /// Writes the page like [`write`](Self::write), and its values as `json_name`.
    fn write_as(&self, directory: &Path, json_name: &str) -> Result<PathBuf> {
        let html = self.html()?;
        let io_error = |path: &Path, source| ReportError::Io {
            path: path.to_path_buf(),
            source,
        };
        fs::create_dir_all(directory).map_err(|source| io_error(directory, source))?;
        let json = format!("{:#}\n", self.metrics());
        for (name, text) in [(json_name, &json), (HTML_NAME, &html)] {
            let path = directory.join(name);
            atomic::write(&path, |out| out.write_all(text.as_bytes())).map_err(|source| io_error(&path, source))?;
        }
        Ok(directory.join(HTML_NAME))
    }
}

#[cfg(test)]
mod tests;
