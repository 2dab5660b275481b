//! Tests of datasets of labels, and of names of subsets.

use std::path::Path;
use std::sync::Arc;

use arrow_array::{ArrayRef, BinaryArray, Int64Array, NullArray, RecordBatch, StringArray};
use proptest::prelude::*;

use super::super::*;
use super::directory_of;
use crate::arrow::{LabelKind, LabelRow, LabelWriter};

/// A row: image, text, labels.
type Row = (Option<Vec<u8>>, Option<String>, Option<Vec<String>>);

fn row(image: Option<&str>, text: Option<&str>, labels: Option<&[&str]>) -> Row {
    (
        image.map(|image| image.as_bytes().to_vec()),
        text.map(str::to_string),
        labels.map(|labels| labels.iter().map(|label| label.to_string()).collect()),
    )
}

fn write(path: &Path, kind: LabelKind, rows: &[Row]) {
    let mut writer = LabelWriter::create(path, kind).unwrap();
    for (image, text, labels) in rows {
        let row = LabelRow {
            image: image.as_deref(),
            text: text.as_deref(),
            labels: labels.as_deref(),
            image_id: text.as_deref(),
            split: "train",
        };
        writer.push(row).unwrap();
    }
    assert_eq!(writer.finish().unwrap(), rows.len() as u64);
}

fn open(root: &Path, names: &[&str], split: Split) -> TableDataset {
    TableDataset::open(Contents::Labels, root, names, split).unwrap()
}

/// Writes a file with columns of any type.
fn write_columns(path: &Path, columns: Vec<(&str, ArrayRef)>) {
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let file = std::fs::File::create(path).unwrap();
    let mut writer = arrow_ipc::writer::FileWriter::try_new(file, &batch.schema()).unwrap();
    writer.write(&batch).unwrap();
    writer.finish().unwrap();
}

/// The labels that a row must have when it is read: in order, without repetitions.
fn distinct(labels: &[String]) -> Vec<String> {
    let mut distinct: Vec<String> = Vec::new();
    for label in labels {
        if !distinct.contains(label) {
            distinct.push(label.clone());
        }
    }
    distinct
}

