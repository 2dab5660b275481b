//! Renders scenes with anti-aliasing: the coverage of a pixel is computed from the signed distance of its centre to the
//! outline.

use image::{Rgb, RgbImage};

use super::scene::{Background, BackgroundStyle, Object, Scene};
use super::shapes;
use super::words::{Colour, Pattern, Shape};

type Rgbf = [f32; 3];

/// Period of a pattern on an object, as a fraction of the image's side: about 7 pixels if the side is 64.
const FILL_PERIOD: f32 = 0.11;
/// Period of a pattern on the background.
const BACKGROUND_PERIOD: f32 = 0.22;
/// Position of the second tone of an object's pattern between the object's colour (0) and white or black (1).
const FILL_TINT: f32 = 0.45;
/// Position of the second tone of a background's pattern, like [`FILL_TINT`]; smaller, so that objects have more contrast.
const BACKGROUND_TINT: f32 = 0.2;
/// Width of the outline of objects, as a fraction of the image's side: one pixel if the side is 64.
const OUTLINE_WIDTH: f32 = 1.0 / 64.0;

/// Renders `scene` as an image of `side` × `side` pixels.
pub fn render(scene: &Scene, side: u32) -> RgbImage {
    let mut image = render_background(&scene.background, side);
    for object in &scene.objects {
        let kind = scene.kinds[object.kind];
        render_object(&mut image, object, kind.shape, kind.colour, kind.fill);
    }
    image
}

fn render_background(background: &Background, side: u32) -> RgbImage {
    let pixel_size = 1.0 / side as f32;
    let (sin, cos) = background.angle.sin_cos();
    let [phase_x, phase_y] = background.phase;
    RgbImage::from_fn(side, side, |column, row| {
        let (x, y) = ((column as f32 + 0.5) * pixel_size, (row as f32 + 0.5) * pixel_size);
        let colour = match background.style {
            BackgroundStyle::Single(pattern, colour) => {
                let (u, v) = match pattern {
                    Pattern::Striped => (x, x * sin + y * cos),
                    _ => (x, y),
                };
                let position = [u / BACKGROUND_PERIOD + phase_x, v / BACKGROUND_PERIOD + phase_y];
                let share = pattern_coverage(pattern, position, BACKGROUND_PERIOD / pixel_size);
                mix(rgb(colour), tint(colour, BACKGROUND_TINT), share)
            }
            BackgroundStyle::Gradient(top, bottom) => mix(rgb(top), rgb(bottom), ((y - 0.15) / 0.7).clamp(0.0, 1.0)),
            BackgroundStyle::Halves(top, bottom) => mix(rgb(top), rgb(bottom), coverage((0.5 - y) / pixel_size)),
        };
        Rgb(colour.map(to_byte))
    })
}

fn render_object(image: &mut RgbImage, object: &Object, shape: Shape, colour: Colour, fill: Pattern) {
    let side = image.width();
    let pixels = side as f32;
    let (sin, cos) = object.tilt.sin_cos();
    // A tilted square or star extends a little beyond its radius.
    let reach = object.radius * 1.3 + 1.0 / pixels;
    let span = |centre: f32| {
        let first = ((centre - reach) * pixels).floor().clamp(0.0, pixels) as u32;
        let last = ((centre + reach) * pixels).ceil().clamp(0.0, pixels) as u32;
        first..last
    };
    let (base, tone, line) = (rgb(colour), tint(colour, FILL_TINT), outline(colour));
    let line_width = (OUTLINE_WIDTH * pixels).max(0.5);
    for row in span(object.y) {
        for column in span(object.x) {
            let dx = (column as f32 + 0.5) / pixels - object.x;
            let dy = (row as f32 + 0.5) / pixels - object.y;
            let (u, v) = (dx * cos + dy * sin, dy * cos - dx * sin);
            let distance = shapes::distance(shape, [u / object.radius, v / object.radius]) * object.radius * pixels;
            let share = coverage(distance);
            if share > 0.0 {
                let position = [u / FILL_PERIOD + 0.25, v / FILL_PERIOD + 0.25];
                let inner = mix(base, tone, pattern_coverage(fill, position, FILL_PERIOD * pixels));
                let object_colour = mix(line, inner, coverage(distance + line_width));
                let under = image.get_pixel(column, row).0.map(f32::from);
                image.put_pixel(column, row, Rgb(mix(under, object_colour, share).map(to_byte)));
            }
        }
    }
}

/// Returns the fraction of a pixel that has the second tone of a pattern. `position` is in periods, `period` in pixels.
fn pattern_coverage(pattern: Pattern, position: [f32; 2], period: f32) -> f32 {
    // The signed distance, in pixels, from the nearest border of a band that fills half of each period.
    let band = |v: f32| ((v - v.floor() - 0.5).abs() - 0.25) * period;
    match pattern {
        Pattern::Plain => 0.0,
        Pattern::Striped => coverage(band(position[1])),
        Pattern::Checkered => {
            let (a, b) = (coverage(band(position[0])), coverage(band(position[1])));
            a * b + (1.0 - a) * (1.0 - b)
        }
        Pattern::Dotted => {
            let centred = position.map(|v| v - v.floor() - 0.5);
            coverage((centred[0].hypot(centred[1]) - 0.3) * period)
        }
    }
}

/// Returns the fraction of a pixel that is inside an outline, given the signed distance of its centre from the outline, in pixels.
fn coverage(distance: f32) -> f32 {
    (0.5 - distance).clamp(0.0, 1.0)
}

fn mix(a: Rgbf, b: Rgbf, share: f32) -> Rgbf {
    std::array::from_fn(|i| a[i] + (b[i] - a[i]) * share)
}

/// Returns a second tone of a colour: lighter for dark colours, darker for light ones.
fn tint(colour: Colour, strength: f32) -> Rgbf {
    let (end, strength) = match colour.luma() {
        luma if luma > 170.0 => ([0.0; 3], strength * 0.8),
        // A stronger tint of black would be grey.
        luma if luma < 60.0 => ([255.0; 3], strength * 0.7),
        _ => ([255.0; 3], strength),
    };
    mix(rgb(colour), end, strength)
}

fn outline(colour: Colour) -> Rgbf {
    if colour.luma() < 60.0 {
        [110.0, 112.0, 118.0]
    } else {
        mix(rgb(colour), [12.0, 12.0, 18.0], 0.62)
    }
}

fn rgb(colour: Colour) -> Rgbf {
    colour.rgb().map(f32::from)
}

fn to_byte(value: f32) -> u8 {
    (value + 0.5) as u8
}
