//! Tests of tables of labels and of pairs.

use std::sync::Arc;

use ::parquet::basic::Compression;
use arrow_array::builder::{Int32Builder, ListBuilder, StringBuilder};
use arrow_array::{ArrayRef, BinaryArray, BooleanArray, Int64Array, StringArray, UInt8Array};
use proptest::prelude::*;
use vlct_data::arrow::LabelKind;

use super::super::*;
use super::parquet::parquet_file;
use super::{error, file_with, read_bytes, records};

const SINGLE: TableContents = TableContents::Labels(LabelKind::Single);
const MULTIPLE: TableContents = TableContents::Labels(LabelKind::Multiple);

fn contents_of(format: TableFormat, text: &str, columns: &ColumnNames) -> Result<TableContents> {
    contents(file_with(text.as_bytes()).path(), format, columns)
}

/// Image, text and labels of a record.
type Parts = (Option<String>, Option<String>, Option<Vec<String>>);

fn parts(record: Record) -> Parts {
    let [image, second] = record.images;
    assert_eq!(second, None);
    let image = image.map(|image| match image {
        ImageSource::File(path) => path,
        ImageSource::Bytes(bytes) => String::from_utf8(bytes).unwrap(),
    });
    assert!(record.captions.len() <= 1);
    (image, record.captions.into_iter().next(), record.labels)
}

fn row(image: &str, text: &str, labels: Option<&[&str]>) -> Parts {
    let optional = |text: &str| (!text.is_empty()).then(|| text.to_string());
    (
        optional(image),
        optional(text),
        labels.map(|labels| labels.iter().map(|label| label.to_string()).collect()),
    )
}

fn rows(format: TableFormat, text: &str) -> Vec<Parts> {
    records(format, text).into_iter().map(parts).collect()
}

#[test]
fn columns_determine_the_contents() {
    let default = ColumnNames::default();
    let given = |change: fn(&mut ColumnNames)| {
        let mut columns = ColumnNames::default();
        change(&mut columns);
        columns
    };
    let name = |name: &str| Some(name.to_string());
    for (header, columns, expected) in [
        ("image,caption", default.clone(), TableContents::Texts),
        ("image,caption,label", default.clone(), SINGLE),
        ("text,Labels", default.clone(), MULTIPLE),
        ("image,label", default.clone(), SINGLE),
        // Questions have answers, not labels, unless a column of labels is given.
        ("image,question,answer,label", default.clone(), TableContents::Texts),
        ("image,question,caption,label", default.clone(), SINGLE),
        (
            "image,question,label",
            given(|columns| columns.label = Some("label".into())),
            SINGLE,
        ),
        (
            "image,caption,label,genre",
            given(|columns| columns.labels = Some("genre".into())),
            MULTIPLE,
        ),
        (
            "image,caption,label",
            given(|columns| columns.ignore_labels = true),
            TableContents::Texts,
        ),
        (
            "image,caption,label,question",
            given(|columns| columns.question = Some("question".into())),
            TableContents::Texts,
        ),
        ("image_0,image_1,statement,label", default.clone(), TableContents::Pairs),
        ("left_image,right_image,sentence", default.clone(), TableContents::Pairs),
        // Only one image of a pair, but a column of images.
        ("image,image_1,caption", default.clone(), TableContents::Texts),
        (
            "image_0,image_1,caption",
            ColumnNames {
                image: name("image_1"),
                ..default.clone()
            },
            TableContents::Texts,
        ),
    ] {
        let found = contents_of(TableFormat::Csv, &format!("{header}\n"), &columns).unwrap();
        assert_eq!(found, expected, "{header}");
    }
    // Of JSON lines, the keys of all objects count.
    let lines = "{\"image\": \"a\", \"split\": \"test\"}\n{\"image\": \"b\", \"label\": 1}\n";
    assert_eq!(contents_of(TableFormat::Jsonl, lines, &default).unwrap(), SINGLE);

    for (header, columns, expected) in [
        (
            "label,size",
            default.clone(),
            "there is no column of images (image, image_path, filepath, file_path, file_name, filename, path, jpg, bytes) or texts \
             (caption, captions, text, sentence, sentences); the columns are \"label\", \"size\"",
        ),
        (
            "image,label,labels",
            default.clone(),
            "it has both columns label and labels; remove one of them; the columns are",
        ),
        (
            "image_0,statement",
            default.clone(),
            "there is no column of the right images of pairs (image_1, right_image); the columns are",
        ),
        (
            "image_0,image_1,label",
            default.clone(),
            "there is no column of statements",
        ),
        (
            "image,caption,label",
            given(|columns| columns.labels = Some("genre".into())),
            "there is no column \"genre\"; the columns are \"image\", \"caption\", \"label\"",
        ),
    ] {
        let message = contents_of(TableFormat::Csv, &format!("{header}\n"), &columns)
            .unwrap_err()
            .to_string();
        assert!(message.contains(expected) && !message.contains('\n'), "{message}");
    }
}

