//! Normalisation of answers by the original's rules, including its mistakes (`normalize_word` in `vlc/utils/glossary.py`), because the
//! vocabularies of published VQA heads contain answers that are normalised by these rules.

use std::collections::HashMap;
use std::sync::LazyLock;

use unicode_general_category::{GeneralCategory, get_general_category};

/// Marks that are removed or replaced by a space, in the order of the original.
const PUNCTUATION: [char; 21] = [
    ';', '/', '[', ']', '"', '{', '}', '(', ')', '=', '+', '\\', '_', '-', '>', '<', '@', '`', ',', '?', '!',
];

/// Maximum number of periods that are removed from an answer. The original passes `re.UNICODE`, which is 32, as the `count` of `re.sub`.
const MAX_PERIODS: usize = 32;

/// The contractions of the original, one `WORD REPLACEMENT` per line. As in the original, entries with capitals never match,
/// because answers are lower-cased first.
const CONTRACTIONS: &str = include_str!("contractions.txt");

/// Normalises the spelling of an answer: lower case, no articles, little punctuation, digits for numbers up to ten, and apostrophes
/// in contractions. The result may be empty (for `a` or `...`, for example).
///
/// Characters are classified as in Python: digits are the decimal digits of all scripts.
pub fn normalize_word(answer: &str) -> String {
    let mut text = answer.to_owned();
    let comma_in_number = has_comma_in_number(answer);
    for mark in PUNCTUATION.into_iter().filter(|mark| answer.contains(*mark)) {
        // The original tests the unchanged answer, not the result of earlier replacements.
        let touches_space = answer.contains(&format!("{mark} ")) || answer.contains(&format!(" {mark}"));
        text = text.replace(mark, if touches_space || comma_in_number { "" } else { " " });
    }
    let lower_case = remove_periods(&text).to_lowercase();
    let words = lower_case
        .split(is_python_space)
        .filter(|word| !word.is_empty())
        .map(number_to_digits)
        .filter(|word| !matches!(*word, "a" | "an" | "the"))
        .map(restore_apostrophes);
    // The original removes commas again at the end. This has no effect, because `PUNCTUATION` contains the comma.
    words.collect::<Vec<_>>().join(" ")
}

/// Whether Python's `\d` matches `c`.
fn is_digit(c: char) -> bool {
    c.is_ascii_digit() || (!c.is_ascii() && get_general_category(c) == GeneralCategory::DecimalNumber)
}

/// Whether Python's `str.split()` splits at `c`: at Unicode white space and four control characters.
fn is_python_space(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\u{1c}'..='\u{1f}')
}

fn has_comma_in_number(text: &str) -> bool {
    let mut previous = None;
    let mut characters = text.chars().peekable();
    while let Some(c) = characters.next() {
        if c == ',' && previous.is_some_and(is_digit) && characters.peek().copied().is_some_and(is_digit) {
            return true;
        }
        previous = Some(c);
    }
    false
}

/// Removes the first [`MAX_PERIODS`] periods that are not followed by a digit. (The original intends to keep a period after a digit
/// too, but its look-behind is misspelled.)
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

fn number_to_digits(word: &str) -> &str {
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

fn restore_apostrophes(word: &str) -> &str {
    static TABLE: LazyLock<HashMap<&str, &str>> =
        LazyLock::new(|| CONTRACTIONS.lines().filter_map(|line| line.split_once(' ')).collect());
    TABLE.get(word).copied().unwrap_or(word)
}
