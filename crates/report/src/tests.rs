//! The page is safe, well-formed, small and always the same.

use image::{Rgb, RgbImage};
use proptest::prelude::*;
use serde_json::json;

use super::*;

/// Disk, square or triangle on a plain ground, as the generated world of the quick start draws them.
fn scene(edge: u32, seed: u32) -> RgbImage {
    let colors = [
        [214, 69, 65],
        [65, 131, 215],
        [63, 160, 90],
        [240, 190, 60],
        [142, 84, 173],
    ];
    let ground = [[238, 236, 228], [208, 224, 236], [224, 236, 214]][(seed % 3) as usize];
    RgbImage::from_fn(edge, edge, |x, y| {
        for shape in 0..2 {
            let (kind, color) = ((seed + shape) % 3, colors[((seed * 7 + shape * 3) % 5) as usize]);
            let center = |salt: u32| i64::from(edge * ((seed * 37 + salt) % 20 + 20 + shape * 40) / 100);
            let (dx, dy, r) = (i64::from(x) - center(0), i64::from(y) - center(31), edge as i64 / 6);
            let inside = match kind {
                0 => dx * dx + dy * dy < r * r,
                1 => dx.abs() < r && dy.abs() < r,
                _ => dy.abs() < r && dx.abs() * 2 < dy + r,
            };
            if inside {
                return Rgb(color);
            }
        }
        Rgb(ground)
    })
}

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

/// A report in which every part occurs, with pictures of `edge` pixels.
fn sample(edge: u32) -> ReportData {
    let wave =
        |phase: f64| (0..400).map(move |i| (f64::from(i * 10), phase * (f64::from(i * i * 7 % 13) / 13.0 - 0.5)));
    let falling = |from: f64, to: f64, noise: f64| -> Vec<(f64, f64)> {
        wave(noise)
            .map(|(x, y)| (x, to + (from - to) * (-x / 900.0).exp() + y))
            .collect()
    };
    let sparse = |curve: &[(f64, f64)], shift: f64| -> Vec<(f64, f64)> {
        curve
            .iter()
            .skip(39)
            .step_by(40)
            .map(|(x, y)| (*x, y + shift))
            .collect()
    };
    let mlm = falling(7.5, 1.1, 0.8);
    let matching = falling(0.5, 0.94, 0.1);
    let curve = |name: &str, points: Vec<(f64, f64)>| Curve {
        name: name.into(),
        points,
    };
    let masked = |seed: u32| {
        let mut picture = scene(edge, seed);
        let patch = (edge / 8).max(1);
        for (x, y, pixel) in picture.enumerate_pixels_mut() {
            if (x / patch * 29 + y / patch * 53 + (x / patch) * (y / patch) * 7 + seed) % 11 > 3 {
                *pixel = Rgb([128; 3]);
            }
        }
        picture
    };
    let hidden = |truth: &str, guesses: &[(&str, f64)]| Token::Hidden {
        truth: truth.into(),
        guesses: guesses.iter().map(|(guess, p)| ((*guess).into(), *p)).collect(),
    };
    let shown = |text: &str| Token::Shown(text.into());
    let metric = |key: &str, name: &str, value, chance, baseline, explanation: &str| Metric {
        key: key.into(),
        name: name.into(),
        value,
        format: NumberFormat::Percent,
        chance,
        baseline,
        explanation: explanation.into(),
    };
    ReportData {
        title: "A small VLC, trained from captions alone".into(),
        summary: "A model of 3.1 million parameters saw 8,000 generated pictures with their captions for ten minutes. It now \
                  tells right captions from wrong ones, guesses hidden words and finds things it was never shown the place of."
            .into(),
        metrics: vec![
            metric("itm/val/accuracy", "Does the caption fit?", 0.942, Some(0.5), Some(0.51), "Half of the pictures are swapped; the model says which."),
            metric("mlm/val/accuracy", "Hidden words", 0.873, Some(0.028), Some(0.412), "Share of hidden words that it guesses right."),
            metric("recalls/ir_r1", "Picture for a caption", 0.61, Some(0.002), None, "The right picture of 500 comes first."),
            Metric { format: NumberFormat::Number, ..metric("mae/val/loss", "Painting error", 0.2374, None, Some(1.0), "Mean squared error of the hidden patches, normalised.") },
        ],
        baseline: "Chance is what blind guessing reaches. The baseline is the same model given the captions but never the pictures.".into(),
        charts: vec![
            Chart {
                title: "Hidden words: loss".into(),
                explanation: "How surprised the model is by the hidden words; lower is better.".into(),
                x_label: "step".into(),
                curves: vec![curve("training", mlm.clone()), curve("held-out pictures", sparse(&mlm, 0.1))],
                reference: Some(("without pictures".into(), 3.4)),
            },
            Chart {
                title: "Captions that fit: accuracy".into(),
                explanation: "How often it tells a right caption from a wrong one.".into(),
                x_label: "step".into(),
                curves: vec![curve("matching", matching)],
                reference: Some(("chance".into(), 0.5)),
            },
            Chart {
                title: "Hidden patches: loss".into(),
                explanation: "How far the painted patches are from the original; lower is better.".into(),
                x_label: "step".into(),
                curves: vec![curve("painting", falling(1.0, 0.24, 0.02))],
                reference: None,
            },
        ],
        reconstructions: (0..4)
            .map(|seed| Reconstruction {
                original: scene(edge, seed),
                masked: masked(seed),
                reconstruction: image::imageops::blur(&scene(edge, seed), edge as f32 / 40.0),
                caption: "a large red disk to the left of a small blue square".into(),
            })
            .collect(),
        fill_in: (4..8)
            .map(|seed| FillIn {
                image: scene(edge, seed),
                tokens: vec![
                    shown("a"),
                    hidden("purple", &[("purple", 0.913), ("blue", 0.05), ("red", 0.01)]),
                    shown("tri"),
                    shown("##angle"),
                    shown("above"),
                    shown("a"),
                    shown("yellow"),
                    hidden("square", &[("disk", 0.48), ("square", 0.44), ("<b>&\"", 0.0001)]),
                ],
            })
            .collect(),
        heat_maps: (8..11)
            .map(|seed| HeatMap {
                image: scene(edge, seed),
                tokens: words("a green disk be ##low a yellow square"),
                word: 2,
                columns: 8,
                map: (0..64).map(|i| (-0.2 * ((i % 8 - 3i32).pow(2) + (i / 8 - 4).pow(2)) as f32).exp()).collect(),
            })
            .collect(),
        retrieval: (0..2)
            .map(|query| Retrieval {
                query: "a blue square above a red disk".into(),
                top: (0..5).map(|i| Hit { image: scene(edge, 20 + i), score: 3.2 - f64::from(i), right: i == query }).collect(),
                right_rank: query as usize + 1,
                candidates: 500,
            })
            .collect(),
        dataset: [("Pictures", "8,000 for training, 500 held out"), ("Captions", "2 per picture, 9 words on average"), ("Words", "36 different ones")]
            .map(|(name, fact)| (name.into(), fact.into()))
            .into(),
        timings: vec![("Drawing the pictures".into(), 9.4), ("Training".into(), 541.0), ("Evaluation".into(), 31.5)],
        config: "seed = 0\nimage_size = 64\n# <not a tag> & more\nlearning_rate = 1e-3\n".into(),
    }
}

