//! Division of text into words: at spaces, and before and after punctuation and CJK ideographs, as in BERT's Python code.

use crate::characters::{Class, classify, is_accent, is_punctuation};
use unicode_normalization::UnicodeNormalization;

/// Maximum length of a word in characters. Longer words become `[UNK]` (BERT's `max_input_chars_per_word`).
pub(crate) const MAX_WORD_LEN: usize = 100;

/// Divides text into words. The functions pass each complete word to `emit`.
pub(crate) struct WordSplitter {
    /// Whether words are lower-cased and stripped of accents.
    lower_case: bool,
    /// The current word, cleaned and lower-cased.
    word: String,
    /// The current part of the word, between two punctuation characters.
    part: String,
}

impl WordSplitter {
    /// Creates a splitter at the beginning of a text.
    pub fn new(lower_case: bool) -> Self {
        Self {
            lower_case,
            word: String::new(),
            part: String::new(),
        }
    }

    /// Adds a character of the text.
    pub fn push(&mut self, c: char, emit: &mut impl FnMut(&str)) {
        match classify(c) {
            Class::Dropped => {}
            Class::Space => self.end(emit),
            Class::Word => self.add(c),
            Class::Alone => {
                self.end(emit);
                self.add(c);
                self.end(emit);
            }
        }
    }

    /// Ends the current word, if there is one. The next character begins another.
    pub fn end(&mut self, emit: &mut impl FnMut(&str)) {
        if self.word.is_empty() {
            return;
        }
        let mut word = std::mem::take(&mut self.word);
        if word.is_ascii() {
            emit(&word); // ASCII has no accents, and its punctuation is already split off
        } else if self.lower_case {
            // Decomposition can yield punctuation (U+037E is a semicolon), so punctuation is split off afterwards.
            self.split_at_punctuation(word.nfd().filter(|&c| !is_accent(c)), emit);
        } else {
            self.split_at_punctuation(word.chars(), emit);
        }
        word.clear();
        self.word = word;
    }

    fn add(&mut self, c: char) {
        if !self.lower_case {
            self.word.push(c);
        } else if c.is_ascii() {
            self.word.push(c.to_ascii_lowercase());
        } else {
            // Each character is converted alone, as in the original: a capital sigma at the end of a word becomes σ, not ς.
            self.word.extend(c.to_lowercase());
        }
    }

    fn split_at_punctuation(&mut self, characters: impl Iterator<Item = char>, emit: &mut impl FnMut(&str)) {
        let mut part = std::mem::take(&mut self.part);
        for c in characters {
            if is_punctuation(c) {
                emit_unless_empty(&part, emit);
                part.clear();
                emit(c.encode_utf8(&mut [0; 4]));
            } else {
                part.push(c);
            }
        }
        emit_unless_empty(&part, emit);
        part.clear();
        self.part = part;
    }
}

fn emit_unless_empty(word: &str, emit: &mut impl FnMut(&str)) {
    if !word.is_empty() {
        emit(word);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str, lower_case: bool) -> Vec<String> {
        let mut words = Vec::new();
        let mut splitter = WordSplitter::new(lower_case);
        let mut emit = |word: &str| words.push(word.to_string());
        text.chars().for_each(|c| splitter.push(c, &mut emit));
        splitter.end(&mut emit);
        words
    }

    #[test]
    fn words_end_at_spaces_punctuation_and_ideographs() {
        assert_eq!(
            words("A dog's  café,\n犬犬x", true),
            ["a", "dog", "'", "s", "cafe", ",", "犬", "犬", "x"]
        );
        assert_eq!(words("A café—B", false), ["A", "café", "—", "B"]);
        assert_eq!(words(" \u{200b} ", true), [""; 0]);
    }
}
