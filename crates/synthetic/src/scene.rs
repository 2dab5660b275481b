//! Scenes: the objects of an image and their positions.

use std::ops::Range;

use rand::seq::SliceRandom;
use rand::{Rng, RngExt};

use super::words::{Colour, Height, Pattern, Relation, Shape, Size};
use vlct_data::random::{Purpose, stream};

/// The description of an image. Lengths are fractions of the image's side; x increases to the right, y downwards.
#[derive(Clone, Debug, PartialEq)]
pub struct Scene {
    /// The background behind the objects.
    pub background: Background,
    /// The kinds of objects, one to three, all different in shape or colour.
    pub kinds: Vec<Kind>,
    /// The objects, one to four, from back to front.
    pub objects: Vec<Object>,
}

/// The background of a scene.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Background {
    /// Colours and pattern.
    pub style: BackgroundStyle,
    /// Shift of the pattern, in periods, along x and y.
    pub phase: [f32; 2],
    /// Direction of the stripes, in radians from the x axis.
    pub angle: f32,
}

/// Colours and pattern of a background.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BackgroundStyle {
    /// One colour, with a pattern in a tint of this colour unless plain.
    Single(Pattern, Colour),
    /// A gradient from the first colour at the top to the second at the bottom.
    Gradient(Colour, Colour),
    /// The upper half in the first colour, the lower half in the second.
    Halves(Colour, Colour),
}

/// A group of objects with the same appearance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Kind {
    /// The outline of the objects.
    pub shape: Shape,
    /// The colour of the objects.
    pub colour: Colour,
    /// The size of the objects.
    pub size: Size,
    /// The fill pattern of the objects.
    pub fill: Pattern,
    /// The number of objects, 1 to 4.
    pub count: usize,
    /// Whether both sizes fit the layout. If false, texts do not name the size, which could then be predicted without the image.
    pub size_is_free: bool,
}

/// One object of a scene.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Object {
    /// Index into [`Scene::kinds`].
    pub kind: usize,
    /// Horizontal position of the centre, 0 to 1.
    pub x: f32,
    /// Vertical position of the centre, 0 to 1.
    pub y: f32,
    /// Unit of the shape's coordinates: about half of the width.
    pub radius: f32,
    /// Rotation in radians, at most 0.14.
    pub tilt: f32,
}

/// Minimum distance of an object from the image's edge.
const MARGIN: f32 = 0.03;
/// Minimum distance between two objects, unless one covers the other.
const GAP: f32 = 0.05;
/// Minimum [`contrast`] between an object's colour and the colours behind the object.
const MIN_CONTRAST: f32 = 115.0;

impl BackgroundStyle {
    /// Returns the one or two colours, from top to bottom.
    pub fn colours(self) -> Vec<Colour> {
        match self {
            BackgroundStyle::Single(_, colour) => vec![colour],
            BackgroundStyle::Gradient(top, bottom) | BackgroundStyle::Halves(top, bottom) => vec![top, bottom],
        }
    }
}

/// The arrangement of the kinds of a scene.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Layout {
    /// One kind.
    Alone,
    /// Two kinds, the first above the second.
    Stacked,
    /// Two kinds side by side.
    SideBySide,
    /// Two objects, the first covering the middle of the second.
    Covering,
    /// Three objects, the first above the other two.
    OneOverTwo,
    /// Three objects, the first below the other two.
    OneUnderTwo,
}

impl Scene {
    /// Returns the scene with this seed and index.
    pub fn generate(seed: u64, index: u64) -> Scene {
        Scene::draw(&mut stream(seed, Purpose::Synthetic, index, 0))
    }

    /// Returns the scene with this seed and index, limited to a single kind of objects, for image classification.
    pub fn generate_single(seed: u64, index: u64) -> Scene {
        Scene::draw_layout(&mut stream(seed, Purpose::Synthetic, index, 0), Layout::Alone)
    }

    /// Draws a scene from `rng`.
    pub fn draw<R: Rng + ?Sized>(rng: &mut R) -> Scene {
        let layout = match rng.random_range(0..20) {
            0..6 => Layout::Alone,
            6..10 => Layout::Stacked,
            10..13 => Layout::SideBySide,
            13..16 => Layout::Covering,
            16..18 => Layout::OneOverTwo,
            _ => Layout::OneUnderTwo,
        };
        Scene::draw_layout(rng, layout)
    }

