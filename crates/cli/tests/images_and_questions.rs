//! End-to-end tests of `vlct check-images` and `vlct map-vg-mscoco`.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use support::run as vlct;
use vlct_prepare::vgqa;

fn golden_prepare_dir() -> PathBuf {
    vlct_golden::directories("prepare").remove(0)
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            // `fs::copy` would also copy the permissions of read-only files.
            fs::write(target, fs::read(path).unwrap()).unwrap();
        }
    }
}

/// Returns the paths of all files below a directory, relative to the directory.
fn files(directory: &Path) -> BTreeSet<String> {
    let walk = vlct_image::check::files_under(directory);
    walk.map(|path| {
        path.unwrap()
            .strip_prefix(directory)
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned()
    })
    .collect()
}

/// Copies the golden images of GCC. Returns the copy and the paths of its bad files.
fn copy_images() -> (tempfile::TempDir, BTreeSet<String>) {
    let directory = tempfile::tempdir().unwrap();
    copy(
        &golden_prepare_dir().join("gcc/raw/images_train"),
        &directory.path().join("images"),
    );
    let verdicts = vlct_golden::json(golden_prepare_dir().join("check_valid_images/expected/check_valid_images.json"));
    let bad = verdicts["files"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|file| file["valid"] == false);
    let bad = bad.filter_map(|file| file["path"].as_str().unwrap().strip_prefix("GCC/images_train/"));
    let bad: BTreeSet<String> = bad.map(str::to_owned).collect();
    assert!(bad.len() > 10);
    (directory, bad)
}

#[test]
fn lists_bad_images_without_changing_anything() {
    let (directory, bad) = copy_images();
    let images = directory.path().join("images");
    let before = files(&images);
    let (status, out, stderr) = vlct(&["check-images", images.to_str().unwrap()]);
    assert_eq!(status, 1);
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    let counts = format!("error: {} files checked, {} bad; ", before.len(), bad.len());
    assert!(
        stderr.starts_with(&counts) && stderr.contains("left in place"),
        "{stderr}"
    );
    let prefix = format!("{}/", images.display());
    let listed = out.lines().map(|line| {
        line.strip_prefix(&prefix)
            .unwrap()
            .split_once(": ")
            .unwrap()
            .0
            .to_owned()
    });
    assert_eq!(listed.collect::<BTreeSet<_>>(), bad);
    assert_eq!(files(&images), before);
}

#[test]
fn deletes_bad_images_on_request() {
    let (directory, bad) = copy_images();
    let images = directory.path().join("images");
    let before = files(&images);
    let (status, _, summary) = vlct(&["check-images", "--delete", images.to_str().unwrap()]);
    assert_eq!(status, 0, "{summary}");
    assert!(summary.ends_with(&format!("; {} deleted\n", bad.len())), "{summary}");
    // Unlike the original, `vlct` also deletes files with spaces in their names (`7e7e bad11.jpg`).
    assert_eq!(files(&images), before.difference(&bad).cloned().collect());
    let (status, out, summary) = vlct(&["check-images", images.to_str().unwrap()]);
    assert_eq!((status, out.as_str()), (0, ""));
    assert!(summary.contains(" files checked, 0 bad"), "{summary}");
}

#[test]
fn moves_bad_images_without_replacing_files() {
    let (directory, bad) = copy_images();
    let (images, target) = (directory.path().join("images"), directory.path().join("bad/ones"));
    let existing = bad.first().unwrap();
    fs::create_dir_all(target.join(existing).parent().unwrap()).unwrap();
    fs::write(target.join(existing), "mine").unwrap();
    let arguments = [
        "check-images",
        "--json",
        images.to_str().unwrap(),
        "--move-to",
        target.to_str().unwrap(),
    ];
    let (status, out, stderr) = vlct(&arguments);
    assert_eq!(status, 1);
    assert_eq!(stderr.lines().count(), 2, "{stderr}");
    assert!(
        stderr.contains("cannot be moved") && stderr.contains(existing),
        "{stderr}"
    );
    assert_eq!(fs::read(target.join(existing)).unwrap(), b"mine");
    assert!(images.join(existing).exists());
    assert_eq!(files(&target), bad);
    for line in out.lines() {
        let object: Value = serde_json::from_str(line).unwrap();
        let name = Path::new(object["path"].as_str().unwrap())
            .strip_prefix(&images)
            .unwrap();
        let moved = name != Path::new(existing);
        assert_eq!(object["action"], if moved { "moved" } else { "left" });
        assert_eq!(
            object["moved_to"],
            if moved { json!(target.join(name)) } else { Value::Null }
        );
        assert!(
            matches!(object["class"].as_str(), Some("damaged" | "warning")),
            "{line}"
        );
        assert!(!object["reason"].as_str().unwrap().is_empty());
    }
    assert_eq!(out.lines().count(), bad.len());
}

