//! The patches of an image that belong to a word: the optimal transport plan between words and patches.

use std::ops::Range;

use vlct_data::loader::Pixels;
use vlct_model::Vlc;
use vlct_tasks::planes;
use vlct_tensor::Tape;
use vlct_tensor::ops::Ipot;
use vlct_text::Tokenizer;

/// Parameters of the transport. As in the visualisations of the original, beta is smaller than in training and there are more
/// iterations, so that the plan is sharper.
pub const IPOT: Ipot = Ipot {
    beta: 0.1,
    iterations: 1000,
};

/// Range of standardised values that a heat map shows, in standard deviations above the mean.
const SHOWN: (f32, f32) = (1.0, 3.0);

/// The transport plan between the tokens of a text and the patches of an image.
#[derive(Clone, Debug, PartialEq)]
pub struct Alignment {
    /// Number of patches per column and per row of the image.
    pub grid: [usize; 2],
    /// The plan `[tokens, patches]`, tokens without `[CLS]` and `[SEP]`, patches in row-major order.
    plan: Vec<f32>,
    /// Features of the patches in the last layer `[patches, width]`.
    patches: Vec<f32>,
}

/// Computes the transport plan of a text with an image.
pub fn align(model: &Vlc, text: &[u32], pixels: &Pixels) -> Alignment {
    let tape = Tape::inference(model.compute());
    let encoded = super::encode(model, &tape, text, pixels, None);
    let (text_rows, image_rows) = (encoded.text_rows(0), encoded.image_rows(0));
    // Without [CLS] and [SEP], and without the class token of the image.
    let words = text_rows.start + 1..text_rows.end.saturating_sub(1).max(text_rows.start + 1);
    let patches = image_rows.start + 1..image_rows.end;
    let plan = tape.transport_plan(&encoded.features, words, patches.clone(), IPOT);
    let width = encoded.features.columns();
    let features = encoded.features.tensor().to_host();
    Alignment {
        grid: planes(pixels).grid(model.config().backbone.patch_size),
        plan: plan.to_host().into_owned(),
        patches: features[patches.start * width..patches.end * width].to_vec(),
    }
}

impl Alignment {
    /// Returns the features of the patches in the last layer, `[patches, width]`.
    pub fn patches(&self) -> &[f32] {
        &self.patches
    }

    /// Returns the plan's row of a word, summed over its tokens. `tokens` are positions in the text, where `[CLS]` has position 0.
    ///
    /// # Panics
    /// Panics if the tokens are not between `[CLS]` and `[SEP]`.
    pub fn row(&self, tokens: Range<usize>) -> Vec<f32> {
        let patches = self.grid[0] * self.grid[1];
        let mut sum = vec![0.0; patches];
        for token in tokens {
            let row = &self.plan[(token - 1) * patches..][..patches];
            sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
        }
        sum
    }

    /// Returns the standardised row of a word: mean 0 and standard deviation 1 over the patches.
    ///
    /// # Panics
    /// Panics under the conditions of [`Self::row`].
    pub fn scores(&self, tokens: Range<usize>) -> Vec<f32> {
        standardise(&self.row(tokens))
    }
}

/// Returns values with mean 0 and standard deviation 1 (of a sample, as in PyTorch); zeros if all values are equal.
fn standardise(values: &[f32]) -> Vec<f32> {
    let n = values.len() as f64;
    let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
    let squares = values.iter().map(|v| (f64::from(*v) - mean).powi(2));
    let deviation = (squares.sum::<f64>() / (n - 1.0)).sqrt();
    let scale = if deviation > 0.0 { 1.0 / deviation } else { 0.0 };
    values.iter().map(|v| ((f64::from(*v) - mean) * scale) as f32).collect()
}

