//! Captions of a scene.

use rand::seq::SliceRandom;
use rand::{Rng, RngExt};

use super::phrases::{
    Detail, Phrase, adjectives, background_clause, background_phrase, height_phrase, is_or_are, noun, noun_phrase,
    relation_phrase,
};
use super::scene::Scene;
use super::words::{COUNTS, Relation};

/// Number of captions of an image, as in COCO.
pub const CAPTIONS_PER_IMAGE: usize = 5;
/// Range of the number of words of a caption.
pub(super) const CAPTION_WORDS: std::ops::RangeInclusive<usize> = 6..=20;
/// Maximum number of draws to find five different captions.
const MAX_DRAWS: usize = 200;

/// Draws five different captions of a scene, each in lower case, with 6 to 20 words and no full stop.
///
/// Each caption names at least three independent attributes (colours, shapes, counts, sizes, fills, heights, relations,
/// background).
pub fn captions<R: Rng + ?Sized>(scene: &Scene, rng: &mut R) -> Vec<String> {
    let mut captions: Vec<String> = Vec::with_capacity(CAPTIONS_PER_IMAGE);
    for _ in 0..MAX_DRAWS {
        let phrase = caption(scene, rng);
        let text = phrase.finish();
        if CAPTION_WORDS.contains(&phrase.word_count()) && !captions.contains(&text) {
            captions.push(text);
            if captions.len() == CAPTIONS_PER_IMAGE {
                break;
            }
        }
    }
    captions
}

fn caption<R: Rng + ?Sized>(scene: &Scene, rng: &mut R) -> Phrase {
    match scene.kinds.len() {
        1 => describe_one(scene, rng),
        2 => describe_two(scene, rng, 0, 1, Detail { size: 0.5, fill: 0.5 }),
        _ if rng.random_bool(0.3) => {
            let mut kinds = [0, 1, 2];
            kinds.shuffle(rng);
            describe_two(scene, rng, kinds[0], kinds[1], Detail { size: 0.5, fill: 0.4 })
        }
        _ => describe_three(scene, rng),
    }
}

/// Draws a phrase such as "on a green background".
fn on_background<R: Rng + ?Sized>(scene: &Scene, rng: &mut R) -> Phrase {
    Phrase::new("on").join(&background_phrase(rng, scene.background.style))
}

fn describe_one<R: Rng + ?Sized>(scene: &Scene, rng: &mut R) -> Phrase {
    let kind = &scene.kinds[0];
    let style = scene.background.style;
    let detail = Detail { size: 0.6, fill: 0.6 };
    let subject = noun_phrase(rng, kind, detail);
    let height = scene
        .height(0)
        .filter(|_| rng.random_bool(0.6))
        .map(height_phrase)
        .unwrap_or_default();
    let background = on_background(scene, rng);
    match rng.random_range(0..9) {
        0 => subject.join(&height).join(&background),
        1 => Phrase::new("there")
            .then(is_or_are(kind.count))
            .join(&subject)
            .join(&height)
            .join(&background),
        2 => background
            .then("there")
            .then(is_or_are(kind.count))
            .join(&subject)
            .join(&height),
        3 => background_phrase(rng, style).then("with").join(&subject).join(&height),
        4 => Phrase::new("a picture of").join(&subject).join(&background),
        5 => Phrase::new("the picture shows")
            .join(&subject)
            .join(&height)
            .join(&background),
        6 => subject.then(is_or_are(kind.count)).join(&height).join(&background),
        7 => subject.join(&height).then("and").join(&background_clause(rng, style)),
        _ => {
            // "the two red stars are big and the background is green"
            let mut words = adjectives(rng, kind, Detail { size: 0.8, fill: 0.8 });
            words.shuffle(rng);
            let mut phrase = Phrase::new("the");
            if kind.count > 1 {
                phrase = phrase.then(COUNTS[kind.count]);
            }
            phrase = phrase
                .then(kind.colour.word())
                .then(noun(kind.shape, kind.count))
                .then(is_or_are(kind.count));
            match words[..] {
                [] => phrase.join(&height).join(&background),
                [one] => phrase.then(one).then("and").join(&background_clause(rng, style)),
                [one, two, ..] => phrase.then(one).then("and").then(two).join(&background),
            }
        }
    }
}

