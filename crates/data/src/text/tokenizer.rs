//! WordPiece tokenisation as BERT's own Python code does it.

use super::characters::{Class, classify, is_accent, is_punctuation};
use super::vocabulary::{CONTINUATION, Specials, Vocabulary};
use crate::{DataError, Result};
use std::path::Path;
use std::sync::{Arc, LazyLock};
use unicode_normalization::UnicodeNormalization;

/// Longer words become `[UNK]` untried (BERT's `max_input_chars_per_word`).
const LONGEST_WORD: usize = 100;

/// What every encoded text has beside its pieces: `[CLS]` and `[SEP]`.
const FRAME: usize = 2;

/// Cuts text into the tokens of a [`Vocabulary`].
///
/// Copies share the vocabulary.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    vocabulary: Arc<Vocabulary>,
    lower_case: bool,
}

impl Tokenizer {
    /// A tokenizer over `vocabulary`. With `lower_case`, text is lower-cased and loses its accents first.
    pub fn new(vocabulary: Arc<Vocabulary>, lower_case: bool) -> Self {
        Self { vocabulary, lower_case }
    }

    /// The tokenizer of `bert-base-uncased`, which needs no file.
    pub fn bert_base_uncased() -> Self {
        static VOCABULARY: LazyLock<Arc<Vocabulary>> = LazyLock::new(|| Arc::new(Vocabulary::bert_base_uncased()));
        Self::new(Arc::clone(&VOCABULARY), true)
    }

    /// A tokenizer over the vocabulary in `path`; for its form and the errors see [`Vocabulary::open`].
    pub fn from_file(path: impl AsRef<Path>, lower_case: bool) -> Result<Self> {
        Ok(Self::new(Arc::new(Vocabulary::open(path.as_ref())?), lower_case))
    }

    /// The tokenizer that a configuration names: `bert-base-uncased`, the path of a `vocab.txt`, or that of a folder with
    /// a `vocab.txt` in it.
    ///
    /// A file's tokenizer lower-cases if `name` contains `uncased`, or if the vocabulary has no upper-case letter outside
    /// tokens in brackets, such as `[CLS]`: it could not match any then.
    ///
    /// # Errors
    /// If `name` is neither, or the file is not as [`Vocabulary::open`] wants it.
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
                "no tokenizer {name:?}: give bert-base-uncased, or the path of a vocab.txt or of a folder that has one"
            )));
        }
        let vocabulary = Vocabulary::open(&file)?;
        let lower_case = name.contains("uncased") || !has_upper_case(&vocabulary);
        Ok(Self::new(Arc::new(vocabulary), lower_case))
    }

    /// `[CLS]`, the pieces of `text`, `[SEP]`: at most `max_len` numbers, surplus pieces left away at the end, unpadded.
    ///
    /// A `max_len` below 2 counts as 2. The names of special tokens (`[MASK]`, …) in the text become those tokens, as in
    /// the original. Takes time only for the part of the text that fits.
    pub fn encode(&self, text: &str, max_len: usize) -> Vec<u32> {
        let room = max_len.max(FRAME) - FRAME;
        let mut pieces = Pieces {
            tokenizer: self,
            ids: Vec::with_capacity((text.len() / 3 + FRAME + 1).min(room + FRAME)),
            room: room + 1, // beside [CLS], which is the first
            word: String::new(),
            normal: String::new(),
        };
        pieces.ids.push(self.cls());
        pieces.read(text);
        let mut ids = pieces.ids;
        ids.truncate(room + 1);
        ids.push(self.sep());
        ids
    }

    /// The spelling of each number; `[UNK]` for numbers outside the vocabulary.
    pub fn tokens(&self, ids: &[u32]) -> Vec<&str> {
        ids.iter().map(|&id| self.token_or_unk(id)).collect()
    }

    /// Readable text: pieces joined to words, and no blank before `.`, `?`, `!` and `,`. Special tokens stay.
    pub fn decode(&self, ids: &[u32]) -> String {
        let mut text = String::new();
        for (at, &id) in ids.iter().enumerate() {
            let token = self.token_or_unk(id);
            match token.strip_prefix(CONTINUATION) {
                Some(rest) if at > 0 => text.push_str(rest),
                _ => {
                    if at > 0 && !token.starts_with(['.', '?', '!', ',']) {
                        text.push(' ');
                    }
                    text.push_str(token);
                }
            }
        }
        text
    }

    /// The spelling of a number.
    pub fn token(&self, id: u32) -> Option<&str> {
        self.vocabulary.token(id)
    }

    /// The number of a token, spelled as in the vocabulary (`##ing`, `[MASK]`).
    pub fn id(&self, token: &str) -> Option<u32> {
        self.vocabulary.id(token)
    }

    /// The vocabulary.
    pub fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    /// How many tokens the vocabulary has: every number is below.
    pub fn len(&self) -> usize {
        self.vocabulary.len()
    }

    /// Never true: a vocabulary has at least its special tokens.
    pub fn is_empty(&self) -> bool {
        self.vocabulary.is_empty()
    }

    /// Whether text is lower-cased and stripped of accents before it is cut.
    pub fn lower_case(&self) -> bool {
        self.lower_case
    }

    /// The number of `[PAD]`.
    pub fn pad(&self) -> u32 {
        self.vocabulary.specials().pad
    }

    /// The number of `[UNK]`, which stands for words that the vocabulary cannot spell.
    pub fn unk(&self) -> u32 {
        self.vocabulary.specials().unk
    }

    /// The number of `[CLS]`, which begins every text.
    pub fn cls(&self) -> u32 {
        self.vocabulary.specials().cls
    }

    /// The number of `[SEP]`, which ends every text.
    pub fn sep(&self) -> u32 {
        self.vocabulary.specials().sep
    }

    /// The number of `[MASK]`.
    pub fn mask(&self) -> u32 {
        self.vocabulary.specials().mask
    }

    /// Whether the token continues the word before it (`##ing`).
    pub fn is_continuation(&self, id: u32) -> bool {
        self.token(id).is_some_and(|token| token.starts_with(CONTINUATION))
    }

    /// Whether the token is `[PAD]`, `[UNK]`, `[CLS]`, `[SEP]` or `[MASK]`.
    pub fn is_special(&self, id: u32) -> bool {
        let Specials {
            pad,
            unk,
            cls,
            sep,
            mask,
        } = self.vocabulary.specials();
        [pad, unk, cls, sep, mask].contains(&id)
    }

    fn token_or_unk(&self, id: u32) -> &str {
        self.token(id).unwrap_or("[UNK]")
    }

    /// The special token whose name `text` begins with, and the length of the name.
    fn special_at(&self, text: &str) -> Option<(u32, usize)> {
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

/// The pieces found so far, and two buffers that every word uses anew.
struct Pieces<'a> {
    tokenizer: &'a Tokenizer,
    ids: Vec<u32>,
    /// As many numbers are wanted; there may be a few more, from the last word.
    room: usize,
    /// The word being read: cleaned and, if wanted, lower-cased.
    word: String,
    /// A part of it: without accents and between punctuation.
    normal: String,
}

