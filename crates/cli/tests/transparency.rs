//! Transparent pixels and orientation tags of custom images: preparation, training from Arrow files and from tars, and prediction agree.

mod support;

use std::path::Path;

use image::{Rgba, RgbaImage};
use serde_json::Value;
use support::{
    assert_one_line_error, assert_same_checkpoint, assert_success, last_checkpoint, run_with, tiny_model_arguments,
    vlct_in, write_synthetic,
};
use tempfile::TempDir;
use vlct_checkpoint as checkpoint;

/// Returns a PNG file whose left half is transparent over the colour `hidden`.
fn half_transparent(hidden: [u8; 3], seed: u32) -> Vec<u8> {
    let image = RgbaImage::from_fn(32, 32, |x, y| match x < 16 {
        true => Rgba([hidden[0], hidden[1], hidden[2], 0]),
        false => Rgba([(x * 8 + seed) as u8, (y * 8) as u8, (seed * 40) as u8, 255]),
    });
    let mut file = std::io::Cursor::new(Vec::new());
    image.write_to(&mut file, image::ImageFormat::Png).expect("encoded");
    file.into_inner()
}

/// Writes `photos/N.png` with a transparent half, `photos.csv`, the same as the tar `data/web/0.tar`, and a vocabulary.
fn write_photos(directory: &Path, hidden: [u8; 3]) {
    let photos = directory.join("photos");
    std::fs::create_dir_all(&photos).expect("created");
    std::fs::create_dir_all(directory.join("data/web")).expect("created");
    write_synthetic(&directory.join("synthetic"), 1);
    std::fs::copy(directory.join("synthetic/vocab.txt"), directory.join("data/vocab.txt")).expect("copied");
    let mut csv = String::from("image,caption\n");
    let mut tar = tar::Builder::new(std::fs::File::create(directory.join("data/web/0.tar")).expect("created"));
    for seed in 0..8u32 {
        let (image, caption) = (half_transparent(hidden, seed), format!("a red circle {seed}"));
        std::fs::write(photos.join(format!("{seed}.png")), &image).expect("written");
        csv.push_str(&format!("{seed}.png,{caption}\n"));
        for (extension, bytes) in [("png", image.as_slice()), ("txt", caption.as_bytes())] {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            tar.append_data(&mut header, format!("{seed}.{extension}"), bytes)
                .expect("written");
        }
    }
    tar.finish().expect("written");
    std::fs::write(directory.join("photos.csv"), csv).expect("written");
}