    fn draw_layout<R: Rng + ?Sized>(rng: &mut R, layout: Layout) -> Scene {
        let background = draw_background(rng);
        let counts: Vec<usize> = match layout {
            Layout::Alone => vec![rng.random_range(1..=4)],
            Layout::Covering => vec![1, 1],
            Layout::OneOverTwo | Layout::OneUnderTwo => vec![1, 1, 1],
            Layout::Stacked | Layout::SideBySide => match rng.random_range(0..20) {
                0..8 => vec![1, 1],
                8..11 => vec![1, 2],
                11..14 => vec![2, 1],
                14..16 => vec![2, 2],
                16..18 => vec![1, 3],
                _ => vec![3, 1],
            },
        };
        let mut kinds: Vec<Kind> = Vec::with_capacity(counts.len());
        for count in counts {
            let kind = draw_kind(rng, background.style, count, layout, &kinds);
            kinds.push(kind);
        }
        let mut scene = Scene {
            background,
            kinds,
            objects: Vec::new(),
        };
        scene.place(rng, layout);
        scene
    }

    /// Places the objects of all kinds. Every layout fits by construction.
    fn place<R: Rng + ?Sized>(&mut self, rng: &mut R, layout: Layout) {
        let row_of = |kind: usize| vec![kind; self.kinds[kind].count];
        match layout {
            Layout::Alone => {
                let count = self.kinds[0].count;
                let small = self.kinds[0].size == Size::Small;
                let arrangements: &[&[usize]] = match (count, small) {
                    (1, _) => &[&[1]],
                    (2, _) => &[&[2], &[1, 1]],
                    (3, true) => &[&[3], &[1, 2], &[2, 1], &[1, 1, 1]],
                    (3, false) => &[&[1, 2], &[2, 1]],
                    (_, true) => &[&[2, 2], &[1, 3], &[3, 1], &[1, 2, 1]],
                    (_, false) => &[&[2, 2]],
                };
                let rows = draw_one(rng, arrangements);
                let rows: Vec<Vec<usize>> = rows.iter().map(|&n| vec![0; n]).collect();
                self.place_rows(rng, &rows, false);
            }
            Layout::Stacked => self.place_rows(rng, &[row_of(0), row_of(1)], false),
            Layout::SideBySide => self.place_rows(rng, &[row_of(0), row_of(1)], true),
            Layout::OneOverTwo => self.place_rows(rng, &[vec![0], vec![1, 2]], false),
            Layout::OneUnderTwo => self.place_rows(rng, &[vec![1, 2], vec![0]], false),
            Layout::Covering => {
                let (x, y) = (rng.random_range(0.38..0.62), rng.random_range(0.38..0.62));
                let shift = |rng: &mut R| rng.random_range(-0.03..0.03f32);
                let behind = Object {
                    kind: 1,
                    x,
                    y,
                    radius: rng.random_range(0.28..0.31),
                    tilt: draw_tilt(rng),
                };
                let (x, y) = (x + shift(rng), y + shift(rng));
                let front = Object {
                    kind: 0,
                    x,
                    y,
                    radius: rng.random_range(0.124..0.132),
                    tilt: draw_tilt(rng),
                };
                self.objects = vec![behind, front];
            }
        }
    }

    /// Places objects in rows from top to bottom (`transposed`: in columns). `rows` holds the kind of each object.
    ///
    /// Between rows the remaining space is divided at random among the edges and gaps; between columns it is divided nearly evenly. A single
    /// row is in a random third.
    fn place_rows<R: Rng + ?Sized>(&mut self, rng: &mut R, rows: &[Vec<usize>], transposed: bool) {
        let mut rows: Vec<Vec<Object>> = rows
            .iter()
            .map(|row| row.iter().map(|&kind| self.draw_object(rng, kind)).collect())
            .collect();
        if transposed && rng.random_bool(0.5) {
            rows.reverse();
        }
        let heights: Vec<f32> = rows
            .iter()
            .map(|row| row.iter().map(|o| 2.0 * o.radius).fold(0.0, f32::max))
            .collect();
        let single = rows.len() == 1;
        let row_centres = if single {
            centre_in_a_third(rng, heights[0])
        } else {
            spread(rng, &heights, !transposed)
        };
        for (row, (&centre, &height)) in rows.iter_mut().zip(row_centres.iter().zip(&heights)) {
            row.shuffle(rng);
            let widths: Vec<f32> = row.iter().map(|o| 2.0 * o.radius).collect();
            // Objects in columns are spaced nearly evenly, so that objects of two columns that are "beside" each other have similar
            // heights.
            let along = spread(rng, &widths, !transposed);
            for (object, along) in row.iter_mut().zip(along) {
                let slack = height / 2.0 - object.radius;
                let across = centre
                    + if slack > 0.0 {
                        rng.random_range(-slack..=slack)
                    } else {
                        0.0
                    };
                (object.x, object.y) = if transposed { (across, along) } else { (along, across) };
            }
        }
        self.objects = rows.into_iter().flatten().collect();
    }

