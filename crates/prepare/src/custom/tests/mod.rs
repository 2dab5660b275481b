mod directories;
mod labels;
mod pairs;

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use ::parquet::arrow::ArrowWriter;
use arrow_array::{ArrayRef, BinaryArray, RecordBatch, StringArray};

use super::*;
use crate::tables::{ColumnNames, TableFormat};
use crate::testing::options;
use crate::{Outcome, Report, WriteOptions, write};
use vlct_data::answers::Vocabulary;
use vlct_data::arrow::ArrowTable;
use vlct_data::datasets::{Contents, Dataset, Split, TableDataset, contents};
use vlct_golden::write_tar;

/// Writes the dataset. Returns the report.
fn prepare(dataset: &CustomDataset, out: &Path) -> Result<Report> {
    match write(&dataset.name, &dataset.plan()?, &options(out), &mut |_| {
        ControlFlow::Continue(())
    })? {
        Outcome::Written(report) | Outcome::UpToDate(report) => Ok(report),
        Outcome::Stopped => panic!("nothing stops the preparation"),
    }
}

/// Returns image, captions and image_id of every row of the dataset `name`.
fn rows(root: &Path, name: &str, split: Split) -> Vec<(String, Vec<String>, String)> {
    let dataset = TableDataset::open(Contents::Captions, root, &[name], split).unwrap();
    (0..dataset.rows())
        .map(|row| {
            let location = dataset.locate_row(row).unwrap();
            (
                String::from_utf8(dataset.image_at(&location).unwrap().to_vec()).unwrap(),
                dataset
                    .items_of(row)
                    .unwrap()
                    .map(|item| dataset.text(item).unwrap().unwrap().into_owned())
                    .collect(),
                dataset.image_id_at(&location).unwrap().unwrap(),
            )
        })
        .collect()
}

fn row(image: &str, captions: &[&str], id: &str) -> (String, Vec<String>, String) {
    (
        image.into(),
        captions.iter().map(|c| c.to_string()).collect(),
        id.into(),
    )
}

/// Creates a directory with files of these paths and contents.
fn directory_of(files: &[(&str, &str)]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = root.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    root
}

fn plan_error(dataset: &CustomDataset) -> String {
    let message = dataset.plan().map(drop).unwrap_err().to_string();
    assert!(!message.contains('\n'), "{message}");
    message
}

const LINES: &str = r#"{"image": "p/1.jpg", "caption": "one"}
{"image": "p/2.jpg", "caption": ["two", "deux"], "id": "second"}
{"image": "p/none.jpg", "caption": "nothing"}
{"image": "p/1.jpg", "caption": "uno"}
{"image": "p/3.jpg", "caption": "three", "split": "dev"}
{"image": "p/4.jpg", "caption": null}
"#;

fn raw_data() -> tempfile::TempDir {
    directory_of(&[
        ("p/1.jpg", "1"),
        ("p/2.jpg", "2"),
        ("p/3.jpg", "3"),
        ("p/4.jpg", "4"),
        ("all.jsonl", LINES),
        ("train.csv", "path,text\np/1.jpg,one\np/2.jpg,two\np/3.jpg,three\n"),
        ("validation-0.csv", "path,text\np/4.jpg,four\n"),
    ])
}

