//! Data as other programs write them: unsorted and compressed tars, captions beside images, streams and views of Arrow.

mod support;

use std::fs;
use std::path::Path;

use support::{
    assert_one_line_error, assert_success, run_with, stderr_of, stdout_of, tiny_model_arguments, vlct_in,
    write_synthetic,
};
use tempfile::TempDir;
use vlct_data::arrow::ArrowTable;

/// Writes synthetic data to `data` and returns the images of its training split.
fn images(directory: &Path) -> Vec<Vec<u8>> {
    let data = directory.join("data");
    write_synthetic(&data, 12);
    let table = ArrowTable::open(data.join("coco_caption_karpathy_train.arrow")).expect("an Arrow file");
    let image = |row| table.image(row, "image").expect("an image").to_vec();
    (0..table.rows()).map(image).collect()
}

fn write_tar(path: &Path, members: &[(String, &[u8])]) {
    fs::create_dir_all(path.parent().expect("in a directory")).expect("created");
    let mut builder = tar::Builder::new(fs::File::create(path).expect("created"));
    for (name, bytes) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        builder.append_data(&mut header, name, *bytes).expect("written");
    }
    builder.finish().expect("written");
}

fn assert_has(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
}

#[test]
fn trains_on_unsorted_tars_and_says_what_is_left_out() {
    let directory = TempDir::new().expect("temporary directory");
    let directory = directory.path();
    let images = images(directory);
    let mut members: Vec<(String, &[u8])> = Vec::new();
    members.extend(
        (0..)
            .zip(&images[..6])
            .map(|(row, image)| (format!("{row}.png"), &image[..])),
    );
    members.extend((0..5).map(|row| (format!("{row}.txt"), &b"a red circle"[..])));
    members.push(("5.json".into(), b"[NaN]"));
    members.push(("6.mask.png".into(), &images[6]));
    write_tar(&directory.join("data/web/0.TAR"), &members);
    let arguments = |datasets: &'static str| {
        let datasets = format!("datasets={datasets}");
        run_with(directory, &tiny_model_arguments("data", &["max_steps=1", &datasets]))
    };
    let output = arguments("web");
    assert_success(&output);
    assert_has(
        &stderr_of(&output),
        &[
            "warning: web: left out 1 image whose caption cannot be read (\"5.json\" is not a JSON object",
            "members with other endings than .jpg, .txt, …: 1 mask.png (train split)",
            "5 captions of 5 images",
        ],
    );
    // A list needs neither quotes nor brackets.
    let output = arguments("coco,web");
    assert_success(&output);

    let output = vlct_in(directory, &["inspect", "data/web"]);
    assert_success(&output);
    assert_has(
        &stdout_of(&output),
        &[
            "shard of 5 samples with 5 captions",
            "left out: 1 image",
            "1 other member: 1 mask.png",
        ],
    );
}

#[test]
fn prepares_compressed_tars_which_training_names() {
    let directory = TempDir::new().expect("temporary directory");
    let directory = directory.path();
    let images = images(directory);
    let members = [
        ("0.png".to_string(), &images[0][..]),
        ("0.txt".to_string(), b"a red circle"),
    ];
    let tar = directory.join("data/web/0.tar");
    write_tar(&tar, &members);
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::copy(&mut &fs::read(&tar).expect("written")[..], &mut encoder).expect("compressed");
    fs::remove_file(&tar).expect("removed");
    fs::write(
        directory.join("data/web/0.tar.gz"),
        encoder.finish().expect("compressed"),
    )
    .expect("written");

    let output = run_with(
        directory,
        &tiny_model_arguments("data", &["max_steps=1", "datasets=web"]),
    );
    assert_one_line_error(
        "a compressed tar",
        &output,
        &[
            "0.tar.gz: it is compressed with gzip; unpack it with gunzip",
            "vlct prepare webdataset",
        ],
    );
    let output = vlct_in(directory, &["inspect", "data/web/0.tar.gz", "--sheet", "sheet.png"]);
    assert_success(&output);
    assert_has(
        &stdout_of(&output),
        &["shard of 1 sample with 1 caption", "sheet.png: 1 row"],
    );
    let output = vlct_in(
        directory,
        &[
            "prepare",
            "webdataset",
            "--root",
            "data/web",
            "--name",
            "mine",
            "--out",
            "out",
        ],
    );
    assert_success(&output);
    let table = ArrowTable::open(directory.join("out/mine_train_0.arrow")).expect("written");
    assert_eq!(table.texts(0, "caption").expect("captions"), ["a red circle"]);
}

#[test]
fn prepares_captions_beside_images() {
    let directory = TempDir::new().expect("temporary directory");
    let directory = directory.path();
    let images = images(directory);
    fs::create_dir_all(directory.join("photos/10_shapes")).expect("created");
    for (row, image) in images[..3].iter().enumerate() {
        fs::write(directory.join(format!("photos/10_shapes/{row}.png")), image).expect("written");
        if row < 2 {
            fs::write(directory.join(format!("photos/10_shapes/{row}.txt")), "a red circle").expect("written");
        }
    }
    let output = vlct_in(
        directory,
        &[
            "prepare", "files", "--root", "photos", "--name", "mine", "--out", "data",
        ],
    );
    assert_success(&output);
    assert_has(
        &stdout_of(&output),
        &[
            "mine_train_0.arrow: 2 rows",
            "train: left out 1 image without a caption (10_shapes/2.png)",
        ],
    );
    let output = run_with(
        directory,
        &tiny_model_arguments("data", &["max_steps=1", "datasets=mine"]),
    );
    assert_success(&output);

    fs::write(directory.join("table.csv"), "image,caption\n").expect("written");
    let output = vlct_in(directory, &["inspect", "table.csv"]);
    assert_one_line_error("a table", &output, &["vlct prepare csv makes Arrow files of it"]);
    fs::write(directory.join("x.arrow.gz"), b"\x1f\x8b").expect("written");
    let output = vlct_in(directory, &["inspect", "x.arrow.gz"]);
    assert_one_line_error(
        "a compressed file",
        &output,
        &["it is compressed with gzip; unpack it with gunzip"],
    );
}
