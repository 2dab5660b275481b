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
            images: [Some(ImageSource::Bytes(b"1".to_vec())), None],
            image_id: Some("one.jpg".into()),
            ..caption_record("", &["a", "b"])
        },
        Record {
            image_id: Some("5".into()),
            ..caption_record("two.jpg", &[])
        },
        Record {
            images: [Some(ImageSource::Bytes(b"3".to_vec())), None],
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
    let without_images: Vec<Record> = read_without_images(
        table.path(),
        TableFormat::Parquet,
        &ColumnNames::default(),
        TableContents::Texts,
    )
    .unwrap()
    .collect::<Result<_>>()
    .unwrap();
    let record = |row, id: Option<&str>, texts: &[&str]| Record {
        row,
        images: [Some(ImageSource::Bytes(Vec::new())), None],
        image_id: id.map(str::to_string),
        ..caption_record("", texts)
    };
    assert_eq!(
        without_images,
        [
            record(0, Some("one.jpg"), &["a", "b"]),
            record(1, Some("5"), &[]),
            record(2, None, &["c"])
        ]
    );
    let images = EmbeddedImages::new(table.path(), &ColumnNames::default(), TableContents::Texts);
    let (first, third) = (ImageSource::Bytes(b"1".to_vec()), ImageSource::Bytes(b"3".to_vec()));
    for row in [0, 2, 1, 2, 0, 1, 0] {
        let expected = [first.clone(), ImageSource::File("two.jpg".into()), third.clone()][row as usize].clone();
        assert_eq!(images.images(row).unwrap(), [Some(expected), None], "{row}");
    }
    assert!(images.images(3).unwrap_err().to_string().contains("no row 3"));
    assert_eq!(images.images(2).unwrap(), [Some(third), None]);

    let many: Vec<Vec<u8>> = (0..1000u32).map(|i| i.to_le_bytes().to_vec()).collect();
    let bytes = parquet_file(
        vec![
            ("bytes", Arc::new(BinaryArray::from_iter_values(&many)) as ArrayRef),
            ("text", Arc::new(StringArray::from(vec!["a"; 1000]))),
        ],
        Compression::UNCOMPRESSED,
    );
    let table = file_with(&bytes);
    let without_images = read_without_images(
        table.path(),
        TableFormat::Parquet,
        &ColumnNames::default(),
        TableContents::Texts,
    )
    .unwrap();
    assert!(
        without_images
            .zip(0..)
            .all(|(read, row)| read.unwrap() == record(row, None, &["a"]))
    );
    let images = EmbeddedImages::new(table.path(), &ColumnNames::default(), TableContents::Texts);
    for row in (0..1000).step_by(3).chain((0..1000).rev().step_by(7)) {
        assert_eq!(
            images.images(row).unwrap(),
            [Some(ImageSource::Bytes(many[row as usize].clone())), None]
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
        images: [Some(ImageSource::Bytes(b"3".to_vec())), None],
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
    let read = read_bytes(TableFormat::Parquet, &wrong, &ColumnNames::default()).unwrap();
    assert_eq!(read[2].images, [None, None], "a row may lack an image");
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

/// Row `row` of the files `zstd_v1.parquet` and `zstd_v2.parquet`, which pyarrow has written.
fn zstd_record(row: u64) -> Record {
    let bytes = vec![row as u8; row as usize % 7 + 1];
    let (has_image, has_captions) = (row % 11 != 3, row % 13 != 5);
    let path = (has_image && row.is_multiple_of(2)).then(|| format!("{row}.jpg"));
    let captions = (0..row % 3).map(|caption| format!("text {caption} of row {row}"));
    Record {
        row,
        images: [has_image.then_some(ImageSource::Bytes(bytes)), None],
        captions: captions.filter(|_| has_captions).collect(),
        image_id: if row % 17 == 2 { path } else { Some(row.to_string()) },
        split: Some(if row.is_multiple_of(5) { "val" } else { "train" }.into()),
        ..Record::default()
    }
}

#[test]
fn reads_zstd_in_both_versions_of_pages() {
    for file in [
        &include_bytes!("data/zstd_v1.parquet")[..],
        include_bytes!("data/zstd_v2.parquet"),
    ] {
        let table = file_with(file);
        let open = |projection, first| {
            Rows::open(
                table.path(),
                &ColumnNames::default(),
                TableContents::Texts,
                projection,
                first,
            )
            .unwrap()
        };
        let expected: Vec<Record> = (0..300).map(zstd_record).collect();
        let read: Vec<Record> = open(Projection::All, 0).map(Result::unwrap).collect();
        assert_eq!(read, expected);
        for first in [1, 50, 119, 120, 257, 299] {
            let read = open(Projection::ImagesOnly, first).next().unwrap().unwrap();
            assert_eq!(read.images, expected[first as usize].images, "{first}");
        }
    }
}

#[test]
fn reads_lists_of_structs() {
    let read = |file| read_bytes(TableFormat::Parquet, file, &ColumnNames::default()).unwrap();
    let answers = |record: &Record| record.questions[0].answers.clone();
    let questions = read(include_bytes!("data/vqa.parquet"));
    assert_eq!(answers(&questions[0]), ["rice", "soup"]);
    assert!(answers(&questions[1]).is_empty());
    assert_eq!(questions[0].image_id.as_deref(), Some("458752"));
    let captions = read(include_bytes!("data/karpathy.parquet"));
    assert_eq!(
        captions,
        [
            caption_record("train2014/a.jpg", &["one", "two"]),
            caption_record("val2014/b.jpg", &[])
        ]
    );
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
    let images = EmbeddedImages::new(damaged.path(), &ColumnNames::default(), TableContents::Texts);
    for row in [0, 1] {
        let error = images.images(row).unwrap_err();
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

/// Returns the record of a row.
fn record_of((row, (image, texts, id)): (u64, &Row)) -> Record {
    let (image, name) = match image.clone().unwrap_or_default() {
        (Some(bytes), path) => (Some(ImageSource::Bytes(bytes)), path),
        (None, path) => (path.filter(|path| !path.trim().is_empty()).map(ImageSource::File), None),
    };
    let texts = texts.iter().flatten().flatten().filter(|text| !text.trim().is_empty());
    Record {
        row,
        images: [image, None],
        captions: texts.cloned().collect(),
        image_id: id.map(|id| id.to_string()).or(name),
        ..Record::default()
    }
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
        let expected: Vec<Record> = (0..).zip(&rows).map(record_of).collect();
        let read = |projection: Projection, first: usize| -> Vec<Record> {
            let columns = ColumnNames::default();
            let rows = Rows::open(written.path(), &columns, TableContents::Texts, projection, first as u64).unwrap();
            rows.map(Result::unwrap).take(100).collect()
        };
        prop_assert_eq!(read(Projection::All, 0), &expected[..]);
        prop_assert_eq!(read(Projection::All, first), &expected[first.min(expected.len())..]);
        let images = |record: &Record| record.images.clone();
        prop_assert_eq!(
            read(Projection::ImagesOnly, first).iter().map(images).collect::<Vec<_>>(),
            expected.iter().skip(first).map(images).collect::<Vec<_>>()
        );
    }
}
