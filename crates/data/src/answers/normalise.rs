//! One spelling for every answer, with the original's rules and slips (`normalize_word` in `vlc/utils/glossary.py`).
//!
//! Published heads are trained on answers so spelled: whatever looks wrong here is in their vocabularies.

use std::collections::HashMap;
use std::sync::LazyLock;

use unicode_general_category::{GeneralCategory, get_general_category};

/// Marks that are removed or become a blank, in the order of the original.
const PUNCTUATION: [char; 21] = [
    ';', '/', '[', ']', '"', '{', '}', '(', ')', '=', '+', '\\', '_', '-', '>', '<', '@', '`', ',', '?', '!',
];

/// Most periods that are removed: the original passes the value of a flag, 32, as the count.
const MAX_PERIODS: usize = 32;

/// Word and replacement on a line, as in the original, whose entries with capitals can never match.
const CONTRACTIONS: &str = include_str!("contractions.txt");

/// Brings an answer to the spelling that vocabularies use: lower case, no articles, hardly any punctuation, numbers up to
/// ten in digits, apostrophes where contractions lack them. May become empty (`a`, `...`).
///
/// Characters are classed as Python classes them: digits are Unicode's decimal digits of any script.
pub fn normalize_word(answer: &str) -> String {
    let mut text = answer.to_owned();
    let comma_in_number = has_comma_in_number(answer);
    for mark in PUNCTUATION.into_iter().filter(|mark| answer.contains(*mark)) {
        // The original looks at the unchanged answer, whatever earlier marks have become.
        let detached = answer.contains(&format!("{mark} ")) || answer.contains(&format!(" {mark}"));
        text = text.replace(mark, if detached || comma_in_number { "" } else { " " });
    }
    let words = remove_periods(&text).to_lowercase();
    let words = words
        .split(is_python_space)
        .filter(|word| !word.is_empty())
        .map(number_in_digits)
        .filter(|word| !matches!(*word, "a" | "an" | "the"))
        .map(contraction);
    // The original removes commas once more at the end. None is left.
    words.collect::<Vec<_>>().join(" ")
}

/// `\d` of Python.
fn is_digit(c: char) -> bool {
    c.is_ascii_digit() || (!c.is_ascii() && get_general_category(c) == GeneralCategory::DecimalNumber)
}

/// Where Python's `str.split()` splits: Unicode's white space and four control characters.
fn is_python_space(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\u{1c}'..='\u{1f}')
}

fn has_comma_in_number(text: &str) -> bool {
    let mut before = None;
    let mut characters = text.chars().peekable();
    while let Some(c) = characters.next() {
        if c == ',' && before.is_some_and(is_digit) && characters.peek().copied().is_some_and(is_digit) {
            return true;
        }
        before = Some(c);
    }
    false
}

/// Without the first [`MAX_PERIODS`] periods that no digit follows. (A digit before should have saved a period too, but the
/// original's look-behind is misspelled.)
fn remove_periods(text: &str) -> String {
    let mut removed = 0;
    let mut result = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(c) = characters.next() {
        if c == '.' && removed < MAX_PERIODS && !characters.peek().copied().is_some_and(is_digit) {
            removed += 1;
        } else {
            result.push(c);
        }
    }
    result
}

fn number_in_digits(word: &str) -> &str {
    match word {
        "none" | "zero" => "0",
        "one" => "1",
        "two" => "2",
        "three" => "3",
        "four" => "4",
        "five" => "5",
        "six" => "6",
        "seven" => "7",
        "eight" => "8",
        "nine" => "9",
        "ten" => "10",
        other => other,
    }
}

fn contraction(word: &str) -> &str {
    static TABLE: LazyLock<HashMap<&str, &str>> =
        LazyLock::new(|| CONTRACTIONS.lines().filter_map(|line| line.split_once(' ')).collect());
    TABLE.get(word).copied().unwrap_or(word)
}