/// Checks that every tag that is opened is closed in order, attributes are quoted, and nothing is fetched from anywhere.
fn check_html(html: &str) {
    const EMPTY: [&str; 3] = ["meta", "img", "!DOCTYPE"];
    let mut open: Vec<&str> = Vec::new();
    let mut rest = html;
    while let Some(at) = rest.find('<') {
        let (tag, after) = rest[at + 1..].split_once('>').expect("a tag ends");
        rest = after;
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name), "closed out of order");
            continue;
        }
        let name = tag.split([' ', '/']).next().unwrap();
        assert!(
            name == "!DOCTYPE" || name.chars().all(|c| c.is_ascii_alphanumeric()),
            "tag {name}"
        );
        assert_eq!(tag.matches('"').count() % 2, 0, "quotes in {tag}");
        assert!(
            !["script", "link", "iframe", "object", "base"].contains(&name),
            "{name}"
        );
        for (attribute, value) in attributes(tag) {
            match attribute {
                "src" => assert!(value.starts_with("data:image/png;base64,")),
                "href" => assert!(value.starts_with('#') && html.contains(&format!("id=\"{}\"", &value[1..]))),
                _ => assert!(!attribute.starts_with("on"), "{attribute}"),
            }
        }
        assert!(name != "img" || attributes(tag).any(|(attribute, value)| attribute == "alt" && !value.is_empty()));
        if name == "style" {
            let (style, after) = rest.split_once("</style>").unwrap();
            assert!(!style.contains("url(") && !style.contains("@import"));
            assert_eq!(style.matches('{').count(), style.matches('}').count());
            rest = after;
        } else if !EMPTY.contains(&name) && !tag.ends_with('/') {
            open.push(name);
        }
    }
    assert!(open.is_empty(), "left open: {open:?}");
}

fn attributes(tag: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut parts = tag.split('"');
    std::iter::from_fn(move || {
        let name = parts.next()?.trim().strip_suffix('=')?;
        Some((name.rsplit(' ').next()?, parts.next()?))
    })
}

