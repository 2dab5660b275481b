//! `vlct predict fill`, `align`, `repaint` and `features`: their answers are those of the library, and their files have the documented form.

mod predict_support;
mod support;

use predict_support::Files;
use serde_json::Value;
use support::{assert_one_line_error, assert_success};
use vlct_data::arrow::CaptionWriter;
use vlct_predict::features::{Kind, features};
use vlct_predict::fill::Fill;
use vlct_predict::probes::alignment::{align, opacity};
use vlct_predict::{Head, npy};

#[test]
fn fill_prints_the_candidates_of_the_library() {
    let files = Files::new();
    let predictor = files.open("pretrain.ckpt", &[Fill::HEAD]);
    let tokenizer = predictor.preparation().tokenizer();
    let item = files.item(&predictor, "one.png", "a [MASK] circle is [MASK]");
    let filled = Fill::new(&predictor).expect("a task").fill(&[item], 2).remove(0);
    let document = &files.documents(
        "fill",
        "pretrain.ckpt",
        &["one.png", "a [MASK] circle is [MASK]", "--top-k", "2"],
    )[0];
    let masks = document.as_array().expect("a list of masks");
    assert_eq!(masks.len(), 2);
    for (mask, want) in masks.iter().zip(&filled.masks) {
        for (entry, candidate) in mask.as_array().expect("candidates").iter().zip(&want.candidates) {
            assert_eq!(entry["token"], candidate.id);
            assert_eq!(entry["token_str"], candidate.token.as_str());
            assert_eq!(entry["score"].as_f64().expect("a number") as f32, candidate.probability);
            assert_eq!(entry["sequence"], want.sequence(candidate, tokenizer).as_str());
        }
    }
    // With one mask, the document is the list of its candidates.
    let one = &files.documents("fill", "pretrain.ckpt", &["one.png", "a [MASK]", "--top-k", "3"])[0];
    assert_eq!(one.as_array().expect("candidates").len(), 3);
    assert!(one[0]["sequence"].is_string());
    let output = files.run("fill", "pretrain.ckpt", &["one.png", "a circle"]);
    assert_one_line_error("no mask", &output, &["no [MASK]"]);
}

#[test]
fn heat_maps_have_the_opacity_of_the_library() {
    let files = Files::new();
    let predictor = files.open("pretrain.ckpt", &[]);
    let item = files.item(&predictor, "one.png", "a red circle");
    let pixels = item.image.as_ref().expect("an image");
    let alignment = align(predictor.model(), &item.text, pixels);
    let arguments = [
        "one.png",
        "a red circle",
        "--word",
        "red",
        "--clusters",
        "3",
        "--out",
        "maps",
    ];
    let document = &files.documents("align", "pretrain.ckpt", &arguments)[0];
    assert_eq!(document[0]["word"], "red");
    assert_eq!(document[0]["index"], 2);
    let scores = alignment.scores(2..3);
    let printed: Vec<f32> = document[0]["scores"]
        .as_array()
        .expect("scores")
        .iter()
        .map(|v| v.as_f64().expect("a number") as f32)
        .collect();
    assert_eq!(printed, scores);
    assert_eq!(document[0]["file"], "maps/one_red_2.png");
    let map = std::fs::read(files.path("maps/one_red_2.png")).expect("a heat map");
    // The colours of the file are those of the image; a PNG without its transparency decodes to them.
    let image = std::fs::read(files.path("one.png")).expect("an image");
    assert_eq!(
        vlct_image::decode(&map).expect("a PNG"),
        vlct_image::decode(&image).expect("a PNG")
    );
    assert!(opacity(&scores).iter().any(|value| *value > 0));
    let clusters: Vec<u64> = document[1]["clusters"]
        .as_array()
        .expect("clusters")
        .iter()
        .map(|v| v.as_u64().expect("a number"))
        .collect();
    assert_eq!(clusters.len(), alignment.grid[0] * alignment.grid[1]);
    assert!(clusters.iter().all(|cluster| *cluster < 3) && clusters.contains(&2));
    assert!(files.path("maps/one_clusters.png").is_file());

    let again = &files.documents("align", "pretrain.ckpt", &arguments)[0];
    assert_eq!(again, document, "equal seeds give equal clusters");
    // A masked word is filled first, so that it has a heat map.
    let filled = &files.documents("align", "pretrain.ckpt", &["one.png", "a red [MASK]", "--out", "maps"])[0];
    assert_eq!(filled.as_array().expect("words").len(), 3);
    let output = files.run("align", "pretrain.ckpt", &["one.png", "a red circle", "--word", "dog"]);
    assert_one_line_error("word", &output, &["\"dog\" is not in the text", "a, red, circle"]);
}

