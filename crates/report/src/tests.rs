//! Tests that the page is well-formed, escaped, bounded in size and deterministic.

use image::{Rgb, RgbImage};
use proptest::prelude::*;
use serde_json::json;
use vlct_tasks::confusion::Confusion;

use super::*;

/// Draws two shapes (disk, square or triangle) on a plain background.
fn draw_scene(edge: u32, seed: u32) -> RgbImage {
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

/// Returns a report in which no part is empty. Images have `edge` × `edge` pixels.
fn full_report(edge: u32) -> ReportData {
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
        let mut image = draw_scene(edge, seed);
        let patch = (edge / 8).max(1);
        for (x, y, pixel) in image.enumerate_pixels_mut() {
            if (x / patch * 29 + y / patch * 53 + (x / patch) * (y / patch) * 7 + seed) % 11 > 3 {
                *pixel = Rgb([128; 3]);
            }
        }
        image
    };
    let masked_token = |truth: &str, predictions: &[(&str, f64)]| Token::Masked {
        truth: truth.into(),
        predictions: predictions.iter().map(|(token, p)| ((*token).into(), *p)).collect(),
    };
    let visible = |text: &str| Token::Visible(text.into());
    let metric = |key: &str, name: &str, value, chance, baseline, explanation: &str| Metric {
        key: key.into(),
        name: name.into(),
        value,
        format: NumberFormat::Percent,
        chance,
        baseline,
        from_scratch: (key == "mlm/val/accuracy").then_some(0.25),
        explanation: explanation.into(),
    };
    ReportData {
        classes: Some(Confusion::new(
            ["<cat>", "dog & wolf"].map(String::from).to_vec(),
            [(0, 0), (0, 1), (1, 1)],
        )),
        faults: vec!["best/checkpoint.safetensors: the <checksum> does not match".into()],
        title: "A small VLC, trained from captions alone".into(),
        summary: "A model of 3.1 million parameters was trained for ten minutes on 8,000 synthetic images with their captions."
            .into(),
        metrics: vec![
            metric("itm/val/accuracy", "Image-text matching", 0.942, Some(0.5), Some(0.51), "Accuracy on pairs of which half are mismatched."),
            metric("mlm/val/accuracy", "Masked words", 0.873, Some(0.028), Some(0.412), "Fraction of masked words that are predicted correctly."),
            metric("recalls/ir_r1", "Text-to-image retrieval", 0.61, Some(0.002), None, "Recall at 1 among 500 images."),
            Metric { format: NumberFormat::Number, ..metric("mae/val/loss", "Masked patches", 0.2374, None, Some(1.0), "Mean squared error of the masked patches, normalised.") },
        ],
        baseline: "Chance is random guessing. The baseline predicts from the captions alone.".into(),
        charts: vec![
            Chart {
                title: "Masked words: loss".into(),
                explanation: "Cross-entropy of the masked words; lower is better.".into(),
                x_label: "step".into(),
                curves: vec![curve("training", mlm.clone()), curve("held-out images", sparse(&mlm, 0.1))],
                reference: Some(("without images".into(), 3.4)),
            },
            Chart {
                title: "Matching: accuracy".into(),
                explanation: "Fraction of pairs that are classified correctly.".into(),
                x_label: "step".into(),
                curves: vec![curve("matching", matching)],
                reference: Some(("chance".into(), 0.5)),
            },
            Chart {
                title: "Masked patches: loss".into(),
                explanation: "Mean squared error of the reconstructed patches; lower is better.".into(),
                x_label: "step".into(),
                curves: vec![curve("patches", falling(1.0, 0.24, 0.02))],
                reference: None,
            },
        ],
        reconstructions: (0..4)
            .map(|seed| Reconstruction {
                original: draw_scene(edge, seed),
                masked: masked(seed),
                reconstruction: image::imageops::blur(&draw_scene(edge, seed), edge as f32 / 40.0),
                caption: "a large red disk to the left of a small blue square".into(),
            })
            .collect(),
        masked_captions: (4..8)
            .map(|seed| MaskedCaption {
                image: draw_scene(edge, seed),
                tokens: vec![
                    visible("a"),
                    masked_token("purple", &[("purple", 0.913), ("blue", 0.05), ("red", 0.01)]),
                    visible("tri"),
                    visible("##angle"),
                    visible("above"),
                    visible("a"),
                    visible("yellow"),
                    masked_token("square", &[("disk", 0.48), ("square", 0.44), ("<b>&\"", 0.0001)]),
                ],
            })
            .collect(),
        heat_maps: (8..11)
            .map(|seed| HeatMap {
                image: draw_scene(edge, seed),
                tokens: words("a green disk be ##low a yellow square"),
                word: 2,
                columns: 8,
                map: (0..64).map(|i| (-0.2 * ((i % 8 - 3i32).pow(2) + (i / 8 - 4).pow(2)) as f32).exp()).collect(),
            })
            .collect(),
        retrieval: (0..2)
            .map(|query| Retrieval {
                query: "a blue square above a red disk".into(),
                top: (0..5).map(|i| Hit { image: draw_scene(edge, 20 + i), score: 3.2 - f64::from(i), is_own: i == query }).collect(),
                own_rank: query as usize + 1,
                candidates: 500,
            })
            .collect(),
        answers: vec![AnswerExample {
            images: vec![RgbImage::from_pixel(8, 8, Rgb([10, 20, 30]))],
            text: "what is <this>?".into(),
            predictions: vec![("cat & dog".into(), 0.75), ("no".into(), 0.125)],
            truth: vec!["yes".into()],
        }],
        dataset: [("Images", "8,000 for training, 500 held out"), ("Captions", "2 per image, 9 words on average"), ("Words", "36 different ones")]
            .map(|(name, fact)| (name.into(), fact.into()))
            .into(),
        timings: vec![("Data".into(), 9.4), ("Training".into(), 541.0), ("Evaluation".into(), 31.5)],
        config: "seed = 0\nimage_size = 64\n# <not a tag> & more\nlearning_rate = 1e-3\n".into(),
    }
}