#[test]
fn well_formed_and_small() {
    let html = sample(64).html().unwrap();
    check_html(&html);
    assert!(html.len() < 200_000, "{} bytes", html.len());
    for text in [
        "Does the caption fit?",
        "94.2\u{a0}%",
        "chance\u{a0}50.0\u{a0}%",
        "triangle",
        "&lt;not a tag&gt; &amp; more",
        "2 of 500",
    ] {
        assert!(html.contains(text), "{text}");
    }
}

#[test]
fn empty_parts_are_left_out() {
    let html = ReportData::default().html().unwrap();
    check_html(&html);
    assert!(!html.contains("<section"));
    let data = ReportData {
        config: "a = 1".into(),
        ..ReportData::default()
    };
    assert_eq!(data.html().unwrap().matches("<section").count(), 1);
}

#[test]
fn large_and_many_pictures_stay_within_the_limit() {
    let noise = RgbImage::from_fn(640, 480, |x, y| {
        let hash = xxhash_rust::xxh3::xxh3_64(&[x.to_le_bytes(), y.to_le_bytes()].concat()).to_le_bytes();
        Rgb([hash[0], hash[1], hash[2]])
    });
    let mut data = sample(64);
    let one = Reconstruction {
        original: noise.clone(),
        masked: noise.clone(),
        reconstruction: noise,
        caption: "noise".into(),
    };
    data.reconstructions = vec![one; 12];
    let html = data.html().unwrap();
    check_html(&html);
    assert!(html.len() < 4 << 20, "{} bytes", html.len());
    assert!(html.contains("more examples were left out"));
    assert!(html.contains("id=\"search\""), "later sections keep an example");
}

#[test]
fn equal_data_gives_equal_bytes() {
    assert_eq!(sample(48).html().unwrap(), sample(48).html().unwrap());
    assert_eq!(sample(48).metrics().to_string(), sample(48).metrics().to_string());
}

#[test]
fn both_files_are_written() {
    let folder = tempfile::TempDir::new().unwrap();
    let path = sample(32).write(&folder.path().join("new")).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), sample(32).html().unwrap());
    let text = fs::read_to_string(path.with_file_name(JSON_NAME)).unwrap();
    let json: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["format"], "vlct-report-1");
    assert_eq!(
        json["metrics"]["mlm/val/accuracy"],
        json!({"value": 0.873, "chance": 0.028, "baseline": 0.412})
    );
    assert_eq!(json["curves"]["matching"].as_array().unwrap().len(), 400);
    assert_eq!(json["timings"]["Training"], 541.0);
    fs::create_dir(folder.path().join("block")).unwrap();
    fs::create_dir(folder.path().join("block").join(JSON_NAME)).unwrap();
    let error = sample(32).write(&folder.path().join("block")).unwrap_err().to_string();
    assert!(error.contains(JSON_NAME), "{error}");
}

#[test]
fn contradictions_are_errors() {
    let mut data = sample(32);
    data.heat_maps[0].word = 99;
    assert!(
        data.html()
            .unwrap_err()
            .to_string()
            .contains("word 99 of a caption of 8")
    );
    let mut data = sample(32);
    data.fill_in[0].image = RgbImage::new(0, 0);
    assert!(data.html().is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever stands in texts and numbers, the page keeps its structure.
    #[test]
    fn nothing_escapes(text in "[ -~\n\u{0}\u{fffe}äß→]{0,30}|</?(script|title|style|textarea)>|\"' onload=\"x", value in any::<f64>()) {
        let mut data = sample(8);
        data.title = text.clone();
        data.summary = text.clone();
        data.baseline = text.clone();
        data.config = text.clone();
        data.dataset = vec![(text.clone(), text.clone())];
        data.timings = vec![(text.clone(), value)];
        for metric in &mut data.metrics {
            (metric.name, metric.explanation, metric.value, metric.chance) = (text.clone(), text.clone(), value, Some(value));
        }
        for chart in &mut data.charts {
            (chart.title, chart.explanation, chart.x_label) = (text.clone(), text.clone(), text.clone());
            chart.reference = Some((text.clone(), value));
            chart.curves[0].name = text.clone();
            chart.curves[0].points[3].1 = value;
        }
        data.reconstructions[0].caption = text.clone();
        data.fill_in[0].tokens = vec![Token::Shown(text.clone()), Token::Hidden { truth: text.clone(), guesses: vec![(text.clone(), value)] }];
        data.heat_maps[0].tokens = vec![text.clone()];
        data.heat_maps[0].word = 0;
        data.retrieval[0].query = text;
        data.retrieval[0].top[0].score = value;
        check_html(&data.html().unwrap());
        prop_assert!(serde_json::from_str::<Value>(&data.metrics().to_string()).is_ok());
    }
}