#[test]
fn tables_become_files_named_after_the_dataset() {
    let (raw, out) = (raw_data(), tempfile::tempdir().unwrap());
    let dataset = CustomDataset {
        annotations: vec![raw.path().join("all.jsonl").to_str().unwrap().parse().unwrap()],
        ..CustomDataset::new("cats", InputFormat::Table(TableFormat::Jsonl), raw.path())
    };
    let report = prepare(&dataset, out.path()).unwrap();
    let files: Vec<&str> = report.files.iter().map(|file| file.file.as_str()).collect();
    assert_eq!(files, ["cats_train_0.arrow", "cats_val_0.arrow"]);
    assert_eq!(
        rows(out.path(), "cats", Split::Train),
        [
            row("1", &["one", "uno"], "p/1.jpg"),
            row("2", &["two", "deux"], "second")
        ]
    );
    assert_eq!(rows(out.path(), "cats", Split::Val), [row("3", &["three"], "p/3.jpg")]);
    assert_eq!(report.remarks, ["train: left out 1 image without a caption"]);
    let train = &report.coverage[0];
    assert_eq!((train.kept, train.annotated, train.without_image), (2, 3, 1));
    assert_eq!(train.examples, ["p/none.jpg"]);

    // Tables are found by their names; a shorter series replaces a longer one.
    let dataset = CustomDataset {
        rows_per_file: 2,
        ..CustomDataset::new("dogs", InputFormat::Table(TableFormat::Csv), raw.path())
    };
    prepare(&dataset, out.path()).unwrap();
    assert!(out.path().join("dogs_train_1.arrow").exists());
    let captions: Vec<Vec<String>> = rows(out.path(), "dogs", Split::Train)
        .into_iter()
        .map(|row| row.1)
        .collect();
    assert_eq!(captions, [["one"], ["two"], ["three"]]);
    assert_eq!(rows(out.path(), "dogs", Split::Val), [row("4", &["four"], "p/4.jpg")]);

    let overwrite = |dataset: &CustomDataset| {
        let options = WriteOptions {
            overwrite: true,
            ..options(out.path())
        };
        let outcome = write(&dataset.name, &dataset.plan().unwrap(), &options, &mut |_| {
            ControlFlow::Continue(())
        })
        .unwrap();
        assert!(matches!(outcome, Outcome::Written(_)));
    };
    let mut dataset = dataset;
    dataset.rows_per_file = 3;
    overwrite(&dataset);
    assert!(!out.path().join("dogs_train_1.arrow").exists());
    assert_eq!(rows(out.path(), "dogs", Split::Train).len(), 3);
    // Writing one split again does not change the other.
    dataset.splits = Some(vec!["val".into()]);
    std::fs::remove_file(out.path().join("dogs_val_0.arrow")).unwrap();
    overwrite(&dataset);
    assert_eq!(rows(out.path(), "dogs", Split::Train).len(), 3);
    assert_eq!(rows(out.path(), "dogs", Split::Val).len(), 1);
}

#[test]
fn rows_without_image_are_left_out_and_counted() {
    let lines = r#"{"image": "p/1.jpg", "caption": "one"}
{"image": "", "caption": "two"}
{"caption": "three"}
"#;
    let (raw, out) = (
        directory_of(&[("p/1.jpg", "1"), ("train.jsonl", lines)]),
        tempfile::tempdir().unwrap(),
    );
    let dataset = CustomDataset::new("cats", InputFormat::Table(TableFormat::Jsonl), raw.path());
    let report = prepare(&dataset, out.path()).unwrap();
    assert_eq!(rows(out.path(), "cats", Split::Train), [row("1", &["one"], "p/1.jpg")]);
    assert_eq!(
        report.remarks,
        ["train: left out 2 rows without an image (train.jsonl, line 2; train.jsonl, line 3)"]
    );
}

#[test]
fn malformed_rows_are_left_out_and_counted() {
    let lines = "image,caption,split\np/1.jpg,one,train\np/1.jpg,two\np/1.jpg,three,trial\np/1.jpg,four,\np/1.jpg,five, Train\n";
    let (raw, out) = (
        directory_of(&[("p/1.jpg", "1"), ("train.csv", lines)]),
        tempfile::tempdir().unwrap(),
    );
    let mut dataset = CustomDataset::new("cats", InputFormat::Table(TableFormat::Csv), raw.path());
    dataset.annotations = vec![AnnotationTable {
        split: None,
        file: raw.path().join("train.csv"),
    }];
    let report = prepare(&dataset, out.path()).unwrap();
    assert_eq!(
        rows(out.path(), "cats", Split::Train),
        [row("1", &["one", "four", "five"], "p/1.jpg")]
    );
    assert_eq!(
        report.remarks,
        [
            "train.csv: left out 2 rows that cannot be used (line 3 has 2 values, the first line 3; quote values that hold separators; \
          line 4 has the unknown split \"trial\")"
        ]
    );
}

