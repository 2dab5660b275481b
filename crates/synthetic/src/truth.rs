//! An independent checker for tests: parses captions, questions and statements and compares them with the objects of a scene. It shares
//! no code with the generators of these texts.

use super::scene::{BackgroundStyle, Object, Scene};

/// Part of a caption.
#[derive(Clone, Debug)]
enum Part {
    NounPhrase(NounPhrase),
    /// The words `["fade", top, bottom]`, `["half", top, bottom]` or `[pattern, colour]`; the pattern is empty if it is not named.
    Background(Vec<String>),
    Relation(&'static str),
    Place(String),
    Adjective(String),
    Verb {
        plural: bool,
    },
    There,
    And,
    Comma,
}

/// A noun phrase, such as "two big striped red stars".
#[derive(Clone, Debug)]
struct NounPhrase {
    count: Option<usize>,
    adjectives: Vec<String>,
    colour: String,
    shape: String,
    plural: bool,
}

const COLOURS: &str = "red orange yellow green turquoise blue purple pink brown white gray black";
const ADJECTIVES: &str = "small big plain striped dotted checkered";
const SHAPES: &str = "circle square triangle diamond star cross ring crescent heart";

fn list_contains(list: &str, word: &str) -> bool {
    list.split(' ').any(|w| w == word)
}

fn parse_count(word: &str) -> Option<usize> {
    match word {
        "a" | "an" | "one" => Some(1),
        "two" => Some(2),
        "three" => Some(3),
        "four" => Some(4),
        _ => None,
    }
}

/// Returns the singular of a noun, and whether the noun is a plural.
fn split_plural(word: &str) -> (String, bool) {
    let stem = if word == "crosses" {
        "cross"
    } else {
        word.strip_suffix('s').unwrap_or(word)
    };
    if list_contains(SHAPES, word) || word == "object" {
        (word.to_owned(), false)
    } else {
        (stem.to_owned(), true)
    }
}

fn split_words(text: &str) -> Vec<&str> {
    text.split_whitespace()
        .flat_map(|w| w.strip_suffix(',').map_or([w, ""], |w| [w, ","]))
        .filter(|w| !w.is_empty())
        .collect()
}

fn parse(caption: &str) -> Result<Vec<Part>, String> {
    let words = split_words(caption);
    for pair in words.windows(2) {
        let vowel = pair[1].starts_with(['a', 'e', 'i', 'o', 'u']);
        if (pair[0] == "a" && vowel) || (pair[0] == "an" && !vowel) {
            return Err(format!("wrong article before {}", pair[1]));
        }
    }
    let mut parts = Vec::new();
    let mut rest = &words[..];
    while !rest.is_empty() {
        let (part, used) = parse_part(rest).ok_or_else(|| format!("cannot parse {rest:?}"))?;
        parts.extend(part);
        rest = &rest[used..];
    }
    Ok(parts)
}

/// Parses the first part of a caption. Returns the part, or `None` for words that only introduce it, and the number of words.
fn parse_part(words: &[&str]) -> Option<(Option<Part>, usize)> {
    let background = |words: &[&str]| Some(Part::Background(words.iter().map(|w| (*w).to_owned()).collect()));
    Some(match words {
        ["a", "picture", "of", ..] | ["the", "picture", "shows", ..] => (None, 3),
        ["on" | "with", ..] => (None, 1),
        ["a", "background", "fading", "from", top, "to", bottom, ..] => (background(&["fade", top, bottom]), 7),
        ["the", "background", "fades", "from", top, "to", bottom, ..] => (background(&["fade", top, bottom]), 7),
        ["a", "half", top, "and", "half", bottom, "background", ..] => (background(&["half", top, bottom]), 7),
        ["the", "background", "is", "half", top, "and", "half", bottom, ..] => (background(&["half", top, bottom]), 8),
        ["the", "background", "is", pattern, "and", colour, ..] if list_contains(ADJECTIVES, pattern) => {
            (background(&[pattern, colour]), 6)
        }
        ["the", "background", "is", colour, ..] => (background(&["", colour]), 4),
        ["a" | "an", colour, "background", ..] => (background(&["", colour]), 3),
        ["a" | "an", pattern, colour, "background", ..] => (background(&[pattern, colour]), 4),
        ["in", "front", "of", ..] => (Some(Part::Relation("in front of")), 3),
        ["above", ..] => (Some(Part::Relation("above")), 1),
        ["below", ..] => (Some(Part::Relation("below")), 1),
        ["beside", ..] => (Some(Part::Relation("beside")), 1),
        ["behind", ..] => (Some(Part::Relation("behind")), 1),
        ["near", "the", place, ..] | ["in", "the", place, ..] => (Some(Part::Place((*place).to_owned())), 3),
        ["there", ..] => (Some(Part::There), 1),
        ["is", ..] => (Some(Part::Verb { plural: false }), 1),
        ["are", ..] => (Some(Part::Verb { plural: true }), 1),
        ["and", ..] => (Some(Part::And), 1),
        [",", ..] => (Some(Part::Comma), 1),
        [word, ..] if list_contains(ADJECTIVES, word) => (Some(Part::Adjective((*word).to_owned())), 1),
        _ => parse_noun_phrase(words).map(|(noun_phrase, used)| (Some(Part::NounPhrase(noun_phrase)), used))?,
    })
}

fn parse_noun_phrase(words: &[&str]) -> Option<(NounPhrase, usize)> {
    let mut used = 0;
    let mut count = None;
    if words.first() == Some(&"the") {
        used += 1;
    }
    if let Some(n) = words.get(used).and_then(|w| parse_count(w)) {
        count = Some(n);
        used += 1;
    } else if used == 0 {
        return None;
    }
    let mut adjectives = Vec::new();
    while words.get(used).is_some_and(|w| list_contains(ADJECTIVES, w)) {
        adjectives.push(words[used].to_owned());
        used += 1;
    }
    let colour = words.get(used).filter(|w| list_contains(COLOURS, w))?.to_string();
    let (shape, plural) = split_plural(words.get(used + 1)?);
    list_contains(SHAPES, &shape).then_some((
        NounPhrase {
            count,
            adjectives,
            colour,
            shape,
            plural,
        },
        used + 2,
    ))
}

/// Returns the objects that have the colour and shape of a noun phrase.
fn objects<'a>(scene: &'a Scene, noun_phrase: &NounPhrase) -> Vec<&'a Object> {
    let fits = |o: &&Object| {
        let kind = &scene.kinds[o.kind];
        kind.colour.word() == noun_phrase.colour && kind.shape.word() == noun_phrase.shape
    };
    scene.objects.iter().filter(fits).collect()
}

