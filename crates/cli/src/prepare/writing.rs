//! Writing a plan: options, progress and summary.

use std::fmt::Write;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Instant;

use clap::Args;
use log::info;
use vlct_prepare::{self as prepare, Coverage, Downscale, ImageProcessing, Outcome, Plan, Report, WriteOptions};
use vlct_train::logs::Progress;

use crate::output::{Failure, grouped, print, size};
use crate::signals::Signals;

/// Where and how Arrow files are written.
#[derive(Args)]
pub struct Writing {
    /// Directory for the Arrow files: data_root of `vlct run`. It is created if it is missing
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Decode every image once and leave out those that cannot be decoded (the default)
    #[arg(long, overrides_with = "no_validate")]
    pub validate: bool,
    /// Do not decode the images; damaged ones are then found in training
    #[arg(long, overrides_with = "validate")]
    pub no_validate: bool,
    /// Downscale larger images to this longest side in pixels, as JPEG
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(16..=65_535))]
    pub max_side: Option<u32>,
    /// JPEG quality of downscaled images
    #[arg(long, value_name = "Q", default_value_t = 90, requires = "max_side", value_parser = clap::value_parser!(u8).range(1..=100))]
    pub quality: u8,
    /// Replace existing files that were made from other inputs or with other options
    #[arg(long)]
    pub overwrite: bool,
    /// Threads that read images; 0: one per core
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=4096))]
    pub threads: u16,
    /// Print the report as JSON
    #[arg(long)]
    pub json: bool,
}

impl Writing {
    /// Writes the files of a plan for the dataset `name`, and prints what was written.
    pub fn write(&self, name: &str, plan: &Plan, signals: &Signals) -> Result<(), Failure> {
        let options = self.options();
        let started = Instant::now();
        let (mut shown, mut begun, mut bytes) = (None, 0, 0);
        let mut watch = |now: prepare::Progress| {
            match &mut shown {
                None => {
                    begun = now.done;
                    if begun > 0 {
                        info!("{} of {} rows are there already", grouped(begun), grouped(now.total));
                    }
                    shown = Some(Progress::counting("row", now.total, begun));
                }
                Some(progress) => progress.reach(now.done),
            }
            bytes = now.bytes;
            if signals.stop().load(Ordering::Relaxed) {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        };
        let outcome = prepare::write(name, plan, &options, &mut watch)?;
        drop(shown);
        match outcome {
            Outcome::Stopped => {
                info!("stopped; the same command resumes from here");
                signals.outcome()
            }
            Outcome::UpToDate(report) => {
                info!("everything is there already, made from the same inputs");
                self.show(&report, plan)
            }
            Outcome::Written(report) => {
                let seconds = started.elapsed().as_secs_f64();
                let rows = plan.rows() - begun;
                info!(
                    "{} rows in {seconds:.1} s: {:.0} rows/s, {:.1} MB/s of images",
                    grouped(rows),
                    rows as f64 / seconds,
                    bytes as f64 / 1e6 / seconds
                );
                self.show(&report, plan)
            }
        }
    }

    fn options(&self) -> WriteOptions {
        WriteOptions {
            out: self.out.clone(),
            processing: ImageProcessing {
                validate: self.validate || !self.no_validate,
                downscale: self.max_side.map(|max_side| Downscale {
                    max_side,
                    quality: self.quality,
                }),
            },
            overwrite: self.overwrite,
            threads: match self.threads {
                0 => std::thread::available_parallelism().map_or(1, usize::from),
                threads => usize::from(threads),
            },
        }
    }

    fn show(&self, report: &Report, plan: &Plan) -> Result<(), Failure> {
        if self.json {
            let text = serde_json::to_string(report)?;
            return print(&format!("{text}\n"));
        }
        let mut text = String::new();
        for file in &report.files {
            let is_planned = plan.names().any(|name| file.file.strip_suffix(".arrow") == Some(name));
            let _ = writeln!(
                text,
                "{} {}: {} rows, {}",
                if is_planned {
                    "wrote"
                } else {
                    "left as it was, of an earlier preparation:"
                },
                self.out.join(&file.file).display(),
                grouped(file.rows),
                size(file.bytes)
            );
        }
        for part in &report.coverage {
            let _ = writeln!(text, "{}", describe_coverage(part));
        }
        for remark in &report.remarks {
            let _ = writeln!(text, "{remark}");
        }
        if !report.left_out.is_empty() {
            self.describe_left_out(report, &mut text);
        }
        print(&text)
    }

    /// Adds the first rows that were left out to `text`.
    fn describe_left_out(&self, report: &Report, text: &mut String) {
        const SHOWN: usize = 5;
        let _ = writeln!(
            text,
            "{} rows left out, since an image cannot be used:",
            grouped(report.left_out.len() as u64)
        );
        for left_out in report.left_out.iter().take(SHOWN) {
            let _ = writeln!(text, "  {}: {}", left_out.image, left_out.reason);
        }
        if report.left_out.len() > SHOWN {
            let path = Report::path(&self.out, &report.dataset);
            let _ = writeln!(text, "  … all of them in {}", path.display());
        }
    }
}

/// Returns a line about the images and annotations of a part of a dataset.
fn describe_coverage(part: &Coverage) -> String {
    let mut line = format!(
        "{}: {} images found, {} annotated; {} have both",
        part.part,
        grouped(part.found as u64),
        grouped(part.annotated as u64),
        grouped(part.kept as u64)
    );
    if !part.examples.is_empty() {
        let dots = if part.without_image > part.examples.len() {
            ", …"
        } else {
            ""
        };
        let _ = write!(
            line,
            "; no image for {} ({}{dots})",
            grouped(part.without_image as u64),
            part.examples.join(", ")
        );
    }
    line
}
