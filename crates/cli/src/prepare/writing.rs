//! Writes the files of a plan: options, progress and summary.

use std::fmt::Write;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Instant;

use clap::Args;
use log::{info, warn};
use vlct_image::{Background, Reading};
use vlct_logs::Progress;
use vlct_prepare::{
    self as prepare, Coverage, Downscale, ImageProcessing, LabelCounts, Outcome, Plan, Report, WriteOptions,
};
use vlct_util::text::{counted, escape_control, quoted};

use crate::output::{Failure, format_bytes, print, with_thousands_separators};
use crate::signals::Signals;

/// Where and how Arrow files are written.
#[derive(Args)]
pub struct WriteArgs {
    /// Directory for the Arrow files, which `vlct run` reads as data_root. It is created if it is missing
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Decode every image once and leave out those that cannot be decoded (the default)
    #[arg(long, overrides_with = "no_validate")]
    pub validate: bool,
    /// Do not decode the images; damaged images are then found only in training
    #[arg(long, overrides_with = "validate")]
    pub no_validate: bool,
    /// Downscale images with a side above N pixels, so that the longer side has N pixels, and store them as JPEG
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(16..=65_535))]
    pub max_side: Option<u32>,
    /// JPEG quality of downscaled images
    #[arg(long, value_name = "Q", default_value_t = 90, requires = "max_side", value_parser = clap::value_parser!(u8).range(1..=100))]
    pub quality: u8,
    /// Replace existing files that were made from other inputs or with other options
    #[arg(long)]
    pub overwrite: bool,
    /// Threads that read images; 0: one per available CPU
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=4096))]
    pub threads: u16,
    /// Print the report as JSON
    #[arg(long)]
    pub json: bool,
}