fn noun_phrase_holds(scene: &Scene, noun_phrase: &NounPhrase) -> bool {
    let found = objects(scene, noun_phrase);
    let fits_all = |a: &String| found.iter().all(|o| has_adjective(scene, o, a));
    !found.is_empty()
        && found.len() == noun_phrase.count.unwrap_or(found.len())
        && noun_phrase.plural == (found.len() > 1)
        && noun_phrase.adjectives.iter().all(fits_all)
}

fn has_adjective(scene: &Scene, object: &Object, adjective: &str) -> bool {
    match adjective {
        "small" => object.radius < 0.15,
        "big" => object.radius > 0.17,
        fill => scene.kinds[object.kind].fill.word() == fill,
    }
}

fn background_matches(scene: &Scene, background: &[String]) -> bool {
    let words: Vec<&str> = background.iter().map(String::as_str).collect();
    match (scene.background.style, &words[..]) {
        (BackgroundStyle::Gradient(a, b), ["fade", top, bottom])
        | (BackgroundStyle::Halves(a, b), ["half", top, bottom]) => a.word() == *top && b.word() == *bottom,
        (BackgroundStyle::Single(p, c), [pattern, colour]) => {
            c.word() == *colour && (pattern.is_empty() || p.word() == *pattern)
        }
        _ => false,
    }
}

/// Returns whether a relation of the objects `a` to the objects `b` holds. "above", "below" and "beside" compare the centres of every
/// pair; "beside" also compares the mean vertical positions. "in front of" and "behind" need one object on each side, and compare
/// centres, radii and drawing order.
fn relation_holds(scene: &Scene, a: &[&Object], relation: &str, b: &[&Object]) -> bool {
    let all = |test: fn(&Object, &Object) -> bool| a.iter().all(|a| b.iter().all(|b| test(a, b)));
    let order = |o: &Object| scene.objects.iter().position(|other| other == o);
    let covers = |a: &[&Object], b: &[&Object]| matches!((a, b), ([a], [b]) if (a.x - b.x).hypot(a.y - b.y) < 0.06 && a.radius < 0.5 * b.radius && order(a) > order(b));
    let mean = |o: &[&Object]| o.iter().map(|o| o.y).sum::<f32>() / o.len() as f32;
    match relation {
        "above" => all(|a, b| b.y - a.y > 0.25),
        "below" => all(|a, b| a.y - b.y > 0.25),
        "beside" => all(|a, b| (a.x - b.x).abs() > 0.25) && (mean(a) - mean(b)).abs() < 0.2,
        "in front of" => covers(a, b),
        "behind" => covers(b, a),
        _ => false,
    }
}

