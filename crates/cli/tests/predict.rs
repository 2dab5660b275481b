//! `vlct predict` on image files: its answers are those of the library, and every kind of bad input is one clear line.

mod predict_support;
mod support;

use std::path::Path;

use predict_support::{Files, documents, image, write_label_checkpoint};
use serde_json::Value;
use support::{assert_one_line_error, assert_success, vlct};
use tempfile::TempDir;
use vlct_image::{Orientation, Reading, decode_with, encode_png};
use vlct_model::files::{self, StoredTensor, Style};
use vlct_predict::classify::{Classifier, ZeroShot};
use vlct_predict::matching::Matching;
use vlct_predict::nlvr2::Nlvr2;
use vlct_predict::vqa::Vqa;
use vlct_predict::{Item, OpenOptions, PairItem, Predictor};
use vlct_tensor::Precision;

/// Panics unless a document lists these names and scores, which are printed with the digits of an f32.
fn assert_scored(document: &Value, key: &str, want: &[(String, f32)]) {
    let got: Vec<(String, f32)> = document
        .as_array()
        .expect("a list")
        .iter()
        .map(|entry| {
            let score = entry["score"].as_f64().expect("a number") as f32;
            (entry[key].as_str().expect("a name").to_owned(), score)
        })
        .collect();
    assert_eq!(got, want);
}

#[test]
fn vqa_prints_the_answers_of_the_library() {
    let files = Files::new();
    let predictor = files.open("vqa.ckpt", &[Vqa::HEAD]);
    let task = Vqa::new(&predictor, Some(&files.path("answers.json"))).expect("a task");
    let want = |image: &str, question: &str, count: usize| -> Vec<(String, f32)> {
        let logits = task.logits(&[files.item(&predictor, image, question)]);
        task.answers(&logits[0], count)
            .into_iter()
            .map(|a| (a.name, a.score))
            .collect()
    };
    let answers = ["--answers", "answers.json"];
    let one = files.documents(
        "vqa",
        "vqa.ckpt",
        &[&answers[..], &["one.png", "is the circle red", "--top-k", "3"]].concat(),
    );
    assert_scored(&one[0], "answer", &want("one.png", "is the circle red", 3));

    let lines = "{\"image\": \"one.png\", \"question\": \"is the circle red\"}\n{\"image\": \"two.png\", \"question\": \"a b\"}\n";
    files.write("questions.jsonl", lines.as_bytes());
    let input = ["--input", "questions.jsonl", "--batch", "1"];
    let both = files.documents("vqa", "vqa.ckpt", &[&answers[..], &input].concat());
    assert_eq!(both.len(), 2);
    assert_scored(&both[0], "answer", &want("one.png", "is the circle red", 5));
    assert_scored(&both[1], "answer", &want("two.png", "a b", 5));

    let table = files.run(
        "vqa",
        "vqa.ckpt",
        &[&answers[..], &["one.png", "a", "--top-k", "1"]].concat(),
    );
    let (name, score) = &want("one.png", "a", 1)[0];
    assert_eq!(
        String::from_utf8_lossy(&table.stdout),
        format!("{name}  {:.1} %\n", 100.0 * score)
    );
}

#[test]
fn match_and_nlvr2_print_the_probabilities_of_the_library() {
    let files = Files::new();
    let predictor = files.open("pretrain.ckpt", &[Matching::HEAD]);
    let logits =
        Matching::new(&predictor)
            .expect("a task")
            .logits(&[files.item(&predictor, "one.png", "a red circle")]);
    let yes = Matching::probability(logits[0]);
    let documents = files.documents("match", "pretrain.ckpt", &["one.png", "a red circle"]);
    let mut want = [("yes".to_owned(), yes), ("no".to_owned(), 1.0 - yes)];
    want.sort_by(|a, b| b.1.total_cmp(&a.1));
    assert_scored(&documents[0], "label", &want);

    let predictor = files.open("nlvr2.ckpt", &[Nlvr2::HEAD]);
    let values = |name: &str| {
        predictor
            .preparation()
            .image(&files.path(name))
            .expect("an image")
            .values
    };
    let item = PairItem {
        images: [values("one.png"), values("two.png")],
        text: predictor.preparation().text("the circle is red").expect("a text"),
    };
    let logits = Nlvr2::new(&predictor).expect("a task").logits(&[item]);
    let truth = Nlvr2::probability(logits[0]);
    let mut want = [("true".to_owned(), truth), ("false".to_owned(), 1.0 - truth)];
    want.sort_by(|a, b| b.1.total_cmp(&a.1));
    let arguments = ["one.png", "two.png", "the circle is red"];
    assert_scored(&files.documents("nlvr2", "nlvr2.ckpt", &arguments)[0], "label", &want);
    let line = "{\"image_0\": \"one.png\", \"image_1\": \"two.png\", \"statement\": \"the circle is red\"}";
    files.write("pairs.jsonl", line.as_bytes());
    assert_scored(
        &files.documents("nlvr2", "nlvr2.ckpt", &["--input", "pairs.jsonl"])[0],
        "label",
        &want,
    );
}

