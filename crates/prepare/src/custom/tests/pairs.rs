//! Tests of datasets of pairs.

use super::*;
use vlct_data::datasets::Answer;

/// Images, sentence, truth and name of an item.
type Item = ([String; 2], String, Option<bool>, String);

fn item(images: [&str; 2], sentence: &str, truth: Option<bool>, name: &str) -> Item {
    (images.map(str::to_string), sentence.into(), truth, name.into())
}

fn items(root: &Path, split: Split) -> Vec<Item> {
    let dataset = TableDataset::open(Contents::Pairs, root, &["two"], split).unwrap();
    (0..dataset.len())
        .map(|item| {
            let example = dataset.example(item).unwrap();
            let truth = match example.answer {
                Answer::Truth(truth) => Some(truth),
                Answer::None => None,
                other => panic!("{other:?}"),
            };
            let images = example
                .images
                .map(|image| String::from_utf8(image.unwrap().into_owned()).unwrap());
            let name = dataset.image_id_at(&dataset.locate(item).unwrap()).unwrap().unwrap();
            (images, example.text.unwrap().into_owned(), truth, name)
        })
        .collect()
}

fn dataset(raw: &Path, format: TableFormat) -> CustomDataset {
    CustomDataset::new("two", InputFormat::Table(format), raw)
}

#[test]
fn statements_become_pairs_in_the_layout_of_nlvr2() {
    let train = "image_0,image_1,statement,truth\n\
        1.jpg,2.jpg,one,True\n\
        2.jpg,1.jpg,two,false\n\
        ./1.jpg,2.jpg,three,0\n\
        1.jpg,,four,1\n\
        1.jpg,2.jpg,,yes\n\
        1.jpg,2.jpg,six,maybe\n\
        1.jpg,2.jpg,seven,\n\
        1.jpg,none.jpg,eight,no\n";
    let raw = directory_of(&[
        ("1.jpg", "1"),
        ("2.jpg", "2"),
        ("train.csv", train),
        (
            "dev.csv",
            "left_image,right_image,sentence,label,id\n1.jpg,1.jpg,nine,YES,dev-1\n",
        ),
        (
            "test.csv",
            "image_0,image_1,statement\n2.jpg,2.jpg,ten\n2.jpg,2.jpg,eleven\n",
        ),
    ]);
    let out = tempfile::tempdir().unwrap();
    let report = prepare(&dataset(raw.path(), TableFormat::Csv), out.path()).unwrap();
    let files: Vec<&str> = report.files.iter().map(|file| file.file.as_str()).collect();
    assert_eq!(files, ["two_train_0.arrow", "two_val_0.arrow", "two_test_0.arrow"]);
    assert_eq!(contents(out.path(), "two").unwrap(), Contents::Pairs);
    assert_eq!(
        items(out.path(), Split::Train),
        [
            item(["1", "2"], "one", Some(true), "1.jpg 2.jpg"),
            item(["1", "2"], "three", Some(false), "1.jpg 2.jpg"),
            item(["2", "1"], "two", Some(false), "2.jpg 1.jpg"),
        ]
    );
    assert_eq!(
        items(out.path(), Split::Val),
        [item(["1", "1"], "nine", Some(true), "dev-1")]
    );
    assert_eq!(
        items(out.path(), Split::Test),
        [
            item(["2", "2"], "ten", None, "2.jpg 2.jpg"),
            item(["2", "2"], "eleven", None, "2.jpg 2.jpg"),
        ]
    );
    assert_eq!(
        report.remarks,
        [
            "train: left out 1 row with fewer than two images (train.csv, line 5)",
            "train: left out 1 row without a statement (train.csv, line 6)",
            "train: left out 1 row without a truth (train.csv, line 8)",
            "train: left out 1 row whose truth is neither true, yes, 1 nor false, no, 0 (train.csv, line 7: \"maybe\")",
        ]
    );
    let train = &report.coverage[0];
    assert_eq!((train.annotated, train.kept, train.without_image), (3, 2, 1));
    let subsets = TableDataset::open(Contents::Pairs, out.path(), &["two"], Split::Val).unwrap();
    assert_eq!(subsets.subset(0), "val_0");
}

