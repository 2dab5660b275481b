//! Labels of images with texts. Neither the image nor the text alone tells the label.

use rand::{Rng, RngExt};

use super::phrases::{Phrase, is_or_are};
use super::scene::Scene;
use super::words::Shape;

/// Probability that a scene whose objects all have the same shape gets no text.
const NO_TEXT: f64 = 0.2;

/// Draws a scene, a text that refers to its objects of one kind by their colour, and the label: the shape of these objects.
///
/// Some scenes with a single kind of objects have no text.
pub fn labelled_scene<R: Rng + ?Sized>(rng: &mut R) -> (Scene, Option<String>, Shape) {
    loop {
        let scene = Scene::draw(rng);
        let kind = &scene.kinds[rng.random_range(0..scene.kinds.len())];
        if scene.kinds.iter().filter(|other| other.colour == kind.colour).count() > 1 {
            continue;
        }
        let shape = kind.shape;
        if scene.kinds.len() == 1 && rng.random_bool(NO_TEXT) {
            return (scene, None, shape);
        }
        let objects = if kind.count == 1 { "object" } else { "objects" };
        let colour = kind.colour.word();
        let phrase = match rng.random_range(0..3) {
            0 => Phrase::new("the shape of the").then(colour).then(objects),
            1 => Phrase::new("there")
                .then(is_or_are(kind.count))
                .then(if kind.count == 1 { "a" } else { "" })
                .then(colour)
                .then(objects),
            _ => Phrase::new("the").then(colour).then(objects),
        };
        return (scene, Some(phrase.finish()), shape);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words::vocabulary;
    use std::collections::BTreeMap;
    use vlct_data::random::{Purpose, stream};

    #[test]
    fn neither_text_nor_image_alone_tells_the_label() {
        let random = &mut stream(0, Purpose::Synthetic, 0, 3);
        let mut labels_of_text: BTreeMap<Option<String>, BTreeMap<&str, usize>> = BTreeMap::new();
        let (mut ambiguous, mut without_text) = (0, 0);
        let vocabulary = vocabulary();
        for _ in 0..2000 {
            let (scene, text, label) = labelled_scene(random);
            assert!(scene.kinds.iter().any(|kind| kind.shape == label));
            ambiguous += usize::from(scene.kinds.iter().any(|kind| kind.shape != label));
            without_text += usize::from(text.is_none());
            for word in text.iter().flat_map(|text| text.split(' ')) {
                assert!(vocabulary.iter().any(|known| *known == word), "{word:?}");
            }
            *labels_of_text.entry(text).or_default().entry(label.word()).or_default() += 1;
        }
        assert!(ambiguous > 1000 && without_text > 50, "{ambiguous}, {without_text}");
        // The most frequent label of a text is correct for few of the texts.
        let correct: usize = labels_of_text.values().filter_map(|labels| labels.values().max()).sum();
        assert!(correct < 2000 / 3, "{correct}");
    }
}
