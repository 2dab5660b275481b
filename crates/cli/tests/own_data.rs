//! Data sets of one's own through the program: Arrow files under a name, WebDataset folders.

mod support;

use std::path::Path;
use support::{assert_refused, assert_same_weights, assert_success, last, run_with, tiny, vlct, write_world};
use tempfile::TempDir;
use vlct_data::arrow::ArrowTable;

/// Writes the rows of an Arrow file as a WebDataset shard, captions in JSON.
fn as_tar(table: &Path, tar: &Path) {
    let table = ArrowTable::open(table).expect("an Arrow file");
    std::fs::create_dir_all(tar.parent().expect("in a folder")).expect("created");
    let mut builder = tar::Builder::new(std::fs::File::create(tar).expect("created"));
    for row in 0..table.rows() {
        let notes = serde_json::json!({"caption": table.texts(row, "caption").expect("captions")}).to_string();
        let picture = table.picture(row, "image").expect("a picture");
        for (ending, bytes) in [("png", picture), ("json", notes.as_bytes())] {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            builder
                .append_data(&mut header, format!("{row:09}.{ending}"), bytes)
                .expect("written");
        }
    }
    builder.finish().expect("written");
}

fn run(folder: &Path, log_dir: &str, datasets: &str) -> std::process::Output {
    let (log_dir, datasets) = (format!("log_dir={log_dir}"), format!("datasets={datasets}"));
    run_with(
        folder,
        &tiny("data", &["max_steps=6", "limit_val_batches=1", &log_dir, &datasets]),
    )
}

#[test]
fn the_same_pictures_train_the_same_model_from_arrow_files_and_from_tars() {
    let folder = TempDir::new().expect("temporary folder");
    let folder = folder.path();
    let data = folder.join("data");
    write_world(&data, 24);
    for (published, own, tar) in [
        ("coco_caption_karpathy_train", "mine_train_0", "web/train/0.tar"),
        ("coco_caption_karpathy_restval", "mine_train_1", "web/train/1.tar"),
        ("coco_caption_karpathy_test", "mine_val", "web/val/0.tar"),
    ] {
        let published = data.join(published).with_extension("arrow");
        as_tar(&published, &data.join(tar));
        std::fs::copy(published, data.join(own).with_extension("arrow")).expect("copied");
    }
    for (log_dir, datasets) in [("published", "['coco']"), ("arrow", "['mine']"), ("tar", "['web']")] {
        assert_success(&run(folder, log_dir, datasets));
    }
    assert_same_weights(&last(folder, "published"), &last(folder, "arrow"));
    assert_same_weights(&last(folder, "published"), &last(folder, "tar"));

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
        "whole",
    ] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }

    let tar = data.join("web/train/0.tar");
    let whole = std::fs::read(&tar).expect("written");
    std::fs::write(&tar, &whole[..whole.len() / 2]).expect("written");
    assert_refused(
        "a tar cut short",
        &run(folder, "cut", "['web']"),
        &["0.tar", "cut short"],
    );
    let output = vlct().arg("inspect").arg(&tar).output().expect("the program starts");
    assert_refused("inspecting it", &output, &["0.tar", "cut short"]);
}

#[test]
fn a_misspelt_name_is_answered_with_the_nearest() {
    let folder = TempDir::new().expect("temporary folder");
    write_world(&folder.path().join("data"), 12);
    assert_refused(
        "a typo",
        &run(folder.path(), "typo", "['cocoa']"),
        &["\"cocoa\"", "did you mean \"coco\"?", "cocoa_train_0.arrow"],
    );
}