    fn draw_object<R: Rng + ?Sized>(&self, rng: &mut R, kind: usize) -> Object {
        let radius = match self.kinds[kind].size {
            Size::Small => rng.random_range(0.124..0.132),
            Size::Big => rng.random_range(0.185..0.21),
        };
        Object {
            kind,
            x: 0.5,
            y: 0.5,
            radius,
            tilt: draw_tilt(rng),
        }
    }

    /// Returns the objects of one kind.
    pub fn members(&self, kind: usize) -> impl Iterator<Item = &Object> + Clone {
        self.objects.iter().filter(move |object| object.kind == kind)
    }

    /// Returns the relation of the objects of kind `a` to those of kind `b`, or `None` if no relation holds for all of them.
    pub fn relation(&self, a: usize, b: usize) -> Option<Relation> {
        let extent = |kind: usize, centre: fn(&Object) -> f32| -> Range<f32> {
            let ends = |o: &Object| (centre(o) - o.radius, centre(o) + o.radius);
            self.members(kind)
                .map(ends)
                .fold(f32::MAX..f32::MIN, |r, (lo, hi)| r.start.min(lo)..r.end.max(hi))
        };
        let (y_a, y_b) = (extent(a, |o| o.y), extent(b, |o| o.y));
        let (x_a, x_b) = (extent(a, |o| o.x), extent(b, |o| o.x));
        let middle = |r: &Range<f32>| (r.start + r.end) / 2.0;
        if y_a.end < y_b.start {
            Some(Relation::Above)
        } else if y_b.end < y_a.start {
            Some(Relation::Below)
        } else if x_a.end < x_b.start || x_b.end < x_a.start {
            ((middle(&y_a) - middle(&y_b)).abs() < 0.25).then_some(Relation::Beside)
        } else if is_within(&y_a, &y_b) && is_within(&x_a, &x_b) {
            Some(Relation::InFront)
        } else if is_within(&y_b, &y_a) && is_within(&x_b, &x_a) {
            Some(Relation::Behind)
        } else {
            None
        }
    }

    /// Returns the third of the image that contains the centres of all objects of a kind, or `None` if they are not clearly in one third.
    pub fn height(&self, kind: usize) -> Option<Height> {
        let third = |o: &Object| match o.y {
            y if y < 0.36 => Some(Height::Top),
            y if (0.41..0.59).contains(&y) => Some(Height::Middle),
            y if y > 0.64 => Some(Height::Bottom),
            _ => None,
        };
        let mut members = self.members(kind).map(third);
        let first = members.next()??;
        members.all(|other| other == Some(first)).then_some(first)
    }
}

fn is_within(inner: &Range<f32>, outer: &Range<f32>) -> bool {
    outer.start < inner.start && inner.end < outer.end
}

fn draw_tilt<R: Rng + ?Sized>(rng: &mut R) -> f32 {
    rng.random_range(-0.14..0.14)
}

fn draw_background<R: Rng + ?Sized>(rng: &mut R) -> Background {
    let colour = draw_one(rng, Colour::ALL);
    let other: Vec<Colour> = Colour::ALL
        .iter()
        .copied()
        .filter(|&c| contrast(c, colour) >= MIN_CONTRAST)
        .collect();
    let other = draw_one(rng, &other);
    let style = match rng.random_range(0..10) {
        0..8 => BackgroundStyle::Single(draw_one(rng, Pattern::ALL), colour),
        8 => BackgroundStyle::Gradient(colour, other),
        _ => BackgroundStyle::Halves(colour, other),
    };
    // Texts do not name the angle, because a horizontal flip in training would change it.
    let angle = draw_one(rng, &[0.0, 0.25, 0.5, 0.75]) * std::f32::consts::PI;
    Background {
        style,
        phase: [rng.random(), rng.random()],
        angle,
    }
}

