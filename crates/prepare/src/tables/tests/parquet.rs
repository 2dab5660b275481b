//! Tests of Parquet files.

use std::sync::Arc;

use ::parquet::arrow::ArrowWriter;
use ::parquet::basic::Compression;
use ::parquet::file::properties::WriterProperties;
use arrow_array::builder::{ListBuilder, StringBuilder};
use arrow_array::{ArrayRef, BinaryArray, Int64Array, RecordBatch, StringArray, StructArray};
use arrow_schema::{DataType, Field};
use proptest::prelude::*;

use super::super::parquet::Rows;
use super::super::*;
use super::{caption_record, error_with, file_with, read_bytes};

/// Returns a Parquet file of these columns, in row groups of two rows.
pub(super) fn parquet_file(columns: Vec<(&str, ArrayRef)>, compression: Compression) -> Vec<u8> {
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let properties = WriterProperties::builder()
        .set_compression(compression)
        .set_max_row_group_row_count(Some(2))
        .build();
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.into_inner().unwrap()
}

/// Returns the columns of a Hugging Face dataset of three rows.
pub(super) fn hugging_face_columns() -> Vec<(&'static str, ArrayRef)> {
    let bytes: ArrayRef = Arc::new(BinaryArray::from_opt_vec(vec![Some(b"1".as_slice()), None, Some(b"3")]));
    let path: ArrayRef = Arc::new(StringArray::from(vec![Some("one.jpg"), Some("two.jpg"), None]));
    let image = StructArray::from(vec![
        (Arc::new(Field::new("bytes", DataType::Binary, true)), bytes),
        (Arc::new(Field::new("path", DataType::Utf8, true)), path),
    ]);
    let mut captions = ListBuilder::new(StringBuilder::new());
    captions.append_value([Some("a"), None, Some("b")]);
    captions.append_null();
    captions.append_value([Some("c")]);
    vec![
        ("url", Arc::new(StringArray::from(vec!["u", "v", "w"]))),
        ("image", Arc::new(image)),
        ("captions", Arc::new(captions.finish())),
        ("id", Arc::new(Int64Array::from(vec![None, Some(5), None]))),
    ]
}

#[test]
fn reads_parquet_of_hugging_face() {
    let expected = [
        Record {
            image: ImageSource::Bytes(b"1".to_vec()),
            image_id: Some("one.jpg".into()),
            ..caption_record("", &["a", "b"])
        },
        Record {
            image_id: Some("5".into()),
            ..caption_record("two.jpg", &[])
        },
        Record {
            image: ImageSource::Bytes(b"3".to_vec()),
            ..caption_record("", &["c"])
        },
    ];
    for compression in [
        Compression::UNCOMPRESSED,
        Compression::SNAPPY,
        Compression::GZIP(Default::default()),
        Compression::LZ4_RAW,
    ] {
        let bytes = parquet_file(hugging_face_columns(), compression);
        assert_eq!(
            read_bytes(TableFormat::Parquet, &bytes, &ColumnNames::default()).unwrap(),
            expected,
            "{compression}"
        );
    }
}