fn assert_rows(dataset: &TableDataset, rows: &[Row]) {
    assert_eq!((dataset.len(), dataset.rows()), (rows.len(), rows.len()));
    for (item, (image, text, labels)) in rows.iter().enumerate() {
        let example = dataset.example(item).unwrap();
        assert_eq!(example.images[0].as_deref(), image.as_deref());
        assert_eq!(example.images[1], None);
        assert_eq!(example.text.as_deref(), text.as_deref());
        let answer = labels
            .as_ref()
            .map_or(Answer::None, |labels| Answer::Labels(distinct(labels)));
        assert_eq!(example.answer, answer);
        assert_eq!(dataset.text(item).unwrap().as_deref(), text.as_deref());
        assert_eq!(dataset.items_of(item).unwrap(), item..item + 1);
        let location = dataset.locate(item).unwrap();
        assert_eq!(location.text, 0);
        assert_eq!(dataset.image_id_at(&location).unwrap(), *text);
    }
    assert!(dataset.example(rows.len()).is_err() && dataset.items_of(rows.len()).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn rows_with_labels_round_trip(
        rows in prop::collection::vec(
            (
                prop::option::of(prop::collection::vec(any::<u8>(), 0..20)),
                prop::option::of(".{0,12}"),
                prop::option::of(prop::collection::vec("[a-c]{1,2}", 0..4)),
            ),
            0..40,
        ),
        several in any::<bool>(),
        files in 1usize..3,
    ) {
        let kind = if several { LabelKind::Multiple } else { LabelKind::Single };
        let rows: Vec<Row> = rows
            .into_iter()
            .map(|(image, text, labels)| {
                let text = if image.is_none() { text.or(Some(String::new())) } else { text };
                let one = |labels: Vec<String>| vec![labels.into_iter().next().unwrap_or("z".into())];
                (image, text, if several { labels } else { labels.map(one) })
            })
            .collect();
        let root = tempfile::tempdir().unwrap();
        for (number, part) in rows.chunks(rows.len().div_ceil(files).max(1)).enumerate() {
            write(&root.path().join(format!("films_train_{number}.arrow")), kind, part);
        }
        if rows.is_empty() {
            write(&root.path().join("films_train_0.arrow"), kind, &[]);
        }
        prop_assert_eq!(contents(root.path(), "films").unwrap(), Contents::Labels);
        let dataset = open(root.path(), &["films"], Split::Train);
        assert_rows(&dataset, &rows);

        let labels = dataset.label_names().unwrap();
        prop_assert_eq!(labels.several, several);
        prop_assert!(labels.names.is_sorted_by(|a, b| a.as_bytes() < b.as_bytes()));
        prop_assert_eq!(labels.names.len(), labels.counts.len());
        for (name, count) in labels.names.iter().zip(&labels.counts) {
            let has_label = |row: &&Row| row.2.as_ref().is_some_and(|labels| labels.contains(name));
            prop_assert_eq!(*count, rows.iter().filter(has_label).count() as u64);
        }
        let all: u64 = rows.iter().filter_map(|row| row.2.as_ref()).map(|labels| distinct(labels).len() as u64).sum();
        prop_assert_eq!(labels.counts.iter().sum::<u64>(), all);
        prop_assert_eq!(labels.unlabelled, rows.iter().filter(|row| row.2.is_none()).count() as u64);
    }

    #[test]
    fn damaged_files_with_labels_are_read_or_rejected_in_one_line(
        several in any::<bool>(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        from_end in any::<bool>(),
    ) {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("films_train.arrow");
        let kind = if several { LabelKind::Multiple } else { LabelKind::Single };
        let rows = [
            row(Some("image"), Some("text"), Some(&["a"])),
            row(None, Some("text"), Some(&["b"])),
            row(Some("image"), None, None),
        ];
        write(&path, kind, &rows);
        let mut bytes = std::fs::read(&path).unwrap();
        let length = bytes.len();
        for (offset, value) in edits {
            let window = if from_end { length.min(1600) } else { length };
            bytes[length - 1 - offset.index(window)] = value;
        }
        std::fs::write(&path, &bytes).unwrap();
        let one_line = |message: String| assert!(!message.contains('\n'), "{message}");
        match TableDataset::open(Contents::Labels, root.path(), &["films"], Split::Train) {
            Ok(dataset) => {
                for item in 0..dataset.len().min(10) {
                    drop(dataset.example(item).map_err(|error| one_line(error.to_string())));
                }
                drop(dataset.label_names().map_err(|error| one_line(error.to_string())));
            }
            Err(error) => one_line(error.to_string()),
        }
    }
}

#[test]
fn finds_the_items_of_several_files_and_datasets() {
    let root = tempfile::tempdir().unwrap();
    let rows: Vec<Row> = (0..300)
        .map(|i| {
            let text = format!("text {i}");
            row((i % 3 > 0).then_some("image"), Some(&text), Some(&["a"]))
        })
        .collect();
    for (file, range) in [
        ("b_train_0", 0..100),
        ("b_train_1", 100..100),
        ("b_train_2", 100..250),
        ("a_train", 250..300),
    ] {
        let path = root.path().join(format!("{file}.arrow"));
        write(&path, LabelKind::Single, &rows[range]);
    }
    let dataset = open(root.path(), &["b", "a"], Split::Train);
    assert_rows(&dataset, &rows);
    assert_eq!(dataset.peers(249), 0..250);
    assert_eq!(dataset.peers(250), 250..300);
    assert_eq!(dataset.describe(101), "b_train_2 1");
    for (item, subset) in [(99, "train_0"), (100, "train_2"), (299, "train"), (300, "")] {
        assert_eq!(dataset.subset(item), subset, "{item}");
    }
    assert_eq!(RowsOf::new(Arc::new(dataset)).subset(100), "train_2");
}

#[test]
fn labels_of_test_splits_may_all_be_null() {
    let root = tempfile::tempdir().unwrap();
    let text: ArrayRef = Arc::new(StringArray::from(vec!["one", "two"]));
    let nulls = |rows: usize| -> ArrayRef { Arc::new(NullArray::new(rows)) };
    for (column, name) in [("label", "single"), ("labels", "multiple")] {
        let path = root.path().join(format!("{name}_test.arrow"));
        // The types that pandas writes for columns without values. A missing image column means that no row has an image.
        write_columns(&path, vec![("text", text.clone()), (column, nulls(2))]);
        let dataset = open(root.path(), &[name], Split::Test);
        assert_eq!(dataset.example(1).unwrap().answer, Answer::None);
        let labels = dataset.label_names().unwrap();
        assert_eq!((labels.names.len(), labels.unlabelled), (0, 2));
        assert_eq!(labels.several, column == "labels");
    }
    let path = root.path().join("texts_test.arrow");
    write_columns(
        &path,
        vec![("image", nulls(2)), ("text", text.clone()), ("label", text)],
    );
    let example = |item| open(root.path(), &["texts"], Split::Test).example(item).unwrap().answer;
    assert_eq!(example(0), Answer::Labels(vec!["one".into()]));
}

#[test]
fn errors_of_files_with_labels_name_file_row_and_column() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("films_train.arrow");
    let texts = |values: &[Option<&str>]| -> ArrayRef { Arc::new(StringArray::from(values.to_vec())) };
    let images: ArrayRef = Arc::new(BinaryArray::from(vec![Some(&b"image"[..]), None]));
    let numbers: ArrayRef = Arc::new(Int64Array::from(vec![0, 1]));
    let two = texts(&[Some("a"), Some("b")]);
    let error = |columns: Vec<(&str, ArrayRef)>| {
        write_columns(&path, columns);
        let dataset = match TableDataset::open(Contents::Labels, root.path(), &["films"], Split::Train) {
            Ok(dataset) => dataset,
            Err(error) => return error.to_string(),
        };
        let names = dataset.label_names().map(|_| ());
        names
            .and_then(|()| dataset.example(1).map(|_| ()))
            .unwrap_err()
            .to_string()
    };
    for (columns, expected) in [
        (
            vec![
                ("image", images.clone()),
                ("text", texts(&[Some("a"), None])),
                ("label", two.clone()),
            ],
            "films_train.arrow: row 1: it has neither an image nor a text",
        ),
        (
            vec![("image", images.clone()), ("label", texts(&[Some("a"), Some("")]))],
            "films_train.arrow: row 1: a label is empty; give every class a name",
        ),
        (
            vec![("text", two.clone()), ("label", two.clone()), ("labels", two.clone())],
            "films_train.arrow: it has both columns label and labels; keep one of them",
        ),
        (
            vec![("text", two.clone()), ("label", numbers.clone())],
            "films_train.arrow: column \"label\" should hold text, but holds 64-bit integers",
        ),
        (
            vec![("text", two.clone()), ("labels", two.clone())],
            "films_train.arrow: column \"labels\" should hold lists of text, but holds text",
        ),
        (
            vec![("image", two.clone()), ("label", two.clone())],
            "films_train.arrow: column \"image\" should hold images (binary), but holds text",
        ),
        (
            vec![("name", two.clone()), ("label", two.clone())],
            "nor labels (image, text, label or labels); its columns are name, label",
        ),
    ] {
        let message = error(columns);
        assert!(message.ends_with(expected) && !message.contains('\n'), "{message}");
    }

    // One file has one label per row, another several.
    std::fs::remove_file(&path).unwrap();
    write(&root.path().join("films_train_0.arrow"), LabelKind::Single, &[]);
    write(&root.path().join("films_train_1.arrow"), LabelKind::Multiple, &[]);
    let message = open(root.path(), &["films"], Split::Train)
        .label_names()
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("films_train_1.arrow: it has a column labels, but "),
        "{message}"
    );
    assert!(message.ends_with("films_train_0.arrow has label"), "{message}");
}

