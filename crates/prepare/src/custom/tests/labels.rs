//! Tests of datasets of labels.

use super::*;
use arrow_array::builder::{ListBuilder, StringBuilder};
use vlct_data::datasets::Answer;

/// Image, text, labels and name of a row.
type LabelledRow = (Option<String>, Option<String>, Option<Vec<String>>, Option<String>);

fn labelled(image: &str, text: &str, labels: Option<&[&str]>, name: &str) -> LabelledRow {
    let optional = |text: &str| (!text.is_empty()).then(|| text.to_string());
    let labels = labels.map(|labels| labels.iter().map(|label| label.to_string()).collect());
    (optional(image), optional(text), labels, optional(name))
}

fn labelled_rows(root: &Path, name: &str, split: Split) -> Vec<LabelledRow> {
    let dataset = TableDataset::open(Contents::Labels, root, &[name], split).unwrap();
    (0..dataset.len())
        .map(|item| {
            let example = dataset.example(item).unwrap();
            let image = example.images[0].clone();
            let labels = match example.answer {
                Answer::Labels(labels) => Some(labels),
                Answer::None => None,
                other => panic!("{other:?}"),
            };
            (
                image.map(|image| String::from_utf8(image.into_owned()).unwrap()),
                example.text.map(|text| text.into_owned()),
                labels,
                dataset.image_id_at(&dataset.locate(item).unwrap()).unwrap(),
            )
        })
        .collect()
}

fn dataset(raw: &Path, format: TableFormat) -> CustomDataset {
    CustomDataset::new("films", InputFormat::Table(format), raw)
}

const TRAIN: &str = "id,image,text,label\n\
    7,1.jpg,one,drama\n\
    ,1.jpg,two,comedy\n\
    ,,only text, drama \n\
    ,2.jpg,,0\n\
    ,2.jpg,no label, \n\
    ,,,comedy\n\
    ,none.jpg,no file,comedy\n";

#[test]
fn rows_without_image_or_text_are_kept() {
    let raw = directory_of(&[
        ("1.jpg", "1"),
        ("2.jpg", "2"),
        ("train.csv", TRAIN),
        ("val.csv", "image,text,label\n2.jpg,three,drama\n,four,horror\n"),
        // Tables of a test split may lack the labels, and the images.
        ("test-0.csv", "image,text\n1.jpg,five\n"),
        ("test-1.csv", "text\nsix\n"),
    ]);
    let out = tempfile::tempdir().unwrap();
    let report = prepare(&dataset(raw.path(), TableFormat::Csv), out.path()).unwrap();
    assert_eq!(contents(out.path(), "films").unwrap(), Contents::Labels);
    assert_eq!(
        labelled_rows(out.path(), "films", Split::Train),
        [
            labelled("1", "one", Some(&["drama"]), "7"),
            labelled("1", "two", Some(&["comedy"]), "1.jpg"),
            labelled("", "only text", Some(&["drama"]), ""),
            labelled("2", "", Some(&["0"]), "2.jpg"),
        ]
    );
    assert_eq!(
        labelled_rows(out.path(), "films", Split::Val),
        [
            labelled("2", "three", Some(&["drama"]), "2.jpg"),
            labelled("", "four", Some(&["horror"]), ""),
        ]
    );
    assert_eq!(
        labelled_rows(out.path(), "films", Split::Test),
        [labelled("1", "five", None, "1.jpg"), labelled("", "six", None, "")]
    );
    assert_eq!(
        report.remarks,
        [
            "train: left out 1 row with neither an image nor a text (train.csv, line 7)",
            "train: left out 1 row without a label (train.csv, line 6)",
        ]
    );
    let train = &report.coverage[0];
    assert_eq!((train.annotated, train.kept, train.without_image), (4, 3, 1));
    assert_eq!(train.examples, ["none.jpg"]);

    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(
        json["labels"],
        serde_json::json!([
            {"part": "train", "several": false, "rows": {"0": 1, "comedy": 1, "drama": 2},
             "unlabelled": 0, "without_image": 1, "without_text": 1},
            {"part": "val", "several": false, "rows": {"drama": 1, "horror": 1},
             "unlabelled": 0, "without_image": 1, "without_text": 0},
            {"part": "test", "several": false, "rows": {}, "unlabelled": 2, "without_image": 1, "without_text": 0},
        ])
    );
    assert_eq!(report.labels_without_training_rows(), [("val", vec!["horror"])]);
    let names = TableDataset::open(Contents::Labels, out.path(), &["films"], Split::Train)
        .unwrap()
        .label_names()
        .unwrap();
    assert_eq!(
        (names.names.join(" "), names.counts),
        ("0 comedy drama".to_string(), vec![1, 1, 2])
    );

    // Another preparation of one split keeps the labels of the others.
    let val = CustomDataset {
        splits: Some(vec!["val".into()]),
        ..dataset(raw.path(), TableFormat::Csv)
    };
    std::fs::write(raw.path().join("val.csv"), "text,label\nfour,drama\n").unwrap();
    let options = WriteOptions {
        overwrite: true,
        ..options(out.path())
    };
    let Outcome::Written(report) = write("films", &val.plan().unwrap(), &options, &mut |_| {
        ControlFlow::Continue(())
    })
    .unwrap() else {
        panic!("the table has changed");
    };
    let parts: Vec<&str> = report.labels.iter().map(|counts| counts.part.as_str()).collect();
    assert_eq!(parts, ["val", "train", "test"]);
    assert_eq!(report.labels_without_training_rows(), []);
}