#[test]
fn embedded_images_are_read_separately_from_records() {
    let bytes = parquet_file(hugging_face_columns(), Compression::SNAPPY);
    let table = file_with(&bytes);
    let without_images: Vec<Record> = read_without_images(table.path(), TableFormat::Parquet, &ColumnNames::default())
        .unwrap()
        .collect::<Result<_>>()
        .unwrap();
    let row = |id: Option<&str>, texts: &[&str]| Record {
        image: ImageSource::Bytes(Vec::new()),
        image_id: id.map(str::to_string),
        ..caption_record("", texts)
    };
    assert_eq!(
        without_images,
        [
            row(Some("one.jpg"), &["a", "b"]),
            row(Some("5"), &[]),
            row(None, &["c"])
        ]
    );
    let images = EmbeddedImages::new(table.path(), &ColumnNames::default());
    let (first, third) = (ImageSource::Bytes(b"1".to_vec()), ImageSource::Bytes(b"3".to_vec()));
    for row in [0, 2, 1, 2, 0, 1, 0] {
        let expected = [first.clone(), ImageSource::File("two.jpg".into()), third.clone()][row as usize].clone();
        assert_eq!(images.image(row).unwrap(), expected, "{row}");
    }
    assert!(images.image(3).unwrap_err().to_string().contains("no row 3"));
    assert_eq!(images.image(2).unwrap(), third);

    let many: Vec<Vec<u8>> = (0..1000u32).map(|i| i.to_le_bytes().to_vec()).collect();
    let bytes = parquet_file(
        vec![
            ("bytes", Arc::new(BinaryArray::from_iter_values(&many)) as ArrayRef),
            ("text", Arc::new(StringArray::from(vec!["a"; 1000]))),
        ],
        Compression::UNCOMPRESSED,
    );
    let table = file_with(&bytes);
    let without_images = read_without_images(table.path(), TableFormat::Parquet, &ColumnNames::default()).unwrap();
    assert!(
        without_images
            .map(|record| record.unwrap())
            .all(|record| record == row(None, &["a"]))
    );
    let images = EmbeddedImages::new(table.path(), &ColumnNames::default());
    for row in (0..1000).step_by(3).chain((0..1000).rev().step_by(7)) {
        assert_eq!(
            images.image(row).unwrap(),
            ImageSource::Bytes(many[row as usize].clone())
        );
    }
}

#[test]
fn reads_parquet_with_plain_columns() {
    let bytes = parquet_file(
        vec![
            (
                "jpg",
                Arc::new(BinaryArray::from_vec(vec![b"1", b"2", b"3"])) as ArrayRef,
            ),
            ("TEXT", Arc::new(StringArray::from(vec!["a", "b", "c"]))),
            ("key", Arc::new(BinaryArray::from_vec(vec![b"k", b"l", b"m"]))),
        ],
        Compression::SNAPPY,
    );
    let read = read_bytes(TableFormat::Parquet, &bytes, &ColumnNames::default()).unwrap();
    let expected = Record {
        image: ImageSource::Bytes(b"3".to_vec()),
        image_id: Some("m".into()),
        ..caption_record("", &["c"])
    };
    assert_eq!((read.len(), &read[2]), (3, &expected));

    let wrong = parquet_file(
        vec![
            (
                "image",
                Arc::new(StringArray::from(vec![Some("a"), Some("b"), None])) as ArrayRef,
            ),
            ("text", Arc::new(StringArray::from(vec!["a", "b", "c"]))),
        ],
        Compression::UNCOMPRESSED,
    );
    assert_eq!(
        error_with(TableFormat::Parquet, &wrong, &ColumnNames::default()),
        "row 2, column \"image\" is empty"
    );
    let columns = ColumnNames {
        text: Some("alt".into()),
        ..ColumnNames::default()
    };
    let message = error_with(TableFormat::Parquet, &wrong, &columns);
    assert!(
        message.contains("no column \"alt\"; the columns are \"image\", \"text\""),
        "{message}"
    );
    for bytes in [&b""[..], b"image,caption\n", &wrong[..wrong.len() - 5], &wrong[10..]] {
        assert!(
            error_with(TableFormat::Parquet, bytes, &ColumnNames::default()).contains("not a Parquet file, or damaged")
        );
    }
}

#[test]
fn a_damaged_page_of_images_ends_the_preparation() {
    let image = vec![7u8; 4096];
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("jpg", Arc::new(BinaryArray::from_vec(vec![&image, &image]))),
        ("text", Arc::new(StringArray::from(vec!["a", "b"]))),
    ];
    let mut bytes = parquet_file(columns, Compression::GZIP(Default::default()));
    // The first page begins after the magic bytes; this is inside its compressed values.
    bytes[40] ^= 1;
    let damaged = file_with(&bytes);
    let images = EmbeddedImages::new(damaged.path(), &ColumnNames::default());
    for row in [0, 1] {
        let error = images.image(row).unwrap_err();
        assert!(
            error.ends_preparation() && error.to_string().contains("damaged"),
            "{error}"
        );
    }
}

