//! Comparison of the tokenizer with a naive implementation that applies the rules of BERT's tokenizer one after the other.

use crate::{Tokenizer, Vocabulary};
use proptest::prelude::*;
use std::collections::HashSet;
use std::path::Path;
use unicode_general_category::{GeneralCategory as Category, get_general_category};
use unicode_normalization::UnicodeNormalization;

/// A tokenizer with a small cased vocabulary.
fn cased() -> Tokenizer {
    let tokens = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nDog\ndog\n##s\nA\na\né\n##é\n'\n[\n]\nM\n東\n!\nMASK\nσ\n##ς\n";
    Tokenizer::new(
        Vocabulary::parse(Path::new("vocab.txt"), tokens.into()).unwrap().into(),
        false,
    )
}

/// Applies each rule to the whole text, then finds pieces by exhaustive search.
fn naive_pieces(t: &Tokenizer, text: &str) -> Vec<String> {
    let specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];
    let known: HashSet<&str> = t.vocabulary().iter().collect();
    let mut segments = vec![text.to_owned()];
    for special in specials {
        segments = segments
            .into_iter()
            .flat_map(|s| {
                if specials.contains(&s.as_str()) {
                    return vec![s];
                }
                let mut parts = Vec::new();
                for (i, part) in s.split(special).enumerate() {
                    if i > 0 {
                        parts.push(special.to_owned());
                    }
                    parts.push(part.to_owned());
                }
                parts
            })
            .collect();
    }
    let category = |c: char| get_general_category(c).abbreviation();
    let mut out = Vec::new();
    for segment in segments {
        if specials.contains(&segment.as_str()) {
            out.push(segment);
            continue;
        }
        let lowered: String = if t.lower_case() {
            segment.chars().flat_map(char::to_lowercase).collect()
        } else {
            segment
        };
        let cleaned: String = lowered
            .chars()
            .filter(|&c| c != '\0' && c != '\u{fffd}' && ("\t\n\r".contains(c) || !category(c).starts_with('C')))
            .map(|c| {
                if "\t\n\r".contains(c) || category(c) == "Zs" {
                    ' '
                } else {
                    c
                }
            })
            .collect();
        let ranges = [
            0x4e00..=0x9fff,
            0x3400..=0x4dbf,
            0x20000..=0x2a6df,
            0x2a700..=0x2b73f,
            0x2b740..=0x2b81f,
            0x2b820..=0x2ceaf,
            0xf900..=0xfaff,
            0x2f800..=0x2fa1f,
        ];
        let spaced: String = cleaned
            .chars()
            .map(|c| {
                let is_ideograph = |r: &std::ops::RangeInclusive<u32>| r.contains(&(c as u32));
                if ranges.iter().any(is_ideograph) {
                    format!(" {c} ")
                } else {
                    c.to_string()
                }
            })
            .collect();
        for word in spaced.split_whitespace() {
            let folded: String = if t.lower_case() {
                word.nfd()
                    .filter(|&c| get_general_category(c) != Category::NonspacingMark)
                    .collect()
            } else {
                word.to_owned()
            };
            let split: String = folded
                .chars()
                .map(|c| {
                    let ascii = matches!(c as u32, 33..=47 | 58..=64 | 91..=96 | 123..=126);
                    if ascii || category(c).starts_with('P') {
                        format!(" {c} ")
                    } else {
                        c.to_string()
                    }
                })
                .collect();
            for part in split.split_whitespace() {
                out.extend(naive_pieces_of_word(&known, part));
            }
        }
    }
    out
}

fn naive_pieces_of_word(known: &HashSet<&str>, word: &str) -> Vec<String> {
    let characters: Vec<char> = word.chars().collect();
    let unknown = vec!["[UNK]".to_owned()];
    if characters.len() > 100 {
        return unknown;
    }
    let mut pieces = Vec::new();
    let mut start = 0;
    while start < characters.len() {
        let piece = (start + 1..=characters.len()).rev().find_map(|end| {
            let text: String = characters[start..end].iter().collect();
            let text = if start > 0 { format!("##{text}") } else { text };
            known.contains(text.as_str()).then_some((text, end))
        });
        let Some((text, end)) = piece else { return unknown };
        pieces.push(text);
        start = end;
    }
    pieces
}

/// Text with a high density of the characters that the rules mention.
fn difficult_text() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        4 => "[a-zA-Z]{1,12}",
        2 => Just(" ".to_owned()),
        2 => any::<char>().prop_map(String::from),
        1 => prop::sample::select(vec!["[MASK]", "[SEP]", "[CLS]", "[PAD]", "[UNK]", "[", "]", "[MA\u{7}SK]"])
            .prop_map(str::to_owned),
        1 => "[À-ÿĀ-ſΑ-ωҐ-ӿ]{1,4}",
        1 => "[\u{300}-\u{36f}\u{302e}\u{1d165}]{1,3}",
        1 => "[\u{0}-\u{20}\u{7f}-\u{a0}\u{2000}-\u{2030}\u{3000}]{1,3}",
        1 => "[!-/:-@{-~‘-‟…。]{1,3}",
        1 => "[一-三豈-賈㐀ア-ン가-각]{1,3}",
        1 => "[東京é's!ADσς]{1,4}",
    ];
    prop::collection::vec(part, 0..16).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn equals_the_naive_implementation(text in difficult_text()) {
        for tokenizer in [Tokenizer::bert_base_uncased(), cased()] {
            let ids = tokenizer.encode(&text, usize::MAX);
            prop_assert_eq!(tokenizer.tokens(&ids[1..ids.len() - 1]), naive_pieces(&tokenizer, &text), "{:?}", text);
        }
    }

    #[test]
    fn decoded_text_encodes_to_the_same_ids(text in "[a-z0-9 .,!?']{0,60}") {
        let tokenizer = Tokenizer::bert_base_uncased();
        let ids = tokenizer.encode(&text, usize::MAX);
        let decoded = tokenizer.decode(&ids[1..ids.len() - 1]);
        prop_assert_eq!(tokenizer.encode(&decoded, usize::MAX), ids, "{:?}", decoded);
    }
}