#[test]
fn the_writer_rejects_rows_that_cannot_be_read() {
    let directory = tempfile::tempdir().unwrap();
    let mut writer = LabelWriter::create(directory.path().join("films_train.arrow"), LabelKind::Single).unwrap();
    let labels = |labels: &[&str]| -> Vec<String> { labels.iter().map(|label| label.to_string()).collect() };
    let (none, one, two, empty) = (labels(&[]), labels(&["a"]), labels(&["a", "b"]), labels(&[""]));
    for (text, labels, reason) in [
        (None, &one, "neither an image nor a text"),
        (Some("text"), &none, "has 0 labels"),
        (Some("text"), &two, "has 2 labels"),
        (Some("text"), &empty, "empty label"),
    ] {
        let row = LabelRow {
            image: None,
            text,
            labels: Some(labels),
            image_id: None,
            split: "train",
        };
        let message = writer.push(row).unwrap_err().to_string();
        assert!(message.contains(reason), "{message}");
    }
    assert_eq!(writer.finish().unwrap(), 0, "rejected rows must not be written");
}

#[test]
fn interrupted_files_with_labels_are_continued() {
    let directory = tempfile::tempdir().unwrap();
    let (whole, path) = (
        directory.path().join("whole.arrow"),
        directory.path().join("films_train.arrow"),
    );
    let image = vec![7; 20 << 20];
    let labels = ["a".to_string()];
    let row = |text| LabelRow {
        image: Some(&image),
        text,
        labels: Some(&labels),
        image_id: None,
        split: "train",
    };
    let texts = [None, Some("one"), Some("two"), None];
    let mut writer = LabelWriter::create(&whole, LabelKind::Multiple).unwrap();
    texts.iter().for_each(|text| writer.push(row(*text)).unwrap());
    writer.finish().unwrap();

    // Each row is a batch, because two do not fit into one; the last row of the first writer is not written.
    let mut first = LabelWriter::resume(&path, LabelKind::Multiple, Vec::new()).unwrap();
    texts[..3].iter().for_each(|text| first.push(row(*text)).unwrap());
    let blocks = first.blocks().to_vec();
    assert_eq!(blocks.len(), 2);
    first.sync().unwrap();
    drop(first);
    let mut second = LabelWriter::resume(&path, LabelKind::Multiple, blocks).unwrap();
    texts[2..].iter().for_each(|text| second.push(row(*text)).unwrap());
    assert_eq!(second.finish().unwrap(), 4);
    assert!(std::fs::read(&path).unwrap() == std::fs::read(&whole).unwrap());
}

