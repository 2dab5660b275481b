//! Classification of characters for the tokenizer.

use unicode_general_category::{GeneralCategory, get_general_category};

/// The role of a character of the raw text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// Ends a word and is dropped.
    Space,
    /// Dropped; the word continues.
    Dropped,
    /// A word by itself; it is split off before normalisation.
    Alone,
    /// Part of a word. Non-ASCII punctuation is split off after normalisation.
    Word,
}

/// The class of `c`.
pub(crate) fn classify(c: char) -> Class {
    if c.is_ascii() {
        return match c {
            ' ' | '\t' | '\n' | '\r' => Class::Space,
            _ if c.is_ascii_control() => Class::Dropped,
            _ if c.is_ascii_punctuation() => Class::Alone,
            _ => Class::Word,
        };
    }
    if is_cjk_ideograph(c) {
        return Class::Alone;
    }
    use GeneralCategory as G;
    match get_general_category(c) {
        // The original replaces only category Zs by spaces, but then splits at all white space, which includes Zl and Zp.
        G::SpaceSeparator | G::LineSeparator | G::ParagraphSeparator => Class::Space,
        G::Control | G::Format | G::PrivateUse | G::Surrogate | G::Unassigned => Class::Dropped,
        _ if c == char::REPLACEMENT_CHARACTER => Class::Dropped,
        _ => Class::Word,
    }
}

/// Whether `c` is split off as punctuation: all ASCII punctuation, including symbols such as `$`, and the Unicode categories P*.
pub(crate) fn is_punctuation(c: char) -> bool {
    use GeneralCategory as G;
    if c.is_ascii() {
        return c.is_ascii_punctuation();
    }
    matches!(
        get_general_category(c),
        G::ConnectorPunctuation
            | G::DashPunctuation
            | G::OpenPunctuation
            | G::ClosePunctuation
            | G::InitialPunctuation
            | G::FinalPunctuation
            | G::OtherPunctuation
    )
}

/// Whether `c` is an accent or another non-spacing mark, which uncased vocabularies drop.
pub(crate) fn is_accent(c: char) -> bool {
    !c.is_ascii() && get_general_category(c) == GeneralCategory::NonspacingMark
}

/// Whether `c` is in a block of CJK ideographs. Kana and hangul are not: they form words.
fn is_cjk_ideograph(c: char) -> bool {
    matches!(
        c,
        '\u{4E00}'..='\u{9FFF}'
            | '\u{3400}'..='\u{4DBF}'
            | '\u{20000}'..='\u{2A6DF}'
            | '\u{2A700}'..='\u{2B73F}'
            | '\u{2B740}'..='\u{2B81F}'
            | '\u{2B820}'..='\u{2CEAF}'
            | '\u{F900}'..='\u{FAFF}'
            | '\u{2F800}'..='\u{2FA1F}'
    )
}
