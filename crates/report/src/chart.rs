//! Line charts as inline SVG.

use super::{
    Chart, Curve,
    html::{add, escape, number},
};

/// Width and height of the view box. On a phone, one unit is about one pixel, so that the text stays readable.
const SIZE: (f64, f64) = (340.0, 200.0);

/// Margins around the plotting area: left, top, right, bottom.
const MARGIN: (f64, f64, f64, f64) = (46.0, 10.0, 12.0, 34.0);

/// Number of points above which a smoothed copy of a curve is drawn over it.
const SMOOTH_ABOVE: usize = 40;

/// Maximum number of points drawn per curve.
const MAX_POINTS: usize = 300;

/// Returns the chart as a `<figure>` element. `id` makes the ids in this element unique within the page.
pub(super) fn figure(chart: &Chart, id: usize) -> String {
    let curves: Vec<Vec<(f64, f64)>> = chart.curves.iter().map(drawable_points).collect();
    let mut html = String::new();
    add!(
        html,
        "<figure class=\"chart\"><figcaption><h3>{}</h3>",
        escape(&chart.title)
    );
    add!(html, "<p>{}</p></figcaption>", escape(&chart.explanation));
    let Some(axes) = Axes::new(&curves, chart.reference.as_ref().map(|(_, value)| *value)) else {
        html.push_str("<p>No values were recorded.</p></figure>");
        return html;
    };
    add!(
        html,
        "<svg viewBox=\"0 0 {} {}\" role=\"img\" aria-labelledby=\"chart{id}\">",
        SIZE.0,
        SIZE.1
    );
    add!(
        html,
        "<title id=\"chart{id}\">{}</title>",
        escape(&description(chart, &curves))
    );
    axes.draw(&mut html, &chart.x_label);
    if let Some((_, value)) = chart.reference.as_ref().filter(|(_, value)| value.abs() < 1e300) {
        let (left, right, y) = (MARGIN.0, SIZE.0 - MARGIN.2, axes.y(*value));
        add!(html, "<path class=\"ref\" d=\"M{left:.1} {y:.1}H{right:.1}\"/>");
    }
    for (index, points) in curves.iter().enumerate() {
        draw_curve(&mut html, &axes, points, index % 4);
    }
    html.push_str("</svg>");
    draw_legend(&mut html, chart);
    html.push_str("</figure>");
    html
}

/// Returns the points that can be drawn: finite, and small enough that sums and differences of them are finite too.
fn drawable_points(curve: &Curve) -> Vec<(f64, f64)> {
    let fits = |value: f64| value.abs() < 1e300;
    curve
        .points
        .iter()
        .copied()
        .filter(|(x, y)| fits(*x) && fits(*y))
        .collect()
}

/// Describes the chart in words, for screen readers.
fn description(chart: &Chart, curves: &[Vec<(f64, f64)>]) -> String {
    let mut text = format!("{}.", chart.title);
    for (curve, points) in chart.curves.iter().zip(curves) {
        if let (Some(first), Some(last)) = (points.first(), points.last()) {
            let (from, to, x) = (number(first.1), number(last.1), number(last.0));
            add!(
                text,
                " {} goes from {from} to {to} at {} {x}.",
                curve.name,
                chart.x_label
            );
        }
    }
    if let Some((name, value)) = &chart.reference {
        add!(text, " For comparison, {name}: {}.", number(*value));
    }
    text
}

fn draw_legend(html: &mut String, chart: &Chart) {
    let reference = chart.reference.iter().map(|(name, _)| ("ref".to_string(), name));
    let curves = chart
        .curves
        .iter()
        .enumerate()
        .map(|(index, curve)| (format!("line s{}", index % 4), &curve.name));
    html.push_str("<ul class=\"legend\">");
    for (class, name) in curves.chain(reference) {
        add!(
            html,
            "<li><svg viewBox=\"0 0 24 8\" aria-hidden=\"true\"><path class=\"{class}\" d=\"M0 4H24\"/></svg>"
        );
        add!(html, "{}</li>", escape(name));
    }
    html.push_str("</ul>");
}

fn draw_curve(html: &mut String, axes: &Axes, points: &[(f64, f64)], color: usize) {
    let thinned = thin(points);
    match thinned.as_slice() {
        [] => {}
        [(x, y)] => add!(
            html,
            "<circle class=\"dot s{color}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\"/>",
            axes.x(*x),
            axes.y(*y)
        ),
        _ if points.len() > SMOOTH_ABOVE => {
            draw_path(html, axes, &thinned, &format!("raw s{color}"));
            draw_path(html, axes, &smooth(&thinned), &format!("line s{color}"));
        }
        _ => draw_path(html, axes, &thinned, &format!("line s{color}")),
    }
}

