//! Parquet files.

use std::sync::Arc;

use ::parquet::arrow::ArrowWriter;
use ::parquet::basic::Compression;
use ::parquet::file::properties::WriterProperties;
use arrow_array::builder::{ListBuilder, StringBuilder};
use arrow_array::{ArrayRef, BinaryArray, Int64Array, RecordBatch, StringArray, StructArray};
use arrow_schema::{DataType, Field};

use super::super::*;
use super::{captions, file, read_bytes, refused_with};

/// A Parquet file of these columns, in row groups of two rows.
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

pub(super) fn hugging_face() -> Vec<(&'static str, ArrayRef)> {
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
    let wanted = [
        Record {
            image: ImageSource::Bytes(b"1".to_vec()),
            image_id: Some("one.jpg".into()),
            ..captions("", &["a", "b"])
        },
        Record {
            image_id: Some("5".into()),
            ..captions("two.jpg", &[])
        },
        Record {
            image: ImageSource::Bytes(b"3".to_vec()),
            ..captions("", &["c"])
        },
    ];
    for compression in [
        Compression::UNCOMPRESSED,
        Compression::SNAPPY,
        Compression::GZIP(Default::default()),
        Compression::LZ4_RAW,
    ] {
        let bytes = parquet_file(hugging_face(), compression);
        assert_eq!(
            read_bytes(TableFormat::Parquet, &bytes, &ColumnNames::default()).unwrap(),
            wanted,
            "{compression}"
        );
    }
}

#[test]
fn embedded_images_are_read_by_row_and_left_empty_in_records() {
    let whole = parquet_file(hugging_face(), Compression::SNAPPY);
    let packed = file(&whole);
    let outlined: Vec<Record> = read_without_images(packed.path(), TableFormat::Parquet, &ColumnNames::default())
        .unwrap()
        .collect::<Result<_>>()
        .unwrap();
    let row = |id: Option<&str>, texts: &[&str]| Record {
        image: ImageSource::Bytes(Vec::new()),
        image_id: id.map(str::to_string),
        ..captions("", texts)
    };
    assert_eq!(
        outlined,
        [
            row(Some("one.jpg"), &["a", "b"]),
            row(Some("5"), &[]),
            row(None, &["c"])
        ]
    );
    let images = EmbeddedImages::new(packed.path(), &ColumnNames::default());
    let (first, third) = (ImageSource::Bytes(b"1".to_vec()), ImageSource::Bytes(b"3".to_vec()));
    for row in [0, 2, 1, 2, 0, 1, 0] {
        let wanted = [first.clone(), ImageSource::File("two.jpg".into()), third.clone()][row as usize].clone();
        assert_eq!(images.image(row).unwrap(), wanted, "{row}");
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
    let packed = file(&bytes);
    let outlined = read_without_images(packed.path(), TableFormat::Parquet, &ColumnNames::default()).unwrap();
    assert!(
        outlined
            .map(|record| record.unwrap())
            .all(|record| record == row(None, &["a"]))
    );
    let images = EmbeddedImages::new(packed.path(), &ColumnNames::default());
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
    let wanted = Record {
        image: ImageSource::Bytes(b"3".to_vec()),
        image_id: Some("m".into()),
        ..captions("", &["c"])
    };
    assert_eq!((read.len(), &read[2]), (3, &wanted));

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
        refused_with(TableFormat::Parquet, &wrong, &ColumnNames::default()),
        "row 2, column \"image\" is empty"
    );
    let columns = ColumnNames {
        text: Some("alt".into()),
        ..ColumnNames::default()
    };
    let message = refused_with(TableFormat::Parquet, &wrong, &columns);
    assert!(
        message.contains("no column \"alt\"; there are \"image\", \"text\""),
        "{message}"
    );
    for bytes in [&b""[..], b"image,caption\n", &wrong[..wrong.len() - 5], &wrong[10..]] {
        assert!(
            refused_with(TableFormat::Parquet, bytes, &ColumnNames::default()).contains("no Parquet file or damaged")
        );
    }
}
