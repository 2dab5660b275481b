//! WordPiece vocabularies.

use crate::trie::{Node, Trie};
use crate::{Result, TextError};
use std::path::Path;
use vlct_util::read_at_most;

/// The vocabulary of `bert-base-uncased` (Google's release of BERT, 30,522 tokens): one token per line, ordered by id.
const BERT_BASE_UNCASED: &str = include_str!("../../../assets/bert-base-uncased-vocab.txt");

/// Maximum size of a `vocab.txt` in bytes. Multilingual WordPiece vocabularies have about 1 MB.
const MAX_FILE_BYTES: u64 = 16 << 20;

/// The prefix of tokens that continue a word.
pub(crate) const CONTINUATION: &str = "##";

/// The ids of the special tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Specials {
    pub pad: u32,
    pub unk: u32,
    pub cls: u32,
    pub sep: u32,
    pub mask: u32,
}

/// The tokens of a model, with ids from 0.
#[derive(Debug)]
pub struct Vocabulary {
    text: String,
    /// Begin and end of each token in `text`, in bytes.
    spans: Vec<(u32, u32)>,
    trie: Trie,
    /// The node of [`CONTINUATION`], if any token begins with it.
    continuation: Option<Node>,
    specials: Specials,
}

impl Vocabulary {
    /// The vocabulary of `bert-base-uncased`: 30,522 lower-case tokens.
    pub fn bert_base_uncased() -> Self {
        Self::parse(Path::new("bert-base-uncased"), BERT_BASE_UNCASED.into())
            .expect("the embedded vocabulary is valid, as a test shows")
    }

    /// Reads a `vocab.txt`: UTF-8, one token per line. The id of a token is the index of its line.
    ///
    /// Lines may end in CR LF. The id of a token on several lines is the index of the last of them, as in the original. Empty lines count,
    /// except at the end of the file.
    ///
    /// # Errors
    /// Returns [`TextError::Io`] if the file cannot be read or has more than 16 MiB, [`TextError::Format`] if it is not UTF-8 or lacks
    /// one of `[PAD]`, `[UNK]`, `[CLS]`, `[SEP]` and `[MASK]`.
    pub fn open(path: &Path) -> Result<Self> {
        let bytes = read_at_most(path, MAX_FILE_BYTES, "a vocab.txt of one token a line")?;
        Self::parse(path, bytes)
    }

    /// Makes a vocabulary of `tokens`, ordered by id. `source` is the file that contains them, for messages.
    ///
    /// # Errors
    /// Returns [`TextError::Format`] if a token contains a line break, or a special token is missing.
    pub fn from_tokens(source: &Path, tokens: &[String]) -> Result<Self> {
        if let Some(token) = tokens.iter().find(|token| token.contains(['\n', '\r'])) {
            return Err(TextError::format(
                source,
                format!("token {token:?} contains a line break"),
            ));
        }
        Self::parse(source, tokens.join("\n").into_bytes())
    }

    /// Parses the content of a file; `path` is for messages.
    pub(crate) fn parse(path: &Path, bytes: Vec<u8>) -> Result<Self> {
        let text = String::from_utf8(bytes).map_err(|error| {
            let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
            let line = valid.iter().filter(|&&b| b == b'\n').count() + 1;
            TextError::format(
                path,
                format!("line {line} is not UTF-8; a vocab.txt of one token a line is needed"),
            )
        })?;
        // The byte order mark that editors on Windows write is not part of the first token.
        let lines = text
            .strip_prefix('\u{feff}')
            .unwrap_or(&text)
            .trim_end_matches(['\r', '\n']);
        if lines.is_empty() {
            return Err(TextError::format(
                path,
                "empty; a vocab.txt of one token a line is needed",
            ));
        }
        let tokens: Vec<&str> = lines.lines().collect();
        let start = text.as_ptr() as usize;
        let spans = tokens
            .iter()
            .map(|token| {
                let begin = (token.as_ptr() as usize - start) as u32;
                (begin, begin + token.len() as u32)
            })
            .collect();
        let trie = Trie::new(&tokens);
        let specials = find_specials(path, &trie)?;
        let continuation = trie.walk(CONTINUATION);
        Ok(Self {
            text,
            spans,
            trie,
            continuation,
            specials,
        })
    }

    /// The number of tokens.
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Always false: a vocabulary has at least its special tokens.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// Whether a token has an upper-case letter, other than tokens in brackets such as `[CLS]`.
    pub(crate) fn has_upper_case(&self) -> bool {
        self.iter()
            .filter(|token| !(token.starts_with('[') && token.ends_with(']')))
            .any(|token| token.chars().any(char::is_uppercase))
    }

    /// The token of an id.
    pub fn token(&self, id: u32) -> Option<&str> {
        let &(begin, end) = self.spans.get(id as usize)?;
        Some(&self.text[begin as usize..end as usize])
    }

    /// The id of a token, spelled as in the file (`##ing`, `[MASK]`).
    pub fn id(&self, token: &str) -> Option<u32> {
        self.trie.walk(token).and_then(|node| self.trie.token(node))
    }

    /// All tokens, ordered by id.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.spans
            .iter()
            .map(|&(begin, end)| &self.text[begin as usize..end as usize])
    }

    pub(crate) fn specials(&self) -> Specials {
        self.specials
    }

    /// Returns the id of the longest token that matches the beginning of `rest`, and the number of matched bytes. If `is_first`, `rest`
    /// begins a word; otherwise the token begins with `##`, which is not counted.
    pub(crate) fn longest_piece(&self, rest: &[u8], is_first: bool) -> Option<(u32, usize)> {
        let from = if is_first { self.trie.root() } else { self.continuation? };
        self.trie.longest(from, rest)
    }
}

fn find_specials(path: &Path, trie: &Trie) -> Result<Specials> {
    let names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];
    let ids = names.map(|name| trie.walk(name).and_then(|node| trie.token(node)));
    let [Some(pad), Some(unk), Some(cls), Some(sep), Some(mask)] = ids else {
        let missing: Vec<&str> = names
            .iter()
            .zip(ids)
            .filter(|(_, id)| id.is_none())
            .map(|(n, _)| *n)
            .collect();
        return Err(TextError::format(
            path,
            format!(
                "no line {}; a BERT vocab.txt of one token a line is needed",
                missing.join(", ")
            ),
        ));
    };
    Ok(Specials {
        pad,
        unk,
        cls,
        sep,
        mask,
    })
}
