//! WordPiece tokenisation, with the results of BERT's Python code.

use super::characters::{Class, classify, is_accent, is_punctuation};
use super::vocabulary::{CONTINUATION, Vocabulary};
use crate::{DataError, Result};
use std::path::Path;
use std::sync::{Arc, LazyLock};
use unicode_normalization::UnicodeNormalization;

/// Maximum length of a word in characters. Longer words become `[UNK]` (BERT's `max_input_chars_per_word`).
const MAX_WORD_LEN: usize = 100;

/// Number of tokens that encoding adds to the pieces of a text: `[CLS]` and `[SEP]`.
const ADDED_TOKENS: usize = 2;

/// Splits text into the tokens of a [`Vocabulary`]. Clones share the vocabulary.
///
/// ```
/// use vlct_data::text::Tokenizer;
///
/// let tokenizer = Tokenizer::bert_base_uncased();
/// let ids = tokenizer.encode("A man riding a surfboard.", 40);
/// assert_eq!(tokenizer.tokens(&ids), ["[CLS]", "a", "man", "riding", "a", "surf", "##board", ".", "[SEP]"]);
/// assert_eq!(tokenizer.decode(&ids), "[CLS] a man riding a surfboard. [SEP]");
/// ```
#[derive(Clone, Debug)]
pub struct Tokenizer {
    vocabulary: Arc<Vocabulary>,
    lower_case: bool,
}

impl Tokenizer {
    /// Creates a tokenizer. With `lower_case`, text is lower-cased and stripped of accents first.
    pub fn new(vocabulary: Arc<Vocabulary>, lower_case: bool) -> Self {
        Self { vocabulary, lower_case }
    }

    /// The tokenizer of `bert-base-uncased`, whose vocabulary is embedded.
    pub fn bert_base_uncased() -> Self {
        static VOCABULARY: LazyLock<Arc<Vocabulary>> = LazyLock::new(|| Arc::new(Vocabulary::bert_base_uncased()));
        Self::new(Arc::clone(&VOCABULARY), true)
    }

    /// Creates a tokenizer with the vocabulary in a file; for its format and the errors see [`Vocabulary::open`].
    pub fn from_file(path: impl AsRef<Path>, lower_case: bool) -> Result<Self> {
        Ok(Self::new(Arc::new(Vocabulary::open(path.as_ref())?), lower_case))
    }

    /// Creates the tokenizer that a configuration names: `bert-base-uncased`, the path of a `vocab.txt`, or the path of a directory
    /// that contains a `vocab.txt`.
    ///
    /// With a file, text is lower-cased if `name` contains `uncased`, or if the vocabulary has no upper-case letter outside tokens in
    /// brackets, such as `[CLS]`.
    ///
    /// # Errors
    /// Returns [`DataError::Invalid`] if `name` is none of these, and the errors of [`Vocabulary::open`].
    pub fn named(name: &str) -> Result<Self> {
        if name == "bert-base-uncased" {
            return Ok(Self::bert_base_uncased());
        }
        let path = Path::new(name);
        let file = if path.is_dir() {
            path.join("vocab.txt")
        } else {
            path.to_path_buf()
        };
        if name.is_empty() || !file.exists() {
            return Err(DataError::Invalid(format!(
                "no tokenizer {name:?}: give bert-base-uncased, or the path of a vocab.txt or of a directory that has one"
            )));
        }
        let vocabulary = Vocabulary::open(&file)?;
        let lower_case = name.contains("uncased") || !has_upper_case(&vocabulary);
        Ok(Self::new(Arc::new(vocabulary), lower_case))
    }

