//! Text: WordPiece tokens and the masking of masked language modelling.
//!
//! A [`Vocabulary`] numbers the tokens, a [`Tokenizer`] cuts a caption into them, and [`masking`] chooses and corrupts
//! the ones that the model has to predict. Captions stay unpadded throughout.
//!
//! ```
//! use vlct_data::text::Tokenizer;
//!
//! let tokenizer = Tokenizer::bert_base_uncased();
//! let ids = tokenizer.encode("A man riding a surfboard.", 40);
//! assert_eq!(tokenizer.tokens(&ids), ["[CLS]", "a", "man", "riding", "a", "surf", "##board", ".", "[SEP]"]);
//! assert_eq!(tokenizer.decode(&ids), "[CLS] a man riding a surfboard. [SEP]");
//! ```

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