#[test]
fn rows_have_any_number_of_labels() {
    let lines = r#"{"image": "1.jpg", "text": "one", "labels": ["drama", "comedy"]}
{"image": "1.jpg", "labels": []}
{"text": "two", "labels": null}
{"text": "three", "labels": "drama|war", "split": "val"}
{"text": "four", "split": "test", "labels": []}
{"text": "five", "split": "test"}
"#;
    let raw = directory_of(&[("1.jpg", "1"), ("films.jsonl", lines)]);
    let out = tempfile::tempdir().unwrap();
    let dataset = CustomDataset {
        annotations: vec![raw.path().join("films.jsonl").to_str().unwrap().parse().unwrap()],
        ..dataset(raw.path(), TableFormat::Jsonl)
    };
    let report = prepare(&dataset, out.path()).unwrap();
    assert_eq!(
        labelled_rows(out.path(), "films", Split::Train),
        [
            labelled("1", "one", Some(&["drama", "comedy"]), "1.jpg"),
            labelled("1", "", Some(&[]), "1.jpg"),
        ]
    );
    assert_eq!(
        labelled_rows(out.path(), "films", Split::Val),
        [labelled("", "three", Some(&["drama", "war"]), "")]
    );
    assert_eq!(
        labelled_rows(out.path(), "films", Split::Test),
        [labelled("", "four", None, ""), labelled("", "five", None, "")],
        "a test split in which no row has a label has no labels"
    );
    assert_eq!(
        report.remarks,
        ["train: left out 1 row without a label (films.jsonl, line 3)"]
    );
    assert!(report.labels.iter().all(|counts| counts.several));
}

#[test]
fn reads_embedded_images_and_null_ones() {
    let raw = directory_of(&[]);
    let image = |i: usize| (!i.is_multiple_of(3)).then(|| format!("image {i}"));
    let text = |i: usize| (!i.is_multiple_of(4)).then(|| format!("text {i}"));
    let mut labels = ListBuilder::new(StringBuilder::new());
    (0..100).for_each(|i| labels.append_value([Some(format!("class {}", i % 2))]));
    let batch = RecordBatch::try_from_iter_with_nullable([
        (
            "image",
            Arc::new(BinaryArray::from_iter((0..100).map(image))) as ArrayRef,
            true,
        ),
        ("text", Arc::new(StringArray::from_iter((0..100).map(text))), true),
        ("labels", Arc::new(labels.finish()), true),
    ])
    .unwrap();
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    std::fs::write(raw.path().join("train.parquet"), writer.into_inner().unwrap()).unwrap();

    let out = tempfile::tempdir().unwrap();
    let report = prepare(&dataset(raw.path(), TableFormat::Parquet), out.path()).unwrap();
    let expected: Vec<LabelledRow> = (0..100)
        .filter(|i| image(*i).is_some() || text(*i).is_some())
        .map(|i| {
            (
                image(i),
                text(i),
                Some(vec![format!("class {}", i % 2)]),
                Some(i.to_string()),
            )
        })
        .collect();
    assert_eq!(labelled_rows(out.path(), "films", Split::Train), expected);
    // The rows with neither are found when the images are read.
    assert_eq!(report.left_out.len(), 100 - expected.len());
    assert_eq!(report.left_out[0].reason, "the row has neither an image nor a text");
    assert!(
        report.left_out[0].image.ends_with("train.parquet, row 0"),
        "{:?}",
        report.left_out[0]
    );
    assert_eq!(
        report.labels[0].without_image,
        expected.iter().filter(|row| row.0.is_none()).count() as u64
    );
}