#[test]
fn subsets_are_file_names_without_the_name_of_the_dataset() {
    for golden in vlct_golden::directories("prepare") {
        for (contents, name, set, split, prefix) in [
            (Contents::Pairs, "nlvr2", "nlvr2", Split::Val, "nlvr2_"),
            (Contents::Questions, "vqa", "vqav2", Split::Val, "vqav2_"),
            (Contents::Questions, "vqa", "vqav2", Split::Train, "vqav2_"),
            (Contents::Captions, "coco", "coco", Split::Test, "coco_"),
            (Contents::Captions, "vg", "vg", Split::Train, "vg"),
        ] {
            let root = golden.join(set).join("expected");
            let dataset = TableDataset::open(contents, root, &[name], split).unwrap();
            let files: Vec<&str> = dataset.tables().map(|(file, _)| file).collect();
            for item in 0..dataset.len() {
                let file = files[dataset.locate(item).unwrap().table];
                assert_eq!(Some(dataset.subset(item)), file.strip_prefix(prefix), "{name}");
            }
        }
    }
    let directory = directory_of(&[("sbu_0", &[&["a"]]), ("conceptual_caption_train_0", &[&["a"]])]);
    let names = ["sbu", "gcc"];
    let rules = FileRules {
        fewer_shards: true,
        ..FileRules::default()
    };
    let dataset = TableDataset::open_with(Contents::Captions, directory.path(), &names, Split::Train, &rules).unwrap();
    assert_eq!(
        [dataset.subset(0), dataset.subset(1)],
        ["0", "conceptual_caption_train_0"]
    );
}

#[test]
fn tars_of_classes_are_datasets_of_labels() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("0.tar");
    let members: [(&str, &[u8]); 6] = [
        ("a.jpg", b"one"),
        ("a.cls", b"007\n"),
        ("b.cls", b"000"),
        ("b.txt", b"a caption"),
        ("b.png", b"two"),
        ("c.jpg", b"three"),
    ];
    vlct_golden::write_tar(&path, &members);
    let dataset = TableDataset::of_files(Contents::Labels, &["x"], vec![(0, path)]).unwrap();
    let examples: Vec<Example<'_>> = (0..dataset.len()).map(|item| dataset.example(item).unwrap()).collect();
    assert_eq!(examples.len(), 2);
    for (example, image, class) in [(&examples[0], "one", "7"), (&examples[1], "two", "0")] {
        assert_eq!(example.images[0].as_deref(), Some(image.as_bytes()));
        assert_eq!(example.text, None);
        assert_eq!(example.answer, Answer::Labels(vec![class.to_string()]));
    }
    assert_eq!(dataset.text(0).unwrap(), None);
    let names = dataset.label_names().unwrap();
    assert_eq!(
        (names.names, names.counts),
        (vec!["0".to_string(), "7".to_string()], vec![1, 1])
    );
    assert_eq!(dataset.tar_counts().without_caption, 1);
}

#[test]
fn captions_are_collected_as_labels_if_each_row_has_one() {
    let directory = tempfile::tempdir().unwrap();
    let open = |rows: &[&[&str]]| {
        let path = directory.path().join("x_train.arrow");
        let mut writer = crate::arrow::CaptionWriter::create(&path).unwrap();
        for captions in rows {
            writer.push(b"", captions, "", "").unwrap();
        }
        writer.finish().unwrap();
        TableDataset::open(Contents::Captions, directory.path(), &["x"], Split::Train).unwrap()
    };
    let names = open(&[&["b"], &["a"], &[], &["b"]]).caption_names().unwrap();
    assert_eq!(
        (names.names, names.counts),
        (vec!["a".to_string(), "b".to_string()], vec![1, 2])
    );
    let message = open(&[&["b"], &["a", "b"]]).caption_names().unwrap_err().to_string();
    assert!(
        message.ends_with("row 1: it has 2 captions, but an image has one class"),
        "{message}"
    );
}
