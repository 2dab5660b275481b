//! Text for one-line messages.

use std::borrow::Cow;

/// Escapes control characters, such as line breaks and terminal sequences, in text from untrusted input.
pub fn escape_control(text: &str) -> Cow<'_, str> {
    if text.chars().any(char::is_control) {
        text.escape_debug().to_string().into()
    } else {
        text.into()
    }
}

/// Replaces each control character by U+FFFD, so that a message with untrusted text is one line.
pub fn one_line(text: &impl std::fmt::Display) -> String {
    let replace = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
    text.to_string().chars().map(replace).collect()
}

/// Truncates text from untrusted input to 80 characters, escapes it and adds quotes.
pub fn quoted(text: &str) -> String {
    const MAX_CHARS: usize = 80;
    match text.char_indices().nth(MAX_CHARS) {
        None => format!("{text:?}"),
        Some((end, _)) => format!("{:?}…", &text[..end]),
    }
}

/// Returns a count with a noun, in the singular for 1 and in the plural otherwise: `1 row`, `2 rows`, `2 classes`, `2 epochs`.
pub fn counted(count: impl std::fmt::Display, noun: &str) -> String {
    let count = count.to_string();
    let plural = match count.as_str() {
        "1" => "",
        _ if noun.ends_with("epoch") => "s",
        _ if ["s", "x", "ch", "sh"].iter().any(|end| noun.ends_with(end)) => "es",
        _ => "s",
    };
    format!("{count} {noun}{plural}")
}

/// Returns the candidate most similar to `word`, or an empty string if there are no candidates.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> &'a str {
    most_similar(word, candidates).1
}

/// Returns the most similar candidate if it is at least 60 % similar, so that `word` is probably a misspelling of it.
pub fn similar_name<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // 60 %: two letters of five may be wrong.
    let (similarity, candidate) = most_similar(word, candidates);
    (similarity >= 0.6).then_some(candidate)
}

/// Returns the candidate most similar to `word`, with its similarity from 0 to 1; negative infinity if there are no candidates.
fn most_similar<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> (f64, &'a str) {
    let word = word.to_lowercase();
    let mut best = (f64::NEG_INFINITY, "");
    for candidate in candidates {
        let similarity = strsim::normalized_damerau_levenshtein(&word, &candidate.to_lowercase());
        if similarity > best.0 {
            best = (similarity, candidate);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_terminal_sequences() {
        assert_eq!(escape_control("plain"), "plain");
        assert_eq!(escape_control("a\x1b[2Jb"), "a\\u{1b}[2Jb");
        assert_eq!(one_line(&"a\nb"), "a\u{fffd}b");
    }

    #[test]
    fn quotes_at_most_eighty_characters() {
        assert_eq!(quoted("a\"b"), "\"a\\\"b\"");
        assert_eq!(quoted(&"ü".repeat(81)), format!("\"{}\"…", "ü".repeat(80)));
    }

    #[test]
    fn counts_in_singular_and_plural() {
        assert_eq!(
            [0, 1, 2].map(|count| counted(count, "row")),
            ["0 rows", "1 row", "2 rows"]
        );
        assert_eq!(counted("1,000", "row"), "1,000 rows");
        assert_eq!([1, 2].map(|count| counted(count, "class")), ["1 class", "2 classes"]);
        assert_eq!(counted(3, "epoch"), "3 epochs");
    }

    #[test]
    fn suggests_similar_words_only() {
        assert_eq!(similar_name("coko", ["f30k", "coco"]), Some("coco"));
        assert_eq!(similar_name("zebra", ["f30k", "coco"]), None);
        assert_eq!(nearest("zebra", []), "");
    }
}
