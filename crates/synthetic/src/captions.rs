//! Captions of a scene.

use rand::seq::SliceRandom;
use rand::{Rng, RngExt};

use super::phrases::{Detail, Phrase, adjectives, backdrop, backdrop_clause, be, noun, place, relation, things};
use super::scene::Scene;
use super::words::Relation;

/// Number of captions of an image, as in COCO.
pub const CAPTIONS_PER_IMAGE: usize = 5;
/// Range of the number of words of a caption.
pub(super) const CAPTION_WORDS: std::ops::RangeInclusive<usize> = 6..=20;
/// Most draws until there are five different captions. Five nearly always suffice.
const ATTEMPTS: usize = 200;

/// Draws five different captions of a scene: lower case, 6 to 20 words, without a full stop.
///
/// Each caption names at least three independent attributes (colours, shapes, counts, sizes, fills, heights, relations,
/// background).
pub fn captions<R: Rng + ?Sized>(scene: &Scene, rng: &mut R) -> Vec<String> {
    let mut captions: Vec<String> = Vec::with_capacity(CAPTIONS_PER_IMAGE);
    for _ in 0..ATTEMPTS {
        let phrase = caption(scene, rng);
        let text = phrase.finish();
        if CAPTION_WORDS.contains(&phrase.words()) && !captions.contains(&text) {
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
        1 => about_one(scene, rng),
        2 => about_two(scene, rng, 0, 1, Detail { size: 0.5, fill: 0.5 }),
        _ if rng.random_bool(0.3) => {
            let mut kinds = [0, 1, 2];
            kinds.shuffle(rng);
            about_two(scene, rng, kinds[0], kinds[1], Detail { size: 0.5, fill: 0.4 })
        }
        _ => about_three(scene, rng),
    }
}

/// "on a green background".
fn on<R: Rng + ?Sized>(scene: &Scene, rng: &mut R) -> Phrase {
    Phrase::new("on").join(&backdrop(rng, scene.background.style))
}

fn about_one<R: Rng + ?Sized>(scene: &Scene, rng: &mut R) -> Phrase {
    let kind = &scene.kinds[0];
    let style = scene.background.style;
    let detail = Detail { size: 0.6, fill: 0.6 };
    let subject = things(rng, kind, detail);
    let place = scene
        .height(0)
        .filter(|_| rng.random_bool(0.6))
        .map(place)
        .unwrap_or_default();
    let ground = on(scene, rng);
    match rng.random_range(0..9) {
        0 => subject.join(&place).join(&ground),
        1 => Phrase::new("there")
            .then(be(kind.count))
            .join(&subject)
            .join(&place)
            .join(&ground),
        2 => ground.then("there").then(be(kind.count)).join(&subject).join(&place),
        3 => backdrop(rng, style).then("with").join(&subject).join(&place),
        4 => Phrase::new("a picture of").join(&subject).join(&ground),
        5 => Phrase::new("the picture shows")
            .join(&subject)
            .join(&place)
            .join(&ground),
        6 => subject.then(be(kind.count)).join(&place).join(&ground),
        7 => subject.join(&place).then("and").join(&backdrop_clause(rng, style)),
        _ => {
            // "the two red stars are big and the background is green"
            let mut said = adjectives(rng, kind, Detail { size: 0.8, fill: 0.8 });
            said.shuffle(rng);
            let mut phrase = Phrase::new("the");
            if kind.count > 1 {
                phrase = phrase.then(super::words::COUNTS[kind.count]);
            }
            phrase = phrase
                .then(kind.colour.word())
                .then(noun(kind.shape, kind.count))
                .then(be(kind.count));
            match said[..] {
                [] => phrase.join(&place).join(&ground),
                [one] => phrase.then(one).then("and").join(&backdrop_clause(rng, style)),
                [one, two, ..] => phrase.then(one).then("and").then(two).join(&ground),
            }
        }
    }
}

/// A caption of the kinds `a` and `b`, in random order.
fn about_two<R: Rng + ?Sized>(scene: &Scene, rng: &mut R, a: usize, b: usize, detail: Detail) -> Phrase {
    let (a, b) = if rng.random_bool(0.5) { (a, b) } else { (b, a) };
    let (first, second) = (&scene.kinds[a], &scene.kinds[b]);
    let style = scene.background.style;
    let is = be(first.count);
    let (subject, other) = (things(rng, first, detail), things(rng, second, detail));
    let ground = if rng.random_bool(0.75) {
        on(scene, rng)
    } else {
        Phrase::default()
    };
    let Some(word) = scene.relation(a, b) else {
        return subject.then("and").join(&other).join(&on(scene, rng));
    };
    let lies = relation(word);
    match rng.random_range(0..10) {
        0 | 1 => subject.join(&lies).join(&other).join(&ground),
        2 => Phrase::new("there")
            .then(is)
            .join(&subject)
            .join(&lies)
            .join(&other)
            .join(&ground),
        3 => subject.then(is).join(&lies).join(&other).join(&ground),
        4 => on(scene, rng)
            .then("there")
            .then(is)
            .join(&subject)
            .join(&lies)
            .join(&other),
        5 => subject.then("and").join(&other).join(&on(scene, rng)),
        6 => lies.join(&other).then("there").then(is).join(&subject).join(&ground),
        7 => backdrop(rng, style)
            .then("with")
            .join(&subject)
            .join(&lies)
            .join(&other),
        8 => Phrase::new("a picture of")
            .join(&subject)
            .then("and")
            .join(&other)
            .join(&on(scene, rng)),
        _ => subject
            .then(is)
            .join(&lies)
            .join(&other)
            .then("and")
            .join(&backdrop_clause(rng, style)),
    }
}

/// A caption of all three kinds of a scene.
fn about_three<R: Rng + ?Sized>(scene: &Scene, rng: &mut R) -> Phrase {
    let detail = Detail { size: 0.3, fill: 0.3 };
    let style = scene.background.style;
    let mut order = [0, 1, 2];
    order.shuffle(rng);
    let names = order.map(|k| things(rng, &scene.kinds[k], detail));
    let [first, second, third] = &names;
    let ground = if rng.random_bool(0.75) {
        on(scene, rng)
    } else {
        Phrase::default()
    };
    let list = || first.clone().then(",").join(second).then("and").join(third);
    let lone = lone_kind(scene);
    match (rng.random_range(0..10), lone) {
        (0..6, Some((lone, lies))) => {
            let rest: Vec<&Phrase> = order
                .iter()
                .zip(&names)
                .filter(|(k, _)| **k != lone)
                .map(|(_, n)| n)
                .collect();
            let subject = things(rng, &scene.kinds[lone], detail);
            let pair = rest[0].clone().then("and").join(rest[1]);
            let word = relation(lies);
            match rng.random_range(0..6) {
                0 | 1 => subject.join(&word).join(&pair).join(&ground),
                2 => subject.then("is").join(&word).join(&pair).join(&ground),
                3 => pair.join(&relation(lies.reversed())).join(&subject).join(&ground),
                4 => pair
                    .then("are")
                    .join(&relation(lies.reversed()))
                    .join(&subject)
                    .join(&ground),
                _ => word.join(&pair).then("there is").join(&subject).join(&ground),
            }
        }
        (6, _) => backdrop(rng, style).then("with").join(&list()),
        (7, _) => Phrase::new("a picture of").join(&list()).join(&ground),
        (8, _) => list().then("are").join(&on(scene, rng)),
        _ => list().join(&on(scene, rng)),
    }
}

/// The kind of three that has the same relation to both others, and this relation.
fn lone_kind(scene: &Scene) -> Option<(usize, Relation)> {
    [(0, 1, 2), (1, 0, 2), (2, 0, 1)].into_iter().find_map(|(kind, a, b)| {
        let lies = scene.relation(kind, a)?;
        (scene.relation(kind, b) == Some(lies)).then_some((kind, lies))
    })
}
