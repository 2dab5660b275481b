//! Similarities of words and patches over a dataset: how sharply a model aligns words with the parts of an image, as a histogram.

use std::collections::HashSet;
use std::fmt::Write;

use vlct_data::loader::Pixels;

use crate::Predictor;
use crate::probes::alignment::{align, words};

/// Largest similarity that the chart shows, as in the original. Values are stretched to 0 to 1 before.
const SHOWN: f64 = 0.5;
/// Number of bins of the chart: 50 edges, as in the original.
const BINS: usize = 49;

/// Collects the standardised similarities of a model.
pub struct Similarities<'p> {
    predictor: &'p Predictor,
    words: Option<HashSet<String>>,
    /// All values: for each counted word, one per patch.
    pub values: Vec<f32>,
    /// Number of counted words.
    pub count: usize,
}

impl<'p> Similarities<'p> {
    /// Makes an empty collection. With `words`, only these words are counted, such as a list of nouns; upper and lower case are not
    /// distinguished.
    pub fn new(predictor: &'p Predictor, words: Option<&[String]>) -> Self {
        Self {
            predictor,
            words: words.map(|words| words.iter().map(|word| word.to_lowercase()).collect()),
            values: Vec::new(),
            count: 0,
        }
    }

    /// Adds the values of the words of a text, given with its image.
    pub fn add(&mut self, text: &[u32], pixels: &Pixels) {
        let words = words(self.predictor.preparation().tokenizer(), text).into_iter();
        let is_counted = |word: &str| {
            self.words
                .as_ref()
                .is_none_or(|words| words.contains(&word.to_lowercase()))
        };
        let counted: Vec<_> = words.filter(|word| is_counted(&word.text)).collect();
        if counted.is_empty() {
            return;
        }
        let alignment = align(self.predictor.model(), text, pixels);
        for word in counted {
            self.values.extend(alignment.scores(word.tokens));
            self.count += 1;
        }
    }
}

/// The values of a model under its name.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// The name in the legend.
    pub name: String,
    /// The values.
    pub values: Vec<f32>,
}

/// Returns a chart (SVG) of probability densities over each other, one for each model, as in the original: the values of each model are
/// stretched to 0 to 1, and the part from 0 to 0.5 is shown.
pub fn chart(title: &str, series: &[Series]) -> String {
    let densities: Vec<Vec<f64>> = series.iter().map(|series| density(&series.values)).collect();
    let highest = densities
        .iter()
        .flatten()
        .copied()
        .fold(0.0, f64::max)
        .max(f64::MIN_POSITIVE);
    let (width, height, left, top, right, bottom) = (640.0, 400.0, 60.0, 40.0, 20.0, 50.0);
    let x = |value: f64| left + value / SHOWN * (width - left - right);
    let y = |density: f64| height - bottom - density / highest * (height - top - bottom);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"13\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    // Writing to a string cannot fail.
    let _ = writeln!(
        svg,
        "<text x=\"{}\" y=\"24\" text-anchor=\"middle\" font-size=\"16\">{}</text>",
        width / 2.0,
        escape(title)
    );
    for (i, (series, density)) in series.iter().zip(&densities).enumerate() {
        let colour = COLOURS[i % COLOURS.len()];
        let mut path = format!("M{:.1} {:.1}", x(0.0), y(0.0));
        for (bin, value) in density.iter().enumerate() {
            let edge = |edge: usize| x(edge as f64 * SHOWN / BINS as f64);
            let _ = write!(path, "V{:.1}H{:.1}", y(*value), edge(bin + 1));
        }
        let _ = writeln!(
            svg,
            "<path d=\"{path}V{:.1}Z\" fill=\"{colour}\" fill-opacity=\"0.5\"/>",
            y(0.0)
        );
        let line = top + 20.0 * i as f64 + 10.0;
        let _ = writeln!(
            svg,
            "<rect x=\"{0}\" y=\"{1}\" width=\"14\" height=\"12\" fill=\"{colour}\" fill-opacity=\"0.5\"/>\
             <text x=\"{2}\" y=\"{3}\">{4}</text>",
            width - right - 160.0,
            line - 10.0,
            width - right - 140.0,
            line,
            escape(&series.name)
        );
    }
    let _ = writeln!(
        svg,
        "<path d=\"M{left} {top}V{0}H{1}\" fill=\"none\" stroke=\"black\"/>",
        height - bottom,
        width - right
    );
    for tick in 0..=5 {
        let value = SHOWN * f64::from(tick) / 5.0;
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{value:.1}</text>",
            x(value),
            height - bottom + 18.0
        );
        let density = highest * f64::from(tick) / 5.0;
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{density:.1}</text>",
            left - 6.0,
            y(density) + 4.0
        );
    }
    let _ = writeln!(
        svg,
        "<text x=\"{0}\" y=\"{1}\" text-anchor=\"middle\">Token-patch similarity scores</text>\
         <text transform=\"translate(16 {2}) rotate(-90)\" text-anchor=\"middle\">Probability density</text>\n</svg>",
        width / 2.0,
        height - 10.0,
        height / 2.0
    );
    svg
}

/// Fill colours of the models.
const COLOURS: [&str; 4] = ["#1f77b4", "#ff7f0e", "#2ca02c", "#d62728"];

/// Returns the density in each bin, of the values that are shown, as Matplotlib computes it.
fn density(values: &[f32]) -> Vec<f64> {
    let finite = || values.iter().copied().filter(|value| value.is_finite()).map(f64::from);
    let min = finite().fold(f64::INFINITY, f64::min);
    let range = finite().fold(f64::NEG_INFINITY, f64::max) - min;
    let mut counts = vec![0usize; BINS];
    for value in finite() {
        let stretched = if range > 0.0 { (value - min) / range } else { 0.0 };
        let bin = (stretched / SHOWN * BINS as f64) as usize;
        // The last bin includes its upper edge.
        if let Some(count) = counts.get_mut(if stretched == SHOWN { BINS - 1 } else { bin }) {
            *count += 1;
        }
    }
    let shown: usize = counts.iter().sum();
    let scale = BINS as f64 / SHOWN / shown.max(1) as f64;
    counts.into_iter().map(|count| count as f64 * scale).collect()
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn densities_integrate_to_one_over_the_shown_values() {
        let values: Vec<f32> = (0..1000).map(|i| i as f32 / 10.0).collect();
        let density = density(&values);
        let integral: f64 = density.iter().sum::<f64>() * SHOWN / BINS as f64;
        assert!((integral - 1.0).abs() < 1e-9);
        // A uniform distribution over 0 to 1, of which half is shown.
        assert!(density.iter().all(|d| (d - 2.0).abs() < 0.2), "{density:?}");
        assert_eq!(super::density(&[]).iter().sum::<f64>(), 0.0);
        assert!(super::density(&[2.0, 2.0, f32::NAN])[0] > 0.0);
    }

    #[test]
    fn the_chart_has_a_path_and_an_escaped_name_for_each_model() {
        let series = |name: &str| Series {
            name: name.into(),
            values: vec![0.0, 0.1, 1.0],
        };
        let svg = chart("a < b", &[series("<ours>"), series("theirs")]);
        assert_eq!(svg.matches("<path d=\"M60.0").count(), 2);
        assert!(svg.contains("&lt;ours&gt;") && svg.contains("a &lt; b") && svg.ends_with("</svg>\n"));
    }
}
