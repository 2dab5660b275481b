//! Predictions of masked words.

use vlct_data::loader::Pixels;
use vlct_model::Vlc;
use vlct_tasks::probabilities::{softmax, top};
use vlct_tensor::Tape;
use vlct_text::Tokenizer;

/// A token that may stand at a masked position.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// Id of the token.
    pub id: u32,
    /// The token, spelled as in the vocabulary.
    pub token: String,
    /// Its probability: the softmax over the vocabulary.
    pub probability: f32,
}

/// Computes the logits of all tokens of the vocabulary at `positions` of a text, `[positions][vocab_size]`. All patches of the image are
/// visible.
///
/// # Panics
/// Panics if the model has no head for masked words, or a position is beyond the text.
pub fn logits(model: &Vlc, text: &[u32], pixels: &Pixels, positions: &[usize]) -> Vec<Vec<f32>> {
    let tape = Tape::inference(model.compute());
    let encoded = super::encode(model, &tape, text, pixels, None);
    let start = encoded.text_rows(0).start;
    let rows = positions.iter().map(|position| (start + position) as u32).collect();
    crate::item::rows(&model.mlm_logits(&tape, &encoded, rows))
}

/// Returns the `count` most probable tokens, the most probable first. Ids that the tokenizer does not have, because the word table of the
/// model has more rows, are left out.
pub fn candidates(logits: &[f32], count: usize, tokenizer: &Tokenizer) -> Vec<Candidate> {
    let probabilities = softmax(logits);
    let known = &probabilities[..probabilities.len().min(tokenizer.len())];
    let candidate = |id: usize| Candidate {
        id: id as u32,
        token: tokenizer.token(id as u32).unwrap_or_default().to_owned(),
        probability: probabilities[id],
    };
    top(known, count).into_iter().map(candidate).collect()
}
