//! Tests of Arrow files and tars of images with classes.

use std::path::PathBuf;

use super::*;
use vlct_data::arrow::{CaptionWriter, LabelKind, LabelRow, LabelWriter};
use vlct_data::webdataset::TarTable;
use vlct_golden::write_tar;

fn write_labels(path: &Path, kind: LabelKind, rows: &[(Option<&str>, Option<&[&str]>)]) {
    let mut writer = LabelWriter::create(path, kind).unwrap();
    for (image, labels) in rows {
        let labels: Option<Vec<String>> = labels.map(|labels| labels.iter().map(|label| label.to_string()).collect());
        let row = LabelRow {
            image: image.map(str::as_bytes),
            text: Some("a text"),
            labels: labels.as_deref(),
            image_id: None,
            split: "train",
        };
        writer.push(row).unwrap();
    }
    writer.finish().unwrap();
}

#[test]
fn reads_arrow_files_of_labels() {
    let root = tempfile::tempdir().unwrap();
    let path = |name: &str| root.path().join(name);
    let write =
        |name: &str, rows: &[(Option<&str>, Option<&[&str]>)]| write_labels(&path(name), LabelKind::Single, rows);
    write(
        "pets_train_0.arrow",
        &[(Some("1"), Some(&["dog"])), (Some("2"), Some(&["cat"]))],
    );
    write(
        "pets_train_1.arrow",
        &[(Some("3"), Some(&["dog"])), (None, Some(&["cat"]))],
    );
    assert_error(&root, &["there are no files pets_val_0.arrow, …; add one, or hold out"]);
    let held_out = ClassSplits::open(root.path(), &rules(0.5)).unwrap();
    assert_eq!((held_out.train.len(), held_out.val.len()), (2, 2));
    write("pets_val.arrow", &[(Some("4"), Some(&["cat"]))]);
    for data_path in [root.path().to_path_buf(), path("pets")] {
        let splits = open(&data_path);
        assert_eq!(splits.train.class_names(), ["cat", "dog"]);
        assert_eq!(items(&splits.val), pairs(&[("4", "cat")]));
        assert_eq!(splits.train.len(), 4);
        let message = splits.train.example(3).unwrap_err().to_string();
        assert!(
            message.ends_with("pets_train_1.arrow: row 1: it has no image"),
            "{message}"
        );
    }
    let val = ClassDataset::open(root.path(), Split::Val, &FileRules::default()).unwrap();
    assert_eq!(val.class_names(), ["cat", "dog"]);

    write("pets_val.arrow", &[(Some("4"), Some(&["cow"]))]);
    assert_error(&root, &["classes that its training split lacks: \"cow\""]);
    write("pets_val.arrow", &[(Some("4"), None)]);
    assert_error(&root, &["its files have 1 row without a label; give"]);
    write_labels(
        &path("pets_val.arrow"),
        LabelKind::Multiple,
        &[(Some("4"), Some(&["cat", "dog"]))],
    );
    assert_error(&root, &["lists of labels (column labels)"]);
    write("films_train.arrow", &[(Some("1"), Some(&["x"]))]);
    assert_error(
        &root,
        &[
            "several datasets: \"films\", \"pets\"; give the path of one, ",
            "/films",
        ],
    );
}

