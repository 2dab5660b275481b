//! What a report tells.

use image::RgbImage;

/// A run in numbers, curves and pictures. Every part may be empty: its section is then left out.
#[derive(Debug, Clone, Default)]
pub struct ReportData {
    /// Heading of the page.
    pub title: String,
    /// One or two sentences below it: what was trained on what, with what result.
    pub summary: String,
    /// The numbers that matter, most important first.
    pub metrics: Vec<Metric>,
    /// What "chance" and "baseline" stand for beside the numbers.
    pub baseline: String,
    /// Training curves.
    pub charts: Vec<Chart>,
    /// Pictures completed from the patches left after masking.
    pub reconstructions: Vec<Reconstruction>,
    /// Hidden words guessed from picture and remaining words.
    pub fill_in: Vec<FillIn>,
    /// Where in a picture the model finds a word.
    pub heat_maps: Vec<HeatMap>,
    /// Pictures found by a caption.
    pub retrieval: Vec<Retrieval>,
    /// Facts about the data: name, text.
    pub dataset: Vec<(String, String)>,
    /// Stages of the run and the seconds each took.
    pub timings: Vec<(String, f64)>,
    /// The configuration, as a text to read and copy.
    pub config: String,
}

/// One number, with what it has to be compared to.
#[derive(Debug, Clone)]
pub struct Metric {
    /// Stable name for programs, the key in `metrics.json`: `itm/val/accuracy`.
    pub key: String,
    /// Name for people: `Image–text matching`.
    pub name: String,
    /// The value.
    pub value: f64,
    /// How it is printed.
    pub format: NumberFormat,
    /// What guessing reaches, where that is known.
    pub chance: Option<f64>,
    /// What a simple method reaches, where one was measured.
    pub baseline: Option<f64>,
    /// One sentence for a newcomer: what this number says.
    pub explanation: String,
}

/// How a number is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NumberFormat {
    /// A share from 0 to 1, as per cent; drawn on a bar.
    Percent,
    /// A number with three decimals.
    Number,
}

/// Curves that share their axes.
#[derive(Debug, Clone)]
pub struct Chart {
    /// What is drawn: `Masked words: accuracy`.
    pub title: String,
    /// One sentence for a newcomer.
    pub explanation: String,
    /// Name of the horizontal axis: `step`.
    pub x_label: String,
    /// The curves; up to four are told apart by colour and dash.
    pub curves: Vec<Curve>,
    /// A horizontal line to compare with, and its name: `("chance", 0.125)`.
    pub reference: Option<(String, f64)>,
}

/// One curve.
#[derive(Debug, Clone)]
pub struct Curve {
    /// Name in the legend; also the key in `metrics.json`, so it should be unique in a report.
    pub name: String,
    /// (x, y) in order of x; what is not finite is left out of the drawing.
    pub points: Vec<(f64, f64)>,
}

/// A masked picture and what the model makes of it.
#[derive(Debug, Clone)]
pub struct Reconstruction {
    /// The whole picture.
    pub original: RgbImage,
    /// What the model saw.
    pub masked: RgbImage,
    /// What it painted.
    pub reconstruction: RgbImage,
    /// The caption that went with it.
    pub caption: String,
}

/// A caption with hidden words and the model's guesses.
#[derive(Debug, Clone)]
pub struct FillIn {
    /// The picture the model saw.
    pub image: RgbImage,
    /// The caption's tokens; those that begin with `##` continue a word.
    pub tokens: Vec<Token>,
}

/// A token of a caption.
#[derive(Debug, Clone)]
pub enum Token {
    /// The model saw it.
    Shown(String),
    /// The model had to guess it.
    Hidden {
        /// What stood there.
        truth: String,
        /// The model's guesses with their probabilities (0 to 1), best first.
        guesses: Vec<(String, f64)>,
    },
}

/// How strongly each patch of a picture goes with one word of its caption.
#[derive(Debug, Clone)]
pub struct HeatMap {
    /// The picture.
    pub image: RgbImage,
    /// The caption's tokens; those that begin with `##` continue a word.
    pub tokens: Vec<String>,
    /// Index of the word in `tokens`.
    pub word: usize,
    /// Patches per row.
    pub columns: usize,
    /// A value per patch, row by row from the top left; any scale.
    pub map: Vec<f32>,
}

/// A caption and the pictures the model finds for it.
#[derive(Debug, Clone)]
pub struct Retrieval {
    /// The caption.
    pub query: String,
    /// The best pictures, best first.
    pub top: Vec<Hit>,
    /// Rank of the right picture among all, from 1.
    pub right_rank: usize,
    /// Number of pictures searched.
    pub candidates: usize,
}

/// A picture found.
#[derive(Debug, Clone)]
pub struct Hit {
    /// The picture.
    pub image: RgbImage,
    /// The model's score for it.
    pub score: f64,
    /// Whether it is the caption's own.
    pub right: bool,
}
