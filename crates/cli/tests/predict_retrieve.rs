//! `vlct predict retrieve`: ranks by the scores of the library, and embedded images in the cache follow the content of the files.

mod predict_support;
mod support;

use predict_support::{Files, image};
use serde_json::Value;
use support::{assert_one_line_error, assert_success};
use vlct_golden::assert_close;
use vlct_predict::retrieve::Retrieval;
use vlct_tasks::planes;
use vlct_tasks::scoring::score_image;

/// Returns the names and scores of a document, in order.
fn ranked(document: &Value, key: &str) -> Vec<(String, f32)> {
    let entries = document.as_array().expect("a list").iter();
    entries
        .map(|entry| {
            let score = entry["score"].as_f64().expect("a number") as f32;
            (entry[key].as_str().expect("a name").to_owned(), score)
        })
        .collect()
}

/// Panics unless `got` has these names with these scores, in descending order of the scores.
fn assert_ranked(got: &[(String, f32)], want: &[(String, f32)]) {
    let mut want = want.to_vec();
    want.sort_by(|a, b| b.1.total_cmp(&a.1));
    let names = |list: &[(String, f32)]| list.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    let scores = |list: &[(String, f32)]| list.iter().map(|(_, score)| *score).collect::<Vec<_>>();
    assert_eq!(names(got), names(&want));
    assert_close("scores", &scores(got), &scores(&want), 1e-5);
}

#[test]
fn images_and_texts_are_ranked_by_the_scores_of_the_library() {
    let files = Files::new();
    let texts = ["a red circle", "the blue square", "w20 w30"];
    files.write("texts.txt", texts.join("\n").as_bytes());
    for checkpoint in ["irtr.ckpt", "pretrain.ckpt"] {
        let predictor = files.open(checkpoint, &Retrieval::HEADS);
        let tokens: Vec<Vec<u32>> = texts
            .iter()
            .map(|text| predictor.preparation().text(text).expect("a text"))
            .collect();
        let scores = |name: &str| {
            let values = predictor
                .preparation()
                .image(&files.path(name))
                .expect("an image")
                .values;
            score_image(predictor.model(), planes(&values), &tokens)
        };
        let images = ["photos/a.png", "photos/b.png"];
        let matrix = images.map(scores);
        let column = |text: usize| -> Vec<(String, f32)> {
            images
                .iter()
                .zip(&matrix)
                .map(|(name, row)| (name.to_string(), row[text]))
                .collect()
        };
        let document = files.documents("retrieve", checkpoint, &["photos", texts[1]]).remove(0);
        assert_ranked(&ranked(&document, "image"), &column(1));
        let documents = files.documents(
            "retrieve",
            checkpoint,
            &["photos", "--texts", "texts.txt", "--batch", "1"],
        );
        assert_eq!(documents.len(), texts.len());
        for (i, document) in documents.iter().enumerate() {
            assert_ranked(&ranked(document, "image"), &column(i));
        }
        let document = files
            .documents("retrieve", checkpoint, &["photos/a.png", "--texts", "texts.txt"])
            .remove(0);
        let row: Vec<(String, f32)> = texts.iter().map(|t| t.to_string()).zip(matrix[0].clone()).collect();
        assert_ranked(&ranked(&document, "text"), &row);
    }
}

#[test]
fn the_cache_follows_the_content_of_files() {
    let files = Files::new();
    let query = "a red circle";
    let without = |files: &Files| files.documents("retrieve", "irtr.ckpt", &["photos", query]).remove(0);
    let with_cache = || {
        files
            .documents("retrieve", "irtr.ckpt", &["photos", query, "--cache", "embedded"])
            .remove(0)
    };
    let cached = || -> Vec<_> {
        let entries = std::fs::read_dir(files.path("embedded")).expect("a directory");
        let mut paths: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
        paths.sort();
        paths
    };
    let want = without(&files);
    assert_eq!(with_cache(), want);
    let first = cached();
    assert_eq!(first.len(), 2);
    assert_eq!(with_cache(), want);
    assert_eq!(cached(), first);

    // Another content has another file, and another model too.
    files.write("photos/a.png", &image(200));
    let changed = without(&files);
    assert_ne!(changed, want);
    assert_eq!(with_cache(), changed);
    assert_eq!(cached().len(), 3);
    files.documents(
        "retrieve",
        "irtr.ckpt",
        &["photos", query, "--cache", "embedded", "--as-stored"],
    );
    assert_eq!(cached().len(), 5);

    // A damaged file is made again.
    for path in cached() {
        let bytes = std::fs::read(&path).expect("a file");
        std::fs::write(&path, &bytes[..bytes.len() / 2]).expect("written");
    }
    assert_eq!(with_cache(), changed);
    for path in cached() {
        let mut bytes = std::fs::read(&path).expect("a file");
        bytes[100..].fill(0);
        std::fs::write(&path, bytes).expect("written");
    }
    assert_eq!(with_cache(), changed);
    assert_eq!(with_cache(), changed);
}

#[test]
fn unreadable_images_are_left_out_and_bad_arguments_are_errors() {
    let files = Files::new();
    files.write("photos/aa.png", b"no image");
    let output = files.run("retrieve", "irtr.ckpt", &["photos", "a red circle", "--csv"]);
    assert_one_line_error("unreadable", &output, &["1 of 3 images"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        text.starts_with("image,score\nphotos/") && text.lines().count() == 3,
        "{text}"
    );
    std::fs::create_dir(files.path("empty")).expect("a directory");
    let long = "a ".repeat(100);
    for (arguments, parts) in [
        (&["empty", "a"][..], &["empty: no image file"][..]),
        (&["photos", &long], &["longer than the limit"]),
        (
            &["photos/aa.png", "--texts", "vocab.txt"],
            &["aa.png: image cannot be decoded"],
        ),
        (&["photos", "--texts", "none.txt"], &["none.txt"]),
    ] {
        assert_one_line_error(parts[0], &files.run("retrieve", "irtr.ckpt", arguments), parts);
    }
    assert_one_line_error(
        "head",
        &files.run("retrieve", "vqa.ckpt", &["photos", "a"]),
        &["no head for ranking or image-text matching"],
    );
    // A text that is too long costs only itself: among queries, and among candidates.
    files.write("texts.txt", format!("a b\n{long}\nc\n").as_bytes());
    let output = files.run(
        "retrieve",
        "irtr.ckpt",
        &["photos/a.png", "--texts", "texts.txt", "--csv"],
    );
    assert_one_line_error("candidates", &output, &["1 of 3 texts"]);
    assert_eq!(String::from_utf8_lossy(&output.stdout).lines().count(), 3);
    std::fs::remove_file(files.path("photos/aa.png")).expect("removed");
    let output = files.run("retrieve", "irtr.ckpt", &["photos", "--texts", "texts.txt", "--json"]);
    assert_one_line_error("queries", &output, &["1 of 3 inputs"]);
    let output = String::from_utf8_lossy(&output.stdout).into_owned();
    let documents: Vec<Value> = output
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert!(documents[0].is_array() && documents[2].is_array(), "{output}");
    assert!(
        documents[1]["error"]
            .as_str()
            .is_some_and(|error| error.contains("longer")),
        "{output}"
    );
    let output = files.run("retrieve", "irtr.ckpt", &["photos"]);
    assert_eq!(output.status.code(), Some(2));
    assert_success(&files.run("retrieve", "irtr.ckpt", &["photos/a.png", "a red circle"]));
}