#[test]
fn interrupted_preparations_of_labels_give_the_same_bytes() {
    // Two images do not fit into a batch.
    let image = "x".repeat(17 << 20);
    let rows: String = (0..12)
        .map(|i| {
            format!(
                "{},text {i},{}\n",
                if i % 4 == 0 { "" } else { "1.jpg" },
                ["a", "b"][i % 2]
            )
        })
        .collect();
    let raw = directory_of(&[("1.jpg", &image), ("train.csv", &format!("image,text,label\n{rows}"))]);
    let dataset = CustomDataset {
        rows_per_file: 5,
        ..dataset(raw.path(), TableFormat::Csv)
    };
    let whole = tempfile::tempdir().unwrap();
    let expected = prepare(&dataset, whole.path()).unwrap();
    let files = ["films_train_0.arrow", "films_train_1.arrow"];
    for stop in [1, 4, 7] {
        let out = tempfile::tempdir().unwrap();
        let plan = dataset.plan().unwrap();
        let mut watch = |now: crate::Progress| {
            if now.done >= stop {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        };
        let stopped = write("films", &plan, &options(out.path()), &mut watch).unwrap();
        assert_eq!(stopped, Outcome::Stopped);
        let report = prepare(&dataset, out.path()).unwrap();
        assert_eq!(report, expected, "{stop}");
        for file in files {
            let read = |root: &Path| std::fs::read(root.join(file)).unwrap();
            assert!(read(out.path()) == read(whole.path()), "{file} after {stop} rows");
        }
    }
    // A changed label is another input.
    std::fs::write(
        raw.path().join("train.csv"),
        format!("image,text,label\n{rows},last,c\n"),
    )
    .unwrap();
    let error = prepare(&dataset, whole.path()).unwrap_err().to_string();
    assert!(error.contains("made from other inputs"), "{error}");
}

#[test]
fn unusable_tables_of_labels_are_one_line_errors() {
    let raw = directory_of(&[
        ("one.csv", "text,label\na,x\n"),
        ("several.csv", "text,labels\na,x\n"),
        ("captions.csv", "image,caption\na.jpg,x\n"),
        ("pairs.csv", "image_0,image_1,statement,label\na,b,c,1\n"),
        ("blank.csv", "text,label\na,\nb, \n"),
        ("missing.csv", "image,label\nnone.jpg,x\n"),
    ]);
    let with = |files: &[&str], columns: ColumnNames| {
        let annotation = |file: &&str| AnnotationTable {
            split: None,
            file: raw.path().join(file),
        };
        plan_error(&CustomDataset {
            annotations: files.iter().map(annotation).collect(),
            columns,
            ..dataset(raw.path(), TableFormat::Csv)
        })
    };
    let default = ColumnNames::default;
    let genre = ColumnNames {
        label: Some("genre".into()),
        ..default()
    };
    for (files, columns, expected) in [
        (
            &["one.csv", "several.csv"][..],
            default(),
            "several.csv: it has several labels per row (labels), but ",
        ),
        (
            &["captions.csv", "pairs.csv"],
            default(),
            "captions.csv: it has captions or questions, but ",
        ),
        (
            &["pairs.csv", "one.csv"],
            default(),
            "one.csv: it has one label per row (label), but ",
        ),
        (
            &["one.csv", "captions.csv"],
            genre,
            "one.csv: there is no column \"genre\"; the columns are \"text\", \"label\"",
        ),
        (
            &["blank.csv"],
            default(),
            "no row has a label, and a text or an image that exists; train: left out 2 rows without a label (blank.csv, line 2; \
             blank.csv, line 3)",
        ),
        (
            &["missing.csv"],
            default(),
            "no row has a label, and a text or an image that exists; for example, none.jpg does not exist",
        ),
    ] {
        let message = with(files, columns);
        assert!(message.contains(expected), "{expected:?} is not in {message}");
    }
}

#[test]
fn labels_can_be_ignored() {
    let raw = directory_of(&[
        ("1.jpg", "1"),
        ("train.csv", "image,caption,label\n1.jpg,one,x\n1.jpg,two,y\n"),
    ]);
    let out = tempfile::tempdir().unwrap();
    let dataset = CustomDataset {
        columns: ColumnNames {
            ignore_labels: true,
            ..ColumnNames::default()
        },
        ..dataset(raw.path(), TableFormat::Csv)
    };
    let report = prepare(&dataset, out.path()).unwrap();
    assert_eq!(
        rows(out.path(), "films", Split::Train),
        [row("1", &["one", "two"], "1.jpg")]
    );
    assert!(report.labels.is_empty());
}