fn draw_path(html: &mut String, axes: &Axes, points: &[(f64, f64)], class: &str) {
    add!(html, "<path class=\"{class}\" d=\"");
    for (index, (x, y)) in points.iter().enumerate() {
        add!(
            html,
            "{}{:.1} {:.1}",
            if index == 0 { 'M' } else { 'L' },
            axes.x(*x),
            axes.y(*y)
        );
    }
    html.push_str("\"/>");
}

/// Reduces `points` to at most [`MAX_POINTS`] by averaging groups of neighbouring points.
fn thin(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let length = points.len().div_ceil(MAX_POINTS).max(1);
    let mean = |chunk: &[(f64, f64)]| {
        let (x, y) = chunk
            .iter()
            .fold((0.0, 0.0), |sum, point| (sum.0 + point.0, sum.1 + point.1));
        (x / chunk.len() as f64, y / chunk.len() as f64)
    };
    points.chunks(length).map(mean).collect()
}

/// Returns the centred moving average over a tenth of the points. Near the ends, the window is shortened equally on both sides, so
/// that the result does not lag.
fn smooth(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let half_width = points.len() / 20;
    (0..points.len())
        .map(|i| {
            let half_width = half_width.min(i).min(points.len() - 1 - i);
            let window = &points[i - half_width..=i + half_width];
            (
                points[i].0,
                window.iter().map(|point| point.1).sum::<f64>() / window.len() as f64,
            )
        })
        .collect()
}

/// Ranges of the two axes.
struct Axes {
    x_range: (f64, f64),
    y_range: (f64, f64),
}

impl Axes {
    /// Returns axes whose ranges include all points and the reference line, or `None` if there is no point.
    fn new(curves: &[Vec<(f64, f64)>], reference: Option<f64>) -> Option<Self> {
        let range = |values: &mut dyn Iterator<Item = f64>| {
            values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
                (low.min(value), high.max(value))
            })
        };
        let points = || curves.iter().flatten();
        let x = range(&mut points().map(|point| point.0));
        if x.0 > x.1 {
            return None;
        }
        let reference = reference.filter(|value| value.abs() < 1e300);
        let y = range(&mut points().map(|point| point.1).chain(reference));
        let (low, high) = widened(y);
        // Padding above and below, but not below zero if no value is negative.
        let padding = (high - low) * 0.05;
        let floor = if y.0 >= 0.0 { 0.0 } else { f64::NEG_INFINITY };
        Some(Self {
            x_range: widened(x),
            y_range: ((low - padding).max(floor), high + padding),
        })
    }

    /// Returns the horizontal position of `value` in the view box.
    fn x(&self, value: f64) -> f64 {
        MARGIN.0 + (value - self.x_range.0) / (self.x_range.1 - self.x_range.0) * (SIZE.0 - MARGIN.0 - MARGIN.2)
    }

    /// Returns the vertical position of `value` in the view box.
    fn y(&self, value: f64) -> f64 {
        SIZE.1
            - MARGIN.3
            - (value - self.y_range.0) / (self.y_range.1 - self.y_range.0) * (SIZE.1 - MARGIN.1 - MARGIN.3)
    }

    fn draw(&self, html: &mut String, x_label: &str) {
        let (left, right, bottom) = (MARGIN.0, SIZE.0 - MARGIN.2, SIZE.1 - MARGIN.3);
        let y_ticks = ticks(self.y_range, 5);
        html.push_str("<g class=\"axis\">");
        for tick in &y_ticks {
            let y = self.y(*tick);
            add!(html, "<path d=\"M{left:.1} {y:.1}H{right:.1}\"/>");
            add!(
                html,
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                left - 6.0,
                y + 4.0,
                tick_label(*tick, &y_ticks)
            );
        }
        let x_ticks = ticks(self.x_range, 4);
        for tick in &x_ticks {
            let (x, y) = (self.x(*tick), bottom + 15.0);
            add!(
                html,
                "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"middle\">{}</text>",
                tick_label(*tick, &x_ticks)
            );
        }
        let (x, y) = ((left + right) / 2.0, SIZE.1 - 4.0);
        add!(
            html,
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"middle\">{}</text></g>",
            escape(x_label)
        );
    }
}