/// A row of the property test: an image as Hugging Face stores it, captions and an id. Any of them may be null.
type Row = (
    Option<(Option<Vec<u8>>, Option<String>)>,
    Option<Vec<Option<String>>>,
    Option<i64>,
);

/// Returns a Parquet file of these rows.
fn file_of(rows: &[Row], properties: WriterProperties) -> Vec<u8> {
    let part = |row: &Row| row.0.clone().unwrap_or_default();
    let bytes: ArrayRef = Arc::new(BinaryArray::from_iter(rows.iter().map(|row| part(row).0)));
    let path: ArrayRef = Arc::new(StringArray::from_iter(rows.iter().map(|row| part(row).1)));
    let fields = vec![
        Field::new("bytes", DataType::Binary, true),
        Field::new("path", DataType::Utf8, true),
    ];
    let exists: Vec<bool> = rows.iter().map(|row| row.0.is_some()).collect();
    let image = StructArray::new(fields.into(), vec![bytes, path], Some(exists.into()));
    let mut captions = ListBuilder::new(StringBuilder::new());
    for row in rows {
        match &row.1 {
            Some(texts) => captions.append_value(texts.iter().cloned()),
            None => captions.append_null(),
        }
    }
    let id = Int64Array::from_iter(rows.iter().map(|row| row.2));
    let columns: [(&str, ArrayRef, bool); 3] = [
        ("image", Arc::new(image), true),
        ("captions", Arc::new(captions.finish()), true),
        ("id", Arc::new(id), true),
    ];
    let batch = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties)).unwrap();
    // A page ends at the end of a batch.
    for start in (0..rows.len()).step_by(5) {
        writer.write(&batch.slice(start, 5.min(rows.len() - start))).unwrap();
    }
    writer.into_inner().unwrap()
}

/// Returns the record of a row, or `None` if the row has no image.
fn record_of((image, texts, id): &Row) -> Option<Record> {
    let (bytes, path) = image.clone()?;
    let (image, name) = match (bytes, path) {
        (Some(bytes), path) => (ImageSource::Bytes(bytes), path),
        (None, path) => (ImageSource::File(path.filter(|path| !path.is_empty())?), None),
    };
    let texts = texts.iter().flatten().flatten().filter(|text| !text.trim().is_empty());
    Some(Record {
        image,
        captions: texts.cloned().collect(),
        questions: Vec::new(),
        image_id: id.map(|id| id.to_string()).or(name),
        split: None,
    })
}

proptest! {
    #[test]
    fn reads_every_row_with_any_nulls_and_page_sizes(
        rows in prop::collection::vec(any::<Row>(), 1..30),
        (group_rows, page_rows) in (1..12usize, 1..8usize),
        (dictionary, v2) in any::<(bool, bool)>(),
        first in 0..32usize,
    ) {
        use ::parquet::file::properties::WriterVersion;
        let version = if v2 { WriterVersion::PARQUET_2_0 } else { WriterVersion::PARQUET_1_0 };
        let properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .set_writer_version(version)
            .set_dictionary_enabled(dictionary)
            .set_max_row_group_row_count(Some(group_rows))
            .set_data_page_row_count_limit(page_rows)
            .set_write_batch_size(1)
            .build();
        let written = file_with(&file_of(&rows, properties));
        let expected: Vec<Option<Record>> = rows.iter().map(record_of).collect();
        let read = |projection: Projection, first: usize| -> Vec<Option<Record>> {
            let rows = Rows::open(written.path(), &ColumnNames::default(), projection, first as u64).unwrap();
            rows.map(Result::ok).take(100).collect()
        };
        prop_assert_eq!(read(Projection::All, 0), &expected[..]);
        prop_assert_eq!(read(Projection::All, first), &expected[first.min(expected.len())..]);
        let image = |record: &Option<Record>| record.as_ref().map(|record| record.image.clone());
        prop_assert_eq!(
            read(Projection::ImagesOnly, first).iter().map(image).collect::<Vec<_>>(),
            expected.iter().skip(first).map(image).collect::<Vec<_>>()
        );
    }
}