#[test]
fn dataset_with_an_interrupted_replacement_cannot_be_opened() {
    let (raw, out) = (raw_data(), tempfile::tempdir().unwrap());
    let dataset = |rows_per_file| CustomDataset {
        rows_per_file,
        ..CustomDataset::new("dogs", InputFormat::Table(TableFormat::Csv), raw.path())
    };
    prepare(&dataset(1), out.path()).unwrap();
    // A rejected preparation changes nothing.
    let error = prepare(&dataset(2), out.path()).unwrap_err().to_string();
    assert!(error.contains("already exist, made from other inputs"), "{error}");
    assert_eq!(rows(out.path(), "dogs", Split::Train).len(), 3);
    assert!(!out.path().join(".prepare_dogs.journal").exists());
    let options = WriteOptions {
        overwrite: true,
        ..options(out.path())
    };
    let stopped = write(
        "dogs",
        &dataset(2).plan().unwrap(),
        &options,
        &mut |now| match now.done {
            // Four rows are done: the row of val, which is not written again, and three rows of train. The third row of train is
            // in an unfinished file.
            4 => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        },
    );
    assert_eq!(stopped.unwrap(), Outcome::Stopped);
    // Only the first new file exists. The old files are deleted.
    let exists = |number| out.path().join(format!("dogs_train_{number}.arrow")).exists();
    assert_eq!([0, 1, 2].map(exists), [true, false, false]);
    let open_error = |split| {
        TableDataset::open(Contents::Captions, out.path(), &["dogs"], split)
            .unwrap_err()
            .to_string()
    };
    assert!(open_error(Split::Train).contains("dogs_train_1.arrow: the preparation of dogs is not finished"));
    prepare(&dataset(2), out.path()).unwrap();
    assert_eq!(rows(out.path(), "dogs", Split::Train).len(), 3);
}

#[test]
fn all_splits_share_answer_ids() {
    let (raw, out) = (
        directory_of(&[("1.jpg", "1"), ("2.jpg", "2"), ("train.csv", ""), ("val.csv", "")]),
        tempfile::tempdir().unwrap(),
    );
    let write_table = |split: &str, answers: &[&str]| {
        let rows = answers
            .iter()
            .map(|answer| format!("1.jpg,why?,{answer},x\n2.jpg,who?,{answer},7\n"));
        let text = format!("image,question,answer,id\n{}", rows.collect::<String>());
        std::fs::write(raw.path().join(format!("{split}.csv")), text).unwrap();
    };
    let dataset_with = |split: &str| CustomDataset {
        splits: Some(vec![split.to_string()]),
        ..CustomDataset::new("asks", InputFormat::Table(TableFormat::Csv), raw.path())
    };
    write_table("train", &["yes", "yes", "no"]);
    write_table("val", &["no"]);
    prepare(&dataset_with("train"), out.path()).unwrap();
    prepare(&dataset_with("val"), out.path()).unwrap();
    let written = ArrowTable::open(out.path().join("asks_train_0.arrow")).unwrap();
    let mut ids: Vec<i64> = (0..2)
        .map(|row| written.integer(row, "image_id").unwrap().unwrap())
        .collect();
    ids.sort();
    assert_eq!(ids, [7, 8], "an image whose name is not an integer gets an unused id");
    write_table("train", &["no", "no", "no", "yes"]);
    let error = prepare(&dataset_with("train"), out.path()).unwrap_err().to_string();
    assert!(
        error.contains("asks_val_0.arrow: its answers have ids of another vocabulary"),
        "{error}"
    );
}