impl Pieces<'_> {
    fn full(&self) -> bool {
        self.ids.len() >= self.room
    }

    /// Appends the pieces of `text`, until there are enough.
    fn read(&mut self, text: &str) {
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            if self.full() {
                return;
            }
            // Special tokens are found in the raw text, before anything is cleaned or lower-cased.
            if c == '['
                && let Some((id, length)) = self.tokenizer.special_at(rest)
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
            // One by one, as in the original: a capital sigma at the end of a word becomes σ, not ς.
            self.word.extend(c.to_lowercase());
        }
    }

    /// Cuts the word that has been read, and begins the next.
    fn end_word(&mut self) {
        if self.word.is_empty() {
            return;
        }
        let mut word = std::mem::take(&mut self.word);
        if word.is_ascii() {
            self.cut(&word); // no accents, and punctuation stands alone already
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
        let mut part = std::mem::take(&mut self.normal);
        for c in characters {
            if is_punctuation(c) {
                self.cut(&part);
                part.clear();
                self.cut(c.encode_utf8(&mut [0; 4]));
            } else {
                part.push(c);
            }
        }
        self.cut(&part);
        part.clear();
        self.normal = part;
    }

    /// Greedy longest match: the pieces of `word`, or `[UNK]` if it has no complete segmentation.
    fn cut(&mut self, word: &str) {
        let before = self.ids.len();
        let mut rest = word.as_bytes();
        // A word has no more characters than bytes, so most need no counting.
        let mut possible = rest.len() <= LONGEST_WORD || word.chars().count() <= LONGEST_WORD;
        while possible && !rest.is_empty() {
            match self.tokenizer.vocabulary.longest_piece(rest, rest.len() == word.len()) {
                Some((id, length)) => {
                    self.ids.push(id);
                    rest = &rest[length..];
                }
                None => possible = false,
            }
        }
        if !possible {
            self.ids.truncate(before);
            self.ids.push(self.tokenizer.unk());
        }
    }
}
