//! Images of `vlct imagenet`: tars, and classes that weights know by their names.

mod support;

use std::path::{Path, PathBuf};
use std::process::Output;

use support::imagenet::{csv_rows, imagenet, write_classes};
use support::{assert_one_line_error, assert_success, stderr_of, stdout_of, vlct_in};
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

/// Renames the directories of the classes in `data/classes`, so that their order changes.
fn rename_classes(directory: &Path, rename: impl Fn(&str) -> String) {
    for split in ["train", "val"] {
        let root = directory.join("data/classes").join(split);
        for class in images(&root) {
            let name = class.file_name().expect("a name").to_string_lossy().into_owned();
            std::fs::rename(&class, root.join(rename(&name))).expect("renamed");
        }
    }
}

#[test]
fn weights_and_images_are_matched_by_the_names_of_classes() {
    let directory = TempDir::new().expect("temporary directory");
    let directory = directory.path();
    write_classes(directory, 60);
    assert_success(&imagenet(
        directory,
        "out",
        &["--epochs", "2", "--lr", "5e-3", "--layer_decay", "1"],
    ));
    let accuracy = |output: &Output| {
        let text = stdout_of(output);
        text.split_whitespace().nth(2).expect("a value").to_owned()
    };
    // The predicted classes, in the order of the images, which is the same.
    let predicted = || -> Vec<String> {
        let rows = csv_rows(&directory.join("evaluated/predictions.csv"));
        rows.into_iter().map(|row| row[2].clone()).collect()
    };
    let evaluate = |data: &str| {
        imagenet(
            directory,
            "evaluated",
            &["--eval", "--finetune", "out", "--data_path", data],
        )
    };
    let first = evaluate("data/classes");
    assert_success(&first);
    let before = predicted();

    // Tars with a list of the names in another order have the same images.
    let name = |_: usize, name: &str| name.to_string();
    for split in ["train", "val"] {
        write_split(directory, split, &format!("tars/{split}/0.tar"), name);
    }
    let mut names: Vec<String> = images(&directory.join("data/classes/train"))
        .iter()
        .map(|class| class.file_name().expect("a name").to_string_lossy().into_owned())
        .collect();
    names.rotate_left(3);
    std::fs::write(directory.join("tars/classes.txt"), names.join("\n")).expect("written");
    let other = evaluate("tars");
    assert_success(&other);
    assert_eq!((accuracy(&other), predicted()), (accuracy(&first), before));
    assert!(
        stderr_of(&other).contains("classes in another order"),
        "{}",
        stderr_of(&other)
    );

    // Fine-tuning begins with the same accuracy: a rate of 0 changes nothing.
    let still = [
        "--epochs",
        "1",
        "--lr",
        "0",
        "--min_lr",
        "0",
        "--finetune",
        "out",
        "--data_path",
    ];
    let output = imagenet(directory, "still", &[&still[..], &["tars"]].concat());
    assert_success(&output);
    let log = support::imagenet::log(&directory.join("still"));
    let after = format!("{:.3}", log[0]["test_acc1"].as_f64().expect("a number"));
    assert_eq!(after, accuracy(&first));

    // Other names: an error of an evaluation, and a fresh head in fine-tuning.
    rename_classes(directory, |name| name.replace("circle", "zcircle"));
    let output = evaluate("data/classes");
    assert_one_line_error(
        "other classes",
        &output,
        &["only the weights have \"circle\"", "\"zcircle\""],
    );
    let output = imagenet(directory, "fresh", &[&still[..], &["data/classes"]].concat());
    assert_success(&output);
    assert!(
        stderr_of(&output).contains("so the head starts fresh"),
        "{}",
        stderr_of(&output)
    );
    let resumed = imagenet(directory, "out", &["--resume", "out", "--epochs", "3"]);
    assert_one_line_error("other classes", &resumed, &["out/last", "\"zcircle\""]);
    std::fs::remove_dir_all(directory.join("data/classes/train/zcircle")).expect("removed");
    std::fs::remove_dir_all(directory.join("data/classes/val/zcircle")).expect("removed");
    let more = ["--eval", "--finetune", "out/checkpoint-1.pth"];
    let output = imagenet(directory, "evaluated", &more);
    assert_one_line_error("other classes", &output, &["checkpoint-1.pth", "classes instead of"]);
}