#[test]
fn a_test_split_with_some_truths_leaves_out_the_other_rows() {
    let lines = r#"{"image_0": "1.jpg", "image_1": "1.jpg", "statement": "one", "answer": true, "split": "test"}
{"image_0": "1.jpg", "image_1": "1.jpg", "statement": "two", "split": "test"}
{"image_0": "1.jpg", "image_1": "1.jpg", "statement": "three", "answer": 0, "split": "train"}
"#;
    let raw = directory_of(&[("1.jpg", "1"), ("all.jsonl", lines)]);
    let out = tempfile::tempdir().unwrap();
    let dataset = CustomDataset {
        annotations: vec![raw.path().join("all.jsonl").to_str().unwrap().parse().unwrap()],
        ..dataset(raw.path(), TableFormat::Jsonl)
    };
    let report = prepare(&dataset, out.path()).unwrap();
    assert_eq!(
        items(out.path(), Split::Test),
        [item(["1", "1"], "one", Some(true), "1.jpg 1.jpg")]
    );
    assert_eq!(
        items(out.path(), Split::Train),
        [item(["1", "1"], "three", Some(false), "1.jpg 1.jpg")]
    );
    assert_eq!(
        report.remarks,
        ["test: left out 1 row without a truth (all.jsonl, line 2)"]
    );
}

#[test]
fn reads_embedded_pairs() {
    let raw = directory_of(&[]);
    let image = |side: &str, i: usize| (i != 5 || side == "left").then(|| format!("{side} {i}"));
    let batch = RecordBatch::try_from_iter_with_nullable([
        (
            "image_0",
            Arc::new(BinaryArray::from_iter((0..40).map(|i| image("left", i)))) as ArrayRef,
            true,
        ),
        (
            "image_1",
            Arc::new(BinaryArray::from_iter((0..40).map(|i| image("right", i)))),
            true,
        ),
        (
            "statement",
            Arc::new(StringArray::from_iter_values((0..40).map(|i| format!("text {i}")))),
            true,
        ),
        (
            "label",
            Arc::new(arrow_array::BooleanArray::from_iter((0..40).map(|i| Some(i % 3 == 0)))),
            true,
        ),
    ])
    .unwrap();
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    std::fs::write(raw.path().join("train.parquet"), writer.into_inner().unwrap()).unwrap();
    let out = tempfile::tempdir().unwrap();
    let report = prepare(&dataset(raw.path(), TableFormat::Parquet), out.path()).unwrap();
    let expected: Vec<Item> = (0..40)
        .filter(|i| *i != 5)
        .map(|i| {
            let images = ["left", "right"].map(|side| format!("{side} {i}"));
            (images, format!("text {i}"), Some(i % 3 == 0), i.to_string())
        })
        .collect();
    assert_eq!(items(out.path(), Split::Train), expected);
    assert_eq!(report.left_out.len(), 1);
    assert!(
        report.left_out[0].reason.contains("fewer than two images"),
        "{:?}",
        report.left_out
    );
}

#[test]
fn pairs_without_usable_rows_are_one_line_errors() {
    let raw = directory_of(&[
        ("1.jpg", "1"),
        ("train.csv", "image_0,image_1,statement,label\n1.jpg,1.jpg,a,maybe\n"),
    ]);
    let message = plan_error(&dataset(raw.path(), TableFormat::Csv));
    for part in [
        "no row has two images that exist, a statement, and whether it is true",
        "train: left out 1 row whose truth is neither true, yes, 1 nor false, no, 0 (train.csv, line 2: \"maybe\")",
    ] {
        assert!(message.contains(part), "{part:?} is not in {message}");
    }
}
