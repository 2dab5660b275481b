//! Training of WordPiece vocabularies on the texts of a dataset.
//!
//! As in Hugging Face's `WordPieceTrainer`, the tokens are those of byte-pair encoding on characters (Sennrich et al., arXiv 1508.07909):
//! the most frequent pair of adjacent tokens is merged, until the vocabulary has its size. Equal counts are ordered by the text of the
//! pair, so the result does not depend on the order of the texts.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};

use crate::vocabulary::CONTINUATION;
use crate::words::{MAX_WORD_LEN, WordSplitter};

/// The special tokens, which come first.
const SPECIALS: [&str; 5] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];
/// Smallest count of a pair that is merged: a token that occurs once is not a token of the language.
const MIN_COUNT: u64 = 2;
/// One in this many characters of the texts may lack a token: SentencePiece's usual coverage of characters, 99.95 %.
const CHARACTERS_PER_UNKNOWN: u64 = 2000;

/// Counts the words of texts and makes a vocabulary of them.
pub struct VocabularyTrainer {
    lower_case: bool,
    counts: HashMap<String, u64>,
    /// Number of words counted.
    words: u64,
}

/// Sizes of vocabularies, in tokens, that hold the characters of texts. A character at the beginning of a word and the same character
/// within words are two tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// The special tokens, and the most frequent characters that make up 99.95 % of the texts.
    pub smallest: usize,
    /// The smallest size with which [`VocabularyTrainer::finish`] leaves no character out.
    pub all_characters: usize,
}

/// Two adjacent tokens.
type Pair = (u32, u32);

/// A word as a list of tokens.
struct Word {
    tokens: Vec<u32>,
    count: u64,
}

impl VocabularyTrainer {
    /// Creates a trainer without words. With `lower_case`, text is lower-cased and stripped of accents first.
    pub fn new(lower_case: bool) -> Self {
        Self {
            lower_case,
            counts: HashMap::new(),
            words: 0,
        }
    }

    /// Counts the words of a text.
    pub fn add(&mut self, text: &str) {
        let (counts, words) = (&mut self.counts, &mut self.words);
        let mut count = |word: &str| {
            // Longer words become [UNK] whatever the vocabulary is.
            if word.chars().count() > MAX_WORD_LEN {
                return;
            }
            *words += 1;
            match counts.get_mut(word) {
                Some(count) => *count += 1,
                None => drop(counts.insert(word.to_string(), 1)),
            }
        };
        let mut splitter = WordSplitter::new(self.lower_case);
        text.chars().for_each(|c| splitter.push(c, &mut count));
        splitter.end(&mut count);
    }

    /// Number of words counted.
    pub fn words(&self) -> u64 {
        self.words
    }

    /// Number of different words.
    pub fn distinct_words(&self) -> usize {
        self.counts.len()
    }

    /// Returns the sizes that hold the characters of the counted words.
    pub fn sizes(&self) -> Sizes {
        let characters = self.characters();
        let (required, all) = (required(&characters), characters.len());
        Sizes {
            smallest: SPECIALS.len() + required,
            all_characters: SPECIALS.len() + if required == all { all } else { 2 * all },
        }
    }

    /// Returns a vocabulary of at most `size` tokens, ordered by id: the special tokens, characters, and merged tokens in the order of
    /// their merges. It has fewer tokens if no pair of tokens is left that occurs twice. If there are more different characters than half
    /// of `size`, the rarest are left out, but at most one in 2,000 characters of the texts while `size` is at least
    /// [`Sizes::smallest`].
    pub fn finish(self, size: usize) -> Vec<String> {
        let mut tokens: Vec<String> = SPECIALS.map(String::from).to_vec();
        let alphabet = self.alphabet(size.saturating_sub(tokens.len()));
        let ids: HashMap<&str, u32> = (tokens.len() as u32..)
            .zip(&alphabet)
            .map(|(id, t)| (t.as_str(), id))
            .collect();
        let mut counted: Vec<(&String, &u64)> = self.counts.iter().collect();
        counted.sort_unstable();
        let mut words: Vec<Word> = counted
            .into_iter()
            .filter_map(|(word, count)| {
                let tokens = characters(word)
                    .map(|c| ids.get(c.as_str()).copied())
                    .collect::<Option<_>>()?;
                Some(Word { tokens, count: *count })
            })
            .collect();
        drop(ids);
        tokens.extend(alphabet);
        merge(&mut words, &mut tokens, size);
        tokens
    }