/// Panics unless every tag is closed in order, attributes are quoted, and the page refers to nothing outside itself.
fn check_html(html: &str) {
    const VOID_TAGS: [&str; 3] = ["meta", "img", "!DOCTYPE"];
    let mut open: Vec<&str> = Vec::new();
    let mut rest = html;
    while let Some(start) = rest.find('<') {
        let (tag, after) = rest[start + 1..].split_once('>').expect("a tag ends");
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
        } else if !VOID_TAGS.contains(&name) && !tag.ends_with('/') {
            open.push(name);
        }
    }
    assert!(open.is_empty(), "unclosed tags: {open:?}");
}

fn attributes(tag: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut parts = tag.split('"');
    std::iter::from_fn(move || {
        let name = parts.next()?.trim().strip_suffix('=')?;
        Some((name.rsplit(' ').next()?, parts.next()?))
    })
}

#[test]
fn page_is_well_formed_and_small() {
    let html = full_report(64).html().unwrap();
    check_html(&html);
    assert!(html.len() < 200_000, "{} bytes", html.len());
    for text in [
        "Image-text matching",
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
fn leaves_out_empty_sections() {
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
fn bounds_page_size_with_many_large_images() {
    let noise = RgbImage::from_fn(640, 480, |x, y| {
        let hash = xxhash_rust::xxh3::xxh3_64(&[x.to_le_bytes(), y.to_le_bytes()].concat()).to_le_bytes();
        Rgb([hash[0], hash[1], hash[2]])
    });
    let mut data = full_report(64);
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
    assert!(html.contains("id=\"retrieval\""), "each later section has an example");
}

#[test]
fn equal_data_gives_equal_bytes() {
    assert_eq!(full_report(48).html().unwrap(), full_report(48).html().unwrap());
    assert_eq!(
        full_report(48).metrics().to_string(),
        full_report(48).metrics().to_string()
    );
}

#[test]
fn writes_page_and_metrics() {
    let directory = tempfile::TempDir::new().unwrap();
    let path = full_report(32).write(&directory.path().join("new")).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), full_report(32).html().unwrap());
    let text = fs::read_to_string(path.with_file_name(JSON_NAME)).unwrap();
    let json: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["format"], "vlct-report-1");
    assert_eq!(json["classes"]["<cat>"], json!({"images": 2, "correct": 1}));
    assert_eq!(json["faults"].as_array().unwrap().len(), 1);
    assert!(
        full_report(32)
            .html()
            .unwrap()
            .contains("the &lt;checksum&gt; does not match</li>")
    );
    assert_eq!(
        json["metrics"]["mlm/val/accuracy"],
        json!({"value": 0.873, "chance": 0.028, "baseline": 0.412, "from_scratch": 0.25})
    );
    assert_eq!(json["curves"]["matching"].as_array().unwrap().len(), 400);
    assert_eq!(json["timings"]["Training"], 541.0);
    assert_eq!(json["timings"]["total"], 9.4 + 541.0 + 31.5);
    fs::create_dir(directory.path().join("block")).unwrap();
    fs::create_dir(directory.path().join("block").join(JSON_NAME)).unwrap();
    let error = full_report(32)
        .write(&directory.path().join("block"))
        .unwrap_err()
        .to_string();
    assert!(error.contains(JSON_NAME), "{error}");
}

#[test]
fn rejects_inconsistent_data() {
    let mut data = full_report(32);
    data.heat_maps[0].word = 99;
    assert!(
        data.html()
            .unwrap_err()
            .to_string()
            .contains("word 99 of a caption of 8")
    );
    let mut data = full_report(32);
    data.masked_captions[0].image = RgbImage::new(0, 0);
    assert!(data.html().is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn arbitrary_texts_and_values_keep_the_page_well_formed(text in "[ -~\n\u{0}\u{fffe}äß→]{0,30}|</?(script|title|style|textarea)>|\"' onload=\"x", value in any::<f64>()) {
        let mut data = full_report(8);
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
        data.masked_captions[0].tokens = vec![Token::Visible(text.clone()), Token::Masked { truth: text.clone(), predictions: vec![(text.clone(), value)] }];
        data.heat_maps[0].tokens = vec![text.clone()];
        data.heat_maps[0].word = 0;
        data.retrieval[0].query = text;
        data.retrieval[0].top[0].score = value;
        check_html(&data.html().unwrap());
        prop_assert!(serde_json::from_str::<Value>(&data.metrics().to_string()).is_ok());
    }
}