/// Returns the opacity of each patch in a heat map: scores are clipped to 1 to 3, then stretched to 0 to 255 and truncated. If all are
/// equal, the map is transparent.
pub fn opacity(scores: &[f32]) -> Vec<u8> {
    let clipped = || scores.iter().map(|score| score.clamp(SHOWN.0, SHOWN.1));
    let min = clipped().fold(f32::INFINITY, f32::min);
    let range = clipped().fold(f32::NEG_INFINITY, f32::max) - min;
    let scale = if range > 0.0 { 255.0 / range } else { 0.0 };
    clipped().map(|score| ((score - min) * scale) as u8).collect()
}

/// A word of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    /// The word, its pieces joined.
    pub text: String,
    /// Positions of its tokens in the text, where `[CLS]` has position 0.
    pub tokens: Range<usize>,
}

/// Returns the words of a text from `[CLS]` to `[SEP]`, without punctuation and special tokens.
pub fn words(tokenizer: &Tokenizer, text: &[u32]) -> Vec<Word> {
    let mut words: Vec<Word> = Vec::new();
    let special = [
        tokenizer.pad(),
        tokenizer.unk(),
        tokenizer.cls(),
        tokenizer.sep(),
        tokenizer.mask(),
    ];
    for (position, id) in text.iter().enumerate() {
        let token = tokenizer.token(*id).unwrap_or_default();
        match (words.last_mut(), token.strip_prefix("##")) {
            (Some(word), Some(rest)) if word.tokens.end == position => {
                word.text.push_str(rest);
                word.tokens.end = position + 1;
            }
            _ if special.contains(id) || !token.contains(char::is_alphanumeric) => {}
            _ => words.push(Word {
                text: token.to_owned(),
                tokens: position..position + 1,
            }),
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_have_mean_zero_and_deviation_one() {
        let scores = standardise(&[1.0, 2.0, 3.0, 6.0]);
        // The deviation of the sample is the root of 14 / 3.
        let deviation = (14.0f32 / 3.0).sqrt();
        for (score, value) in scores.iter().zip([-2.0, -1.0, 0.0, 3.0]) {
            assert!((score - value / deviation).abs() < 1e-6);
        }
        assert_eq!(standardise(&[2.0; 3]), [0.0; 3]);
    }

    #[test]
    fn opacity_shows_one_to_three_deviations_above_the_mean() {
        assert_eq!(opacity(&[-5.0, 1.0, 2.0, 3.0, 9.0]), [0, 0, 127, 255, 255]);
        // A map whose values are all below 1 shows nothing.
        assert_eq!(opacity(&[-1.0, 0.5]), [0, 0]);
        // The largest value is opaque, even if it is below 3.
        assert_eq!(opacity(&[0.0, 1.5, 2.0]), [0, 127, 255]);
    }

    #[test]
    fn rows_of_a_word_are_summed() {
        let alignment = Alignment {
            grid: [2, 2],
            plan: (0..12).map(|i| i as f32).collect(),
            patches: Vec::new(),
        };
        assert_eq!(alignment.row(1..2), [0.0, 1.0, 2.0, 3.0]);
        assert_eq!(alignment.row(2..4), [12.0, 14.0, 16.0, 18.0]);
    }

    #[test]
    fn words_join_pieces_and_omit_punctuation() {
        let tokenizer = Tokenizer::bert_base_uncased();
        let text = tokenizer.encode("A man, surfboarding [MASK] 3 waves.", 40);
        let found = words(&tokenizer, &text);
        let names: Vec<&str> = found.iter().map(|word| word.text.as_str()).collect();
        assert_eq!(names, ["a", "man", "surfboarding", "3", "waves"]);
        assert!(found[2].tokens.len() > 1);
        assert_eq!(found[1].tokens, 2..3);
        for word in &found {
            let pieces: String = text[word.tokens.clone()]
                .iter()
                .map(|id| tokenizer.token(*id).unwrap().trim_start_matches("##"))
                .collect();
            assert_eq!(pieces, word.text);
        }
    }
}