    /// Returns the tokens of single characters: those at the beginning of a word and, with `##`, those within words. At most half of the
    /// `max_tokens` tokens of the vocabulary are single characters, or as many as 99.95 % of the texts require, if that is more; the
    /// rarest are left out.
    fn alphabet(&self, max_tokens: usize) -> Vec<String> {
        let mut characters = self.characters();
        let required = required(&characters).min(max_tokens);
        characters.truncate((max_tokens / 2).max(required));
        let mut alphabet: Vec<String> = characters.into_iter().map(|(character, _)| character).collect();
        alphabet.sort_unstable();
        alphabet
    }

    /// Returns the tokens of single characters with their counts, the most frequent first.
    fn characters(&self) -> Vec<(String, u64)> {
        let mut counts: HashMap<String, u64> = HashMap::new();
        for (word, count) in &self.counts {
            for character in characters(word) {
                *counts.entry(character).or_default() += count;
            }
        }
        let mut counted: Vec<(String, u64)> = counts.into_iter().collect();
        counted.sort_unstable_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        counted
    }
}

/// Returns the number of the most frequent characters that make up 99.95 % of the texts. `counted` has the most frequent ones first.
fn required(counted: &[(String, u64)]) -> usize {
    let total: u64 = counted.iter().map(|(_, count)| count).sum();
    let mut without_token = total;
    for (required, (_, count)) in counted.iter().enumerate() {
        if without_token <= total / CHARACTERS_PER_UNKNOWN {
            return required;
        }
        without_token -= count;
    }
    counted.len()
}

/// Returns the characters of a word as tokens.
fn characters(word: &str) -> impl Iterator<Item = String> {
    word.chars().enumerate().map(|(i, c)| match i {
        0 => c.to_string(),
        _ => format!("{CONTINUATION}{c}"),
    })
}

/// Merges the most frequent pair of tokens in `words` until `tokens` has `size` elements or no pair occurs often enough.
fn merge(words: &mut [Word], tokens: &mut Vec<String>, size: usize) {
    let mut counts: HashMap<Pair, u64> = HashMap::new();
    // The words that contain a pair, and possibly words that contained it before a merge.
    let mut places: HashMap<Pair, HashSet<u32>> = HashMap::new();
    for (index, word) in words.iter().enumerate() {
        for pair in pairs(&word.tokens) {
            *counts.entry(pair).or_default() += word.count;
            places.entry(pair).or_default().insert(index as u32);
        }
    }
    let text = |tokens: &[String], pair: Pair| {
        let second = tokens[pair.1 as usize].trim_start_matches(CONTINUATION);
        format!("{}{second}", tokens[pair.0 as usize])
    };
    let mut heap: BinaryHeap<(u64, Reverse<String>, Pair)> = counts
        .iter()
        .map(|(pair, count)| (*count, Reverse(text(tokens, *pair)), *pair))
        .collect();
    let mut known: HashSet<String> = tokens.iter().cloned().collect();
    while tokens.len() < size {
        let Some((count, Reverse(merged), pair)) = heap.pop() else {
            break;
        };
        if count < MIN_COUNT {
            break;
        }
        match counts.get(&pair) {
            Some(current) if *current == count => {}
            // Its count has changed since this entry was made. A smaller count is entered again; a larger one has an entry already.
            Some(current) if *current < count => {
                heap.push((*current, Reverse(merged), pair));
                continue;
            }
            _ => continue,
        }
        // Two pairs can have the same text.
        let id = match known.insert(merged.clone()) {
            true => {
                tokens.push(merged);
                tokens.len() as u32 - 1
            }
            false => tokens.iter().position(|t| *t == merged).unwrap_or_default() as u32,
        };
        let mut changed: HashSet<Pair> = HashSet::new();
        for index in places.remove(&pair).unwrap_or_default() {
            let word = &mut words[index as usize];
            if !pairs(&word.tokens).any(|p| p == pair) {
                continue;
            }
            for old in pairs(&word.tokens) {
                if let Some(count) = counts.get_mut(&old) {
                    *count -= word.count;
                }
            }
            word.tokens = merged_tokens(&word.tokens, pair, id);
            for new in pairs(&word.tokens) {
                *counts.entry(new).or_default() += word.count;
                places.entry(new).or_default().insert(index);
                changed.insert(new);
            }
        }
        counts.remove(&pair);
        for pair in changed {
            if let Some(count) = counts.get(&pair) {
                heap.push((*count, Reverse(text(tokens, pair)), pair));
            }
        }
    }
}