/// Returns the range unchanged, or widened if it is a single value.
fn widened((low, high): (f64, f64)) -> (f64, f64) {
    if high > low {
        return (low, high);
    }
    let half = (low.abs() * 0.1).max(1e-9);
    (low - half, high + half)
}

/// Returns about `count` round values inside the range.
fn ticks((low, high): (f64, f64), count: usize) -> Vec<f64> {
    let rough = (high - low) / count as f64;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .find(|step| step * power >= rough * 0.99)
        .unwrap_or(10.0)
        * power;
    if !step.is_finite() || step <= 0.0 {
        return Vec::new();
    }
    let first = (low / step).ceil();
    (0..=2 * count)
        .map(|index| (first + index as f64) * step)
        .take_while(|tick| *tick <= high)
        .collect()
}

/// Formats `tick` with the number of decimals that distinguishes neighbouring ticks.
fn tick_label(tick: f64, ticks: &[f64]) -> String {
    let step = match ticks {
        [first, second, ..] => second - first,
        _ => tick.abs(),
    };
    if tick != 0.0 && !(1e-4..1e6).contains(&tick.abs()) {
        return format!("{tick:.0e}");
    }
    let decimals = if step > 0.0 {
        (-step.log10().floor()).clamp(0.0, 6.0) as usize
    } else {
        0
    };
    // Adding zero turns -0.0 into 0.0.
    format!("{:.decimals$}", tick + 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_values() {
        assert_eq!(ticks((0.0, 2500.0), 4), [0.0, 1000.0, 2000.0]);
        assert_eq!(ticks((0.0, 1.05), 4), [0.0, 0.5, 1.0]);
        assert_eq!(ticks((-3.0, 3.0), 4), [-2.0, 0.0, 2.0]);
        assert!(ticks((f64::MIN, f64::MAX), 4).len() < 10);
        let grid = ticks((2.31, 2.33), 4);
        let labels: Vec<_> = grid.iter().map(|tick| tick_label(*tick, &grid)).collect();
        assert_eq!(labels, ["2.310", "2.315", "2.320", "2.325", "2.330"]);
    }

    #[test]
    fn points_lie_inside_the_plot() {
        let curves = vec![vec![(0.0, 5.0), (10.0, 1.0)], vec![(3.0, 9.0)]];
        let axes = Axes::new(&curves, Some(0.5)).unwrap();
        for (x, y) in curves.iter().flatten() {
            assert!((MARGIN.0..=SIZE.0 - MARGIN.2).contains(&axes.x(*x)));
            assert!((MARGIN.1..=SIZE.1 - MARGIN.3).contains(&axes.y(*y)));
        }
        assert!(axes.y(9.0) < axes.y(5.0), "y grows upwards");
        assert_eq!(axes.x(0.0), MARGIN.0);
    }

    #[test]
    fn smoothing_keeps_ends_and_means() {
        let noisy: Vec<_> = (0..100)
            .map(|i| (i as f64, if i % 2 == 0 { 1.0 } else { 3.0 }))
            .collect();
        let smoothed = smooth(&noisy);
        assert_eq!(smoothed[0], noisy[0]);
        assert!(smoothed[20..80].iter().all(|(_, y)| (y - 2.0).abs() < 0.2));
        let thinned = thin(&(0..1000).map(|i| (i as f64, 2.0 * i as f64)).collect::<Vec<_>>());
        assert_eq!((thinned.len(), thinned[0]), (250, (1.5, 3.0)));
    }

    #[test]
    fn draws_only_finite_coordinates() {
        let chart = |points: Vec<(f64, f64)>| Chart {
            title: "t".into(),
            explanation: String::new(),
            x_label: "step".into(),
            curves: vec![Curve {
                name: "c".into(),
                points,
            }],
            reference: None,
        };
        for points in [
            vec![],
            vec![(f64::NAN, 1.0)],
            vec![(1.0, 0.0)],
            vec![(1.0, 2.0), (2.0, 2.0)],
            vec![(0.0, 9e299), (1.0, -1e299)],
            (0..5000).map(|i| (i as f64, f64::from(i % 7))).collect(),
        ] {
            let html = figure(&chart(points), 1);
            let drawing = html.split("</title>").last().unwrap();
            assert!(!drawing.contains("NaN") && !drawing.contains("inf"), "{html}");
            assert!(html.len() < 20_000);
        }
    }
}