#[test]
fn similarities_are_collected_over_tables_and_arrow_files() {
    let files = Files::new();
    files.write(
        "captions.csv",
        b"path,caption\none.png,a red circle\ntwo.png,the square is blue\n",
    );
    let mut writer = CaptionWriter::create(files.path("captions.arrow")).expect("writable");
    for (name, caption) in [("one.png", "a red circle"), ("two.png", "the square is blue")] {
        let image = std::fs::read(files.path(name)).expect("an image");
        writer.push(&image, &[caption], name, "train").expect("written");
    }
    writer.finish().expect("written");
    files.write("nouns.txt", b"Circle\nsquare\n");
    let stats = |data: &str, save: &str, more: &[&str]| {
        let arguments = [&["--stats", data, "--save", save], more].concat();
        assert_success(&files.run("align", "pretrain.ckpt", &arguments));
        std::fs::read(files.path(save)).expect("saved values")
    };
    let nouns = ["--nouns", "nouns.txt"];
    let table = npy::read(&stats("captions.csv", "table.npy", &nouns)).expect("an array");
    let arrow = npy::read(&stats("captions.arrow", "arrow.npy", &nouns)).expect("an array");
    assert_eq!(table, arrow);

    let predictor = files.open("pretrain.ckpt", &[]);
    let mut want = Vec::new();
    for (image, caption, token) in [("one.png", "a red circle", 3), ("two.png", "the square is blue", 2)] {
        let item = files.item(&predictor, image, caption);
        let alignment = align(predictor.model(), &item.text, item.image.as_ref().expect("an image"));
        want.extend(alignment.scores(token..token + 1));
    }
    assert_eq!(table, want);

    let all = stats(
        "captions.csv",
        "all.json",
        &["--histogram", "chart.svg", "--over", "table.npy"],
    );
    let all: Value = serde_json::from_slice(&all).expect("JSON");
    assert_eq!((all["words"].as_u64(), &all["name"]), (Some(7), &Value::from("all")));
    let chart = std::fs::read_to_string(files.path("chart.svg")).expect("a chart");
    assert!(chart.contains(">table</text>") && chart.contains(">all</text>"));
    files.write("list.json", b"[]");
    for more in [&["one.png", "a b"][..], &["--word", "red"], &["--histogram", "x.png"]] {
        let arguments = [&["--stats", "captions.csv", "--save", "x.npy"], more].concat();
        let output = files.run("align", "pretrain.ckpt", &arguments);
        assert_eq!(output.status.code(), Some(2), "{more:?}");
    }
    for (arguments, part) in [
        (
            &[
                "--stats",
                "captions.csv",
                "--save",
                "x.npy",
                "--nouns",
                "vocab.txt",
                "--root",
                "photos",
            ][..],
            "no caption has a word",
        ),
        (
            &[
                "--stats",
                "captions.csv",
                "--save",
                "x.npy",
                "--histogram",
                "x.svg",
                "--over",
                "one.png",
            ],
            "one.png: not JSON",
        ),
        (&["--stats", "photos", "--save", "x.npy"], "no .arrow or .tar file"),
        (
            &["--stats", "captions.csv", "--save", "none/x.npy"],
            "directory none does not exist",
        ),
        (
            &[
                "--stats",
                "captions.csv",
                "--save",
                "x.npy",
                "--histogram",
                "x.svg",
                "--over",
                "list.json",
            ],
            "list.json: has no values",
        ),
    ] {
        assert_one_line_error(part, &files.run("align", "pretrain.ckpt", arguments), &[part]);
    }
}

#[test]
fn reconstructions_are_three_panels_and_follow_the_seed() {
    let files = Files::new();
    let size = files
        .open("pretrain.ckpt", &[Head::Decoder])
        .model()
        .config()
        .image_size as u32;
    let reconstruct = |more: &[&str], name: &str| {
        let output = files.run(
            "repaint",
            "pretrain.ckpt",
            &[&["--decoder-heads", "4", "--out", "out"], more].concat(),
        );
        assert_success(&output);
        let bytes = std::fs::read(files.path(name)).expect("an image");
        vlct_image::decode(&bytes).expect("a PNG")
    };
    let first = reconstruct(&["one.png", "a red circle"], "out/one_reconstructed.png");
    assert_eq!(first.dimensions(), (3 * size, size));
    assert_eq!(
        reconstruct(&["one.png", "a red circle"], "out/one_reconstructed.png"),
        first
    );
    assert_ne!(
        reconstruct(&["one.png", "a red circle", "--seed", "1"], "out/one_reconstructed.png"),
        first
    );
    reconstruct(&["photos"], "out/b_reconstructed.png");
}

#[test]
fn feature_files_have_the_features_of_the_library() {
    let files = Files::new();
    let predictor = files.open("pretrain.ckpt", &[]);
    let item = files.item(&predictor, "one.png", "a red circle");
    let want = features(&predictor, &[item], &Kind::ALL).remove(0);
    assert_success(&files.run(
        "features",
        "pretrain.ckpt",
        &["one.png", "--text", "a red circle", "--out", "one.safetensors"],
    ));
    let state = vlct_model::files::read(&files.path("one.safetensors"))
        .expect("a file")
        .state;
    assert_eq!(state.len(), 3);
    for (kind, tensor) in &want {
        assert_eq!(state.get(kind.name()), Some(tensor));
    }
    let width = predictor.model().config().backbone.width;
    assert_success(&files.run("features", "pretrain.ckpt", &["photos", "--out", "photos.npy"]));
    let pooled = npy::read(&std::fs::read(files.path("photos.npy")).expect("a file")).expect("an array");
    assert_eq!(pooled.len(), 2 * width);
    files.write("photos/aa.png", b"no image");
    let output = files.run("features", "pretrain.ckpt", &["photos", "--out", "photos.safetensors"]);
    assert_one_line_error("unreadable", &output, &["1 of 3 inputs"]);
    let state = vlct_model::files::read(&files.path("photos.safetensors"))
        .expect("a file")
        .state;
    assert!(state.contains("0.pooled") && !state.contains("1.pooled") && state.contains("2.pooled"));
}
