//! Outlines of the shapes as signed distances.
//!
//! Coordinates are in units of the object's radius, with the centre at the origin and y downwards. Every shape lies within
//! a circle of radius 1.25. Distances are negative inside, and exact near the outline, which anti-aliasing requires.

use super::words::Shape;

type Point = [f32; 2];

const SQUARE: &[Point] = &[[-0.88, -0.88], [0.88, -0.88], [0.88, 0.88], [-0.88, 0.88]];
const TRIANGLE: &[Point] = &[[0.0, -0.95], [0.98, 0.78], [-0.98, 0.78]];
const DIAMOND: &[Point] = &[[0.0, -1.05], [0.84, 0.0], [0.0, 1.05], [-0.84, 0.0]];
/// Five tips at distance 1.05 and five notches at 0.46, moved down by 0.05 so that the star looks centred.
const STAR: &[Point] = &[
    [0.0, -1.0],
    [0.2704, -0.3222],
    [0.9986, -0.2745],
    [0.4375, 0.1921],
    [0.6172, 0.8995],
    [0.0, 0.51],
    [-0.6172, 0.8995],
    [-0.4375, 0.1921],
    [-0.9986, -0.2745],
    [-0.2704, -0.3222],
];
const CROSS: &[Point] = &[
    [-0.34, -0.96],
    [0.34, -0.96],
    [0.34, -0.34],
    [0.96, -0.34],
    [0.96, 0.34],
    [0.34, 0.34],
    [0.34, 0.96],
    [-0.34, 0.96],
    [-0.34, 0.34],
    [-0.96, 0.34],
    [-0.96, -0.34],
    [-0.34, -0.34],
];
/// The part of a heart below its two round lobes: a polygon whose sides from the tip are tangents of the lobes.
const HEART_TIP: &[Point] = &[
    [0.0, 0.9],
    [0.822, -0.016],
    [0.45, -0.35],
    [0.0, -0.5],
    [-0.45, -0.35],
    [-0.822, -0.016],
];
const HEART_LOBE_CENTRE: Point = [0.45, -0.35];
const HEART_LOBE_RADIUS: f32 = 0.5;
const RING_RADIUS: f32 = 0.7;
const RING_HALF_WIDTH: f32 = 0.26;
const CIRCLE_RADIUS: f32 = 0.95;
const CRESCENT_CUTOUT_CENTRE: Point = [0.48, 0.0];
const CRESCENT_CUTOUT_RADIUS: f32 = 0.78;

/// Returns the signed distance of `p` from the outline of `shape`.
pub(super) fn distance(shape: Shape, p: Point) -> f32 {
    let distance_from = |centre: Point| (p[0] - centre[0]).hypot(p[1] - centre[1]);
    match shape {
        Shape::Circle => distance_from([0.0, 0.0]) - CIRCLE_RADIUS,
        Shape::Square => polygon(SQUARE, p),
        Shape::Triangle => polygon(TRIANGLE, p),
        Shape::Diamond => polygon(DIAMOND, p),
        Shape::Star => polygon(STAR, p),
        Shape::Cross => polygon(CROSS, p),
        Shape::Ring => (distance_from([0.0, 0.0]) - RING_RADIUS).abs() - RING_HALF_WIDTH,
        Shape::Crescent => (distance_from([0.0, 0.0]) - CIRCLE_RADIUS)
            .max(CRESCENT_CUTOUT_RADIUS - distance_from(CRESCENT_CUTOUT_CENTRE)),
        Shape::Heart => {
            let lobes = (p[0].abs() - HEART_LOBE_CENTRE[0]).hypot(p[1] - HEART_LOBE_CENTRE[1]) - HEART_LOBE_RADIUS;
            lobes.min(polygon(HEART_TIP, p))
        }
    }
}

/// Returns the signed distance of `p` from a simple polygon: the distance to the nearest edge, negative inside by the even-odd rule.
fn polygon(corners: &[Point], p: Point) -> f32 {
    let mut nearest = f32::MAX;
    let mut inside = false;
    let mut previous = corners[corners.len() - 1];
    for &corner in corners {
        let edge = [previous[0] - corner[0], previous[1] - corner[1]];
        let to = [p[0] - corner[0], p[1] - corner[1]];
        let along = ((to[0] * edge[0] + to[1] * edge[1]) / (edge[0] * edge[0] + edge[1] * edge[1])).clamp(0.0, 1.0);
        let off = [to[0] - along * edge[0], to[1] - along * edge[1]];
        nearest = nearest.min(off[0] * off[0] + off[1] * off[1]);
        let crosses = (corner[1] > p[1]) != (previous[1] > p[1]);
        if crosses && to[0] < edge[0] * to[1] / edge[1] {
            inside = !inside;
        }
        previous = corner;
    }
    if inside { -nearest.sqrt() } else { nearest.sqrt() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_have_similar_areas_and_lie_within_the_bounding_circle() {
        for &shape in Shape::ALL {
            let coordinate = |i: usize| (i as f32 + 0.5) / 100.0 * 3.0 - 1.5;
            let inside: Vec<Point> = (0..10_000)
                .map(|i| [coordinate(i % 100), coordinate(i / 100)])
                .filter(|&p| distance(shape, p) < 0.0)
                .collect();
            let area = inside.len() as f32 * 9.0 / 10_000.0;
            assert!((1.1..3.2).contains(&area), "{shape:?}: area {area}");
            assert!(inside.iter().all(|p| p[0].hypot(p[1]) < 1.25), "{shape:?} is too wide");
        }
    }

    #[test]
    fn polygon_distance_is_exact() {
        assert!((polygon(SQUARE, [0.0, 0.0]) + 0.88).abs() < 1e-6);
        assert!((polygon(SQUARE, [1.88, 0.0]) - 1.0).abs() < 1e-6);
        assert!((polygon(SQUARE, [1.88, 1.88]) - 2f32.sqrt()).abs() < 1e-6);
    }
}