fn draw_kind<R: Rng + ?Sized>(
    rng: &mut R,
    style: BackgroundStyle,
    count: usize,
    layout: Layout,
    others: &[Kind],
) -> Kind {
    let shape = draw_one(rng, Shape::ALL);
    let visible: Vec<Colour> = Colour::ALL
        .iter()
        .copied()
        .filter(|&c| {
            style.colours().iter().all(|&b| contrast(c, b) >= MIN_CONTRAST)
                && (layout != Layout::Covering || others.iter().all(|o| contrast(c, o.colour) >= MIN_CONTRAST))
                && others.iter().all(|o| (o.shape, o.colour) != (shape, c))
        })
        .collect();
    let colour = draw_one(rng, &visible);
    let fill = match rng.random_range(0..10) {
        0..4 => Pattern::Plain,
        4 | 5 => Pattern::Striped,
        6 | 7 => Pattern::Dotted,
        _ => Pattern::Checkered,
    };
    // Three big objects do not fit in a row, and a covering object must be smaller than the covered one.
    let (size, size_is_free) = match layout {
        Layout::Covering if others.is_empty() => (Size::Small, false),
        Layout::Covering => (Size::Big, false),
        Layout::Stacked | Layout::SideBySide if count > 2 => (Size::Small, false),
        _ => (draw_one(rng, Size::ALL), true),
    };
    Kind {
        shape,
        colour,
        size,
        fill,
        count,
        size_is_free,
    }
}

/// Draws one of `choices`, which must not be empty.
pub(super) fn draw_one<T: Copy, R: Rng + ?Sized>(rng: &mut R, choices: &[T]) -> T {
    choices[rng.random_range(0..choices.len())]
}

/// Places intervals of the given `lengths` in 0..1, in order, and returns their centres. The remaining space is divided among the two
/// edges and the gaps: at random (`loose`) or nearly evenly.
fn spread<R: Rng + ?Sized>(rng: &mut R, lengths: &[f32], loose: bool) -> Vec<f32> {
    let gaps = lengths.len() + 1;
    let used: f32 = lengths.iter().sum::<f32>() + 2.0 * MARGIN + GAP * (gaps - 2) as f32;
    let shares: Vec<f32> = (0..gaps)
        .map(|_| rng.random_range(if loose { 0.02..1.0 } else { 0.8..1.0 }))
        .collect();
    let unit = (1.0 - used).max(0.0) / shares.iter().sum::<f32>();
    let mut edge = 0.0;
    let next_centre = |(i, (&length, share)): (usize, (&f32, &f32))| {
        edge += share * unit + if i == 0 { MARGIN } else { GAP };
        let centre = edge + length / 2.0;
        edge += length;
        centre
    };
    lengths.iter().zip(&shares).enumerate().map(next_centre).collect()
}

/// Draws the centre of an interval near the start, the middle or the end of 0..1, with equal probability.
fn centre_in_a_third<R: Rng + ?Sized>(rng: &mut R, length: f32) -> Vec<f32> {
    let nearest = MARGIN + length / 2.0;
    let jitter = rng.random_range(0.0..0.08);
    let centre = match draw_one(rng, Height::ALL) {
        Height::Top => nearest + jitter,
        Height::Middle => 0.46 + jitter,
        Height::Bottom => 1.0 - nearest - jitter,
    };
    vec![centre]
}

/// Returns the perceptual distance of two colours, 0 to about 765: RGB distance weighted by the sensitivity of the eye ("redmean").
pub(super) fn contrast(a: Colour, b: Colour) -> f32 {
    let (a, b) = (a.rgb().map(f32::from), b.rgb().map(f32::from));
    let mean_red = (a[0] + b[0]) / 2.0;
    let d = [a[0] - b[0], a[1] - b[1], a[2] - b[2]];
    ((2.0 + mean_red / 256.0) * d[0] * d[0] + 4.0 * d[1] * d[1] + (2.0 + (255.0 - mean_red) / 256.0) * d[2] * d[2])
        .sqrt()
}
