//! Training on custom datasets: Arrow files whose names begin with that of the dataset, and directories of WebDataset shards.

mod support;

use std::path::Path;
use support::{
    assert_one_line_error, assert_same_checkpoint, assert_success, last_checkpoint, run_directory, run_with, stderr_of,
    tiny_model_arguments, vlct, write_synthetic,
};
use tempfile::TempDir;
use vlct_data::arrow::ArrowTable;
use vlct_model::checkpoint;

/// Writes the rows of an Arrow file as a WebDataset shard with captions in JSON.
fn write_tar(table: &Path, tar: &Path) {
    let table = ArrowTable::open(table).expect("an Arrow file");
    std::fs::create_dir_all(tar.parent().expect("in a directory")).expect("created");
    let mut builder = tar::Builder::new(std::fs::File::create(tar).expect("created"));
    for row in 0..table.rows() {
        let metadata = serde_json::json!({"caption": table.texts(row, "caption").expect("captions")}).to_string();
        let image = table.image(row, "image").expect("an image");
        for (extension, bytes) in [("png", image), ("json", metadata.as_bytes())] {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            builder
                .append_data(&mut header, format!("{row:09}.{extension}"), bytes)
                .expect("written");
        }
    }
    builder.finish().expect("written");
}

fn run(directory: &Path, log_dir: &str, datasets: &str) -> std::process::Output {
    let (log_dir, datasets) = (format!("log_dir={log_dir}"), format!("datasets={datasets}"));
    run_with(
        directory,
        &tiny_model_arguments("data", &["max_steps=6", "limit_val_batches=1", &log_dir, &datasets]),
    )
}

#[test]
fn arrow_files_and_tars_give_the_same_weights() {
    let directory = TempDir::new().expect("temporary directory");
    let directory = directory.path();
    let data = directory.join("data");
    write_synthetic(&data, 24);
    for (published, custom, tar) in [
        ("coco_caption_karpathy_train", "mine_train_0", "web/train/0.tar"),
        ("coco_caption_karpathy_restval", "mine_train_1", "web/train/1.tar"),
        ("coco_caption_karpathy_test", "mine_val", "web/val/0.tar"),
    ] {
        let published = data.join(published).with_extension("arrow");
        write_tar(&published, &data.join(tar));
        std::fs::copy(published, data.join(custom).with_extension("arrow")).expect("copied");
    }
    for (log_dir, datasets) in [("published", "['coco']"), ("arrow", "['mine']"), ("tar", "['web']")] {
        assert_success(&run(directory, log_dir, datasets));
    }
    assert_same_checkpoint(
        &last_checkpoint(directory, "published"),
        &last_checkpoint(directory, "arrow"),
    );
    assert_same_checkpoint(
        &last_checkpoint(directory, "published"),
        &last_checkpoint(directory, "tar"),
    );

    // Without validation data there is no best checkpoint.
    std::fs::copy(data.join("mine_train_0.arrow"), data.join("only_train.arrow")).expect("copied");
    let output = run(directory, "only", "['only']");
    assert_success(&output);
    assert!(
        stderr_of(&output).contains("there is no validation data"),
        "{}",
        stderr_of(&output)
    );
    assert!(last_checkpoint(directory, "only").is_file());
    assert!(!checkpoint::best_path(&run_directory(directory, "only")).exists());

    // `inspect` lists tars beside Arrow files, and does not overwrite data with a contact sheet.
    let inspect = |more: &[&str]| {
        vlct()
            .current_dir(directory)
            .args(["inspect", "data"])
            .args(more)
            .output()
    };
    let output = inspect(&[]).expect("the program starts");
    assert_success(&output);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        text.contains("only_train.arrow") && text.contains("web/train/0.tar"),
        "{text}"
    );
    let before = std::fs::read(data.join("only_train.arrow")).expect("there");
    let output = inspect(&["--sheet", "data/only_train.arrow"]).expect("the program starts");
    assert_one_line_error("a sheet over data", &output, &["ends in .png"]);
    assert!(std::fs::read(data.join("only_train.arrow")).expect("there") == before);

    let output = vlct()
        .arg("inspect")
        .arg(data.join("web"))
        .output()
        .expect("the program starts");
    assert_success(&output);
    let text = String::from_utf8_lossy(&output.stdout);
    for part in [
        "web/train/0.tar",
        "shard of 24 samples",
        "web/train/1.tar",
        "web/val/0.tar",
        "intact",
    ] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }

    let tar = data.join("web/train/0.tar");
    let original = std::fs::read(&tar).expect("written");
    std::fs::write(&tar, &original[..original.len() / 2]).expect("written");
    assert_one_line_error(
        "a truncated tar",
        &run(directory, "cut", "['web']"),
        &["0.tar", "cut short"],
    );
    let output = vlct().arg("inspect").arg(&tar).output().expect("the program starts");
    assert_one_line_error("inspecting a truncated tar", &output, &["0.tar", "cut short"]);
}

#[test]
fn suggests_the_nearest_dataset_name() {
    let directory = TempDir::new().expect("temporary directory");
    write_synthetic(&directory.path().join("data"), 12);
    assert_one_line_error(
        "a typo",
        &run(directory.path(), "typo", "['cocoa']"),
        &["\"cocoa\"", "did you mean \"coco\"?", "cocoa_train_0.arrow"],
    );
}

#[test]
fn trains_on_a_prepared_table() {
    let directory = TempDir::new().expect("temporary directory");
    let directory = directory.path();
    let data = directory.join("data");
    write_synthetic(&data, 24);
    let table = ArrowTable::open(data.join("coco_caption_karpathy_train.arrow")).expect("an Arrow file");
    std::fs::create_dir(directory.join("photos")).expect("created");
    let mut csv = String::from("url,photo,alt\n");
    for row in 0..table.rows() {
        let image = table.image(row, "image").expect("an image");
        std::fs::write(directory.join(format!("photos/{row}.png")), image).expect("written");
        for caption in table.texts(row, "caption").expect("captions") {
            csv.push_str(&format!("https://x/{row},{row}.png,\"{caption}\"\n"));
        }
    }
    std::fs::write(directory.join("photos.csv"), csv).expect("written");
    let prepare = |arguments: &[&str]| {
        let fixed = [
            "prepare",
            "csv",
            "--root",
            "photos",
            "--out",
            "data",
            "--annotations",
            "photos.csv",
        ];
        let mut command = vlct();
        command
            .current_dir(directory)
            .args(fixed)
            .args(arguments)
            .output()
            .expect("the program starts")
    };
    let columns = ["--image-column", "photo", "--text-column", "alt"];
    let output = prepare(&columns);
    assert_eq!(output.status.code(), Some(2), "--name is needed");
    assert_one_line_error(
        "a wrong column",
        &prepare(&["--name", "photos", "--text-column", "alt"]),
        &["photos.csv", "\"photo\""],
    );
    let output = prepare(&[&columns[..], &["--name", "photos"]].concat());
    assert_success(&output);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("photos_train_0.arrow: 24 rows"), "{text}");

    std::fs::copy(
        data.join("coco_caption_karpathy_train.arrow"),
        data.join("copy_train.arrow"),
    )
    .expect("copied");
    for name in ["photos", "copy"] {
        let datasets = format!("['{name}']");
        assert_success(&run(directory, name, &datasets));
    }
    assert_same_checkpoint(
        &last_checkpoint(directory, "photos"),
        &last_checkpoint(directory, "copy"),
    );
}