/// Returns whether a caption is true of a scene, and how many attributes it names.
///
/// # Errors
/// Returns an error if the caption is not grammatical.
pub(super) fn check_caption(scene: &Scene, caption: &str) -> Result<(bool, usize), String> {
    let parts = parse(caption)?;
    let mut truth = true;
    let mut attributes = 0;
    let noun_phrases: Vec<&NounPhrase> = parts
        .iter()
        .filter_map(|p| if let Part::NounPhrase(t) = p { Some(t) } else { None })
        .collect();
    for (i, part) in parts.iter().enumerate() {
        let noun_phrases_before = parts[..i].iter().filter(|p| matches!(p, Part::NounPhrase(_))).count();
        match part {
            Part::NounPhrase(noun_phrase) => {
                if noun_phrase.count.is_some_and(|n| (n > 1) != noun_phrase.plural) {
                    return Err(format!("number and noun disagree: {noun_phrase:?}"));
                }
                truth &= noun_phrase_holds(scene, noun_phrase);
                attributes += 2 + noun_phrase.adjectives.len() + usize::from(noun_phrase.count.is_some_and(|n| n > 1));
            }
            Part::Background(background) => {
                truth &= background_matches(scene, background);
                attributes += background.iter().filter(|w| !w.is_empty()).count();
            }
            Part::Place(place) => {
                let all_between =
                    |low: f32, high: f32| objects(scene, noun_phrases[0]).iter().all(|o| low < o.y && o.y < high);
                truth &= match place.as_str() {
                    "top" => all_between(0.0, 0.4),
                    "middle" => all_between(0.38, 0.62),
                    "bottom" => all_between(0.6, 1.0),
                    other => return Err(format!("unknown place {other}")),
                };
                attributes += 1;
            }
            Part::Adjective(adjective) => {
                truth &= objects(scene, noun_phrases[0])
                    .iter()
                    .all(|o| has_adjective(scene, o, adjective));
                attributes += 1;
            }
            Part::Relation(relation) => {
                attributes += 1;
                let there = parts.iter().skip(i).position(|p| matches!(p, Part::There));
                let (subjects, others) = match there {
                    // "above a ring there is a star"
                    Some(there) if noun_phrases_before == 0 => {
                        let end = parts[..i + there]
                            .iter()
                            .filter(|p| matches!(p, Part::NounPhrase(_)))
                            .count();
                        (&noun_phrases[end..], &noun_phrases[..end])
                    }
                    _ => (
                        &noun_phrases[..noun_phrases_before],
                        &noun_phrases[noun_phrases_before..],
                    ),
                };
                for a in subjects {
                    for b in others {
                        truth &= relation_holds(scene, &objects(scene, a), relation, &objects(scene, b));
                    }
                }
            }
            Part::Verb { plural } => {
                // The verb of "there is" agrees with the noun after it, every other verb with the noun before it.
                let inverted = matches!(parts.get(i.wrapping_sub(1)), Some(Part::There));
                let expected = if inverted {
                    noun_phrases
                        .get(noun_phrases_before)
                        .ok_or("no noun after \"there is\"")?
                        .plural
                } else {
                    noun_phrases_before > 1 || noun_phrases[0].plural
                };
                if *plural != expected {
                    return Err("verb and subject disagree".to_owned());
                }
            }
            Part::There | Part::And | Part::Comma => {}
        }
    }
    Ok((truth, attributes))
}

/// Returns the number of objects that match a description ("red", "star", "red stars", "objects").
fn count(scene: &Scene, description: &[&str]) -> usize {
    let fits = |o: &&Object| {
        let kind = &scene.kinds[o.kind];
        description.iter().all(|word| match split_plural(word).0.as_str() {
            "object" => true,
            shape if list_contains(SHAPES, shape) => kind.shape.word() == shape,
            _ => kind.colour.word() == *word,
        })
    };
    scene.objects.iter().filter(fits).count()
}