#[test]
fn reads_labels_of_text_files() {
    assert_eq!(
        rows(
            TableFormat::Csv,
            "image,text,label\na.jpg,one, cat \n,two,0\nb.jpg,,True\nc.jpg,three,\n"
        ),
        [
            row("a.jpg", "one", Some(&["cat"])),
            row("", "two", Some(&["0"])),
            row("b.jpg", "", Some(&["True"])),
            row("c.jpg", "three", None),
        ]
    );
    assert_eq!(
        rows(TableFormat::Tsv, "text\tlabels\na\tx| y |x\nb\t|\nc\t\n"),
        [
            row("", "a", Some(&["x", "y"])),
            row("", "b", Some(&[])),
            row("", "c", Some(&[])),
        ]
    );
    let lines = r#"{"image": "a", "labels": ["x", " y", "x", ""]}
{"text": "b", "labels": []}
{"text": ["c"], "labels": "x|y"}
"#;
    let message = error(TableFormat::Jsonl, lines);
    assert_eq!(message, "line 3, column \"text\" holds a list of texts, not one text");
    let lines = r#"{"image": "a", "labels": ["x", " y", "x", ""]}
{"text": "b", "labels": []}
{"text": "c", "labels": "x|y"}
{"text": "d", "labels": [3, "x"]}
{"text": "e", "labels": null}
{"text": "f"}
{"text": "g", "labels": 7}
"#;
    assert_eq!(
        rows(TableFormat::Jsonl, lines),
        [
            row("a", "", Some(&["x", "y"])),
            row("", "b", Some(&[])),
            row("", "c", Some(&["x", "y"])),
            row("", "d", Some(&["3", "x"])),
            row("", "e", None),
            row("", "f", None),
            row("", "g", Some(&["7"])),
        ]
    );
    let lines =
        "{\"text\": \"a\", \"label\": 3}\n{\"text\": \"b\", \"label\": true}\n{\"text\": \"c\", \"label\": \"\"}\n";
    assert_eq!(
        rows(TableFormat::Jsonl, lines),
        [
            row("", "a", Some(&["3"])),
            row("", "b", Some(&["true"])),
            row("", "c", None),
        ]
    );
}

#[test]
fn records_have_the_numbers_of_their_lines() {
    let file = file_with(b"text,label\n\"two\nlines\",a\nc,b\n");
    let records: Vec<Record> = read(file.path(), TableFormat::Csv, &ColumnNames::default())
        .unwrap()
        .collect::<Result<_>>()
        .unwrap();
    let names: Vec<String> = records
        .iter()
        .map(|record| TableFormat::Csv.row_name(record.row))
        .collect();
    assert_eq!(names, ["line 2", "line 4"]);
    assert_eq!(TableFormat::Parquet.row_name(0), "row 0");
}

#[test]
fn errors_of_labels_name_line_and_column() {
    for (text, expected) in [
        (
            "{\"text\": \"a\", \"label\": [\"x\"]}",
            "line 1, column \"label\" holds a list of texts, not one label",
        ),
        (
            "{\"text\": \"a\", \"label\": 0.5}",
            "line 1, column \"label\" holds a number that is not an integer, not one label",
        ),
        (
            "{\"text\": \"a\", \"labels\": [[\"x\"]]}",
            "line 1, column \"labels\" holds a list whose items are not texts, not a list of labels, or a text with | between labels",
        ),
        (
            "{\"text\": \"a\", \"labels\": {\"x\": 1}}",
            "line 1, column \"labels\" holds an object, not a list of labels, or a text with | between labels",
        ),
        (
            "{\"image_0\": \"a\", \"image_1\": \"b\", \"statement\": \"c\", \"label\": [1]}",
            "line 1, column \"label\" holds a list of texts, not true or false",
        ),
    ] {
        assert_eq!(error(TableFormat::Jsonl, text), expected);
    }
}

