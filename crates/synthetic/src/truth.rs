//! An independent judge for tests: parses captions, questions and statements and checks them against the objects of a scene. It shares
//! no code with their generators.

use super::scene::{Backdrop, Object, Scene};

/// Part of a caption.
#[derive(Clone, Debug)]
enum Part {
    Thing(Thing),
    Ground(Vec<String>),
    Relation(&'static str),
    Place(String),
    Adjective(String),
    Verb(bool),
    There,
    And,
    Comma,
}

/// A noun phrase, such as "two big striped red stars".
#[derive(Clone, Debug)]
struct Thing {
    count: Option<usize>,
    adjectives: Vec<String>,
    colour: String,
    shape: String,
    plural: bool,
}

const COLOURS: &str = "red orange yellow green turquoise blue purple pink brown white gray black";
const ADJECTIVES: &str = "small big plain striped dotted checkered";
const SHAPES: &str = "circle square triangle diamond star cross ring crescent heart";

fn among(list: &str, word: &str) -> bool {
    list.split(' ').any(|w| w == word)
}

fn number(word: &str) -> Option<usize> {
    match word {
        "a" | "an" | "one" => Some(1),
        "two" => Some(2),
        "three" => Some(3),
        "four" => Some(4),
        _ => None,
    }
}

fn singular(word: &str) -> (String, bool) {
    let stem = if word == "crosses" {
        "cross"
    } else {
        word.strip_suffix('s').unwrap_or(word)
    };
    if among(SHAPES, word) || word == "object" {
        (word.to_owned(), false)
    } else {
        (stem.to_owned(), true)
    }
}

fn split(text: &str) -> Vec<&str> {
    text.split_whitespace()
        .flat_map(|w| w.strip_suffix(',').map_or([w, ""], |w| [w, ","]))
        .filter(|w| !w.is_empty())
        .collect()
}

fn parse(caption: &str) -> Result<Vec<Part>, String> {
    let words = split(caption);
    for pair in words.windows(2) {
        let vowel = pair[1].starts_with(['a', 'e', 'i', 'o', 'u']);
        if (pair[0] == "a" && vowel) || (pair[0] == "an" && !vowel) {
            return Err(format!("article before {}", pair[1]));
        }
    }
    let mut parts = Vec::new();
    let mut rest = &words[..];
    while !rest.is_empty() {
        let (part, used) = next_part(rest).ok_or_else(|| format!("cannot read {rest:?}"))?;
        parts.extend(part);
        rest = &rest[used..];
    }
    Ok(parts)
}

fn next_part(words: &[&str]) -> Option<(Option<Part>, usize)> {
    let ground = |words: &[&str]| Some(Part::Ground(words.iter().map(|w| (*w).to_owned()).collect()));
    Some(match words {
        ["a", "picture", "of", ..] | ["the", "picture", "shows", ..] => (None, 3),
        ["on" | "with", ..] => (None, 1),
        ["a", "background", "fading", "from", top, "to", bottom, ..] => (ground(&["fade", top, bottom]), 7),
        ["the", "background", "fades", "from", top, "to", bottom, ..] => (ground(&["fade", top, bottom]), 7),
        ["a", "half", top, "and", "half", bottom, "background", ..] => (ground(&["half", top, bottom]), 7),
        ["the", "background", "is", "half", top, "and", "half", bottom, ..] => (ground(&["half", top, bottom]), 8),
        ["the", "background", "is", pattern, "and", colour, ..] if among(ADJECTIVES, pattern) => {
            (ground(&[pattern, colour]), 6)
        }
        ["the", "background", "is", colour, ..] => (ground(&["", colour]), 4),
        ["a" | "an", colour, "background", ..] => (ground(&["", colour]), 3),
        ["a" | "an", pattern, colour, "background", ..] => (ground(&[pattern, colour]), 4),
        ["in", "front", "of", ..] => (Some(Part::Relation("in front of")), 3),
        ["above", ..] => (Some(Part::Relation("above")), 1),
        ["below", ..] => (Some(Part::Relation("below")), 1),
        ["beside", ..] => (Some(Part::Relation("beside")), 1),
        ["behind", ..] => (Some(Part::Relation("behind")), 1),
        ["near", "the", place, ..] | ["in", "the", place, ..] => (Some(Part::Place((*place).to_owned())), 3),
        ["there", ..] => (Some(Part::There), 1),
        ["is", ..] => (Some(Part::Verb(false)), 1),
        ["are", ..] => (Some(Part::Verb(true)), 1),
        ["and", ..] => (Some(Part::And), 1),
        [",", ..] => (Some(Part::Comma), 1),
        [word, ..] if among(ADJECTIVES, word) => (Some(Part::Adjective((*word).to_owned())), 1),
        _ => thing(words).map(|(thing, used)| (Some(Part::Thing(thing)), used))?,
    })
}

fn thing(words: &[&str]) -> Option<(Thing, usize)> {
    let mut used = 0;
    let mut count = None;
    if words.first() == Some(&"the") {
        used += 1;
    }
    if let Some(n) = words.get(used).and_then(|w| number(w)) {
        count = Some(n);
        used += 1;
    } else if used == 0 {
        return None;
    }
    let mut adjectives = Vec::new();
    while words.get(used).is_some_and(|w| among(ADJECTIVES, w)) {
        adjectives.push(words[used].to_owned());
        used += 1;
    }
    let colour = words.get(used).filter(|w| among(COLOURS, w))?.to_string();
    let (shape, plural) = singular(words.get(used + 1)?);
    among(SHAPES, &shape).then_some((
        Thing {
            count,
            adjectives,
            colour,
            shape,
            plural,
        },
        used + 2,
    ))
}

/// The objects of a noun phrase: all of its colour and shape.
fn objects<'a>(scene: &'a Scene, thing: &Thing) -> Vec<&'a Object> {
    let fits = |o: &&Object| {
        let kind = &scene.kinds[o.kind];
        kind.colour.word() == thing.colour && kind.shape.word() == thing.shape
    };
    scene.objects.iter().filter(fits).collect()
}