#[test]
fn zero_shot_classes_are_those_of_the_library() {
    let files = Files::new();
    files.write("classes.txt", b"red\nblue\nsquare\n");
    let classes: Vec<String> = ["red", "blue", "square"].map(str::to_owned).into();
    let predictor = files.open("pretrain.ckpt", &[ZeroShot::HEAD]);
    let task = ZeroShot::new(&predictor, classes, "a {} circle").expect("a task");
    let values = predictor
        .preparation()
        .image(&files.path("one.png"))
        .expect("an image")
        .values;
    let want: Vec<(String, f32)> = task
        .classes(&task.logits(&values), 5)
        .into_iter()
        .map(|c| (c.name, c.score))
        .collect();
    assert!((want.iter().map(|c| c.1).sum::<f32>() - 1.0).abs() < 1e-6);
    let arguments = ["one.png", "--classes", "classes.txt", "--template", "a {} circle"];
    assert_scored(
        &files.documents("classify", "pretrain.ckpt", &arguments)[0],
        "label",
        &want,
    );
    let output = files.run(
        "classify",
        "pretrain.ckpt",
        &["one.png", "--classes", "classes.txt", "--template", "no place"],
    );
    assert_one_line_error("template", &output, &["does not contain {}"]);
}

#[test]
fn labels_are_those_of_the_library_and_image_or_text_may_be_missing() {
    let files = Files::new();
    for several in [false, true] {
        write_label_checkpoint(&files.path("run"), &files.path("vocab.txt"), several);
        let options = OpenOptions {
            precision: Some(Precision::F32),
            ..OpenOptions::default()
        };
        let predictor = Predictor::open(&files.path("run"), &[Classifier::HEAD], &options).expect("a predictor");
        let task = Classifier::new(&predictor).expect("a task");
        let want = |image: Option<&str>, text: &str| -> Vec<(String, f32)> {
            let item = Item {
                image: image.map(|name| {
                    predictor
                        .preparation()
                        .image(&files.path(name))
                        .expect("an image")
                        .values
                }),
                text: predictor.preparation().text(text).expect("a text"),
            };
            let logits = task.logits(&[item]).remove(0);
            task.labels(&logits, 3).into_iter().map(|l| (l.name, l.score)).collect()
        };
        let of = |arguments: &[&str]| {
            let mut command = vlct();
            command.current_dir(files.path(""));
            command.args(["predict", "classify", "--load", "run", "--precision", "f32", "--json"]);
            let output = command.args(arguments).output().expect("the program starts");
            assert_success(&output);
            documents(&output).remove(0)
        };
        assert_scored(
            &of(&["one.png", "--text", "a red circle"]),
            "label",
            &want(Some("one.png"), "a red circle"),
        );
        assert_scored(&of(&["one.png"]), "label", &want(Some("one.png"), ""));
        assert_scored(&of(&["--text", "a red circle"]), "label", &want(None, "a red circle"));
        let sum: f32 = want(Some("one.png"), "").iter().map(|l| l.1).sum();
        assert_eq!((sum - 1.0).abs() < 1e-6, !several);
    }
}