impl WriteArgs {
    /// Writes the files of a plan for the dataset `name`, and prints what was written. `reading` is how the images of a custom dataset
    /// become pixels.
    pub fn write(&self, name: &str, plan: &Plan, reading: Option<Reading>, signals: &Signals) -> Result<(), Failure> {
        let options = self.options(reading);
        let started = Instant::now();
        let (mut bar, mut rows_before, mut bytes) = (None, 0, 0);
        let mut on_progress = |progress: prepare::Progress| {
            match &mut bar {
                None => {
                    rows_before = progress.done;
                    if rows_before > 0 {
                        info!(
                            "{} of {} exist already",
                            with_thousands_separators(rows_before),
                            count(progress.total, "row")
                        );
                    }
                    bar = Some(Progress::counting("row", progress.total, rows_before));
                }
                Some(bar) => bar.reach(progress.done),
            }
            bytes = progress.bytes;
            if signals.stop_flag().load(Ordering::Relaxed) {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        };
        let outcome = prepare::write(name, plan, &options, &mut on_progress)?;
        drop(bar);
        match outcome {
            Outcome::Stopped => {
                info!("stopped; the same command resumes from here");
                signals.check()
            }
            Outcome::UpToDate(report) => {
                info!("all files exist already, made from the same inputs");
                self.print_report(&report, plan, false)
            }
            Outcome::Written(report) => {
                let seconds = started.elapsed().as_secs_f64();
                let rows = plan.rows() - rows_before;
                info!(
                    "{} in {seconds:.1} s: {:.0} rows/s, {:.1} MB/s of images",
                    count(rows, "row"),
                    rows as f64 / seconds,
                    bytes as f64 / 1e6 / seconds
                );
                self.print_report(&report, plan, true)
            }
        }
    }

    fn options(&self, reading: Option<Reading>) -> WriteOptions {
        WriteOptions {
            out: self.out.clone(),
            processing: ImageProcessing {
                validate: self.validate || !self.no_validate,
                downscale: self.max_side.map(|max_side| Downscale {
                    max_side,
                    quality: self.quality,
                }),
                reading,
            },
            overwrite: self.overwrite,
            threads: match self.threads {
                0 => std::thread::available_parallelism().map_or(1, usize::from),
                threads => usize::from(threads),
            },
        }
    }

    /// Prints the report. `has_written` is whether this command has written the files of the plan.
    fn print_report(&self, report: &Report, plan: &Plan, has_written: bool) -> Result<(), Failure> {
        for (part, names) in report.labels_without_training_rows() {
            warn!("{}", describe_untrained(part, &names));
        }
        if self.json {
            let text = serde_json::to_string(report)?;
            return print(&format!("{text}\n"));
        }
        let mut text = String::new();
        for file in &report.files {
            let is_planned = plan.names().any(|name| file.file.strip_suffix(".arrow") == Some(name));
            let _ = writeln!(
                text,
                "{} {}: {}, {}",
                if is_planned && has_written {
                    "wrote"
                } else {
                    "unchanged, from an earlier preparation:"
                },
                self.out.join(&file.file).display(),
                count(file.rows, "row"),
                format_bytes(file.bytes)
            );
        }
        for part in &report.coverage {
            let _ = writeln!(text, "{}", describe_coverage(part));
        }
        for counts in &report.labels {
            let _ = writeln!(text, "{}", describe_labels(counts));
        }
        if let Some(line) = describe_transparency(report) {
            let _ = writeln!(text, "{line}");
        }
        for remark in &report.remarks {
            let _ = writeln!(text, "{remark}");
        }
        if !report.left_out.is_empty() {
            self.append_left_out(report, &mut text);
        }
        print(&text)
    }

    /// Appends to `text` the number of rows that were left out, and an image and a reason for each of the first few.
    fn append_left_out(&self, report: &Report, text: &mut String) {
        const MAX_LISTED: usize = 5;
        let _ = writeln!(
            text,
            "rows left out because an image cannot be used: {}",
            with_thousands_separators(report.left_out.len() as u64)
        );
        for left_out in report.left_out.iter().take(MAX_LISTED) {
            let _ = writeln!(text, "  {}: {}", left_out.image, left_out.reason);
        }
        if report.left_out.len() > MAX_LISTED {
            let path = Report::path(&self.out, &report.dataset);
            let _ = writeln!(text, "  … complete list in {}", path.display());
        }
    }
}

/// Says how many images have transparent pixels and what becomes of these; `None` if none has.
fn describe_transparency(report: &Report) -> Option<String> {
    let background = report.reading?.background;
    let transparent: u64 = report.files.iter().map(|file| file.transparent).sum();
    if transparent == 0 {
        return None;
    }
    let becomes = match background {
        Background::Keep => "keep their hidden colour".to_string(),
        colour => format!("are filled with {colour}"),
    };
    Some(format!(
        "images with transparent pixels: {}; these pixels {becomes} in training and prediction (--background)",
        with_thousands_separators(transparent)
    ))
}

/// Returns a count with a noun in the singular or plural.
fn count(number: u64, noun: &str) -> String {
    counted(with_thousands_separators(number), noun)
}

/// Maximum number of labels that are listed.
const MAX_LABELS: usize = 16;

/// Describes the labels of a split in one line.
fn describe_labels(counts: &LabelCounts) -> String {
    let classes = counts.rows.len();
    let mut line = format!(
        "{}: {classes} {}",
        counts.part,
        if classes == 1 { "class" } else { "classes" }
    );
    if counts.several {
        line.push_str(", any number per row");
    }
    let listed = counts.rows.iter().take(MAX_LABELS);
    let listed: Vec<String> = listed
        .map(|(name, rows)| format!("{} {}", escape_control(name), with_thousands_separators(*rows)))
        .collect();
    if !listed.is_empty() {
        let more = if classes > MAX_LABELS { ", …" } else { "" };
        let _ = write!(line, ": {}{more}", listed.join(", "));
    }
    for (rows, what) in [
        (counts.unlabelled, "label"),
        (counts.without_image, "image"),
        (counts.without_text, "text"),
    ] {
        if rows > 0 {
            let _ = write!(line, "; rows without {what}: {}", with_thousands_separators(rows));
        }
    }
    line
}

/// Describes the labels of a split that no training row has.
fn describe_untrained(part: &str, names: &[&str]) -> String {
    let listed: Vec<String> = names.iter().take(MAX_LABELS).map(|name| quoted(name)).collect();
    let more = if names.len() > MAX_LABELS { ", …" } else { "" };
    format!(
        "{part} has labels that no training row has, so a model cannot learn them: {}{more}; add training rows, or remove these rows",
        listed.join(", ")
    )
}

/// Describes one part of a dataset in one line: how many images and annotations match.
fn describe_coverage(part: &Coverage) -> String {
    let mut line = format!(
        "{}: {} and {}; {} both a file and an annotation",
        part.part,
        count(part.found as u64, "image file"),
        count(part.annotated as u64, "annotated image"),
        match part.kept {
            1 => "1 image has".to_string(),
            kept => format!("{} images have", with_thousands_separators(kept as u64)),
        }
    );
    if !part.examples.is_empty() {
        let ellipsis = if part.without_image > part.examples.len() {
            ", …"
        } else {
            ""
        };
        let _ = write!(
            line,
            "; no file for {} ({}{ellipsis})",
            count(part.without_image as u64, "annotated image"),
            part.examples.join(", ")
        );
    }
    line
}
