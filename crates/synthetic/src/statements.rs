//! True and false statements about two images, and the class of an image.

use rand::seq::SliceRandom;
use rand::{Rng, RngExt};

use super::phrases::Phrase;
use super::scene::{BackgroundStyle, Scene, draw_one};
use super::words::{COUNTS, Colour, Shape};

/// Maximum number of statements about a pair of images.
pub const STATEMENTS_PER_PAIR: usize = 4;
/// Number of draws per template, to find a statement that is true of one pair only.
const DRAWS: usize = 32;

/// The objects that a statement counts.
#[derive(Clone, Copy)]
enum Noun {
    Any,
    Shape(Shape),
    Colour(Colour),
    ColouredShape(Colour, Shape),
}

/// A statement about a first and a second image.
#[derive(Clone, Copy)]
enum Claim {
    BothShow(Noun),
    NeitherShows(Noun),
    ExactlyOneShows(Noun),
    OneShows { in_second: bool, noun: Noun },
    MoreIn { in_second: bool, noun: Noun },
    EachShows(usize),
    Together(usize, Noun),
    BothBackgrounds(Colour),
    Backgrounds { same: bool },
}

/// Number of templates of [`draw_claim`].
const TEMPLATES: usize = 9;

/// Two pairs of images, and statements each of which is true of one pair and false of the other, as in NLVR2. The statement alone therefore
/// does not tell its truth value.
#[derive(Clone, Debug)]
pub struct Contrast {
    /// The pairs.
    pub pairs: [[Scene; 2]; 2],
    /// Up to four statements of different templates, each with the index of the pair that it is true of.
    pub statements: Vec<(String, usize)>,
}

impl Contrast {
    /// Draws two pairs and their statements from `rng`.
    pub fn draw<R: Rng + ?Sized>(rng: &mut R) -> Self {
        let mut draw_pair = || {
            let first = Scene::draw(rng);
            let second = draw_partner(&first, rng);
            [first, second]
        };
        let pairs = [draw_pair(), draw_pair()];
        let mut templates: [usize; TEMPLATES] = std::array::from_fn(|i| i);
        templates.shuffle(rng);
        let mut statements = Vec::with_capacity(STATEMENTS_PER_PAIR);
        for template in templates {
            // Each pair has equal chances to be the one that the statement is true of.
            let right = rng.random_range(0..2);
            let found = (0..DRAWS).find_map(|_| {
                let [first, second] = draw_one(rng, &[&pairs[0], &pairs[1]]);
                let claim = draw_claim(template, first, second, rng)?;
                let holds = |pair: usize| claim.holds(&pairs[pair][0], &pairs[pair][1]);
                (holds(right) && !holds(1 - right)).then_some(claim)
            });
            statements.extend(found.map(|claim| (claim.phrase().finish(), right)));
            if statements.len() == STATEMENTS_PER_PAIR {
                break;
            }
        }
        Self { pairs, statements }
    }

    /// Returns the statements with their truth values for a pair.
    pub fn statements_of(&self, pair: usize) -> Vec<(String, bool)> {
        let with_truth = |(text, right): &(String, usize)| (text.clone(), *right == pair);
        self.statements.iter().map(with_truth).collect()
    }
}

/// Draws the second scene of a pair. With probability 1/2, draws it again, up to 8 times, until the scenes share a shape or the background
/// colours, so that statements about both can be true.
fn draw_partner<R: Rng + ?Sized>(first: &Scene, rng: &mut R) -> Scene {
    let mut second = Scene::draw(rng);
    if rng.random_bool(0.5) {
        for _ in 0..8 {
            let shares_shape = first
                .kinds
                .iter()
                .any(|a| second.kinds.iter().any(|b| a.shape == b.shape));
            let shares_background = first.background.style.colours() == second.background.style.colours();
            if shares_shape || shares_background {
                break;
            }
            second = Scene::draw(rng);
        }
    }
    second
}

/// Returns the class of an image: the shape whose objects cover the largest area (sum of squared radii).
pub fn class_of(scene: &Scene) -> Shape {
    let area = |shape: Shape| -> f32 {
        scene
            .objects
            .iter()
            .filter(|o| scene.kinds[o.kind].shape == shape)
            .map(|o| o.radius * o.radius)
            .sum()
    };
    let mut best = (Shape::ALL[0], 0.0);
    for &shape in Shape::ALL {
        let area = area(shape);
        if area > best.1 {
            best = (shape, area);
        }
    }
    best.0
}

/// Draws a claim of a template (0..[`TEMPLATES`]). The claim may be true or false. Returns `None` if the template does not
/// apply to the scenes.
fn draw_claim<R: Rng + ?Sized>(template: usize, first: &Scene, second: &Scene, rng: &mut R) -> Option<Claim> {
    let noun = Noun::draw(first, second, rng);
    // Chooses the second image instead of the first; in the last template, the same colour instead of different colours.
    let coin = rng.random_bool(0.5);
    match template {
        0 => Some(Claim::BothShow(noun)),
        1 => Some(Claim::NeitherShows(noun)),
        2 => Some(Claim::ExactlyOneShows(noun)),
        3 => Some(Claim::OneShows { in_second: coin, noun }),
        4 => Some(Claim::MoreIn {
            in_second: coin,
            noun: if rng.random_bool(0.1) { Noun::Any } else { noun },
        }),
        5 => Some(Claim::EachShows(rng.random_range(1..=4))),
        6 => Some(Claim::Together(rng.random_range(1..=4), noun)),
        7 => Some(Claim::BothBackgrounds(draw_one(rng, Colour::ALL))),
        _ => match (first.background.style, second.background.style) {
            (BackgroundStyle::Single(..), BackgroundStyle::Single(..)) => Some(Claim::Backgrounds { same: coin }),
            _ => None,
        },
    }
}