#[test]
fn reads_labels_of_parquet() {
    let image: ArrayRef = Arc::new(BinaryArray::from_opt_vec(vec![Some(b"1".as_slice()), None, Some(b"3")]));
    let text: ArrayRef = Arc::new(StringArray::from(vec![None, Some("two"), Some("three")]));
    let mut names = ListBuilder::new(StringBuilder::new());
    names.append_value([Some("x"), Some("y")]);
    names.append_null();
    names.append_value([] as [Option<&str>; 0]);
    let mut numbers = ListBuilder::new(Int32Builder::new());
    numbers.append_value([Some(0), Some(-3)]);
    numbers.append_value([]);
    numbers.append_null();
    type Labels = [Option<&'static [&'static str]>; 3];
    let columns: [(&str, ArrayRef, Labels); 5] = [
        (
            "label",
            Arc::new(StringArray::from(vec![Some("a"), None, Some(" b ")])),
            [Some(&["a"]), None, Some(&["b"])],
        ),
        (
            "label",
            Arc::new(Int64Array::from(vec![Some(1), None, Some(0)])),
            [Some(&["1"]), None, Some(&["0"])],
        ),
        (
            "label",
            Arc::new(BooleanArray::from(vec![Some(true), None, Some(false)])),
            [Some(&["true"]), None, Some(&["false"])],
        ),
        ("labels", Arc::new(names.finish()), [Some(&["x", "y"]), None, Some(&[])]),
        (
            "labels",
            Arc::new(numbers.finish()),
            [Some(&["0", "-3"]), Some(&[]), None],
        ),
    ];
    for (name, labels, expected) in columns {
        let columns = vec![("image", image.clone()), ("text", text.clone()), (name, labels)];
        let bytes = parquet_file(columns, Compression::SNAPPY);
        let read = read_bytes(TableFormat::Parquet, &bytes, &ColumnNames::default()).unwrap();
        let read: Vec<Parts> = read.into_iter().map(parts).collect();
        let [first, second, third] = expected;
        assert_eq!(
            read,
            [row("1", "", first), row("", "two", second), row("3", "three", third)],
            "{name}"
        );
    }
    let unsigned: ArrayRef = Arc::new(UInt8Array::from(vec![200]));
    let one: ArrayRef = Arc::new(StringArray::from(vec!["a"]));
    let bytes = parquet_file(vec![("text", one), ("label", unsigned)], Compression::SNAPPY);
    let read = read_bytes(TableFormat::Parquet, &bytes, &ColumnNames::default()).unwrap();
    assert_eq!(parts(read[0].clone()), row("", "a", Some(&["200"])));
}

#[test]
fn reads_both_images_of_embedded_pairs() {
    let left: Vec<Vec<u8>> = (0..100).map(|i| vec![0, i]).collect();
    let right: Vec<Vec<u8>> = (0..100).map(|i| vec![1, i]).collect();
    let bytes = parquet_file(
        vec![
            ("image_1", Arc::new(BinaryArray::from_iter_values(&right)) as ArrayRef),
            ("image_0", Arc::new(BinaryArray::from_iter_values(&left))),
            ("statement", Arc::new(StringArray::from(vec!["a"; 100]))),
            ("label", Arc::new(BooleanArray::from(vec![true; 100]))),
        ],
        Compression::SNAPPY,
    );
    let table = file_with(&bytes);
    let columns = ColumnNames::default();
    let contents = contents(table.path(), TableFormat::Parquet, &columns).unwrap();
    assert_eq!(contents, TableContents::Pairs);
    let records: Vec<Record> = read_without_images(table.path(), TableFormat::Parquet, &columns, contents)
        .unwrap()
        .collect::<Result<_>>()
        .unwrap();
    let empty = Some(ImageSource::Bytes(Vec::new()));
    assert!(
        records
            .iter()
            .all(|record| record.images == [empty.clone(), empty.clone()])
    );
    assert!(
        records
            .iter()
            .all(|record| record.labels == Some(vec!["true".to_string()]))
    );
    let images = EmbeddedImages::new(table.path(), &columns, contents);
    for row in (0..100).rev().step_by(9).chain(0..100) {
        let expected = [&left, &right].map(|side| Some(ImageSource::Bytes(side[row as usize].clone())));
        assert_eq!(images.images(row).unwrap(), expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn labels_are_trimmed_distinct_and_the_same_in_every_format(
        rows in prop::collection::vec(prop::collection::vec("[ab ]{0,3}", 0..5), 1..20),
    ) {
        let csv: String = rows.iter().map(|labels| format!("text,{}\n", labels.join("|"))).collect();
        let lines: String = rows
            .iter()
            .map(|labels| format!("{}\n", serde_json::json!({"text": "text", "labels": labels})))
            .collect();
        let mut list = ListBuilder::new(StringBuilder::new());
        rows.iter().for_each(|labels| list.append_value(labels.iter().map(Some)));
        let text: ArrayRef = Arc::new(StringArray::from(vec!["text"; rows.len()]));
        let parquet = parquet_file(vec![("text", text), ("labels", Arc::new(list.finish()))], Compression::SNAPPY);
        let columns = ColumnNames::default();
        let of_csv = read_bytes(TableFormat::Csv, format!("text,labels\n{csv}").as_bytes(), &columns).unwrap();
        prop_assert_eq!(&read_bytes(TableFormat::Jsonl, lines.as_bytes(), &columns).unwrap(), &of_csv);
        prop_assert_eq!(&read_bytes(TableFormat::Parquet, &parquet, &columns).unwrap(), &of_csv);
        for (labels, record) in rows.iter().zip(of_csv) {
            let mut expected: Vec<String> = Vec::new();
            for label in labels.iter().map(|label| label.trim()).filter(|label| !label.is_empty()) {
                if !expected.iter().any(|known| known == label) {
                    expected.push(label.to_string());
                }
            }
            prop_assert_eq!(record.labels, Some(expected));
        }
    }
}