/// Returns the answer to a question, or `None` if the question has no unique answer.
pub(super) fn answer(scene: &Scene, question: &str) -> Option<String> {
    let words: Vec<&str> = question.strip_suffix('?')?.split(' ').collect();
    let find = |description: &[&str]| {
        let fits = |o: &&Object| {
            let one = Scene {
                objects: vec![**o],
                ..scene.clone()
            };
            count(&one, description) == 1
        };
        let found: Vec<&Object> = scene.objects.iter().filter(fits).collect();
        // A question must describe objects of one kind.
        (!found.is_empty() && found.iter().all(|o| o.kind == found[0].kind)).then_some(found)
    };
    let kind = |description: &[&str]| find(description).map(|found| scene.kinds[found[0].kind]);
    let yes_or_no = |yes| Some(if yes { "yes" } else { "no" }.to_owned());
    match &words[..] {
        ["what", "color", "is", "the", "background"] => match scene.background.style {
            BackgroundStyle::Single(_, colour) => Some(colour.word().to_owned()),
            _ => None,
        },
        ["what", "pattern", "does", "the", "background", "have"] => match scene.background.style {
            BackgroundStyle::Single(pattern, _) => Some(pattern.word().to_owned()),
            _ => None,
        },
        ["what", "color", "is" | "are", "the", shape] => Some(kind(&[shape])?.colour.word().to_owned()),
        ["what", "shape", "is" | "are", "the", colour, _] => Some(kind(&[colour])?.shape.word().to_owned()),
        ["what", "pattern", "does" | "do", "the", description @ .., "have"] => {
            Some(kind(description)?.fill.word().to_owned())
        }
        ["how", "many", description, "are", "there"] => Some(count(scene, &[description]).to_string()),
        ["is", "there", "a" | "an", description @ ..] => yes_or_no(count(scene, description) > 0),
        ["where", "is" | "are", "the", description @ ..] => {
            let found = find(description)?;
            let y = found.iter().map(|o| o.y).sum::<f32>() / found.len() as f32;
            Some(
                if y < 0.4 {
                    "top"
                } else if y < 0.6 {
                    "middle"
                } else {
                    "bottom"
                }
                .to_owned(),
            )
        }
        ["is" | "are", "the", colour, shape, a, "or", b] => {
            let found = find(&[colour, shape])?;
            [a, b]
                .into_iter()
                .find(|size| has_adjective(scene, found[0], size))
                .map(|s| (*s).to_owned())
        }
        [
            "is" | "are",
            "the",
            colour,
            shape,
            relation @ ..,
            "the",
            other_colour,
            other_shape,
        ] => {
            let (a, b) = (find(&[colour, shape])?, find(&[other_colour, other_shape])?);
            yes_or_no(relation_holds(scene, &a, &relation.join(" "), &b))
        }
        _ => None,
    }
}

/// Returns whether a statement is true of a pair, or `None` if it cannot be parsed.
pub(super) fn holds(first: &Scene, second: &Scene, statement: &str) -> Option<bool> {
    let words: Vec<&str> = statement.split(' ').collect();
    let both = [first, second];
    let shows = |description: &[&str]| both.map(|s| count(s, description) > 0);
    let index = |ordinal: &str| usize::from(ordinal == "second");
    let colours = both.map(|s| s.background.style.colours());
    Some(match &words[..] {
        ["both", "pictures", "have", "a" | "an", colour, "background"] => {
            colours.iter().all(|c| c.len() == 1 && c[0].word() == *colour)
        }
        ["both", "pictures", "show", "a" | "an", description @ ..] => shows(description) == [true, true],
        ["neither", "picture", "shows", "a" | "an", description @ ..] => shows(description) == [false, false],
        ["exactly", "one", "picture", "shows", "a" | "an", description @ ..] => {
            shows(description).iter().filter(|s| **s).count() == 1
        }
        ["the", ordinal, "picture", "shows", "a" | "an", description @ ..] => shows(description)[index(ordinal)],
        [
            "there",
            "are",
            "more",
            description @ ..,
            "in",
            "the",
            here,
            "picture",
            "than",
            "in",
            "the",
            there,
        ] => here != there && count(both[index(here)], description) > count(both[index(there)], description),
        ["each", "picture", "shows", "exactly", n, object] => {
            let n = parse_count(n)?;
            (n > 1) == object.ends_with('s') && both.iter().all(|s| s.objects.len() == n)
        }
        ["together", "the", "pictures", "show", "exactly", n, description @ ..] => {
            both.iter().map(|s| count(s, description)).sum::<usize>() == parse_count(n)?
        }
        ["the", "backgrounds", "have", "the", "same", "color"] => colours[0] == colours[1],
        ["the", "backgrounds", "have", "different", "colors"] => colours[0] != colours[1],
        _ => return None,
    })
}