impl Noun {
    /// Draws a noun that often matches an object of one of the images.
    fn draw<R: Rng + ?Sized>(first: &Scene, second: &Scene, rng: &mut R) -> Noun {
        let kinds = if rng.random_bool(0.5) {
            &first.kinds
        } else {
            &second.kinds
        };
        let kind = draw_one(rng, kinds);
        let (colour, shape) = match rng.random_range(0..10) {
            0..5 => (kind.colour, kind.shape),
            5 | 6 => (kind.colour, draw_one(rng, Shape::ALL)),
            7 | 8 => (draw_one(rng, Colour::ALL), kind.shape),
            _ => (draw_one(rng, Colour::ALL), draw_one(rng, Shape::ALL)),
        };
        match rng.random_range(0..20) {
            0 => Noun::Shape(shape),
            1..11 => Noun::Colour(colour),
            _ => Noun::ColouredShape(colour, shape),
        }
    }

    fn count(self, scene: &Scene) -> usize {
        let matches = |colour, shape| match self {
            Noun::Any => true,
            Noun::Shape(wanted) => shape == wanted,
            Noun::Colour(wanted) => colour == wanted,
            Noun::ColouredShape(c, s) => (colour, shape) == (c, s),
        };
        scene
            .kinds
            .iter()
            .filter(|k| matches(k.colour, k.shape))
            .map(|k| k.count)
            .sum()
    }

    fn append_to(self, phrase: Phrase, plural: bool) -> Phrase {
        let word = |shape: Shape| if plural { shape.plural() } else { shape.word() };
        let object = if plural { "objects" } else { "object" };
        match self {
            Noun::Any => phrase.then(object),
            Noun::Shape(shape) => phrase.then(word(shape)),
            Noun::Colour(colour) => phrase.then(colour.word()).then(object),
            Noun::ColouredShape(colour, shape) => phrase.then(colour.word()).then(word(shape)),
        }
    }
}

impl Claim {
    fn holds(self, first: &Scene, second: &Scene) -> bool {
        let shows = |noun: Noun| [noun.count(first) > 0, noun.count(second) > 0];
        let scene_of = |is_second: bool| if is_second { second } else { first };
        let backgrounds = [first, second].map(|s| s.background.style.colours());
        match self {
            Claim::BothShow(noun) => shows(noun) == [true, true],
            Claim::NeitherShows(noun) => shows(noun) == [false, false],
            Claim::ExactlyOneShows(noun) => shows(noun)[0] != shows(noun)[1],
            Claim::OneShows { in_second, noun } => noun.count(scene_of(in_second)) > 0,
            Claim::MoreIn { in_second, noun } => noun.count(scene_of(in_second)) > noun.count(scene_of(!in_second)),
            Claim::EachShows(count) => [first, second].iter().all(|s| s.objects.len() == count),
            Claim::Together(count, noun) => noun.count(first) + noun.count(second) == count,
            Claim::BothBackgrounds(colour) => backgrounds.iter().all(|b| b[..] == [colour]),
            Claim::Backgrounds { same } => (backgrounds[0] == backgrounds[1]) == same,
        }
    }

    fn phrase(self) -> Phrase {
        let ordinal = |in_second: bool| if in_second { "second" } else { "first" };
        match self {
            Claim::BothShow(noun) => noun.append_to(Phrase::new("both pictures show a"), false),
            Claim::NeitherShows(noun) => noun.append_to(Phrase::new("neither picture shows a"), false),
            Claim::ExactlyOneShows(noun) => noun.append_to(Phrase::new("exactly one picture shows a"), false),
            Claim::OneShows { in_second, noun } => noun.append_to(
                Phrase::new("the").then(ordinal(in_second)).then("picture shows a"),
                false,
            ),
            Claim::MoreIn { in_second, noun } => noun
                .append_to(Phrase::new("there are more"), true)
                .then("in the")
                .then(ordinal(in_second))
                .then("picture than in the")
                .then(ordinal(!in_second)),
            Claim::EachShows(count) => {
                let objects = if count == 1 { "object" } else { "objects" };
                Phrase::new("each picture shows exactly")
                    .then(COUNTS[count])
                    .then(objects)
            }
            Claim::Together(count, noun) => {
                let phrase = Phrase::new("together the pictures show exactly").then(COUNTS[count]);
                noun.append_to(phrase, count != 1)
            }
            Claim::BothBackgrounds(colour) => Phrase::new("both pictures have a")
                .then(colour.word())
                .then("background"),
            Claim::Backgrounds { same: true } => Phrase::new("the backgrounds have the same color"),
            Claim::Backgrounds { same: false } => Phrase::new("the backgrounds have different colors"),
        }
    }
}