#[test]
fn a_directory_and_csv_have_one_group_of_rows_per_image() {
    let files = Files::new();
    let output = files.run("match", "pretrain.ckpt", &["photos", "a, b", "--csv"]);
    assert_success(&output);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "images,text,label,score,error");
    assert_eq!(lines.len(), 5);
    assert!(
        lines[1].starts_with("photos/a.png,\"a, b\",") && lines[3].starts_with("photos/b.png,"),
        "{text}"
    );
}

#[test]
fn an_unreadable_input_is_an_error_at_its_place() {
    let files = Files::new();
    files.write("photos/aa.png", b"no image");
    for format in [&[][..], &["--csv"]] {
        let output = files.run("match", "pretrain.ckpt", &[&["photos", "a b"], format].concat());
        assert_one_line_error("directory", &output, &["1 of 3 inputs"]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let positions = ["a.png", "aa.png: image cannot be decoded", "b.png"].map(|part| text.find(part));
        assert!(positions.iter().all(Option::is_some) && positions.is_sorted(), "{text}");
    }
    let output = files.run("match", "pretrain.ckpt", &["photos", "a b", "--json"]);
    let places: Vec<bool> = documents(&output)
        .iter()
        .map(|document| document["error"].is_string())
        .collect();
    assert_eq!(places, [false, true, false]);
    files.write(
        "input.jsonl",
        b"{\"image\": \"one.png\", \"text\": \"a\"}\nnothing\n{\"image\": \"two.png\"}\n",
    );
    let output = files.run("match", "pretrain.ckpt", &["--input", "input.jsonl", "--json"]);
    assert_one_line_error("lines", &output, &["2 of 3 inputs"]);
    let documents = documents(&output);
    assert!(documents[0].is_array());
    assert!(
        documents[1]["error"]
            .as_str()
            .expect("text")
            .contains("line 2: not JSON")
    );
    assert!(
        documents[2]["error"]
            .as_str()
            .expect("text")
            .contains("a text is needed")
    );
}

#[test]
fn bad_input_is_one_clear_line() {
    let files = Files::new();
    files.write("bad.png", b"no image");
    files.write("short.json", b"[\"yes\", \"no\"]");
    std::fs::create_dir(files.path("empty")).expect("a directory");
    let long = "a ".repeat(500);
    let cases: [(&str, &str, &[&str], &[&str]); 10] = [
        (
            "vqa",
            "pretrain.ckpt",
            &["one.png", "a"],
            &[
                "no head for visual question answering",
                "image-text matching",
                "vlct predict can use it for match",
            ],
        ),
        (
            "vqa",
            "vqa.ckpt",
            &["one.png", "a"],
            &["does not have the names", "--answers FILE"],
        ),
        (
            "vqa",
            "vqa.ckpt",
            &["one.png", "a", "--answers", "short.json"],
            &["short.json: 2 answers", "has 50"],
        ),
        ("match", "pretrain.ckpt", &["empty", "a"], &["empty: no image file"]),
        (
            "match",
            "pretrain.ckpt",
            &["one.png", &long],
            &["longer than the limit of 16 tokens", "--truncate"],
        ),
        (
            "match",
            "pretrain.ckpt",
            &["bad.png", "a"],
            &["bad.png: image cannot be decoded"],
        ),
        ("match", "pretrain.ckpt", &["none.png", "a"], &["none.png"]),
        (
            "match",
            "pretrain.ckpt",
            &["one.png", "a", "--image-size", "33"],
            &["image size 33"],
        ),
        ("match", "config.json", &["one.png", "a"], &["config.json"]),
        ("match", "mae.pth", &["one.png", "a"], &["mae.pth", "not a VLC model"]),
    ];
    for (task, checkpoint, arguments, parts) in cases {
        assert_one_line_error(
            &format!("{task} {arguments:?}"),
            &files.run(task, checkpoint, arguments),
            parts,
        );
    }
    let truncated = files.run("match", "pretrain.ckpt", &["one.png", &long, "--truncate"]);
    assert_success(&truncated);
    let one_image = files.run("nlvr2", "nlvr2.ckpt", &["one.png", "a"]);
    assert_eq!(one_image.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&one_image.stderr).contains("two images and a statement"));
    files.write("one.jsonl", b"{\"image_0\": \"one.png\", \"statement\": \"a\"}");
    let output = files.run("nlvr2", "nlvr2.ckpt", &["--input", "one.jsonl", "--json"]);
    assert!(
        documents(&output)[0]["error"]
            .as_str()
            .expect("text")
            .contains("two images are needed, there are 1")
    );
}

