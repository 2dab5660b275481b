//! Text: WordPiece tokenisation, and masking for masked language modelling.
//!
//! A [`Vocabulary`] maps tokens to ids, a [`Tokenizer`] splits a caption into tokens, and [`masking`] chooses and corrupts the tokens to
//! predict. Captions are not padded. A [`VocabularyTrainer`] makes a vocabulary of the captions of a dataset.

mod characters;
mod error;
mod hugging_face;
pub mod masking;
mod tokenizer;
mod training;
mod trie;
mod vocabulary;
mod words;

pub use error::{Result, TextError};
pub use masking::{MaskedText, MaskingConfig, mask_tokens};
pub use tokenizer::{Tokenizer, TokenizerDirectory};
pub use training::{Sizes, VocabularyTrainer};
pub use vocabulary::Vocabulary;

#[cfg(test)]
mod rules_tests;
#[cfg(test)]
mod tests;
