//! Files of other programs: columns of many types, views, structs and streams.

use super::*;

/// Writes a file, and the same batches as a stream.
pub(super) fn write_both(directory: &Path, columns: Vec<(&str, ArrayRef)>) -> [PathBuf; 2] {
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let [file, stream] = ["file.arrow", "stream.arrow"].map(|name| directory.join(name));
    let mut writer = FileWriter::try_new(std::fs::File::create(&file).unwrap(), &batch.schema()).unwrap();
    writer.write(&batch).unwrap();
    writer.finish().unwrap();
    let mut writer = StreamWriter::try_new(std::fs::File::create(&stream).unwrap(), &batch.schema()).unwrap();
    writer.write(&batch).unwrap();
    writer.write(&batch).unwrap();
    writer.finish().unwrap();
    [file, stream]
}

/// Images and captions, with columns of other types before and after them.
pub(super) fn columns_of_many_types() -> Vec<(&'static str, ArrayRef)> {
    let texts = ["a", "a text of more than twelve bytes", ""];
    let mut lists = ListBuilder::new(StringViewBuilder::new());
    for row in 0..3 {
        lists.append_value(texts[..row].iter().map(Some));
    }
    let unions = UnionArray::try_new(
        [(0, Arc::new(Field::new("n", DataType::Int64, true)))]
            .into_iter()
            .collect(),
        vec![0, 0, 0].into(),
        Some(vec![0, 1, 0].into()),
        vec![Arc::new(Int64Array::from(vec![1, 2]))],
    );
    let bytes: ArrayRef = Arc::new(BinaryArray::from(vec![Some(&b"one"[..]), Some(b"two"), None]));
    let paths: ArrayRef = Arc::new(StringArray::from(vec![None, Some("b.jpg"), Some("c.jpg")]));
    let fields = ["bytes", "path"].into_iter().zip([bytes, paths]);
    let fields: Vec<(Arc<Field>, ArrayRef)> = fields
        .map(|(name, array)| (Arc::new(Field::new(name, array.data_type().clone(), true)), array))
        .collect();
    vec![
        ("view", Arc::new(StringViewArray::from_iter(texts.map(Some)))),
        ("union", Arc::new(unions.unwrap())),
        (
            "dictionary",
            Arc::new(texts.into_iter().collect::<DictionaryArray<Int32Type>>()),
        ),
        (
            "runs",
            Arc::new(RunArray::try_new(&Int32Array::from(vec![2, 3]), &StringArray::from(vec!["x", "y"])).unwrap()),
        ),
        (
            "image",
            Arc::new(BinaryViewArray::from_iter([Some("i"), None, Some("0123456789abcdef")])),
        ),
        ("time", Arc::new(TimestampSecondArray::from(vec![1, 2, 3]))),
        ("struct", Arc::new(StructArray::from(fields))),
        ("captions", Arc::new(lists.finish())),
        (
            "text",
            Arc::new(LargeStringArray::from(vec![Some("x"), None, Some("z")])),
        ),
        ("id", Arc::new(UInt16Array::from(vec![Some(7), None, Some(65_535)]))),
    ]
}

#[test]
fn reads_views_structs_and_streams_and_passes_over_other_types() {
    let directory = tempfile::tempdir().unwrap();
    let files = write_both(directory.path(), columns_of_many_types());
    for (path, rows) in files.iter().zip([3, 6]) {
        let table = ArrowTable::open(path).unwrap();
        assert_eq!(table.rows(), rows);
        assert_eq!(
            table.string(1, "view").unwrap(),
            Some("a text of more than twelve bytes")
        );
        assert_eq!(
            table.texts(rows - 1, "captions").unwrap(),
            ["a", "a text of more than twelve bytes"]
        );
        assert_eq!(table.texts(0, "text").unwrap(), ["x"]);
        assert!(table.texts(1, "text").unwrap().is_empty());
        assert_eq!(table.image(rows - 1, "image").unwrap(), b"0123456789abcdef");
        assert!(table.image(1, "image").unwrap_err().to_string().contains("is null"));
        assert_eq!(table.image(1, "struct").unwrap(), b"two");
        let message = table.image(2, "struct").unwrap_err().to_string();
        assert!(message.contains("write the bytes, not the path"), "{message}");
        assert_eq!(
            (table.null_rows("image"), table.null_rows("struct")),
            (rows / 3, rows / 3)
        );
        let names = [0, 1, 2].map(|row| table.name_at(row, "id").unwrap());
        assert_eq!(names, [Some("7".into()), None, Some("65535".into())]);
        assert_eq!(table.name_at(0, "text").unwrap().as_deref(), Some("x"));
        assert_eq!(table.name_at(0, "union").unwrap(), None);
        assert_eq!(table.name_at(0, "missing").unwrap(), None);
        assert!(
            table
                .string(0, "dictionary")
                .unwrap_err()
                .to_string()
                .contains("dictionary")
        );
        table
            .check_columns(&[
                ("image", ColumnType::Images),
                ("struct", ColumnType::Images),
                ("text", ColumnType::TextOrTexts),
            ])
            .unwrap();
        assert!(table.check_columns(&[("runs", ColumnType::TextOrTexts)]).is_err());
    }
    let stream = std::fs::read(&files[1]).unwrap();
    let cut = directory.path().join("cut.arrow");
    for length in [5, 100, stream.len() / 2, stream.len() - 8, stream.len() - 1] {
        std::fs::write(&cut, &stream[..length]).unwrap();
        assert!(open_error(&cut).contains("truncated Arrow stream"), "{length}");
    }
}

#[test]
fn reads_captions_of_other_programs() {
    let directory = tempfile::tempdir().unwrap();
    let images: ArrayRef = Arc::new(BinaryArray::from_vec(vec![b"1", b"2", b"3"]));
    let texts: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), None, Some("c")]));
    let [file, _] = write_both(
        directory.path(),
        vec![("image", images.clone()), ("text", texts.clone())],
    );
    let table = ArrowTable::open(&file).unwrap();
    assert_eq!(Contents::of_table(&table).unwrap(), Contents::Captions);
    assert_eq!(
        [0, 1, 2].map(|row| table.captions(row).unwrap().concat()),
        ["a", "", "c"]
    );

    let mut lists = ListBuilder::new(StringBuilder::new());
    lists.append_value([Some("a"), None]);
    lists.append_null();
    lists.append_value([None::<&str>]);
    let caption: ArrayRef = Arc::new(lists.finish());
    let [file, _] = write_both(
        directory.path(),
        vec![("image", images.clone()), ("text", texts), ("caption", caption)],
    );
    let table = ArrowTable::open(&file).unwrap();
    assert_eq!(table.caption_column(), "caption");
    assert_eq!(
        [0, 1, 2].map(|row| table.captions(row).unwrap().concat()),
        ["a", "", ""]
    );
    assert!(table.texts(0, "caption").unwrap_err().to_string().contains("null text"));

    let [file, _] = write_both(directory.path(), vec![("image", images.clone()), ("url", images)]);
    assert!(Contents::of_table(&ArrowTable::open(&file).unwrap()).is_err());
}