    /// Encodes a text as `[CLS]`, its pieces and `[SEP]`, unpadded and truncated to `max_len` ids.
    ///
    /// A `max_len` below 2 is treated as 2. As in the original, the names of special tokens (`[MASK]`, …) in the text become those
    /// tokens. Only the part of the text that fits is read.
    pub fn encode(&self, text: &str, max_len: usize) -> Vec<u32> {
        let max_pieces = max_len.max(ADDED_TOKENS) - ADDED_TOKENS;
        let mut encoder = Encoder {
            tokenizer: self,
            ids: Vec::with_capacity((text.len() / 3 + ADDED_TOKENS + 1).min(max_pieces + ADDED_TOKENS)),
            stop_len: max_pieces + 1, // the first id is [CLS]
            word: String::new(),
            part: String::new(),
        };
        encoder.ids.push(self.cls());
        encoder.encode(text);
        let mut ids = encoder.ids;
        ids.truncate(max_pieces + 1);
        ids.push(self.sep());
        ids
    }

    /// The token of each id; `[UNK]` for ids outside the vocabulary.
    pub fn tokens(&self, ids: &[u32]) -> Vec<&str> {
        ids.iter().map(|&id| self.token_or_unk(id)).collect()
    }

    /// Decodes ids to text: pieces are joined to words, and there is no space before `.`, `?`, `!` and `,`. Special tokens are kept.
    pub fn decode(&self, ids: &[u32]) -> String {
        let mut text = String::new();
        for (i, &id) in ids.iter().enumerate() {
            let token = self.token_or_unk(id);
            match token.strip_prefix(CONTINUATION) {
                Some(rest) if i > 0 => text.push_str(rest),
                _ => {
                    if i > 0 && !token.starts_with(['.', '?', '!', ',']) {
                        text.push(' ');
                    }
                    text.push_str(token);
                }
            }
        }
        text
    }

    /// The token of an id.
    pub fn token(&self, id: u32) -> Option<&str> {
        self.vocabulary.token(id)
    }

    /// The id of a token, spelled as in the vocabulary (`##ing`, `[MASK]`).
    pub fn id(&self, token: &str) -> Option<u32> {
        self.vocabulary.id(token)
    }

    /// The vocabulary that the tokenizer was created with.
    pub fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    /// The number of tokens in the vocabulary; every id is less.
    pub fn len(&self) -> usize {
        self.vocabulary.len()
    }

    /// Always false: a vocabulary has at least its special tokens.
    pub fn is_empty(&self) -> bool {
        self.vocabulary.is_empty()
    }

    /// Whether text is lower-cased and stripped of accents.
    pub fn lower_case(&self) -> bool {
        self.lower_case
    }

    /// The id of `[PAD]`.
    pub fn pad(&self) -> u32 {
        self.vocabulary.specials().pad
    }

    /// The id of `[UNK]`, which replaces words that have no segmentation.
    pub fn unk(&self) -> u32 {
        self.vocabulary.specials().unk
    }

    /// The id of `[CLS]`, which begins every text.
    pub fn cls(&self) -> u32 {
        self.vocabulary.specials().cls
    }

    /// The id of `[SEP]`, which ends every text.
    pub fn sep(&self) -> u32 {
        self.vocabulary.specials().sep
    }

    /// The id of `[MASK]`.
    pub fn mask(&self) -> u32 {
        self.vocabulary.specials().mask
    }

    /// Whether the token continues a word (`##ing`).
    pub fn is_continuation(&self, id: u32) -> bool {
        self.token(id).is_some_and(|token| token.starts_with(CONTINUATION))
    }

    fn token_or_unk(&self, id: u32) -> &str {
        self.token(id).unwrap_or("[UNK]")
    }

    /// The special token whose name is a prefix of `text`, and the length of the name in bytes.
    fn special_prefix(&self, text: &str) -> Option<(u32, usize)> {
        let specials = self.vocabulary.specials();
        [
            ("[PAD]", specials.pad),
            ("[UNK]", specials.unk),
            ("[CLS]", specials.cls),
            ("[SEP]", specials.sep),
            ("[MASK]", specials.mask),
        ]
        .into_iter()
        .find(|(name, _)| text.starts_with(name))
        .map(|(name, id)| (id, name.len()))
    }
}

