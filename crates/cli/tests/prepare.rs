//! End-to-end tests of `vlct prepare`.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use support::{assert_one_line_error, assert_success, stderr_of, vlct};
use vlct_data::arrow::ArrowTable;
use vlct_image::{RgbImage, decode, encode_jpeg};

/// Writes `count` images and their annotations in the layout of COCO. Returns their directory.
fn write_raw_coco(directory: &Path, count: usize) -> PathBuf {
    let root = directory.join("raw");
    for name in ["karpathy", "train2014", "val2014"] {
        fs::create_dir_all(root.join(name)).unwrap();
    }
    let image = |i: usize| RgbImage::from_fn(64, 48, |x, y| [(x * 4) as u8, (y * 5) as u8, i as u8].into());
    let mut images = Vec::new();
    for i in 0..count {
        let (name, split) = (format!("p{i}.jpg"), ["train", "val", "restval", "test"][i % 4]);
        fs::write(root.join("train2014").join(&name), encode_jpeg(&image(i), 95).unwrap()).unwrap();
        images
            .push(serde_json::json!({"filename": name, "split": split, "sentences": [{"raw": format!("shape {i}")}]}));
    }
    let annotations = serde_json::json!({"images": images});
    fs::write(root.join("karpathy/dataset_coco.json"), annotations.to_string()).unwrap();
    root
}

fn prepare(root: &Path, out: &Path, more: &[&str]) -> Output {
    let mut command = vlct();
    command
        .args(["prepare", "coco", "--root"])
        .arg(root)
        .arg("--out")
        .arg(out);
    command.args(more).output().expect("the program starts")
}

#[test]
fn reports_written_files_which_can_be_inspected() {
    let directory = tempfile::tempdir().unwrap();
    let (root, out) = (write_raw_coco(directory.path(), 9), directory.path().join("arrow"));
    fs::write(root.join("train2014/p2.jpg"), "<html>not found</html>").unwrap();
    let output = prepare(&root, &out, &[]);
    assert_success(&output);
    let text = String::from_utf8(output.stdout).unwrap();
    for part in [
        "coco_caption_karpathy_train.arrow: 3 rows",
        "coco: 9 image files and 9 annotated images; 9 images have both a file and an annotation",
        "rows left out because an image cannot be used: 1",
        "p2.jpg: image cannot be decoded: not a JPEG",
    ] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
    let sheet = directory.path().join("look.png");
    let inspected = vlct()
        .arg("inspect")
        .arg(&out)
        .arg("--sheet")
        .arg(&sheet)
        .output()
        .unwrap();
    assert_success(&inspected);
    let text = String::from_utf8(inspected.stdout).unwrap();
    for part in ["3 texts of 2 words", "split: train 3", "look.png: 8 rows"] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
    let drawn = decode(&fs::read(&sheet).unwrap()).unwrap();
    assert!(drawn.pixels().any(|p| p.0 != drawn.get_pixel(0, 0).0));

    // The second run writes nothing, and prints the saved report.
    let output = prepare(&root, &out, &["--json"]);
    assert_success(&output);
    assert!(stderr_of(&output).contains("all files exist already"));
    let printed: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let saved: serde_json::Value = serde_json::from_slice(&fs::read(out.join("prepare_coco.json")).unwrap()).unwrap();
    assert_eq!(printed, saved);
    assert_eq!(printed["files"].as_array().unwrap().len(), 4);

    let output = prepare(&root, &out, &["--max-side", "32"]);
    assert_one_line_error("other options", &output, &["arrow: 4 files", "--overwrite"]);
    let full_size = fs::metadata(out.join("coco_caption_karpathy_train.arrow"))
        .unwrap()
        .len();
    assert_success(&prepare(&root, &out, &["--max-side", "32", "--overwrite"]));
    assert!(
        fs::metadata(out.join("coco_caption_karpathy_train.arrow"))
            .unwrap()
            .len()
            < full_size
    );
}

#[test]
fn full_disk_leaves_no_file_under_its_final_name() {
    let directory = tempfile::tempdir().unwrap();
    let (root, out) = (write_raw_coco(directory.path(), 40), directory.path().join("arrow"));
    // A limit on the size of files simulates a full disk: writing fails in the middle of a file.
    let limited = Command::new("sh")
        .args([
            "-c",
            "trap '' XFSZ; ulimit -f 8; exec \"$0\" prepare coco --root \"$1\" --out \"$2\"",
        ])
        .arg(env!("CARGO_BIN_EXE_vlct"))
        .args([&root, &out])
        .env_remove("RUST_BACKTRACE")
        .output()
        .unwrap();
    assert_one_line_error(
        "full disk",
        &limited,
        &["coco_caption_karpathy_train.arrow", "too large"],
    );
    let names: Vec<String> = fs::read_dir(&out)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(names.iter().all(|name| name.starts_with('.')), "{names:?}");
    // Without the limit, the same command completes.
    assert_success(&prepare(&root, &out, &[]));
}

#[test]
fn explains_wrong_arguments() {
    let directory = tempfile::tempdir().unwrap();
    let root = write_raw_coco(directory.path(), 4);
    let output = vlct()
        .args(["prepare", "cocoo", "--root", "a", "--out", "b"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr_of(&output).contains("'coco'"), "{}", stderr_of(&output));
    let missing = prepare(Path::new("nowhere"), &directory.path().join("arrow"), &[]);
    assert_one_line_error("no root", &missing, &["nowhere/karpathy/dataset_coco.json", "--root"]);
    let out = directory.path().join("file");
    fs::write(&out, "not a directory").unwrap();
    assert_one_line_error("out is a file", &prepare(&root, &out, &[]), &["file"]);
}

#[test]
fn write_valid_vgqa_gives_the_rows_of_the_published_script() {
    let golden = vlct_golden::directories("prepare").remove(0).join("valid_vgqa");
    let out = tempfile::tempdir().unwrap();
    let output = vlct()
        .args(["write-valid-vgqa", "--root"])
        .arg(golden.join("raw"))
        .arg("--out")
        .arg(out.path())
        .output()
        .unwrap();
    assert_success(&output);
    let [written, expected] = [out.path(), &golden.join("expected")].map(|directory| {
        let table = ArrowTable::open(directory.join("vgqa_train.arrow")).unwrap();
        assert_eq!(
            table.columns().collect::<Vec<_>>(),
            [
                "image",
                "questions",
                "answers",
                "answer_labels",
                "answer_scores",
                "image_id",
                "question_id",
                "split"
            ]
        );
        let rows = (0..table.rows()).map(|row| {
            (
                table.image(row, "image").unwrap().to_vec(),
                table.questions(row).unwrap(),
                table.integer(row, "image_id").unwrap(),
                table.string(row, "split").unwrap().map(str::to_string),
            )
        });
        rows.collect::<Vec<_>>()
    });
    assert!(!expected.is_empty());
    assert_eq!(written, expected);
}
