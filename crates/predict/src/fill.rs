//! Filling of `[MASK]`s in a text about an image.

use vlct_text::Tokenizer;

use crate::item::{Item, with_inputs};
use crate::probes::words::{Candidate, candidates};
use crate::{Head, PredictError, Predictor, Preparation, Result};
use vlct_tensor::Tape;

/// Fills masked words.
pub struct Fill<'p> {
    predictor: &'p Predictor,
}

/// A text whose masks are filled.
#[derive(Clone, Debug, PartialEq)]
pub struct Filled {
    /// Token ids of the text with all masks filled, from `[CLS]` to `[SEP]`.
    pub text: Vec<u32>,
    /// The masks, in the order of the text.
    pub masks: Vec<FilledMask>,
}

/// A mask and the tokens that may stand in its place.
#[derive(Clone, Debug, PartialEq)]
pub struct FilledMask {
    /// Position in the text, where `[CLS]` has position 0.
    pub position: usize,
    /// The text before this mask was filled: masks that were filled earlier have their token.
    pub before: Vec<u32>,
    /// The most probable tokens. The first one fills the mask.
    pub candidates: Vec<Candidate>,
}

impl FilledMask {
    /// Returns the text with a candidate in place of the mask, without `[CLS]` and `[SEP]`. Masks that are filled later remain.
    pub fn sequence(&self, candidate: &Candidate, tokenizer: &Tokenizer) -> String {
        let mut text = self.before.clone();
        text[self.position] = candidate.id;
        decode(&text, tokenizer)
    }
}

/// Decodes a text without `[CLS]` and `[SEP]`.
pub fn decode(text: &[u32], tokenizer: &Tokenizer) -> String {
    tokenizer.decode(text.get(1..text.len().saturating_sub(1)).unwrap_or_default())
}

/// Returns the token ids of a text with at least one mask, from `[CLS]` to `[SEP]`.
///
/// # Errors
/// Returns an error if the text has no mask or is too long.
pub fn masked_text(preparation: &Preparation, text: &str) -> Result<Vec<u32>> {
    let ids = preparation.text(text)?;
    if !ids.contains(&preparation.tokenizer().mask()) {
        return Err(PredictError::Invalid(format!(
            "there is no [MASK] in the text {}",
            vlct_util::text::quoted(text)
        )));
    }
    Ok(ids)
}

impl<'p> Fill<'p> {
    /// The head that the predictor must have.
    pub const HEAD: Head = Head::MaskedWords;

    /// Makes the task.
    ///
    /// # Errors
    /// Returns an error if the model has no head for masked words.
    pub fn new(predictor: &'p Predictor) -> Result<Self> {
        predictor.require(&[Self::HEAD])?;
        Ok(Self { predictor })
    }

    fn masks<'t>(&self, text: &'t [u32]) -> impl Iterator<Item = usize> + use<'t> {
        let mask = self.predictor.preparation().tokenizer().mask();
        let positions = text.iter().enumerate().filter(move |(_, id)| **id == mask);
        positions.map(|(position, _)| position)
    }

    /// Computes the logits of all tokens of the vocabulary at each mask of each text, `[texts][masks][vocab_size]`. Every item must have an
    /// image.
    pub fn logits(&self, items: &[Item]) -> Vec<Vec<Vec<f32>>> {
        let model = self.predictor.model();
        let tape = Tape::inference(model.compute());
        let encoded = with_inputs(items, |inputs| model.encode(&tape, inputs, None));
        let positions: Vec<Vec<usize>> = items.iter().map(|item| self.masks(&item.text).collect()).collect();
        let rows: Vec<u32> = (positions.iter().enumerate())
            .flat_map(|(i, positions)| {
                let start = encoded.text_rows(i).start;
                positions.iter().map(move |position| (start + position) as u32)
            })
            .collect();
        let mut logits = crate::item::rows(&model.mlm_logits(&tape, &encoded, rows)).into_iter();
        positions
            .iter()
            .map(|positions| logits.by_ref().take(positions.len()).collect())
            .collect()
    }

    /// Fills the masks of each text one at a time, as the original does: the most confident prediction of all masks is committed, then the
    /// remaining masks are predicted again. Returns `count` candidates for each mask. Every item must have an image.
    pub fn fill(&self, items: &[Item], count: usize) -> Vec<Filled> {
        let tokenizer = self.predictor.preparation().tokenizer();
        let mut items = items.to_vec();
        let mut filled: Vec<Vec<FilledMask>> = vec![Vec::new(); items.len()];
        loop {
            // The items that still have a mask.
            let open: Vec<usize> = (0..items.len())
                .filter(|i| self.masks(&items[*i].text).next().is_some())
                .collect();
            if open.is_empty() {
                break;
            }
            let inputs: Vec<Item> = open.iter().map(|i| items[*i].clone()).collect();
            for (i, logits) in open.into_iter().zip(self.logits(&inputs)) {
                let text = &mut items[i].text;
                let masks = self.masks(text).zip(&logits);
                let best = masks.map(|(position, logits)| (position, candidates(logits, count.max(1), tokenizer)));
                let best = best.reduce(|best, other| match probability(&other.1) > probability(&best.1) {
                    true => other,
                    false => best,
                });
                let Some((position, candidates)) = best else { continue };
                let before = text.clone();
                text[position] = candidates.first().map_or(tokenizer.unk(), |candidate| candidate.id);
                filled[i].push(FilledMask {
                    position,
                    before,
                    candidates,
                });
            }
        }
        let results = items.into_iter().zip(filled);
        results
            .map(|(item, mut masks)| {
                masks.sort_by_key(|mask| mask.position);
                Filled { text: item.text, masks }
            })
            .collect()
    }
}

fn probability(candidates: &[Candidate]) -> f32 {
    candidates.first().map_or(0.0, |candidate| candidate.probability)
}
