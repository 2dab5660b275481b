//! Text: WordPiece tokenisation, and masking for masked language modelling.
//!
//! A [`Vocabulary`] maps tokens to ids, a [`Tokenizer`] splits a caption into tokens, and [`masking`] chooses and corrupts the tokens to
//! predict. Captions are not padded.

mod characters;
pub mod masking;
mod tokenizer;
mod trie;
mod vocabulary;

pub use masking::{MaskedText, MaskingConfig, mask_tokens};
pub use tokenizer::Tokenizer;
pub use vocabulary::Vocabulary;

#[cfg(test)]
mod rules_tests;
#[cfg(test)]
mod tests;
