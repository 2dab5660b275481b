//! Questions about an image, with their answers.

use rand::seq::SliceRandom;
use rand::{Rng, RngExt};

use super::phrases::{Phrase, is_or_are, noun};
use super::scene::{BackgroundStyle, Kind, Scene, draw_one};
use super::words::{Colour, Height, Pattern, Relation, Shape, Size};

/// Number of questions about an image.
pub const QUESTIONS_PER_IMAGE: usize = 4;
/// Counts in the spelling of VQA v2.
const DIGITS: [&str; 5] = ["0", "1", "2", "3", "4"];

/// The attribute that a question asks for.
#[derive(Clone, Copy)]
enum Topic {
    Colour,
    Count,
    Shape,
    Presence,
    Relation,
    Height,
    BackgroundColour,
    BackgroundPattern,
    Size,
    Fill,
}

const TOPICS: [Topic; 10] = [
    Topic::Colour,
    Topic::Count,
    Topic::Shape,
    Topic::Presence,
    Topic::Relation,
    Topic::Height,
    Topic::BackgroundColour,
    Topic::BackgroundPattern,
    Topic::Size,
    Topic::Fill,
];

/// Draws four questions about a scene, on different topics, each with its answer.
///
/// "yes" and "no" are equally probable. The objects that a question refers to with "the" exist and are of one kind.
pub fn questions<R: Rng + ?Sized>(scene: &Scene, rng: &mut R) -> Vec<(String, String)> {
    let mut topics = TOPICS;
    topics.shuffle(rng);
    let drawn = topics
        .into_iter()
        .filter_map(|topic| draw_question(scene, topic, rng))
        .take(QUESTIONS_PER_IMAGE);
    drawn
        .map(|(question, answer)| (question.then("?").finish(), answer.to_owned()))
        .collect()
}

/// Returns all answers. The label of an answer is its index.
pub fn answers() -> Vec<&'static str> {
    let mut all = vec!["yes", "no"];
    all.extend(DIGITS);
    all.extend(Colour::ALL.iter().map(|c| c.word()));
    all.extend(Shape::ALL.iter().map(|s| s.word()));
    all.extend(Pattern::ALL.iter().map(|p| p.word()));
    all.extend(Height::ALL.iter().map(|h| h.word()));
    all.extend(Size::ALL.iter().map(|s| s.word()));
    all
}

/// Draws a question on a topic, with its answer. Returns `None` if the topic does not apply to the scene.
fn draw_question<R: Rng + ?Sized>(scene: &Scene, topic: Topic, rng: &mut R) -> Option<(Phrase, &'static str)> {
    let kinds = &scene.kinds;
    let index = rng.random_range(0..kinds.len());
    let kind = &kinds[index];
    let verb = is_or_are(kind.count);
    let yes_or_no = |yes: bool| if yes { "yes" } else { "no" };
    match topic {
        Topic::Colour => {
            let unique = kinds.iter().filter(|k| k.shape == kind.shape).count() == 1;
            let question = Phrase::new("what color")
                .then(verb)
                .then("the")
                .then(noun(kind.shape, kind.count));
            unique.then_some((question, kind.colour.word()))
        }
        Topic::Shape => {
            let unique = kinds.iter().filter(|k| k.colour == kind.colour).count() == 1;
            let objects = if kind.count == 1 { "object" } else { "objects" };
            let question = Phrase::new("what shape")
                .then(verb)
                .then("the")
                .then(kind.colour.word())
                .then(objects);
            unique.then_some((question, kind.shape.word()))
        }
        Topic::Count => {
            let shape = if rng.random_bool(0.2) {
                draw_one(rng, Shape::ALL)
            } else {
                kind.shape
            };
            let (name, count) = if rng.random_bool(0.3) {
                ("objects", scene.objects.len())
            } else {
                (
                    shape.plural(),
                    kinds.iter().filter(|k| k.shape == shape).map(|k| k.count).sum(),
                )
            };
            Some((
                Phrase::new("how many").then(name).then("are there"),
                *DIGITS.get(count)?,
            ))
        }
        Topic::Presence => {
            let yes = rng.random_bool(0.5);
            let (colour, shape) = if yes {
                (kind.colour, kind.shape)
            } else {
                draw_absent(scene, kind, rng)?
            };
            Some((
                Phrase::new("is there a").then(colour.word()).then(shape.word()),
                yes_or_no(yes),
            ))
        }
        Topic::Relation => {
            let other = (index + 1 + rng.random_range(0..kinds.len().max(2) - 1)) % kinds.len();
            let truth = scene.relation(index, other)?;
            let yes = rng.random_bool(0.5);
            let wrong: Vec<Relation> = Relation::ALL.iter().copied().filter(|&r| r != truth).collect();
            let relation = if yes { truth } else { draw_one(rng, &wrong) };
            let question = Phrase::new(verb)
                .join(&definite_phrase(kind))
                .then(relation.word())
                .join(&definite_phrase(&kinds[other]));
            Some((question, yes_or_no(yes)))
        }
        Topic::Height => {
            let height = scene.height(index)?;
            Some((
                Phrase::new("where").then(verb).join(&definite_phrase(kind)),
                height.word(),
            ))
        }
        Topic::BackgroundColour => match scene.background.style {
            BackgroundStyle::Single(_, colour) => Some((Phrase::new("what color is the background"), colour.word())),
            BackgroundStyle::Gradient(..) | BackgroundStyle::Halves(..) => None,
        },
        Topic::BackgroundPattern => match scene.background.style {
            BackgroundStyle::Single(pattern, _) => {
                Some((Phrase::new("what pattern does the background have"), pattern.word()))
            }
            BackgroundStyle::Gradient(..) | BackgroundStyle::Halves(..) => None,
        },
        Topic::Size => {
            let choice = if rng.random_bool(0.5) {
                "big or small"
            } else {
                "small or big"
            };
            let question = Phrase::new(verb).join(&definite_phrase(kind)).then(choice);
            kind.size_is_free.then_some((question, kind.size.word()))
        }
        Topic::Fill => {
            let does = if kind.count == 1 { "does" } else { "do" };
            Some((
                Phrase::new("what pattern")
                    .then(does)
                    .join(&definite_phrase(kind))
                    .then("have"),
                kind.fill.word(),
            ))
        }
    }
}

/// Returns a definite description of a kind, such as "the red star". Kinds always differ in colour or shape.
fn definite_phrase(kind: &Kind) -> Phrase {
    Phrase::new("the")
        .then(kind.colour.word())
        .then(noun(kind.shape, kind.count))
}

/// Draws a combination of colour and shape that no object of the scene has. Either the colour or the shape is that of `kind`.
fn draw_absent<R: Rng + ?Sized>(scene: &Scene, kind: &Kind, rng: &mut R) -> Option<(Colour, Shape)> {
    let keep_shape = rng.random_bool(0.5);
    let candidates: Vec<(Colour, Shape)> = if keep_shape {
        Colour::ALL.iter().map(|&c| (c, kind.shape)).collect()
    } else {
        Shape::ALL.iter().map(|&s| (kind.colour, s)).collect()
    };
    let exists = |pair: &(Colour, Shape)| scene.kinds.iter().any(|k| (k.colour, k.shape) == *pair);
    let candidates: Vec<_> = candidates.into_iter().filter(|pair| !exists(pair)).collect();
    (!candidates.is_empty()).then(|| draw_one(rng, &candidates))
}