#[test]
fn rejects_names_of_published_datasets() {
    for name in ["conceptual_caption", "coco_caption_karpathy", "gcc", "pretrain-vqa"] {
        let error = plan_error(&CustomDataset::new(name, InputFormat::ImageFolder, "/nowhere"));
        assert!(error.contains("is the name of a published dataset"), "{name}: {error}");
    }
}

#[test]
fn rows_without_a_split_belong_to_train() {
    let lines = r#"{"image": "./1.jpg", "caption": "a", "split": null}
{"image": "1.jpg", "caption": "b", "split": "training"}
"#;
    let (raw, out) = (
        directory_of(&[("1.jpg", "1"), ("all.jsonl", lines)]),
        tempfile::tempdir().unwrap(),
    );
    let dataset = CustomDataset {
        annotations: vec![raw.path().join("all.jsonl").to_str().unwrap().parse().unwrap()],
        ..CustomDataset::new("cats", InputFormat::Table(TableFormat::Jsonl), raw.path())
    };
    prepare(&dataset, out.path()).unwrap();
    assert_eq!(
        rows(out.path(), "cats", Split::Train),
        [row("1", &["a", "b"], "./1.jpg")]
    );
}

#[test]
fn unreadable_image_ends_the_preparation() {
    let (raw, out) = (raw_data(), tempfile::tempdir().unwrap());
    let dataset = CustomDataset::new("dogs", InputFormat::Table(TableFormat::Csv), raw.path());
    let plan = dataset.plan().unwrap();
    let image = raw.path().join("p/2.jpg");
    std::fs::remove_file(&image).unwrap();
    std::os::unix::fs::symlink(&image, &image).unwrap();
    let mut proceed = |_| ControlFlow::Continue(());
    let result = write("dogs", &plan, &options(out.path()), &mut proceed);
    assert!(matches!(result, Err(PrepareError::Io(vlct_util::IoError { path, .. })) if path == image));
    std::fs::remove_file(&image).unwrap();
    std::fs::write(&image, "2").unwrap();
    prepare(&dataset, out.path()).unwrap();
    assert_eq!(rows(out.path(), "dogs", Split::Train).len(), 3);
}

#[test]
fn reads_parquet_with_embedded_images() {
    let (raw, out) = (directory_of(&[]), tempfile::tempdir().unwrap());
    let images: Vec<String> = (0..100).map(|i| format!("image {i}")).collect();
    let texts: Vec<String> = (0..100).map(|i| format!("text {i}")).collect();
    let batch = RecordBatch::try_from_iter([
        ("image", Arc::new(BinaryArray::from_iter_values(&images)) as ArrayRef),
        ("text", Arc::new(StringArray::from(texts.clone()))),
    ])
    .unwrap();
    for name in ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"] {
        let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        std::fs::write(raw.path().join(name), writer.into_inner().unwrap()).unwrap();
    }
    let dataset = CustomDataset {
        rows_per_file: 150,
        ..CustomDataset::new("hub", InputFormat::Table(TableFormat::Parquet), raw.path())
    };
    let report = prepare(&dataset, out.path()).unwrap();
    let counts: Vec<u64> = report.files.iter().map(|file| file.rows).collect();
    assert_eq!(counts, [150, 50]);
    let found = rows(out.path(), "hub", Split::Train);
    for (index, found) in found.iter().enumerate() {
        let i = index % 100;
        assert_eq!(*found, row(&images[i], &[&texts[i]], &i.to_string()));
    }
}