#[test]
fn captions_of_arrow_files_may_be_names_of_classes() {
    let root = tempfile::tempdir().unwrap();
    let write = |file: &str, rows: &[(&str, &[&str])]| {
        let mut writer = CaptionWriter::create(root.path().join(file)).unwrap();
        for (image, captions) in rows {
            writer.push(image.as_bytes(), captions, image, "").unwrap();
        }
        writer.finish().unwrap();
    };
    write(
        "p_train.arrow",
        &[("1", &["dog"]), ("2", &["cat"]), ("3", &["dog"]), ("4", &["cat"])],
    );
    write("p_val.arrow", &[("5", &["dog"])]);
    let splits = open(root.path());
    assert_eq!(splits.train.class_names(), ["cat", "dog"]);
    let train = [("1", "dog"), ("2", "cat"), ("3", "dog"), ("4", "cat")];
    assert_eq!(items(&splits.train), pairs(&train));
    assert_eq!(items(&splits.val), pairs(&[("5", "dog")]));
    write("p_val.arrow", &[("5", &["dog"]), ("6", &[])]);
    let notes = open(root.path()).val.notes().join("\n");
    assert!(notes.starts_with("p: left out 1 row without text\n"), "{notes}");
    write("p_val.arrow", &[("5", &["dog"]), ("6", &["a dog", "a cat"])]);
    assert_error(
        &root,
        &["p_val.arrow: row 1: it has 2 captions, but an image has one class"],
    );
    write(
        "p_train.arrow",
        &[("1", &["a dog"]), ("2", &["a cat"]), ("3", &["two dogs"])],
    );
    assert_error(
        &root,
        &["its 3 training images have 3 different captions, so these are not classes"],
    );
}

/// Writes a tar in which the image of each sample is its key.
fn write_samples(path: PathBuf, samples: &[(&str, &str)]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let members: Vec<(String, Vec<u8>)> = samples
        .iter()
        .flat_map(|(key, class)| {
            [
                ("cls", class),
                ("jpg", key),
                ("json", &"{broken"),
                ("txt", &"a caption"),
            ]
            .map(|(ending, content)| (format!("{key}.{ending}"), content.as_bytes().to_vec()))
        })
        .collect();
    let members: Vec<(&str, &[u8])> = members.iter().map(|(name, content)| (&**name, &**content)).collect();
    write_tar(&path, &members);
}

#[test]
fn reads_tars_with_numbers_of_classes() {
    let root = tempfile::tempdir().unwrap();
    let path = |name: &str| root.path().join(name);
    write_samples(path("imagenet1k-train-0001.tar"), &[("c", "2\n")]);
    write_samples(path("imagenet1k-train-0000.tar"), &[("a", "10"), ("b", "007")]);
    write_samples(path("imagenet1k-validation-00.tar"), &[("d", "7")]);
    write_samples(path("imagenet1k-test-00.tar"), &[("e", "99")]);
    let splits = open(root.path());
    assert_eq!(splits.train.class_names(), ["2", "7", "10"], "sorted by number");
    assert_eq!(items(&splits.train), pairs(&[("a", "10"), ("b", "7"), ("c", "2")]));
    assert_eq!(items(&splits.val), pairs(&[("d", "7")]));
    assert_eq!(splits.train.notes(), Vec::<String>::new());
    assert_eq!(splits.train.example(0).unwrap().reading, Reading::default());

    let synsets: String = (0..11).map(|i| format!("n{i:08} tench, Tinca tinca\n")).collect();
    fs::write(path("LOC_synset_mapping.txt"), synsets).unwrap();
    let splits = open(root.path());
    assert_eq!(splits.train.class_names().len(), 11);
    assert_eq!(items(&splits.val), pairs(&[("d", "n00000007")]));
    let note = splits.train.notes().join("\n");
    assert!(
        note.contains("the split train has no images of 8 classes: \"n00000000\""),
        "{note}"
    );
    fs::write(path("classes.txt"), "\u{feff}".to_string() + &"crane\n".repeat(11)).unwrap();
    let val = ClassDataset::open(root.path(), Split::Val, &FileRules::default()).unwrap();
    assert_eq!(items(&val), pairs(&[("d", "crane (7)")]));
    assert_eq!(val.class_names()[..2], ["crane", "crane (1)"]);
    fs::write(path("classes.txt"), "a\nb\nc\n").unwrap();
    assert_error(
        &root,
        &["classes.txt: it names 3 classes, numbered from 0, but a tar has the class \"10\""],
    );
    fs::write(path("classes.txt"), "a\n\nc\n").unwrap();
    assert_error(&root, &["classes.txt: line 2 is empty"]);
    fs::write(path("classes.txt"), "").unwrap();
    assert_error(&root, &["classes.txt: it is empty"]);
}

