//! Checks that the words of `.ci/words.txt` do not occur in Rust files and documents.

use std::fs;

use crate::source::{files, root};

/// A rule of the list: a word and what to write instead.
struct Rule {
    word: String,
    instead: String,
}

/// A text that files below `directory` may contain. It is removed from each line before the line is searched.
struct Exception {
    text: String,
    directory: String,
}

/// Reads the rules and exceptions of `.ci/words.txt`.
fn read_list() -> (Vec<Rule>, Vec<Exception>) {
    let text = fs::read_to_string(root().join(".ci/words.txt")).expect(".ci/words.txt");
    let lines = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    let (mut rules, mut exceptions) = (Vec::new(), Vec::new());
    for line in lines {
        match line.split_once("->") {
            Some((words, instead)) => rules.extend(words.split(',').map(|word| Rule {
                word: word.trim().to_lowercase(),
                instead: instead.trim().to_string(),
            })),
            None => {
                let exception = line.strip_prefix("except ").expect("`word -> word` or `except text`");
                let (text, directory) = exception.split_once(" in ").unwrap_or((exception, ""));
                exceptions.push(Exception {
                    text: text.to_string(),
                    directory: directory.to_string(),
                });
            }
        }
    }
    (rules, exceptions)
}

#[test]
fn listed_words_do_not_occur() {
    let (rules, exceptions) = read_list();
    let mut found = Vec::new();
    let mut used = vec![false; exceptions.len()];
    for path in [files(&root(), "rs"), files(&root(), "md")].concat() {
        let text = fs::read_to_string(root().join(&path)).expect("UTF-8");
        for (number, line) in text.lines().enumerate() {
            let mut line = line.to_string();
            for (exception, used) in exceptions.iter().zip(&mut used) {
                if path.starts_with(&exception.directory) && line.contains(&exception.text) {
                    *used = true;
                    line = line.replace(&exception.text, "");
                }
            }
            for Rule { word, instead } in rules.iter().filter(|rule| contains_word(&line, &rule.word)) {
                found.push(format!("{}:{}: {word} (write: {instead})", path.display(), number + 1));
            }
        }
    }
    let unused: Vec<&str> = exceptions
        .iter()
        .zip(&used)
        .filter(|(_, used)| !**used)
        .map(|(exception, _)| exception.text.as_str())
        .collect();
    assert!(found.is_empty(), "{} lines:\n{}", found.len(), found.join("\n"));
    assert!(unused.is_empty(), "unused exceptions: {unused:?}");
}

/// Returns whether `line` contains the word or its plural, alone or as a part of an identifier (`image_size`, `ImageLoader`).
fn contains_word(line: &str, word: &str) -> bool {
    // ASCII only, so that byte positions in `lower` and `line` are the same.
    let lower = line.to_ascii_lowercase();
    lower.match_indices(word).any(|(offset, _)| {
        let before = line[..offset].chars().next_back();
        let first = line[offset..].chars().next();
        let after = &line[offset + word.len()..];
        let after = after.strip_prefix('s').unwrap_or(after).chars().next();
        let begins = before.is_none_or(|c| !c.is_alphabetic())
            || first.is_some_and(char::is_uppercase) && before.is_some_and(char::is_lowercase);
        begins && after.is_none_or(|c| !c.is_lowercase())
    })
}

#[test]
fn finds_words_in_identifiers() {
    for text in [
        "an image",
        "Images.",
        "image_size",
        "ImageLoader",
        "DecodedImage",
        "MAX_IMAGES",
    ] {
        assert!(contains_word(text, "image"), "{text}");
    }
    for text in ["imaged", "imagery", "preimage"] {
        assert!(!contains_word(text, "image"), "{text}");
    }
}
