//! Labels of images with texts. The text alone does not tell the label.

use rand::{Rng, RngExt};

use super::phrases::{Detail, Phrase, adjectives, height_phrase, is_or_are, noun};
use super::scene::Scene;
use super::words::{COUNTS, Colour};

/// Probability that an item has no text.
const NO_TEXT: f64 = 0.1;

/// Draws a text about a scene with one kind of objects, and the label: their colour. The text names no colour: "two small striped stars near
/// the top". Some items have no text.
pub fn labelled_text<R: Rng + ?Sized>(scene: &Scene, rng: &mut R) -> (Option<String>, Colour) {
    let kind = &scene.kinds[0];
    if rng.random_bool(NO_TEXT) {
        return (None, kind.colour);
    }
    let mut phrase = match rng.random_range(0..3) {
        0 => Phrase::new("there").then(is_or_are(kind.count)),
        1 => Phrase::new("the picture shows"),
        _ => Phrase::default(),
    };
    phrase = phrase.then(if kind.count == 1 { "a" } else { COUNTS[kind.count] });
    for word in adjectives(rng, kind, Detail { size: 0.5, fill: 0.5 }) {
        phrase = phrase.then(word);
    }
    phrase = phrase.then(noun(kind.shape, kind.count));
    if let Some(height) = scene.height(0).filter(|_| rng.random_bool(0.5)) {
        phrase = phrase.join(&height_phrase(height));
    }
    (Some(phrase.finish()), kind.colour)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words::vocabulary;
    use std::collections::BTreeMap;
    use vlct_data::random::{Purpose, stream};

    #[test]
    fn the_text_does_not_tell_the_label() {
        let random = &mut stream(0, Purpose::Synthetic, 0, 3);
        let vocabulary = vocabulary();
        let (mut without_text, mut labels) = (0, BTreeMap::new());
        for index in 0..2000 {
            let scene = Scene::generate_single(0, index);
            let (text, label) = labelled_text(&scene, random);
            assert!(scene.kinds.iter().all(|kind| kind.colour == label));
            without_text += usize::from(text.is_none());
            *labels.entry(label.word()).or_insert(0) += 1;
            for word in text.iter().flat_map(|text| text.split(' ')) {
                assert!(vocabulary.iter().any(|known| *known == word), "{word:?}");
                assert!(Colour::ALL.iter().all(|colour| colour.word() != word), "{word:?}");
            }
        }
        assert!((100..300).contains(&without_text), "{without_text}");
        assert_eq!(labels.len(), Colour::ALL.len());
    }
}
