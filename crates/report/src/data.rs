//! The content of a report.

use image::RgbImage;
use vlct_tasks::confusion::Confusion;

/// The results of a run: metrics, curves and example images. Empty parts have no section on the page.
#[derive(Debug, Clone, Default)]
pub struct ReportData {
    /// Heading of the page.
    pub title: String,
    /// One or two sentences below the heading: what was trained on which data, with what result.
    pub summary: String,
    /// What is damaged or missing, so that the page lacks it or shows something else instead: one sentence each.
    pub faults: Vec<String>,
    /// The metrics, most important first.
    pub metrics: Vec<Metric>,
    /// The explanation of "chance" and "baseline", shown above the metrics.
    pub baseline: String,
    /// Training curves, one chart per entry.
    pub charts: Vec<Chart>,
    /// Images whose masked patches the model predicted.
    pub reconstructions: Vec<Reconstruction>,
    /// Captions with masked words and the model's predictions.
    pub masked_captions: Vec<MaskedCaption>,
    /// Heat maps of the patches that the model aligns with a word.
    pub heat_maps: Vec<HeatMap>,
    /// Results of text-to-image retrieval.
    pub retrieval: Vec<Retrieval>,
    /// Answers, truth values or labels that the model predicted.
    pub answers: Vec<AnswerExample>,
    /// The predictions of an image classifier for its held-out images, by class.
    pub classes: Option<Confusion>,
    /// Facts about the data, as pairs of a name and a text.
    pub dataset: Vec<(String, String)>,
    /// Stages of the run, as pairs of a name and seconds.
    pub timings: Vec<(String, f64)>,
    /// The configuration, as the text of a TOML file.
    pub config: String,
}

/// One metric, with the values to compare it with.
#[derive(Debug, Clone)]
pub struct Metric {
    /// Stable name for programs, the key in `metrics.json`: `itm/val/accuracy`.
    pub key: String,
    /// Name on the page: `Image-text matching`.
    pub name: String,
    /// The measured value.
    pub value: f64,
    /// How the values are printed.
    pub format: NumberFormat,
    /// Expected value of random guessing, if it is known.
    pub chance: Option<f64>,
    /// Value of a simple baseline method, if measured.
    pub baseline: Option<f64>,
    /// Value of the same training without pre-trained weights, if measured.
    pub from_scratch: Option<f64>,
    /// One sentence that explains the metric.
    pub explanation: String,
}

impl Metric {
    /// Returns the names and values to compare the metric with.
    pub fn comparisons(&self) -> impl Iterator<Item = (&'static str, f64)> {
        let all = [
            ("chance", self.chance),
            ("baseline", self.baseline),
            ("from scratch", self.from_scratch),
        ];
        all.into_iter().filter_map(|(name, value)| Some((name, value?)))
    }
}

/// How a value is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NumberFormat {
    /// A fraction from 0 to 1, printed as a percentage and drawn as a bar.
    Percent,
    /// Any other value, printed as a decimal number.
    Number,
}

/// A line chart: curves that share their axes.
#[derive(Debug, Clone)]
pub struct Chart {
    /// Heading of the chart: `Masked words: accuracy`.
    pub title: String,
    /// One sentence that explains the chart.
    pub explanation: String,
    /// Label of the horizontal axis: `step`.
    pub x_label: String,
    /// The curves. Up to four are distinguished by colour and dash pattern.
    pub curves: Vec<Curve>,
    /// Name and height of a horizontal reference line: `("chance", 0.125)`.
    pub reference: Option<(String, f64)>,
}

/// One curve of a [`Chart`].
#[derive(Debug, Clone)]
pub struct Curve {
    /// Name in the legend and key in `metrics.json`; unique within a report.
    pub name: String,
    /// Points `(x, y)` in ascending order of x. Points that are not finite are not drawn.
    pub points: Vec<(f64, f64)>,
}

/// A masked image and the model's reconstruction.
#[derive(Debug, Clone)]
pub struct Reconstruction {
    /// The image without masking.
    pub original: RgbImage,
    /// The image with the masked patches in grey: the model's input.
    pub masked: RgbImage,
    /// The image with the masked patches replaced by the model's predictions.
    pub reconstruction: RgbImage,
    /// The caption that the model read.
    pub caption: String,
}

/// A caption with masked words and the model's predictions.
#[derive(Debug, Clone)]
pub struct MaskedCaption {
    /// The image that the model saw.
    pub image: RgbImage,
    /// The caption's WordPiece tokens; a token that begins with `##` continues the word before it.
    pub tokens: Vec<Token>,
}

/// A token of a [`MaskedCaption`].
#[derive(Debug, Clone)]
pub enum Token {
    /// A token that the model saw.
    Visible(String),
    /// A token that was masked.
    Masked {
        /// The token of the caption.
        truth: String,
        /// The model's predictions with their probabilities (0 to 1), most probable first.
        predictions: Vec<(String, f64)>,
    },
}

/// One or two images with a text, and the classes that the model predicted for them.
#[derive(Debug, Clone)]
pub struct AnswerExample {
    /// The images; empty if the example has only a text.
    pub images: Vec<RgbImage>,
    /// The question, statement or text; empty if there is none.
    pub text: String,
    /// The model's predictions with their probabilities (0 to 1), most probable first.
    pub predictions: Vec<(String, f64)>,
    /// The correct classes; empty if they are unknown.
    pub truth: Vec<String>,
}

/// How strongly the model aligns each patch of an image with one word of its caption.
#[derive(Debug, Clone)]
pub struct HeatMap {
    /// The image.
    pub image: RgbImage,
    /// The caption's WordPiece tokens; a token that begins with `##` continues the word before it.
    pub tokens: Vec<String>,
    /// Index of the word in `tokens`.
    pub word: usize,
    /// Patches per row.
    pub columns: usize,
    /// One value per patch, in row-major order. The page scales the values, so that the lowest is dark and the
    /// highest bright.
    pub map: Vec<f32>,
}

/// A caption and the images that the model ranks first for it.
#[derive(Debug, Clone)]
pub struct Retrieval {
    /// The caption.
    pub query: String,
    /// The images with the highest scores, highest first.
    pub top: Vec<Hit>,
    /// Rank of the caption's own image among all candidates, from 1.
    pub own_rank: usize,
    /// Number of images that were ranked.
    pub candidates: usize,
}

/// An image that a [`Retrieval`] shows.
#[derive(Debug, Clone)]
pub struct Hit {
    /// The image.
    pub image: RgbImage,
    /// The model's matching score.
    pub score: f64,
    /// Whether this is the caption's own image.
    pub is_own: bool,
}
