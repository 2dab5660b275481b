//! WordPiece tokenisation, with the results of BERT's Python code.

use crate::hugging_face::Settings;
use crate::vocabulary::{CONTINUATION, Vocabulary};
use crate::words::{MAX_WORD_LEN, WordSplitter};
use crate::{Result, TextError};
use std::path::Path;
use std::sync::{Arc, LazyLock};

/// Number of tokens that encoding adds to the pieces of a text: `[CLS]` and `[SEP]`.
const ADDED_TOKENS: usize = 2;

/// Splits text into the tokens of a [`Vocabulary`]. Clones share the vocabulary.
///
/// ```
/// use vlct_text::Tokenizer;
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

/// The tokenizer in a directory of Hugging Face: `vocab.txt` or `tokenizer.json`, with the settings in `tokenizer_config.json`.
#[derive(Clone, Debug)]
pub struct TokenizerDirectory {
    /// The tokenizer.
    pub tokenizer: Tokenizer,
    /// Maximum number of tokens of a text, if the settings state it.
    pub max_len: Option<usize>,
}

impl TokenizerDirectory {
    /// Reads the tokenizer in a directory; `None` if it has neither a `vocab.txt` nor a `tokenizer.json`. Text is lower-cased as the
    /// settings say or, if they do not say it, if the vocabulary has no upper-case letter outside tokens in brackets.
    ///
    /// # Errors
    /// Returns an error if a file cannot be read, or is not that of a WordPiece tokenizer.
    pub fn read(directory: &Path) -> Result<Option<Self>> {
        let settings = Settings::read(directory)?;
        Ok(settings.map(|settings| Self {
            tokenizer: Tokenizer::new(Arc::new(settings.vocabulary), settings.lower_case),
            max_len: settings.max_len,
        }))
    }
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
    /// that contains a tokenizer (see [`TokenizerDirectory`]).
    ///
    /// With a file, text is lower-cased if `name` contains `uncased`, or if the vocabulary has no upper-case letter outside tokens in
    /// brackets, such as `[CLS]`.
    ///
    /// # Errors
    /// Returns [`TextError::NoTokenizer`] if `name` is none of these, and the errors of [`Vocabulary::open`].
    pub fn named(name: &str) -> Result<Self> {
        if name == "bert-base-uncased" {
            return Ok(Self::bert_base_uncased());
        }
        let path = Path::new(name);
        if path.is_dir() {
            let found = TokenizerDirectory::read(path)?;
            let tokenizer = found.map(|found| Self {
                lower_case: found.tokenizer.lower_case || name.contains("uncased"),
                ..found.tokenizer
            });
            return tokenizer.ok_or_else(|| TextError::NoTokenizer(name.into()));
        }
        if name.is_empty() || !path.exists() {
            return Err(TextError::NoTokenizer(name.into()));
        }
        let vocabulary = Vocabulary::open(path)?;
        let lower_case = name.contains("uncased") || !vocabulary.has_upper_case();
        Ok(Self::new(Arc::new(vocabulary), lower_case))
    }

    /// Encodes a text as `[CLS]`, its pieces and `[SEP]`, unpadded and truncated to `max_len` ids.
    ///
    /// A `max_len` below 2 is treated as 2. As in the original, the names of special tokens (`[MASK]`, …) in the text become those
    /// tokens. Only the part of the text that fits is read.
    pub fn encode(&self, text: &str, max_len: usize) -> Vec<u32> {
        let max_pieces = max_len.max(ADDED_TOKENS) - ADDED_TOKENS;
        let mut pieces = Pieces {
            vocabulary: &self.vocabulary,
            ids: Vec::with_capacity((text.len() / 3 + ADDED_TOKENS + 1).min(max_pieces + ADDED_TOKENS)),
        };
        pieces.ids.push(self.cls());
        let mut words = WordSplitter::new(self.lower_case);
        let mut rest = text;
        // The first id is [CLS]. The last word may exceed the limit.
        while let Some(c) = rest.chars().next().filter(|_| pieces.ids.len() <= max_pieces) {
            // Special tokens are matched in the raw text, before cleaning and lower-casing.
            if c == '['
                && let Some((id, length)) = self.special_prefix(rest)
            {
                words.end(&mut |word| pieces.push(word));
                pieces.ids.push(id);
                rest = &rest[length..];
                continue;
            }
            rest = &rest[c.len_utf8()..];
            words.push(c, &mut |word| pieces.push(word));
        }
        words.end(&mut |word| pieces.push(word));
        let mut ids = pieces.ids;
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

/// Appends the pieces of words to a list of ids.
struct Pieces<'a> {
    vocabulary: &'a Vocabulary,
    ids: Vec<u32>,
}

impl Pieces<'_> {
    /// Appends the pieces of `word` by greedy longest match, or `[UNK]` if it has no complete segmentation.
    fn push(&mut self, word: &str) {
        let before = self.ids.len();
        let mut rest = word.as_bytes();
        // A word has at most as many characters as bytes, so the characters of most words are not counted.
        let mut is_known = rest.len() <= MAX_WORD_LEN || word.chars().count() <= MAX_WORD_LEN;
        while is_known && !rest.is_empty() {
            match self.vocabulary.longest_piece(rest, rest.len() == word.len()) {
                Some((id, length)) => {
                    self.ids.push(id);
                    rest = &rest[length..];
                }
                None => is_known = false,
            }
        }
        if !is_known {
            self.ids.truncate(before);
            self.ids.push(self.vocabulary.specials().unk);
        }
    }
}
