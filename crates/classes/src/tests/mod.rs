//! Tests of directories of classes, and helpers of the tests of other layouts.

mod tables;

use std::collections::BTreeSet;
use std::fs;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use vlct_image::{Background, Orientation};

/// Writes files whose content is their path.
fn directory_of(files: &[&str]) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    for name in files {
        let path = root.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, name).unwrap();
    }
    root
}

fn rules(val_fraction: f64) -> FileRules {
    FileRules {
        val_fraction,
        ..FileRules::default()
    }
}

/// Returns the bytes of the image and the class of each item.
fn items(dataset: &impl Dataset) -> Vec<(String, String)> {
    (0..dataset.len())
        .map(|item| {
            let example = dataset.example(item).unwrap();
            assert_eq!((example.text, &example.images[1]), (None, &None));
            let image = example.images[0].as_ref().unwrap().to_vec();
            let Answer::Labels(labels) = example.answer else {
                panic!("{:?}", example.answer);
            };
            assert_eq!(labels.len(), 1);
            (String::from_utf8(image).unwrap(), labels[0].clone())
        })
        .collect()
}

fn pairs(items: &[(&str, &str)]) -> Vec<(String, String)> {
    items
        .iter()
        .map(|(image, class)| (image.to_string(), class.to_string()))
        .collect()
}

fn open(root: &Path) -> ClassSplits {
    ClassSplits::open(root, &FileRules::default()).unwrap()
}

fn error_of(root: &Path) -> String {
    let message = ClassSplits::open(root, &FileRules::default()).unwrap_err().to_string();
    assert!(!message.contains('\n'), "{message}");
    message
}

fn assert_error(root: &TempDir, parts: &[&str]) {
    let message = error_of(root.path());
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in: {message}");
    }
}

#[test]
fn reads_directories_of_classes_as_torchvision_does() {
    let root = directory_of(&[
        "train/b/2.JPG",
        "train/b/10.jpg",
        "train/b/sub/1.png",
        "train/b/sub/deep/3.PnG",
        "train/b/sub-a/0.webp",
        "train/b/notes.txt",
        "train/b/README",
        "train/b/x.heic",
        "train/b/x.gif",
        "train/b/._2.JPG",
        "train/b/.hidden/4.jpg",
        "train/.git/4.jpg",
        "train/beside.jpg",
        "train/B/1.jpeg",
        "train/é/1.tiff",
        "val/é/7.ppm",
        "val/b/8.pgm",
    ]);
    let splits = open(root.path());
    let expected = [
        ("train/B/1.jpeg", "B"),
        ("train/b/10.jpg", "b"),
        ("train/b/2.JPG", "b"),
        ("train/b/x.gif", "b"),
        ("train/b/sub/1.png", "b"),
        ("train/b/sub-a/0.webp", "b"),
        ("train/b/sub/deep/3.PnG", "b"),
        ("train/é/1.tiff", "é"),
    ];
    assert_eq!(items(&splits.train), pairs(&expected));
    assert_eq!(items(&splits.val), pairs(&[("val/b/8.pgm", "b"), ("val/é/7.ppm", "é")]));
    assert_eq!(splits.train.class_names(), ["B", "b", "é"]);
    assert_eq!(splits.val.class_names(), ["B", "b", "é"]);
    let train_notes = splits.train.notes().join("\n");
    assert!(
        train_notes.ends_with("by their extension: 1 without extension, 1 .heic, 1 .txt"),
        "{train_notes}"
    );
    let val_notes = splits.val.notes().join("\n");
    assert!(
        val_notes.ends_with(": the split val has no images of 1 class: \"B\""),
        "{val_notes}"
    );
    assert_eq!(splits.train.items_of(3).unwrap(), 3..4);
    assert_eq!((splits.train.peers(7), splits.train.peers(8)), (0..8, 0..0));
    assert_eq!(
        splits.train.describe(1),
        root.path().join("train/b/10.jpg").display().to_string()
    );
    assert!(splits.train.example(8).unwrap_err().to_string().contains("no item 8"));
    let only_val = ClassDataset::open(root.path(), Split::Val, &FileRules::default()).unwrap();
    assert_eq!(
        (items(&only_val), only_val.class_names()),
        (items(&splits.val), splits.val.class_names())
    );
    assert!(ClassDataset::open(root.path(), Split::Test, &FileRules::default()).is_err());
}

