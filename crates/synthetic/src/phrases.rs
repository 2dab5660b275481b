//! Phrases that captions, questions and statements consist of.

use rand::{Rng, RngExt};

use super::scene::{BackgroundStyle, Kind};
use super::words::{COUNTS, Height, Pattern, Relation, Shape};

/// A text under construction: words and punctuation marks. [`Phrase::finish`] turns the
/// article "a" into "an" where necessary.
#[derive(Clone, Debug, Default)]
pub(super) struct Phrase(Vec<&'static str>);

impl Phrase {
    /// Creates a phrase from the words of a literal.
    pub fn new(words: &'static str) -> Phrase {
        Phrase::default().then(words)
    }

    /// Appends the words of a literal.
    pub fn then(mut self, words: &'static str) -> Phrase {
        self.0.extend(words.split_whitespace());
        self
    }

    /// Appends another phrase.
    pub fn join(mut self, other: &Phrase) -> Phrase {
        self.0.extend(&other.0);
        self
    }

    /// Returns the number of words, without punctuation marks.
    pub fn word_count(&self) -> usize {
        self.0.iter().filter(|word| !is_punctuation(word)).count()
    }

    /// Returns the text, with "an" instead of "a" before a vowel and without a space before a punctuation mark.
    pub fn finish(&self) -> String {
        let mut text = String::new();
        for (i, &word) in self.0.iter().enumerate() {
            let is_before_vowel = self
                .0
                .get(i + 1)
                .is_some_and(|next| next.starts_with(['a', 'e', 'i', 'o', 'u']));
            if !text.is_empty() && !is_punctuation(word) {
                text.push(' ');
            }
            text.push_str(if word == "a" && is_before_vowel { "an" } else { word });
        }
        text
    }
}

fn is_punctuation(word: &str) -> bool {
    matches!(word, "," | "?")
}

/// Probabilities that a phrase names further attributes of an object, beside its colour and shape.
#[derive(Clone, Copy)]
pub(super) struct Detail {
    /// Probability of naming the size, if [`Kind::size_is_free`].
    pub size: f64,
    /// Probability of naming a fill other than plain. The probability for plain is half of this value: plain is twice as
    /// common as each of the other fills, and all four words should be equally probable.
    pub fill: f64,
}

/// Draws the adjectives before the colour of a kind: size and fill, with the probabilities in `detail`.
pub(super) fn adjectives<R: Rng + ?Sized>(rng: &mut R, kind: &Kind, detail: Detail) -> Vec<&'static str> {
    let mut words = Vec::new();
    if rng.random_bool(detail.size) && kind.size_is_free {
        words.push(kind.size.word());
    }
    if rng.random_bool(if kind.fill == Pattern::Plain {
        detail.fill / 2.0
    } else {
        detail.fill
    }) {
        words.push(kind.fill.word());
    }
    words
}

/// Draws a noun phrase for the objects of a kind: "a big red star", "two striped blue rings".
pub(super) fn noun_phrase<R: Rng + ?Sized>(rng: &mut R, kind: &Kind, detail: Detail) -> Phrase {
    let article = if kind.count == 1 && rng.random_bool(0.85) {
        "a"
    } else {
        COUNTS[kind.count]
    };
    let mut phrase = Phrase::new(article);
    for word in adjectives(rng, kind, detail) {
        phrase = phrase.then(word);
    }
    phrase.then(kind.colour.word()).then(noun(kind.shape, kind.count))
}

/// Returns the word for `count` objects of a shape.
pub(super) fn noun(shape: Shape, count: usize) -> &'static str {
    if count == 1 { shape.word() } else { shape.plural() }
}

/// Returns "is" or "are".
pub(super) fn is_or_are(count: usize) -> &'static str {
    if count == 1 { "is" } else { "are" }
}

/// Draws a noun phrase for the background: "a striped green background", "a background fading from blue to pink".
pub(super) fn background_phrase<R: Rng + ?Sized>(rng: &mut R, style: BackgroundStyle) -> Phrase {
    match style {
        BackgroundStyle::Single(pattern, colour) => {
            let phrase = Phrase::new("a");
            let phrase = if rng.random_bool(0.6) {
                phrase.then(pattern.word())
            } else {
                phrase
            };
            phrase.then(colour.word()).then("background")
        }
        BackgroundStyle::Gradient(top, bottom) => Phrase::new("a background fading from")
            .then(top.word())
            .then("to")
            .then(bottom.word()),
        BackgroundStyle::Halves(top, bottom) => Phrase::new("a half")
            .then(top.word())
            .then("and half")
            .then(bottom.word())
            .then("background"),
    }
}

/// Draws a clause about the background: "the background is striped and green".
pub(super) fn background_clause<R: Rng + ?Sized>(rng: &mut R, style: BackgroundStyle) -> Phrase {
    let phrase = Phrase::new("the background");
    match style {
        BackgroundStyle::Single(pattern, colour) => {
            let phrase = phrase.then("is");
            let phrase = if rng.random_bool(0.6) {
                phrase.then(pattern.word()).then("and")
            } else {
                phrase
            };
            phrase.then(colour.word())
        }
        BackgroundStyle::Gradient(top, bottom) => phrase
            .then("fades from")
            .then(top.word())
            .then("to")
            .then(bottom.word()),
        BackgroundStyle::Halves(top, bottom) => phrase
            .then("is half")
            .then(top.word())
            .then("and half")
            .then(bottom.word()),
    }
}

/// Returns "near the top", "in the middle" or "near the bottom".
pub(super) fn height_phrase(height: Height) -> Phrase {
    let preposition = if height == Height::Middle { "in the" } else { "near the" };
    Phrase::new(preposition).then(height.word())
}

/// Returns the words of a relation.
pub(super) fn relation_phrase(relation: Relation) -> Phrase {
    Phrase::new(relation.word())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finish_adapts_articles_and_punctuation() {
        let text = Phrase::new("a orange star , a red ring and a object ?").finish();
        assert_eq!(text, "an orange star, a red ring and an object?");
        assert_eq!(Phrase::new("a red star , two rings").word_count(), 5);
    }
}