fn fits(scene: &Scene, thing: &Thing) -> bool {
    let found = objects(scene, thing);
    let adjective = |a: &String| found.iter().all(|o| has(scene, o, a));
    !found.is_empty()
        && found.len() == thing.count.unwrap_or(found.len())
        && thing.plural == (found.len() > 1)
        && thing.adjectives.iter().all(adjective)
}

fn has(scene: &Scene, object: &Object, adjective: &str) -> bool {
    match adjective {
        "small" => object.radius < 0.15,
        "big" => object.radius > 0.17,
        fill => scene.kinds[object.kind].fill.word() == fill,
    }
}

fn ground_fits(scene: &Scene, ground: &[String]) -> bool {
    let said: Vec<&str> = ground.iter().map(String::as_str).collect();
    match (scene.background.style, &said[..]) {
        (Backdrop::Gradient(a, b), ["fade", top, bottom]) | (Backdrop::Halves(a, b), ["half", top, bottom]) => {
            a.word() == *top && b.word() == *bottom
        }
        (Backdrop::Single(p, c), [pattern, colour]) => {
            c.word() == *colour && (pattern.is_empty() || p.word() == *pattern)
        }
        _ => false,
    }
}

/// Compares centres, every object of one side with every object of the other.
fn lies(scene: &Scene, a: &[&Object], relation: &str, b: &[&Object]) -> bool {
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

/// Whether a caption is true of a scene, and how many attributes it names. An error if it is not well formed.
pub(super) fn judge(scene: &Scene, caption: &str) -> Result<(bool, usize), String> {
    let parts = parse(caption)?;
    let mut truth = true;
    let mut attributes = 0;
    let things: Vec<&Thing> = parts
        .iter()
        .filter_map(|p| if let Part::Thing(t) = p { Some(t) } else { None })
        .collect();
    for (i, part) in parts.iter().enumerate() {
        let before = parts[..i].iter().filter(|p| matches!(p, Part::Thing(_))).count();
        match part {
            Part::Thing(thing) => {
                if thing.count.is_some_and(|n| (n > 1) != thing.plural) {
                    return Err(format!("number and noun disagree: {thing:?}"));
                }
                truth &= fits(scene, thing);
                attributes += 2 + thing.adjectives.len() + usize::from(thing.count.is_some_and(|n| n > 1));
            }
            Part::Ground(ground) => {
                truth &= ground_fits(scene, ground);
                attributes += ground.iter().filter(|w| !w.is_empty()).count();
            }
            Part::Place(place) => {
                let all = |low: f32, high: f32| objects(scene, things[0]).iter().all(|o| low < o.y && o.y < high);
                truth &= match place.as_str() {
                    "top" => all(0.0, 0.4),
                    "middle" => all(0.38, 0.62),
                    "bottom" => all(0.6, 1.0),
                    other => return Err(format!("place {other}")),
                };
                attributes += 1;
            }
            Part::Adjective(adjective) => {
                truth &= objects(scene, things[0]).iter().all(|o| has(scene, o, adjective));
                attributes += 1;
            }
            Part::Relation(relation) => {
                attributes += 1;
                let there = parts.iter().skip(i).position(|p| matches!(p, Part::There));
                let (subjects, others) = match there {
                    // "above a ring there is a star"
                    Some(there) if before == 0 => {
                        let end = parts[..i + there]
                            .iter()
                            .filter(|p| matches!(p, Part::Thing(_)))
                            .count();
                        (&things[end..], &things[..end])
                    }
                    _ => (&things[..before], &things[before..]),
                };
                for a in subjects {
                    for b in others {
                        truth &= lies(scene, &objects(scene, a), relation, &objects(scene, b));
                    }
                }
            }
            Part::Verb(plural) => {
                // "there is" agrees with what follows, every other verb with what comes before.
                let inverted = matches!(parts.get(i.wrapping_sub(1)), Some(Part::There));
                let expected = if inverted {
                    things.get(before).ok_or("there is nothing")?.plural
                } else {
                    before > 1 || things[0].plural
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

/// The number of objects that match a description ("red", "star", "red stars", "objects").
fn count(scene: &Scene, description: &[&str]) -> usize {
    let fits = |o: &&Object| {
        let kind = &scene.kinds[o.kind];
        description.iter().all(|word| match singular(word).0.as_str() {
            "object" => true,
            shape if among(SHAPES, shape) => kind.shape.word() == shape,
            _ => kind.colour.word() == *word,
        })
    };
    scene.objects.iter().filter(fits).count()
}

/// The answer to a question; none if it cannot be answered.
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
        // What a question describes must be of one kind.
        (!found.is_empty() && found.iter().all(|o| o.kind == found[0].kind)).then_some(found)
    };
    let kind = |description: &[&str]| find(description).map(|found| scene.kinds[found[0].kind]);
    let yes_or_no = |yes| Some(if yes { "yes" } else { "no" }.to_owned());
    match &words[..] {
        ["what", "color", "is", "the", "background"] => match scene.background.style {
            Backdrop::Single(_, colour) => Some(colour.word().to_owned()),
            _ => None,
        },
        ["what", "pattern", "does", "the", "background", "have"] => match scene.background.style {
            Backdrop::Single(pattern, _) => Some(pattern.word().to_owned()),
            _ => None,
        },
        ["what", "color", "is" | "are", "the", shape] => Some(kind(&[shape])?.colour.word().to_owned()),
        ["what", "shape", "is" | "are", "the", colour, _] => Some(kind(&[colour])?.shape.word().to_owned()),
        ["what", "pattern", "does" | "do", "the", thing @ .., "have"] => Some(kind(thing)?.fill.word().to_owned()),
        ["how", "many", thing, "are", "there"] => Some(count(scene, &[thing]).to_string()),
        ["is", "there", "a" | "an", thing @ ..] => yes_or_no(count(scene, thing) > 0),
        ["where", "is" | "are", "the", thing @ ..] => {
            let found = find(thing)?;
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
                .find(|size| has(scene, found[0], size))
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
            yes_or_no(lies(scene, &a, &relation.join(" "), &b))
        }
        _ => None,
    }
}

/// Whether a statement holds of a pair; none if it cannot be parsed.
pub(super) fn holds(first: &Scene, second: &Scene, statement: &str) -> Option<bool> {
    let words: Vec<&str> = statement.split(' ').collect();
    let both = [first, second];
    let shows = |thing: &[&str]| both.map(|s| count(s, thing) > 0);
    let place = |ordinal: &str| usize::from(ordinal == "second");
    let colours = both.map(|s| s.background.style.colours());
    Some(match &words[..] {
        ["both", "pictures", "have", "a" | "an", colour, "background"] => {
            colours.iter().all(|c| c.len() == 1 && c[0].word() == *colour)
        }
        ["both", "pictures", "show", "a" | "an", thing @ ..] => shows(thing) == [true, true],
        ["neither", "picture", "shows", "a" | "an", thing @ ..] => shows(thing) == [false, false],
        ["exactly", "one", "picture", "shows", "a" | "an", thing @ ..] => {
            shows(thing).iter().filter(|s| **s).count() == 1
        }
        ["the", ordinal, "picture", "shows", "a" | "an", thing @ ..] => shows(thing)[place(ordinal)],
        [
            "there",
            "are",
            "more",
            thing @ ..,
            "in",
            "the",
            here,
            "picture",
            "than",
            "in",
            "the",
            there,
        ] => here != there && count(both[place(here)], thing) > count(both[place(there)], thing),
        ["each", "picture", "shows", "exactly", n, object] => {
            let n = number(n)?;
            (n > 1) == object.ends_with('s') && both.iter().all(|s| s.objects.len() == n)
        }
        ["together", "the", "pictures", "show", "exactly", n, thing @ ..] => {
            both.iter().map(|s| count(s, thing)).sum::<usize>() == number(n)?
        }
        ["the", "backgrounds", "have", "the", "same", "color"] => colours[0] == colours[1],
        ["the", "backgrounds", "have", "different", "colors"] => colours[0] != colours[1],
        _ => return None,
    })
}