/// Prepares the photos as the dataset `name` and returns what was printed.
fn prepare(directory: &Path, name: &str, options: &[&str]) -> String {
    let words = [
        "prepare",
        "csv",
        "--root",
        "photos",
        "--annotations",
        "photos.csv",
        "--out",
        "data",
        "--name",
        name,
    ];
    let output = vlct_in(directory, &[&words, options].concat());
    assert_success(&output);
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn train(directory: &Path, log_dir: &str, more: &[&str]) {
    let log_dir = format!("log_dir={log_dir}");
    let words = [&["max_steps=3", &log_dir][..], more].concat();
    assert_success(&run_with(directory, &tiny_model_arguments("data", &words)));
}

#[test]
fn arrow_files_tars_and_equal_pixels_give_the_same_weights() {
    let directory = TempDir::new().expect("temporary directory");
    let directory = directory.path();
    write_photos(directory, [250, 0, 0]);
    let text = prepare(directory, "photos", &[]);
    assert!(
        text.contains("images with transparent pixels: 8; these pixels are filled with white"),
        "{text}"
    );
    let report: Value =
        serde_json::from_slice(&std::fs::read(directory.join("data/prepare_photos.json")).expect("there"))
            .expect("JSON");
    assert_eq!(report["reading"]["background"], "white");
    assert_eq!(report["reading"]["orientation"], "upright");
    assert_eq!(report["files"][0]["transparent"], 8);

    // The order of rows differs between the table and the tar, so the tar is prepared too.
    let words = [
        "prepare",
        "webdataset",
        "--root",
        "data/web",
        "--out",
        "data",
        "--name",
        "packed",
    ];
    assert_success(&vlct_in(directory, &words));
    train(directory, "tar", &["datasets=['web']"]);
    train(directory, "packed", &["datasets=['packed']"]);
    let same_order = directory.join("data/packed_train_0.arrow").is_file();
    assert!(same_order);

    train(directory, "arrow", &["datasets=['photos']"]);
    train(
        directory,
        "key",
        &["datasets=['photos']", "background=white", "orientation=upright"],
    );
    assert_same_checkpoint(&last_checkpoint(directory, "arrow"), &last_checkpoint(directory, "key"));
    let reading = |log_dir: &str| {
        let file = checkpoint::load(&last_checkpoint(directory, log_dir)).expect("a checkpoint");
        file.description().expect("a description")["inputs"]["reading"].clone()
    };
    for log_dir in ["tar", "packed", "arrow"] {
        assert_eq!(reading(log_dir)["background"], "white", "{log_dir}");
    }

    // With hidden pixels of another colour, the weights are the same on white, and others if alpha is dropped.
    let other = TempDir::new().expect("temporary directory");
    let other = other.path();
    write_photos(other, [0, 90, 10]);
    prepare(other, "photos", &[]);
    for (log_dir, background) in [("arrow", "background=white"), ("keep", "background=keep")] {
        train(other, log_dir, &["datasets=['photos']", background]);
    }
    assert_same_checkpoint(&last_checkpoint(directory, "arrow"), &last_checkpoint(other, "arrow"));
    train(directory, "keep", &["datasets=['photos']", "background=keep"]);
    let weight = |directory: &Path| {
        let file = checkpoint::load(&last_checkpoint(directory, "keep")).expect("a checkpoint");
        file.values("transformer.patch_embed.proj.weight").expect("a weight")
    };
    assert_ne!(weight(directory), weight(other), "alpha is dropped");
}

#[test]
fn predictions_use_the_background_of_the_training() {
    let directory = TempDir::new().expect("temporary directory");
    let directory = directory.path();
    write_photos(directory, [250, 0, 0]);
    std::fs::write(directory.join("red.png"), half_transparent([250, 0, 0], 1)).expect("written");
    std::fs::write(directory.join("green.png"), half_transparent([0, 250, 0], 1)).expect("written");
    let predict = |run: &str, image: &str, options: &[&str]| {
        let run = support::run_directory(directory, run);
        let run = run.to_str().expect("UTF-8");
        let words = ["predict", "match", "--json", "--load", run, image, "a red circle"];
        let output = vlct_in(directory, &[&words, options].concat());
        assert_success(&output);
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        let json: Value = serde_json::from_str(text.trim()).expect("JSON");
        json.to_string().replace(image, "")
    };
    prepare(directory, "black", &["--background", "black", "--as-stored"]);
    prepare(directory, "keep", &["--background", "keep"]);
    for name in ["black", "keep"] {
        train(directory, name, &[&format!("datasets=['{name}']")]);
    }
    let black = predict("black", "red.png", &[]);
    assert_eq!(black, predict("black", "green.png", &[]));
    assert_ne!(black, predict("black", "red.png", &["--background", "white"]));
    assert_ne!(predict("keep", "red.png", &[]), predict("keep", "green.png", &[]));
}

#[test]
fn wrong_backgrounds_are_errors() {
    let directory = TempDir::new().expect("temporary directory");
    let directory = directory.path();
    write_photos(directory, [0; 3]);
    let words = [
        "prepare",
        "csv",
        "--root",
        "photos",
        "--out",
        "data",
        "--name",
        "x",
        "--background",
        "whyte",
    ];
    let output = vlct_in(directory, &words);
    assert_eq!(output.status.code(), Some(2), "{}", support::stderr_of(&output));
    let output = run_with(
        directory,
        &tiny_model_arguments("data", &["datasets=['web']", "background=#12"]),
    );
    assert_one_line_error(
        "a wrong colour",
        &output,
        &["background", "'keep', 'white', 'black' or '#rrggbb'"],
    );
    let output = vlct_in(
        directory,
        &[
            "prepare",
            "coco",
            "--root",
            "photos",
            "--out",
            "data",
            "--background",
            "white",
        ],
    );
    assert_eq!(output.status.code(), Some(2));
}