/// Draws a caption of the kinds `a` and `b`, in random order.
fn describe_two<R: Rng + ?Sized>(scene: &Scene, rng: &mut R, a: usize, b: usize, detail: Detail) -> Phrase {
    let (a, b) = if rng.random_bool(0.5) { (a, b) } else { (b, a) };
    let (first, second) = (&scene.kinds[a], &scene.kinds[b]);
    let style = scene.background.style;
    let verb = is_or_are(first.count);
    let (subject, other) = (noun_phrase(rng, first, detail), noun_phrase(rng, second, detail));
    let background = if rng.random_bool(0.75) {
        on_background(scene, rng)
    } else {
        Phrase::default()
    };
    let Some(relation_to_other) = scene.relation(a, b) else {
        return subject.then("and").join(&other).join(&on_background(scene, rng));
    };
    let relation = relation_phrase(relation_to_other);
    match rng.random_range(0..10) {
        0 | 1 => subject.join(&relation).join(&other).join(&background),
        2 => Phrase::new("there")
            .then(verb)
            .join(&subject)
            .join(&relation)
            .join(&other)
            .join(&background),
        3 => subject.then(verb).join(&relation).join(&other).join(&background),
        4 => on_background(scene, rng)
            .then("there")
            .then(verb)
            .join(&subject)
            .join(&relation)
            .join(&other),
        5 => subject.then("and").join(&other).join(&on_background(scene, rng)),
        6 => relation
            .join(&other)
            .then("there")
            .then(verb)
            .join(&subject)
            .join(&background),
        7 => background_phrase(rng, style)
            .then("with")
            .join(&subject)
            .join(&relation)
            .join(&other),
        8 => Phrase::new("a picture of")
            .join(&subject)
            .then("and")
            .join(&other)
            .join(&on_background(scene, rng)),
        _ => subject
            .then(verb)
            .join(&relation)
            .join(&other)
            .then("and")
            .join(&background_clause(rng, style)),
    }
}

/// Draws a caption of all three kinds of a scene.
fn describe_three<R: Rng + ?Sized>(scene: &Scene, rng: &mut R) -> Phrase {
    let detail = Detail { size: 0.3, fill: 0.3 };
    let style = scene.background.style;
    let mut order = [0, 1, 2];
    order.shuffle(rng);
    let names = order.map(|k| noun_phrase(rng, &scene.kinds[k], detail));
    let [first, second, third] = &names;
    let background = if rng.random_bool(0.75) {
        on_background(scene, rng)
    } else {
        Phrase::default()
    };
    let list = || first.clone().then(",").join(second).then("and").join(third);
    let lone = lone_kind(scene);
    match (rng.random_range(0..10), lone) {
        (0..6, Some((lone, relation_to_others))) => {
            let rest: Vec<&Phrase> = order
                .iter()
                .zip(&names)
                .filter(|(k, _)| **k != lone)
                .map(|(_, n)| n)
                .collect();
            let subject = noun_phrase(rng, &scene.kinds[lone], detail);
            let pair = rest[0].clone().then("and").join(rest[1]);
            let word = relation_phrase(relation_to_others);
            match rng.random_range(0..6) {
                0 | 1 => subject.join(&word).join(&pair).join(&background),
                2 => subject.then("is").join(&word).join(&pair).join(&background),
                3 => pair
                    .join(&relation_phrase(relation_to_others.reversed()))
                    .join(&subject)
                    .join(&background),
                4 => pair
                    .then("are")
                    .join(&relation_phrase(relation_to_others.reversed()))
                    .join(&subject)
                    .join(&background),
                _ => word.join(&pair).then("there is").join(&subject).join(&background),
            }
        }
        (6, _) => background_phrase(rng, style).then("with").join(&list()),
        (7, _) => Phrase::new("a picture of").join(&list()).join(&background),
        (8, _) => list().then("are").join(&on_background(scene, rng)),
        _ => list().join(&on_background(scene, rng)),
    }
}

/// Returns the kind that has the same relation to each of the two other kinds, and this relation, or `None` if there is no such
/// kind.
fn lone_kind(scene: &Scene) -> Option<(usize, Relation)> {
    [(0, 1, 2), (1, 0, 2), (2, 0, 1)].into_iter().find_map(|(kind, a, b)| {
        let relation = scene.relation(kind, a)?;
        (scene.relation(kind, b) == Some(relation)).then_some((kind, relation))
    })
}
