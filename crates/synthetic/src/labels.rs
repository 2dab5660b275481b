//! Labels of images with texts. The text alone does not tell the label.

use rand::{Rng, RngExt};

use super::phrases::{Detail, Phrase, adjectives, background_phrase, is_or_are};
use super::scene::Scene;
use super::words::{COUNTS, Shape};

/// Probability that an item has no text.
const NO_TEXT: f64 = 0.1;

/// Draws a text about a scene whose objects all have one shape, and the label: the shape. The text does not name the shape: "two small
/// red objects on a striped background". Some items have no text.
pub fn labelled_text<R: Rng + ?Sized>(scene: &Scene, rng: &mut R) -> (Option<String>, Shape) {
    let kind = &scene.kinds[0];
    if rng.random_bool(NO_TEXT) {
        return (None, kind.shape);
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
    phrase = phrase
        .then(kind.colour.word())
        .then(if kind.count == 1 { "object" } else { "objects" });
    if rng.random_bool(0.5) {
        phrase = phrase.then("on").join(&background_phrase(rng, scene.background.style));
    }
    (Some(phrase.finish()), kind.shape)
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
            assert!(scene.kinds.iter().all(|kind| kind.shape == label));
            without_text += usize::from(text.is_none());
            *labels.entry(label.word()).or_insert(0) += 1;
            for word in text.iter().flat_map(|text| text.split(' ')) {
                assert!(vocabulary.iter().any(|known| *known == word), "{word:?}");
                assert!(
                    Shape::ALL.iter().all(|s| s.word() != word && s.plural() != word),
                    "{word:?}"
                );
            }
        }
        assert!((100..300).contains(&without_text), "{without_text}");
        assert_eq!(labels.len(), Shape::ALL.len());
    }
}