#[test]
fn images_that_cannot_be_read_here_stay_in_place() {
    let directory = tempfile::tempdir().unwrap();
    let images = directory.path().join("images");
    fs::create_dir(&images).unwrap();
    fs::write(images.join("photo.heic"), b"\0\0\0\x18ftypheic\0\0\0\0mif1heic").unwrap();
    fs::write(images.join("page.jpg"), "<html>").unwrap();
    let (status, out, summary) = vlct(&["check-images", "--json", "--delete", images.to_str().unwrap()]);
    assert_eq!(status, 1, "{summary}");
    let objects: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let classes: Vec<_> = objects.iter().map(|o| (&o["class"], &o["action"])).collect();
    assert_eq!(
        classes,
        [
            (&json!("damaged"), &json!("deleted")),
            (&json!("unsupported"), &json!("left"))
        ]
    );
    assert!(objects[1]["reason"].as_str().unwrap().contains("HEIC"), "{out}");
    assert!(
        summary.contains("2 files checked, 1 bad") && summary.contains("1 cannot be read here"),
        "{summary}"
    );
    assert_eq!(files(&images), BTreeSet::from(["photo.heic".to_string()]));
}

#[test]
fn tolerates_pillow_warnings_on_request() {
    let (directory, bad) = copy_images();
    let images = directory.path().join("images");
    let (_, out, stderr) = vlct(&["check-images", "--tolerate-warnings", images.to_str().unwrap()]);
    let warned = ["7e7e_edge05.png", "7e7e_edge07.jpg"];
    assert_eq!(out.lines().count(), bad.len() - warned.len());
    assert!(!warned.iter().any(|name| out.contains(name)), "{out}");
    assert!(stderr.contains(" damaged, 0 with warnings"), "{stderr}");
}

#[test]
fn rejects_invalid_arguments_and_inputs() {
    let (directory, _) = copy_images();
    let images = directory.path().join("images");
    let images = images.to_str().unwrap();
    let inside = format!("{images}/new/bad");
    let file = format!("{images}/0a1b/0a1b_000001.jpg");
    for (arguments, status, reason) in [
        (
            &["check-images", images, "--move-to", &inside][..],
            1,
            "name a directory outside",
        ),
        (&["check-images", &file], 1, "not a directory"),
        (
            &["check-images", images, "--delete", "--move-to", "x"],
            2,
            "cannot be used with",
        ),
        (
            &["map-vg-mscoco", "--root", images],
            1,
            "neither coco_vqa_label_info.pkl nor",
        ),
        (
            &["map-vg-mscoco", "--root", images, "--vqa-arrow", images],
            1,
            "no answers found",
        ),
    ] {
        let (actual, out, stderr) = vlct(arguments);
        assert_eq!((actual, out.as_str()), (status, ""), "{arguments:?}");
        assert!(stderr.contains(reason), "{stderr}");
        assert!(status == 2 || stderr.lines().count() == 1, "{stderr}");
    }
    assert!(!Path::new(images).join("new").exists());
}

#[test]
fn selects_the_same_questions_with_every_source_of_the_vocabulary() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("raw");
    copy(&golden_prepare_dir().join("map_vg_mscoco/raw"), &root);
    let root = root.to_str().unwrap();
    let expected = vgqa::read(&golden_prepare_dir().join("map_vg_mscoco/expected/valid_vgqa_info.pkl")).unwrap();
    let (labels, arrow) = (
        golden_prepare_dir().join("vqav2/expected/vocabulary.json"),
        golden_prepare_dir().join("vqav2/expected"),
    );
    let json = directory.path().join("questions.json");
    let (labels, arrow, json) = (
        labels.to_str().unwrap(),
        arrow.to_str().unwrap(),
        json.to_str().unwrap(),
    );
    let default = format!("{root}/valid_vgqa_info.pkl");
    for (options, out) in [
        (&[][..], default.as_str()),
        (&["--labels", labels, "--out", json], json),
        (&["--vqa-arrow", arrow, "--out", json], json),
    ] {
        let (status, stdout, stderr) = vlct(&[&["map-vg-mscoco", "--root", root], options].concat());
        assert_eq!((status, stderr.as_str()), (0, ""));
        assert_eq!(
            stdout,
            format!("wrote {out}: 32 questions on COCO images; 24 kept, on 3 images\n")
        );
        assert_eq!(vgqa::read(Path::new(out)).unwrap(), expected);
        assert_eq!(fs::read(out).unwrap().starts_with(b"{"), out.ends_with(".json"));
        fs::remove_file(out).unwrap();
    }
}