fn any_path() -> impl Strategy<Value = Vec<String>> {
    let name = prop::sample::select(vec!["a", "a-b", "A", "b", "é", "a b", "10", "9"]);
    (
        prop::collection::vec(name.prop_map(str::to_string), 1..4),
        "[a-c0-1-]{1,3}\\.(jpg|PNG|txt)",
    )
        .prop_map(|(mut path, file)| {
            path.push(file);
            path
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn the_order_is_that_of_a_plain_sort(paths in prop::collection::btree_set(any_path(), 1..40)) {
        let root = tempfile::tempdir().unwrap();
        for path in &paths {
            let file = root.path().join(path.join("/"));
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, path.join("/")).unwrap();
        }
        let mut expected: Vec<(String, String, String)> = paths.iter().filter(|path| !path.last().unwrap().ends_with("txt")).map(|path| {
            let (file, directories) = path.split_last().unwrap();
            (path[0].clone(), directories.join("/"), file.clone())
        }).collect();
        expected.sort();
        let expected: Vec<_> = expected.into_iter().map(|(class, directory, file)| (format!("{directory}/{file}"), class)).collect();
        let found = ClassDirectories::list(root.path(), Part::Whole, Reading::default()).unwrap();
        prop_assert_eq!(items(&found), expected);
        let classes: BTreeSet<&String> = paths.iter().map(|path| &path[0]).collect();
        prop_assert!(found.classes().iter().eq(classes));
    }

    #[test]
    fn held_out_images_and_the_others_are_all_images(sizes in prop::collection::vec(1usize..9, 2..5), fraction in 0.01f64..0.9) {
        let root = tempfile::tempdir().unwrap();
        for (class, size) in sizes.iter().enumerate() {
            for image in 0..*size {
                let file = root.path().join(format!("{class}/{image}.jpg"));
                fs::create_dir_all(file.parent().unwrap()).unwrap();
                fs::write(file, format!("{class}/{image}")).unwrap();
            }
        }
        let splits = ClassSplits::open(root.path(), &rules(fraction)).unwrap();
        let mut all = [items(&splits.train), items(&splits.val)].concat();
        all.sort();
        let expected: usize = sizes.iter().sum();
        prop_assert_eq!(all.len(), expected);
        all.dedup();
        prop_assert_eq!(all.len(), expected);
        prop_assert_eq!(splits.val.len(), ((expected as f64 * fraction) as usize).max(1));
        prop_assert_eq!(splits.train.class_names().len(), sizes.len());
    }
}

#[cfg(unix)]
#[test]
fn follows_links_except_to_directories_that_contain_them() {
    use std::os::unix::fs::symlink;
    let root = directory_of(&["store/1.jpg", "store/2.jpg", "data/train/a/3.jpg", "data/val/a/4.jpg"]);
    let path = |name: &str| root.path().join(name);
    symlink(path("store"), path("data/train/b")).unwrap();
    symlink(path("store/1.jpg"), path("data/train/a/0.jpg")).unwrap();
    // Directories that contain themselves: by way of the class, all classes, and two links.
    symlink(path("data/train/a"), path("data/train/a/again")).unwrap();
    symlink(path("data/train"), path("data/train/all")).unwrap();
    symlink(path("data"), path("data/train/a/data")).unwrap();
    symlink(path("data/train/b"), path("store/again")).unwrap();
    symlink(path("store/gone.jpg"), path("data/train/b/x.jpg")).unwrap();
    let train = ClassDataset::open(&path("data"), Split::Train, &FileRules::default()).unwrap();
    assert_eq!(train.class_names(), ["a", "b"]);
    let names: Vec<String> = (0..train.len()).map(|item| train.describe(item)).collect();
    let expected = ["a/0.jpg", "a/3.jpg", "b/1.jpg", "b/2.jpg", "b/x.jpg"];
    assert_eq!(
        names,
        expected.map(|name| path("data/train").join(name).display().to_string())
    );
    let message = train.example(4).unwrap_err().to_string();
    assert!(
        message.starts_with(&path("data/train/b/x.jpg").display().to_string()),
        "{message}"
    );
}

#[test]
fn files_that_cannot_be_read_are_errors_that_name_them() {
    let root = directory_of(&["train/a/1.jpg", "train/b/2.jpg", "val/a/1.jpg"]);
    let splits = open(root.path());
    let file = root.path().join("train/b/2.jpg");
    fs::remove_file(&file).unwrap();
    let message = splits.train.example(1).unwrap_err().to_string();
    assert!(message.starts_with(&file.display().to_string()), "{message}");
    fs::create_dir(&file).unwrap();
    let message = splits.train.example(1).unwrap_err().to_string();
    assert!(
        message.ends_with("2.jpg: it is not a file; give the path of a file"),
        "{message}"
    );
    let large = root.path().join("train/a/1.jpg");
    fs::File::create(&large).unwrap().set_len((512 << 20) + 1).unwrap();
    let message = splits.train.example(0).unwrap_err().to_string();
    assert!(
        message.contains("1.jpg: more than 512 MiB, so not an image file"),
        "{message}"
    );
    let message = splits.train.error(0, "is blue").to_string();
    assert!(message.ends_with("train/a/1.jpg: is blue"), "{message}");
}

#[test]
fn images_become_pixels_as_published_unless_a_rule_is_given() {
    let root = directory_of(&["train/a/1.jpg", "train/b/2.jpg", "val/a/1.jpg"]);
    assert_eq!(open(root.path()).train.example(0).unwrap().reading, Reading::default());
    let mut rules = FileRules::default();
    rules.reading.orientation = Some(Orientation::Upright);
    let splits = ClassSplits::open(root.path(), &rules).unwrap();
    let reading = splits.val.example(0).unwrap().reading;
    assert_eq!(
        (reading.orientation, reading.background),
        (Orientation::Upright, Background::Keep)
    );
}

#[test]
fn rejects_directories_that_are_not_of_classes() {
    let not_of_classes = "it is not a directory of classes: ";
    assert_error(
        &directory_of(&[]),
        &[not_of_classes, "it is empty; expected train/CLASS/IMAGE"],
    );
    assert_error(
        &directory_of(&["1.jpg", "b.csv", "docs/readme.md"]),
        &[
            not_of_classes,
            "the directories \"docs\" and 2 files (\"1.jpg\", \"b.csv\")",
        ],
    );
    assert_error(
        &directory_of(&["val/a/1.jpg"]),
        &[not_of_classes, "the directories \"val\""],
    );
    assert_error(
        &directory_of(&["train/1.jpg", "train/2.jpg", "val/a/1.jpg"]),
        &["train: it has 2 images, but no directories of classes"],
    );
    assert_error(
        &directory_of(&["train/a/1.jpg", "train/b/1.jpg", "val/1.jpg"]),
        &["val: it has 1 image, but no directories of classes"],
    );
    assert_error(
        &directory_of(&["train/a/1.jpg", "train/b/x.txt", "train/c/d/x.txt", "val/a/1.jpg"]),
        &["train: it has classes without images: \"b\", \"c\"; remove them"],
    );
    assert_error(
        &directory_of(&["train/a/1.jpg", "train/b/1.jpg", "val/a/x.txt"]),
        &["val: its directories of classes have no images"],
    );
    assert_error(
        &directory_of(&[
            "train/a/1.jpg",
            "train/b/1.jpg",
            "val/a/1.jpg",
            "val/c/1.jpg",
            "val/d/1.jpg",
        ]),
        &["its validation split has classes that its training split lacks: \"c\", \"d\"; remove"],
    );
    assert_error(
        &directory_of(&["train/a/1.jpg", "val/a/1.jpg"]),
        &["it has only one class, \"a\""],
    );
    assert_error(
        &directory_of(&["a/1.jpg", "b/1.jpg"]),
        &["there is no directory val of classes (val/CLASS/IMAGE); add one, or hold out a fraction"],
    );
    assert_error(
        &directory_of(&["train/a/1.jpg", "val/a/1.jpg", "validation/a/1.jpg"]),
        &["its directories val and validation are both the split val; join them"],
    );
    let root = directory_of(&["file"]);
    assert!(error_of(&root.path().join("file")).contains("file: it is a file; give a directory: train/CLASS"));
    assert!(error_of(&root.path().join("gone")).contains("gone: there is no such directory"));
    // A class of validation without images is as if it was not there.
    let splits = directory_of(&["train/a/1.jpg", "train/b/1.jpg", "val/a/1.jpg", "val/c/x.txt"]);
    assert_eq!(open(splits.path()).val.len(), 1);
}
