//! Images of `vlct imagenet`: tars, and classes that weights know by their names.

mod support;

use std::path::{Path, PathBuf};

use support::imagenet::{csv_rows, imagenet, write_classes};
use support::{assert_success, stderr_of, stdout_of, vlct_in};
use tempfile::TempDir;
use vlct_golden::write_tar;

/// Returns the image files of a class, sorted.
fn images(class: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(class).expect("a class");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    paths
}

/// Writes the images of a split of `data/classes` to a tar. The class of an image is what `class` returns for its number and name.
fn write_split(directory: &Path, split: &str, tar: &str, class: impl Fn(usize, &str) -> String) {
    let mut members = Vec::new();
    for (number, path) in images(&directory.join("data/classes").join(split))
        .into_iter()
        .enumerate()
    {
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        for image in images(&path) {
            let stem = image.file_stem().expect("a name").to_string_lossy().into_owned();
            let extension = image.extension().expect("an extension").to_string_lossy().into_owned();
            let bytes = std::fs::read(&image).expect("an image");
            members.push((format!("{name}-{stem}.{extension}"), bytes));
            members.push((format!("{name}-{stem}.cls"), class(number, &name).into_bytes()));
        }
    }
    let members: Vec<(&str, &[u8])> = members.iter().map(|(name, bytes)| (&name[..], &bytes[..])).collect();
    let tar = directory.join(tar);
    std::fs::create_dir_all(tar.parent().expect("a parent")).expect("created");
    write_tar(&tar, &members);
}

#[test]
fn tars_of_classes_are_trained_on_and_evaluated() {
    let directory = TempDir::new().expect("temporary directory");
    let directory = directory.path();
    write_classes(directory, 40);
    let number = |number: usize, _: &str| number.to_string();
    write_split(directory, "train", "numbers/imagenet-train-000000.tar", number);
    write_split(directory, "val", "numbers/imagenet-validation-00.tar", number);
    let name = |_: usize, name: &str| name.to_string();
    write_split(directory, "train", "names/train/0.tar", name);
    write_split(directory, "val", "names/val/0.tar", name);

    for tars in ["numbers", "names"] {
        assert_success(&imagenet(directory, tars, &["--epochs", "1", "--data_path", tars]));
        let run = ["--data_path", tars, "--finetune", tars];
        let evaluated = imagenet(directory, "evaluated", &[&["--eval"], &run[..]].concat());
        assert_success(&evaluated);
        assert!(
            stdout_of(&evaluated).starts_with("* Acc@1 "),
            "{}",
            stdout_of(&evaluated)
        );
        let rows = csv_rows(&directory.join("evaluated/predictions.csv"));
        assert_eq!(rows.len(), 20);
        let neighbours = imagenet(directory, "unused", &[&["--knn=1", "--global_pool"], &run[..]].concat());
        assert_success(&neighbours);
        assert!(stdout_of(&neighbours).starts_with("* k 1 Acc@1 "));
    }
    // A resumed run compares the classes of the files.
    let resumed = ["--epochs", "2", "--data_path", "names", "--resume", "names"];
    assert_success(&imagenet(directory, "names", &resumed));
    write_split(directory, "train", "names/train/0.tar", |_, name| match name {
        "star" => "circle".into(),
        name => name.into(),
    });
    write_split(directory, "train", "names/train/1.tar", name);
    let resumed = ["--epochs", "3", "--data_path", "names", "--resume", "names"];
    let output = imagenet(directory, "names", &resumed);
    assert_success(&output);
    assert!(stderr_of(&output).contains("0.tar"), "{}", stderr_of(&output));

    let inspected = vlct_in(directory, &["inspect", "numbers/imagenet-validation-00.tar"]);
    assert_success(&inspected);
    let text = stdout_of(&inspected);
    assert!(
        text.contains("shard of classes (cls) with 20 samples") && text.contains("  cls: "),
        "{text}"
    );
    assert!(!text.contains("no samples"), "{text}");
}