/// Returns the pairs of adjacent tokens.
fn pairs(tokens: &[u32]) -> impl Iterator<Item = Pair> {
    tokens.windows(2).map(|w| (w[0], w[1]))
}

/// Replaces each occurrence of `pair` by `id`, from left to right.
fn merged_tokens(tokens: &[u32], pair: Pair, id: u32) -> Vec<u32> {
    let mut merged = Vec::with_capacity(tokens.len());
    let mut i = 0;
    while i < tokens.len() {
        if tokens.get(i..i + 2) == Some(&[pair.0, pair.1]) {
            merged.push(id);
            i += 2;
        } else {
            merged.push(tokens[i]);
            i += 1;
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Tokenizer, Vocabulary};
    use proptest::prelude::*;
    use std::path::Path;
    use std::sync::Arc;

    fn trained(texts: &[&str], size: usize, lower_case: bool) -> Vec<String> {
        let mut trainer = VocabularyTrainer::new(lower_case);
        texts.iter().for_each(|text| trainer.add(text));
        trainer.finish(size)
    }

    fn tokenizer(tokens: &[String], lower_case: bool) -> Tokenizer {
        let vocabulary = Vocabulary::from_tokens(Path::new("trained"), tokens).unwrap();
        Tokenizer::new(Arc::new(vocabulary), lower_case)
    }

    /// A direct implementation: counts all pairs anew for each merge.
    fn reference(texts: &[&str], size: usize) -> Vec<String> {
        let mut trainer = VocabularyTrainer::new(true);
        texts.iter().for_each(|text| trainer.add(text));
        let mut tokens: Vec<String> = SPECIALS.map(String::from).to_vec();
        tokens.extend(trainer.alphabet(usize::MAX));
        let mut words: Vec<(Vec<String>, u64)> = trainer
            .counts
            .iter()
            .map(|(word, count)| (characters(word).collect(), *count))
            .collect();
        let join = |a: &str, b: &str| format!("{a}{}", b.trim_start_matches(CONTINUATION));
        while tokens.len() < size {
            let mut counts: HashMap<(String, String), u64> = HashMap::new();
            for (word, count) in &words {
                for pair in word.windows(2) {
                    *counts.entry((pair[0].clone(), pair[1].clone())).or_default() += count;
                }
            }
            let id = |token: &str| tokens.iter().position(|t| t == token);
            let best = counts
                .iter()
                .max_by_key(|((a, b), count)| (**count, Reverse(join(a, b)), id(a), id(b)));
            let Some(((a, b), _)) = best.filter(|(_, count)| **count >= MIN_COUNT) else {
                break;
            };
            let merged = join(a, b);
            for (word, _) in &mut words {
                let mut i = 0;
                while i + 1 < word.len() {
                    if word[i] == *a && word[i + 1] == *b {
                        word.splice(i..i + 2, [merged.clone()]);
                    }
                    i += 1;
                }
            }
            if !tokens.contains(&merged) {
                tokens.push(merged);
            }
        }
        tokens
    }

    #[test]
    fn frequent_words_become_tokens() {
        let texts = ["the dog runs", "the dogs run", "The dog!", "the cat"];
        let tokens = trained(&texts, 60, true);
        assert_eq!(tokens[..5], SPECIALS);
        for token in ["the", "dog", "run", "!"] {
            assert!(tokens.iter().any(|t| t == token), "{token} is not in {tokens:?}");
        }
        assert!(!tokens.iter().any(|t| t == "cat"), "it occurs once: {tokens:?}");
        let tokenizer = tokenizer(&tokens, true);
        let ids = tokenizer.encode("the dogs run.", 40);
        assert_eq!(
            tokenizer.tokens(&ids),
            ["[CLS]", "the", "dog", "##s", "run", "[UNK]", "[SEP]"]
        );
    }

    #[test]
    fn the_size_is_a_limit_and_rare_characters_give_way() {
        let texts = ["aaa bbb aaa bbb ccc", "犬 猫"];
        assert!(trained(&texts, 12, true).len() <= 12);
        let few = trained(&texts, 7, true);
        assert_eq!(few[5..], ["##a", "##b"].map(String::from), "{few:?}");
        assert_eq!(trained(&[], 100, true), SPECIALS);
    }

    #[test]
    fn sizes_hold_the_characters_of_the_texts() {
        let sizes = |texts: &[&str]| {
            let mut trainer = VocabularyTrainer::new(true);
            texts.iter().for_each(|text| trainer.add(text));
            trainer.sizes()
        };
        // Characters: a, ##a, b, ##b, 犬.
        let exact = Sizes {
            smallest: 10,
            all_characters: 10,
        };
        assert_eq!(sizes(&["aa bb 犬", "a"]), exact);
        assert_eq!(trained(&["aa bb 犬", "a"], 10, true).len(), 10);

        // Of 6,000 characters, three may lack a token.
        let common = "ab ".repeat(2998);
        let rare = format!("{common} 犬 猫 鳥 x");
        let found = sizes(&[&rare]);
        assert_eq!((found.smallest, found.all_characters), (8, 5 + 2 * 6));
        let count = |size| {
            let tokens = trained(&[&rare], size, true);
            tokens
                .iter()
                .filter(|token| ["犬", "猫", "鳥", "x"].contains(&token.as_str()))
                .count()
        };
        assert_eq!([8, 16, 17].map(count), [1, 3, 4]);
        assert_eq!(
            sizes(&[]),
            Sizes {
                smallest: 5,
                all_characters: 5
            }
        );
    }

    #[test]
    fn a_cased_vocabulary_keeps_case_and_accents() {
        let tokens = trained(&["Éa Éa Éa"], 20, false);
        assert!(tokens.iter().any(|t| t == "Éa"), "{tokens:?}");
        let tokens = trained(&["Éa Éa Éa"], 20, true);
        assert!(tokens.iter().any(|t| t == "ea"), "{tokens:?}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        #[test]
        fn the_result_is_that_of_the_direct_implementation(
            texts in prop::collection::vec("[abc ]{0,12}", 0..12), size in 20usize..50
        ) {
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            prop_assert_eq!(trained(&texts, size, true), reference(&texts, size));
        }

        /// Every word of the training texts has a segmentation.
        #[test]
        fn training_texts_have_no_unknown_words(texts in prop::collection::vec(".{0,30}", 0..8)) {
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            let tokens = trained(&texts, 4000, true);
            let tokenizer = tokenizer(&tokens, true);
            for text in texts.iter().filter(|text| !text.contains('[')) {
                let ids = tokenizer.encode(text, 400);
                prop_assert!(!ids.contains(&tokenizer.unk()), "{:?}: {:?}", text, tokenizer.tokens(&ids));
            }
        }
    }
}