#[test]
fn outputs_that_are_not_numbers_are_errors() {
    let files = Files::new();
    let golden = vlct_golden::directories("model")[0].join("pretrain.ckpt");
    let state = files::read(&golden).expect("weights").state;
    let write = |name: &str, value: f32| -> String {
        let damaged = state.clone().into_iter().map(|(name, tensor)| {
            let len = tensor.shape.iter().product();
            match name.starts_with("itm_score") {
                true => (name, StoredTensor::f32(tensor.shape, vec![value; len])),
                false => (name, tensor),
            }
        });
        let path = files.path(name);
        files::write(&path, &damaged.collect(), &Style::Vlc.into()).expect("written");
        path.to_str().expect("text").to_owned()
    };
    let path = write("nan.safetensors", f32::NAN);
    let output = files.run("match", &path, &["one.png", "a", "--heads", "4"]);
    assert_one_line_error(
        "weights",
        &output,
        &["values of tensor itm_score.fc.weight are NaN or infinite"],
    );
    // Finite weights whose products are not.
    let path = &write("large.safetensors", f32::MAX);
    let output = files.run("match", path, &["one.png", "a", "--heads", "4"]);
    assert_one_line_error("not a number", &output, &["not finite"]);
    assert!(output.stdout.is_empty());
    let output = files.run("match", path, &["photos", "a", "--heads", "4"]);
    assert_one_line_error("not numbers", &output, &["2 of 2 inputs"]);
}

#[test]
fn images_are_turned_upright_unless_they_are_used_as_stored() {
    let files = Files::new();
    let rotated = vlct_golden::directories("images")[0].join("rotated_exif.jpg");
    let reading = Reading {
        orientation: Orientation::Upright,
        ..Reading::default()
    };
    let upright = decode_with(&std::fs::read(&rotated).expect("an image"), reading).expect("decoded");
    files.write("upright.png", &encode_png(&upright.image).expect("encoded"));
    let rotated = rotated.to_str().expect("UTF-8");
    let of = |arguments: &[&str]| files.documents("match", "pretrain.ckpt", &[arguments, &["a red circle"]].concat());
    assert_eq!(of(&[rotated]), of(&["upright.png"]));
    assert_ne!(of(&["--as-stored", rotated]), of(&["upright.png"]));
}

#[test]
fn a_checkpoint_of_a_run_needs_no_other_file() {
    let directory = TempDir::new().expect("a directory");
    support::write_synthetic(&directory.path().join("data"), 8);
    let arguments = support::tiny_model_arguments("data", &["max_steps=1", "limit_val_batches=1", "precision=32"]);
    assert_success(&support::run_with(directory.path(), &arguments));
    let run = support::run_directory(directory.path(), "result");
    std::fs::remove_dir_all(directory.path().join("data")).expect("removed");
    std::fs::write(directory.path().join("one.png"), image(0)).expect("written");
    let predict = |path: &Path| {
        let mut command = vlct();
        command
            .current_dir(directory.path())
            .args(["predict", "match", "--json", "--load"]);
        command
            .arg(path)
            .args(["one.png", "a red circle"])
            .output()
            .expect("the program starts")
    };
    let output = predict(&run);
    assert_success(&output);
    assert!(output.stderr.is_empty(), "{}", support::stderr_of(&output));
    assert_eq!(documents(&output).len(), 1);
    // A damaged checkpoint is an error, although its header is intact.
    let path = vlct_checkpoint::find(&run).expect("a checkpoint");
    let mut bytes = std::fs::read(&path).expect("a checkpoint");
    *bytes.last_mut().expect("not empty") ^= 1;
    std::fs::write(&path, bytes).expect("written");
    assert_one_line_error("damaged", &predict(&path), &["the checksum does not match"]);
    assert_one_line_error(
        "no checkpoint",
        &predict(directory.path()),
        &["the directory has no weights; give a run directory"],
    );
}