#[test]
fn reads_tars_with_names_of_classes_in_directories_of_splits() {
    let root = tempfile::tempdir().unwrap();
    let path = |name: &str| root.path().join(name);
    write_samples(
        path("train/0.tar"),
        &[("a", "dog"), ("b", "10"), ("c", "9"), ("d", "cat")],
    );
    assert_error(&root, &["there are no tars of a split val; add"]);
    let held_out = ClassSplits::open(root.path(), &rules(0.25)).unwrap();
    assert_eq!((held_out.train.len(), held_out.val.len()), (3, 1));
    write_samples(path("val/0.tar"), &[("e", "cat")]);
    let splits = open(root.path());
    assert_eq!(splits.train.class_names(), ["10", "9", "cat", "dog"]);
    assert_eq!(items(&splits.val), pairs(&[("e", "cat")]));
    assert!(splits.train.index_memory() >= 4 * 24);
    fs::write(path("train/classnames.txt"), "cat\ndog\n10\n9").unwrap();
    assert_eq!(open(root.path()).train.class_names(), ["cat", "dog", "10", "9"]);
    write_samples(path("val/1.tar"), &[("f", "cow")]);
    assert_error(&root, &["has the class \"cow\""]);
    fs::remove_file(path("train/classnames.txt")).unwrap();
    assert_error(&root, &["classes that its training split lacks: \"cow\""]);
    fs::write(path("val/1.tar"), b"not a tar").unwrap();
    assert_error(&root, &["val/1.tar: it is"]);
}

#[test]
fn counts_samples_of_tars_without_a_readable_class() {
    let root = tempfile::tempdir().unwrap();
    let members: [(&str, &[u8]); 10] = [
        ("a.cls", b"0"),
        ("b.cls", b"1"),
        ("c.jpg", b"c"),
        ("d.png", b"d"),
        ("d.cls", b"\xff"),
        ("e.cls", b"1"),
        ("f.jpg", b"f"),
        ("f.cls", b" \n"),
        ("b.jpg", b"b"),
        ("a.jpg", b"a"),
    ];
    write_tar(&root.path().join("0.tar"), &members);
    let splits = ClassSplits::open(root.path(), &rules(0.5)).unwrap();
    let mut all = [items(&splits.train), items(&splits.val)].concat();
    all.sort();
    assert_eq!(all, pairs(&[("a", "0"), ("b", "1")]));
    let note = splits.train.notes().join("\n");
    for part in [
        "left out 2 images without a class; 1 image whose class cannot be read (",
        "0.tar: \"d.cls\" is not UTF-8); 1 class member without an image",
    ] {
        assert!(note.contains(part), "{note}");
    }
    write_tar(&root.path().join("0.tar"), &[("a.jpg", b"a"), ("a.txt", b"a caption")]);
    let message = ClassSplits::open(root.path(), &rules(0.5)).unwrap_err().to_string();
    assert!(
        message.contains("no image of its tars has a class: the image KEY.jpg belongs to KEY.cls; left out 1 image"),
        "{message}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn damaged_tars_are_errors_not_panics(position in any::<prop::sample::Index>(), byte in any::<u8>(), end in any::<prop::sample::Index>()) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.tar");
        write_tar(&path, &[("1.jpg", b"x"), ("1.cls", b"3"), ("2.cls", b"dog"), ("2.png", b"y")]);
        let mut bytes = fs::read(&path).unwrap();
        let position = position.index(bytes.len());
        bytes[position] = byte;
        bytes.truncate(end.index(bytes.len() * 2).min(bytes.len()));
        fs::write(&path, bytes).unwrap();
        if let Ok(table) = TarTable::open_classes(&path) {
            for row in 0..table.rows() {
                let (_, class) = (table.image(row).unwrap(), table.class(row).unwrap());
                prop_assert!(class.is_some_and(|class| !class.is_empty()));
                prop_assert!(table.captions(row).unwrap().is_empty());
            }
        }
    }
}