#[test]
fn answer_ids_come_from_the_training_split() {
    let lines = r#"{"image": "1.jpg", "question": "how many?", "answers": ["Two", "2", "three"], "id": 11}
{"image": "2.jpg", "question": "what?", "answer": "a cat", "id": 12}
{"image": "1.jpg", "question": "where?", "answer": "home", "id": 11}
{"image": "2.jpg", "question": "who?", "answers": ["dog", "horse"], "split": "val"}
{"image": "2.jpg", "question": "how?", "answers": ["cat", "2"], "split": "val"}
{"image": "1.jpg", "question": "why?", "split": "test"}
"#;
    let (raw, out) = (
        directory_of(&[("1.jpg", "1"), ("2.jpg", "2"), ("q.jsonl", lines)]),
        tempfile::tempdir().unwrap(),
    );
    let dataset = CustomDataset {
        annotations: vec![AnnotationTable {
            split: None,
            file: raw.path().join("q.jsonl"),
        }],
        ..CustomDataset::new("ask", InputFormat::Table(TableFormat::Jsonl), raw.path())
    };
    let report = prepare(&dataset, out.path()).unwrap();
    assert_eq!(
        report.remarks,
        [
            "val: left out 1 question without an answer of the vocabulary",
            "answer vocabulary: 3 answers"
        ]
    );
    assert_eq!(contents(out.path(), "ask").unwrap(), Contents::Questions);
    let open = |split: &str| ArrowTable::open(out.path().join(format!("ask_{split}_0.arrow"))).unwrap();
    let train = open("train");
    assert_eq!(train.texts(0, "questions").unwrap(), ["how many?", "where?"]);
    assert_eq!(train.text_lists(0, "answers").unwrap(), [["2"], ["home"]]);
    assert_eq!(train.integer_lists(0, "answer_labels").unwrap(), [[0], [1]]);
    // Scaled to ten answers, "2" counts as seven (from two of three), and a single answer as ten.
    assert_eq!(train.float_lists(0, "answer_scores").unwrap(), [[1.0], [1.0]]);
    assert_eq!(train.integer(0, "image_id").unwrap(), Some(11));
    assert_eq!(train.integers(1, "question_id").unwrap(), [2]);
    assert_eq!(train.text_lists(1, "answers").unwrap(), [["cat"]]);
    let val = open("val");
    assert_eq!(val.texts(0, "questions").unwrap(), ["how?"]);
    assert_eq!(val.integer_lists(0, "answer_labels").unwrap(), [[2, 0]]);
    let test = open("test");
    assert_eq!(test.texts(0, "questions").unwrap(), ["why?"]);
    assert!(test.text_lists(0, "answers").unwrap().is_empty());

    let train = TableDataset::open(Contents::Questions, out.path(), &["ask"], Split::Train).unwrap();
    let vocabulary = Vocabulary::from_dataset(&train).unwrap();
    let answers: Vec<Option<&str>> = (0..4).map(|id| vocabulary.answer(id)).collect();
    assert_eq!(answers, [Some("2"), Some("home"), Some("cat"), None]);

    let rare = CustomDataset {
        min_answers: 2,
        ..dataset
    };
    assert!(plan_error(&rare).contains("the majority answer of 2 questions"));
}

