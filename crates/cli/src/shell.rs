//! Words of the commands that messages name.

use std::fmt::Display;

/// Returns a word as a command in a message has it: in the single quotes of POSIX shells, unless it has only characters without a meaning
/// to them.
pub fn shell_word(word: impl Display) -> String {
    let word = word.to_string();
    let is_plain = |c: char| c.is_alphanumeric() || "_-./=:,+@%".contains(c);
    match !word.is_empty() && word.chars().all(is_plain) {
        true => word,
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_commands_are_quoted_where_a_shell_would_divide_or_expand_them() {
        for word in ["a/b.png", "runs/é_0/version_0", "/x/run-1", "a=b"] {
            assert_eq!(shell_word(word), word);
        }
        for (word, quoted) in [
            ("my runs/a", "'my runs/a'"),
            ("it's", r"'it'\''s'"),
            ("~/$x", "'~/$x'"),
            ("", "''"),
        ] {
            assert_eq!(shell_word(word), quoted);
        }
    }
}