fn has_upper_case(vocabulary: &Vocabulary) -> bool {
    vocabulary
        .iter()
        .filter(|token| !(token.starts_with('[') && token.ends_with(']')))
        .any(|token| token.chars().any(char::is_uppercase))
}

/// The state of [`Tokenizer::encode`].
struct Encoder<'a> {
    tokenizer: &'a Tokenizer,
    ids: Vec<u32>,
    /// The number of ids at which encoding stops. The last word may exceed it.
    stop_len: usize,
    /// The current word, cleaned and lower-cased.
    word: String,
    /// The current part of the word, between two punctuation characters.
    part: String,
}

impl Encoder<'_> {
    fn is_full(&self) -> bool {
        self.ids.len() >= self.stop_len
    }

    /// Appends the pieces of `text` until there are enough ids.
    fn encode(&mut self, text: &str) {
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            if self.is_full() {
                return;
            }
            // Special tokens are matched in the raw text, before cleaning and lower-casing.
            if c == '['
                && let Some((id, length)) = self.tokenizer.special_prefix(rest)
            {
                self.end_word();
                self.ids.push(id);
                rest = &rest[length..];
                continue;
            }
            rest = &rest[c.len_utf8()..];
            match classify(c) {
                Class::Dropped => {}
                Class::Space => self.end_word(),
                Class::Word => self.push(c),
                Class::Alone => {
                    self.end_word();
                    self.push(c);
                    self.end_word();
                }
            }
        }
        self.end_word();
    }

    fn push(&mut self, c: char) {
        if !self.tokenizer.lower_case {
            self.word.push(c);
        } else if c.is_ascii() {
            self.word.push(c.to_ascii_lowercase());
        } else {
            // Each character is converted alone, as in the original: a capital sigma at the end of a word becomes σ, not ς.
            self.word.extend(c.to_lowercase());
        }
    }

    /// Splits the current word into pieces and begins the next one.
    fn end_word(&mut self) {
        if self.word.is_empty() {
            return;
        }
        let mut word = std::mem::take(&mut self.word);
        if word.is_ascii() {
            self.push_pieces(&word); // ASCII has no accents, and its punctuation is already split off
        } else if self.tokenizer.lower_case {
            // Decomposition can yield punctuation (U+037E is a semicolon), so punctuation is split off afterwards.
            self.split_at_punctuation(word.nfd().filter(|&c| !is_accent(c)));
        } else {
            self.split_at_punctuation(word.chars());
        }
        word.clear();
        self.word = word;
    }

    fn split_at_punctuation(&mut self, characters: impl Iterator<Item = char>) {
        let mut part = std::mem::take(&mut self.part);
        for c in characters {
            if is_punctuation(c) {
                self.push_pieces(&part);
                part.clear();
                self.push_pieces(c.encode_utf8(&mut [0; 4]));
            } else {
                part.push(c);
            }
        }
        self.push_pieces(&part);
        part.clear();
        self.part = part;
    }

    /// Appends the pieces of `word` by greedy longest match, or `[UNK]` if it has no complete segmentation.
    fn push_pieces(&mut self, word: &str) {
        let before = self.ids.len();
        let mut rest = word.as_bytes();
        // A word has at most as many characters as bytes, so the characters of most words are not counted.
        let mut is_known = rest.len() <= MAX_WORD_LEN || word.chars().count() <= MAX_WORD_LEN;
        while is_known && !rest.is_empty() {
            match self.tokenizer.vocabulary.longest_piece(rest, rest.len() == word.len()) {
                Some((id, length)) => {
                    self.ids.push(id);
                    rest = &rest[length..];
                }
                None => is_known = false,
            }
        }
        if !is_known {
            self.ids.truncate(before);
            self.ids.push(self.tokenizer.unk());
        }
    }
}