#[test]
fn reads_tars_and_class_directories() {
    let out = tempfile::tempdir().unwrap();
    let raw = directory_of(&[("val/x", "")]);
    write_tar(
        &raw.path().join("0.tar"),
        &[
            ("a.jpg", b"A"),
            ("a.json", br#"{"caption": ["x", "y"]}"#),
            ("b.jpg", b"B"),
        ],
    );
    write_tar(&raw.path().join("1.tar"), &[("c.jpg", b"C"), ("c.txt", b"z")]);
    write_tar(&raw.path().join("val/0.tar"), &[("d.jpg", b"D"), ("d.txt", b"w")]);
    let report = prepare(
        &CustomDataset::new("web", InputFormat::WebDataset, raw.path()),
        out.path(),
    )
    .unwrap();
    assert_eq!(
        rows(out.path(), "web", Split::Train),
        [row("A", &["x", "y"], "a"), row("C", &["z"], "c")]
    );
    assert_eq!(rows(out.path(), "web", Split::Val), [row("D", &["w"], "d")]);
    assert_eq!((report.coverage[0].found, report.coverage[0].kept), (3, 2));

    let raw = directory_of(&[
        ("train/dog/1.jpg", "D"),
        ("train/cat/2.png", "C"),
        ("val/dog/3.jpg", "E"),
    ]);
    let dataset = CustomDataset::new("pets", InputFormat::ImageFolder, raw.path());
    prepare(&dataset, out.path()).unwrap();
    assert_eq!(
        rows(out.path(), "pets", Split::Train),
        [row("C", &["cat"], "2.png"), row("D", &["dog"], "1.jpg")]
    );
    assert_eq!(rows(out.path(), "pets", Split::Val), [row("E", &["dog"], "3.jpg")]);
    std::fs::create_dir(raw.path().join("val/bird")).unwrap();
    std::fs::write(raw.path().join("val/bird/4.jpg"), "B").unwrap();
    assert!(plan_error(&dataset).contains("\"bird\" is in no earlier split"));
}

#[test]
fn tables_without_rows_are_named() {
    let raw = directory_of(&[("train.csv", "image,caption\n")]);
    let dataset = CustomDataset::new("cats", InputFormat::Table(TableFormat::Csv), raw.path());
    let message = plan_error(&dataset);
    assert!(message.ends_with("; train.csv has no rows"), "{message}");
}

#[test]
fn rejects_invalid_datasets() {
    let raw = raw_data();
    let dataset = |name: &str| CustomDataset::new(name, InputFormat::Table(TableFormat::Csv), raw.path());
    for (dataset, part) in [
        (dataset("coco"), "published"),
        (dataset("vqav2"), "published"),
        (dataset("a b"), "is not a valid name"),
        (dataset("../x"), "is not a valid name"),
        (
            CustomDataset {
                splits: Some(vec!["x".into()]),
                ..dataset("cats")
            },
            "no split \"x\"",
        ),
        (
            CustomDataset {
                format: InputFormat::Table(TableFormat::Tsv),
                ..dataset("cats")
            },
            "no train.tsv",
        ),
        (
            CustomDataset {
                format: InputFormat::WebDataset,
                ..dataset("cats")
            },
            "nothing to write",
        ),
        (
            CustomDataset {
                format: InputFormat::ImageFolder,
                annotations: vec!["x".parse().unwrap()],
                ..dataset("cats")
            },
            "stores texts with the images",
        ),
        (
            CustomDataset {
                root: raw.path().join("p"),
                ..dataset("cats")
            },
            "no train.csv",
        ),
    ] {
        let message = plan_error(&dataset);
        assert!(message.contains(part), "{part:?} is not in {message}");
    }
    let wrong_root = CustomDataset {
        annotations: vec![AnnotationTable {
            split: Some("train".into()),
            file: raw.path().join("train.csv"),
        }],
        root: raw.path().join("p"),
        ..dataset("cats")
    };
    let message = plan_error(&wrong_root);
    assert!(
        message.contains("nothing to write") && message.contains("p/1.jpg"),
        "{message}"
    );
    let annotations: AnnotationTable = "dev=a=b.csv".parse().unwrap();
    assert_eq!(
        (annotations.split.as_deref(), annotations.file.to_str()),
        (Some("val"), Some("a=b.csv"))
    );
    let annotations: AnnotationTable = "x=b.csv".parse().unwrap();
    assert_eq!(
        (&annotations.split, annotations.file.to_str()),
        (&None, Some("x=b.csv"))
    );
    let unknown_split = CustomDataset {
        annotations: vec![annotations],
        ..dataset("cats")
    };
    assert_eq!(
        plan_error(&unknown_split),
        "there is no split \"x\"; this dataset has train, val, test"
    );
    let equals = raw.path().join("x=b.csv");
    std::fs::copy(raw.path().join("train.csv"), &equals).unwrap();
    let file = CustomDataset {
        annotations: vec![equals.to_str().unwrap().parse().unwrap()],
        ..dataset("cats")
    };
    assert!(file.plan().is_ok(), "a file whose name has an equals sign");
}
