//! Choice and corruption of tokens for masked language modelling.
//!
//! Tokens and whole words are chosen with the distribution of the original's collators, which are those of BERT and work on padded
//! captions. Captions here are not padded.

use crate::Tokenizer;
use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};

/// Maximum budget of tokens for the choice of whole words (the original's `max_predictions`).
const MAX_PREDICTIONS: usize = 512;

/// Probability that a chosen token becomes `[MASK]` (BERT, section 3.1).
const MASK_PROBABILITY: f64 = 0.8;

/// Probability that a chosen token becomes random if it does not become `[MASK]`. Thus 10 % of the chosen tokens become random.
const RANDOM_PROBABILITY: f64 = 0.5;

/// Parameters of [`mask_tokens`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MaskingConfig {
    /// True: whole words are chosen, up to a budget of tokens. False: tokens are chosen independently.
    pub whole_word: bool,
    /// The share of tokens to choose, 0 to 1.
    pub probability: f64,
    /// The length in tokens to which the original pads a text. It determines the budget of whole words.
    pub max_text_len: usize,
}

/// A text with corrupted tokens, and their labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MaskedText {
    /// The input of the model.
    pub ids: Vec<u32>,
    /// For each token, its original id if the model predicts it.
    pub labels: Vec<Option<u32>>,
}

/// Chooses tokens of the unpadded text `ids` and corrupts them: 80 % of the chosen tokens become `[MASK]`, 10 % become a token drawn
/// from the whole vocabulary, and 10 % are kept.
///
/// Without `whole_word`, each token is chosen independently with the given probability, except `[CLS]` at the beginning and `[SEP]` at
/// the end. As in the original, special tokens that the caption itself contains are chosen like others.
///
/// With `whole_word`, the budget is the same for all texts, `probability · max_text_len` tokens. The words of the text share it with
/// the padding that the original appends, so few tokens of a short text are chosen, often none (for ten words of one piece each,
/// padded to 40 tokens: none in 13.6 % of cases). As in the original, `[CLS]`, `[SEP]` and `[PAD]` are never chosen at any position.
pub fn mask_tokens(tokenizer: &Tokenizer, ids: &[u32], config: &MaskingConfig, rng: &mut impl Rng) -> MaskedText {
    let chosen = if config.whole_word {
        choose_words(tokenizer, ids, config, rng)
    } else {
        choose_tokens(tokenizer, ids, config, rng)
    };
    let mut masked = MaskedText {
        ids: ids.to_vec(),
        labels: vec![None; ids.len()],
    };
    for (i, &id) in ids.iter().enumerate() {
        if !chosen[i] {
            continue;
        }
        masked.labels[i] = Some(id);
        if rng.random::<f64>() < MASK_PROBABILITY {
            masked.ids[i] = tokenizer.mask();
        } else if rng.random::<f64>() < RANDOM_PROBABILITY {
            masked.ids[i] = rng.random_range(0..tokenizer.len() as u32);
        }
    }
    masked
}

/// Chooses tokens independently. Returns for each token whether it is chosen.
fn choose_tokens(tokenizer: &Tokenizer, ids: &[u32], config: &MaskingConfig, rng: &mut impl Rng) -> Vec<bool> {
    let last = ids.len().saturating_sub(1);
    let is_added = |i, id| (i == 0 && id == tokenizer.cls()) || (i == last && id == tokenizer.sep());
    let choose = |(i, &id)| rng.random::<f64>() < config.probability && !is_added(i, id);
    ids.iter().enumerate().map(choose).collect()
}

/// Chooses whole words. Returns for each token whether its word is chosen.
fn choose_words(tokenizer: &Tokenizer, ids: &[u32], config: &MaskingConfig, rng: &mut impl Rng) -> Vec<bool> {
    /// The entry of `word_of` for `[CLS]` and `[SEP]`, which belong to no word.
    const NO_WORD: usize = usize::MAX;
    // The index of each token's word, and the number of tokens of each word.
    let mut word_of = Vec::with_capacity(ids.len());
    let mut sizes: Vec<usize> = Vec::with_capacity(ids.len().max(config.max_text_len));
    for &id in ids {
        if id == tokenizer.cls() || id == tokenizer.sep() {
            word_of.push(NO_WORD);
            continue;
        }
        match sizes.last_mut() {
            Some(size) if tokenizer.is_continuation(id) => *size += 1,
            _ => sizes.push(1),
        }
        word_of.push(sizes.len() - 1);
    }
    let padded_len = ids.len().max(config.max_text_len);
    sizes.extend(std::iter::repeat_n(1, padded_len - ids.len()));

    let budget = (padded_len as f64 * config.probability).round_ties_even() as usize;
    let budget = budget.clamp(1, MAX_PREDICTIONS);
    let mut order: Vec<usize> = (0..sizes.len()).collect();
    let mut word_chosen = vec![false; sizes.len()];
    let mut tokens = 0;
    for next in 0..order.len() {
        if tokens >= budget {
            break;
        }
        // One step of a Fisher-Yates shuffle. The shuffle ends when the budget is used.
        let drawn = rng.random_range(next..order.len());
        order.swap(next, drawn);
        let word = order[next];
        if tokens + sizes[word] <= budget {
            tokens += sizes[word];
            word_chosen[word] = true;
        }
    }
    // A literal [PAD] in the text is a word and uses the budget, but is not predicted.
    let chosen = |(&word, &id): (&usize, &u32)| word != NO_WORD && word_chosen[word] && id != tokenizer.pad();
    word_of.iter().zip(ids).map(chosen).collect()
}
