mod labels;
mod parquet;

use proptest::prelude::*;

use super::*;
use crate::PrepareError;
use ::parquet::basic::Compression;
use parquet::{hugging_face_columns, parquet_file};

fn file_with(bytes: &[u8]) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    file
}

/// Reads all records, with `row` set to 0.
fn read_bytes(format: TableFormat, bytes: &[u8], columns: &ColumnNames) -> Result<Vec<Record>> {
    let file = file_with(bytes);
    let records = read(file.path(), format, columns)?;
    records.map(|record| Ok(Record { row: 0, ..record? })).collect()
}

fn records(format: TableFormat, text: &str) -> Vec<Record> {
    read_bytes(format, text.as_bytes(), &ColumnNames::default()).unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// Returns the error message without the path of the file.
fn error_with(format: TableFormat, bytes: &[u8], columns: &ColumnNames) -> String {
    let message = read_bytes(format, bytes, columns).unwrap_err().to_string();
    assert!(!message.contains('\n'), "{message}");
    message.split_once(": ").expect("a path").1.to_string()
}

fn error(format: TableFormat, text: &str) -> String {
    error_with(format, text.as_bytes(), &ColumnNames::default())
}

fn caption_record(path: &str, captions: &[&str]) -> Record {
    Record {
        images: [Some(ImageSource::File(path.into())), None],
        captions: captions.iter().map(|c| c.to_string()).collect(),
        ..Record::default()
    }
}

#[test]
fn reads_jsonl() {
    let text = "\u{feff}{\"image\": \"a.jpg\", \"caption\": \"one\", \"url\": \"https://x\", \"size\": [1, 2]}\n\
                \n  \r\n\
                {\"captions\": [\"two\", \" \", \"three\"], \"FilePath\": \"b/c.png\", \"id\": 7, \"split\": \"val\"}\r\n\
                {\"path\": \"d\", \"question\": \"what?\", \"answers\": [\"x\", \"y\"], \"caption\": null}\n\
                {\"path\": \"d\", \"question\": \"why?\", \"answer\": 3}";
    let mut second = caption_record("b/c.png", &["two", "three"]);
    (second.image_id, second.split) = (Some("7".into()), Some("val".into()));
    let question = |text: &str, answers: &[&str]| Record {
        questions: vec![Question {
            text: text.into(),
            answers: answers.iter().map(|a| a.to_string()).collect(),
        }],
        ..caption_record("d", &[])
    };
    assert_eq!(
        records(TableFormat::Jsonl, text),
        [
            caption_record("a.jpg", &["one"]),
            second,
            question("what?", &["x", "y"]),
            question("why?", &["3"])
        ]
    );
    assert_eq!(records(TableFormat::Jsonl, ""), []);
    // Objects without a caption may lack the key `caption`.
    let text = "{\"image\": \"a\"}\n{\"image\": \"b\", \"caption\": \"c\"}\n{\"image\": \"d\"}\n";
    assert_eq!(
        records(TableFormat::Jsonl, text),
        [
            caption_record("a", &[]),
            caption_record("b", &["c"]),
            caption_record("d", &[])
        ]
    );
}

#[test]
fn reads_csv_and_tsv() {
    let csv = "\u{feff}url,Image,Caption,split\n\
               https://x,a.jpg,\"one, \"\"two\"\"\nthree\",train\n\
               ,b.jpg,,\r\n";
    let mut first = caption_record("a.jpg", &["one, \"two\"\nthree"]);
    first.split = Some("train".into());
    assert_eq!(records(TableFormat::Csv, csv), [first, caption_record("b.jpg", &[])]);
    let tsv = "file_name\tTEXT\na.jpg\tone, 5\" wide\nb.jpg\ttwo\n";
    assert_eq!(
        records(TableFormat::Tsv, tsv),
        [
            caption_record("a.jpg", &["one, 5\" wide"]),
            caption_record("b.jpg", &["two"])
        ]
    );
}

#[test]
fn reads_columns_of_other_programs() {
    // Karpathy's annotations: the directory and the file, and sentences as objects.
    let text = "{\"filepath\": \"train2014\", \"filename\": \"a.jpg\", \"sentences\": [{\"raw\": \"one\", \"tokens\": []}]}\n\
                {\"filepath\": \"train2014/b.jpg\", \"filename\": \"b.jpg\", \"sentences\": [\"two\", null]}\n\
                {\"filename\": \"c.jpg\", \"filepath\": null, \"sentences\": {\"caption\": \"three\"}}\n";
    assert_eq!(
        records(TableFormat::Jsonl, text),
        [
            caption_record("train2014/a.jpg", &["one"]),
            caption_record("train2014/b.jpg", &["two"]),
            caption_record("c.jpg", &["three"])
        ]
    );
    // open_clip's names, without quotes.
    let text = "filepath\tTitle\na.jpg\t\"Lorem\" ipsum\nb.jpg\t\"dolor\n";
    assert_eq!(
        records(TableFormat::Tsv, text),
        [
            caption_record("a.jpg", &["\"Lorem\" ipsum"]),
            caption_record("b.jpg", &["\"dolor"])
        ]
    );
    let text = "image, caption\na.jpg, \"a, b\"\nb.jpg,c,\n";
    assert_eq!(
        records(TableFormat::Csv, text),
        [caption_record("a.jpg", &["a, b"]), caption_record("b.jpg", &["c"])]
    );
    let text = "Image , caption \na.jpg , 1\n\"b.jpg\" , c \n";
    assert_eq!(
        records(TableFormat::Csv, text),
        [caption_record("a.jpg", &["1"]), caption_record("b.jpg", &["c"])]
    );
    assert_eq!(
        records(TableFormat::Jsonl, "{\"image\": \"a.jpg\", \"caption\": 1984}"),
        [caption_record("a.jpg", &["1984"])]
    );
    // Answers of VQA, and names that pandas made floating-point numbers.
    let text = "{\"image\": \"a\", \"question\": \"q\", \"answers\": [{\"answer\": \"yes\", \"answer_id\": 1}, {\"answer\": \"no\"}], \
                \"image_id\": 9.0, \"score\": NaN}\n\
                {\"image\": \"b\", \"question\": \"q\", \"answers\": null, \"image_id\": NaN, \"multiple_choice_answer\": \"\"}\n\
                {\"image\": \"c\", \"question\": \"q\", \"image_id\": [1]}\n\
                {\"image\": \"d\", \"question\": \"q\", \"image_id\": 18446744073709551615}\n";
    let read: Vec<(Option<String>, Vec<String>)> = records(TableFormat::Jsonl, text)
        .into_iter()
        .map(|record| (record.image_id, record.questions[0].answers.clone()))
        .collect();
    assert_eq!(
        read,
        [
            (Some("9".into()), vec!["yes".into(), "no".into()]),
            (None, Vec::new()),
            (None, Vec::new()),
            (Some("18446744073709551615".into()), Vec::new())
        ]
    );
}

#[test]
fn reads_the_rows_beside_malformed_ones() {
    for (format, text, lines) in [
        (
            TableFormat::Jsonl,
            &b"{\"image\": \"a\", \"caption\": \"b\"}\n{\"image\": \"x\n{\"image\": \"c\", \"caption\": \"\xff\"}\n[]\n\
               {\"image\": \"d\", \"caption\": {}}\n{\"image\": \"e\", \"caption\": \"f\"}\n"[..],
            [1, 6],
        ),
        (
            TableFormat::Csv,
            b"image,caption\na,b\nb\nc,d,e\nd,\xff\nhttp://x/y.jpg,e\ng,\"h\ni,j\n",
            [2, 8],
        ),
    ] {
        let file = file_with(text);
        let records: Vec<Result<Record>> = read(file.path(), format, &ColumnNames::default()).unwrap().collect();
        let good: Vec<u64> = records.iter().flatten().map(|record| record.row).collect();
        assert_eq!(good, lines, "{format:?}");
        assert!(records.iter().flat_map(|record| record.as_ref().err()).all(PrepareError::is_of_row));
    }
}

#[test]
fn reads_columns_with_given_names() {
    let columns = ColumnNames {
        image: Some("photo".into()),
        text: Some("alt".into()),
        id: Some("n".into()),
        ..ColumnNames::default()
    };
    let mut expected = caption_record("p.jpg", &["right"]);
    expected.image_id = Some("9".into());
    for (format, text) in [
        (TableFormat::Csv, "image,photo,caption,alt,n\nx,p.jpg,wrong,right,9\n"),
        (
            TableFormat::Tsv,
            "image\tphoto\tcaption\talt\tn\nx\tp.jpg\twrong\tright\t9\n",
        ),
        (
            TableFormat::Jsonl,
            r#"{"image": "x", "photo": "p.jpg", "caption": "wrong", "alt": "right", "n": 9}"#,
        ),
    ] {
        let read = read_bytes(format, text.as_bytes(), &columns).unwrap();
        assert_eq!(read, std::slice::from_ref(&expected), "{format:?}");
    }
    let message = error_with(TableFormat::Csv, b"photo,caption,n\n", &columns);
    assert!(
        message.starts_with("there is no column \"alt\"; the columns are \"photo\", \"caption\", \"n\""),
        "{message}"
    );
}

#[test]
fn csv_may_have_semicolons_or_tabs() {
    let expected = [
        caption_record("a.jpg", &["one, two"]),
        caption_record("b.jpg", &["3;4"]),
    ];
    for (format, text) in [
        (TableFormat::Csv, "image;caption\na.jpg;one, two\nb.jpg;\"3;4\"\n"),
        (
            TableFormat::Csv,
            "\u{feff}\"image\";\"caption\"\r\n\"a.jpg\";\"one, two\"\r\n\"b.jpg\";\"3;4\"\r\n",
        ),
        (TableFormat::Csv, "image\tcaption\na.jpg\tone, two\nb.jpg\t3;4\n"),
        (TableFormat::Tsv, "image,caption\na.jpg,\"one, two\"\nb.jpg,3;4\n"),
        // A semicolon in a name does not separate if there are commas.
        (
            TableFormat::Csv,
            "image,caption,a;b;c\na.jpg,\"one, two\",x\nb.jpg,3;4,x\n",
        ),
        (
            TableFormat::Csv,
            "\"a,b\";image;caption\nx;a.jpg;one, two\nx;b.jpg;\"3;4\"\n",
        ),
    ] {
        assert_eq!(records(format, text), expected, "{text}");
    }
}

#[test]
fn numbers_are_captions() {
    let lines = "{\"image\": \"a\", \"caption\": 3}\n{\"image\": \"b\", \"caption\": 2.5}\n\
                 {\"image\": \"c\", \"caption\": [\"x\", 1, 0.5]}\n";
    assert_eq!(
        records(TableFormat::Jsonl, lines),
        [
            caption_record("a", &["3"]),
            caption_record("b", &["2.5"]),
            caption_record("c", &["x", "1", "0.5"])
        ]
    );
    let path = error(TableFormat::Jsonl, "{\"image\": 2.5, \"caption\": \"a\"}");
    assert!(
        path.contains("column \"image\" holds a number that is not an integer"),
        "{path}"
    );
}

#[test]
fn errors_name_line_and_column() {
    let long = format!("{{\"image\": \"{}\"}}", "x".repeat(MAX_ROW_BYTES));
    let open_quote = format!("image,caption\na,\"{}", "x\n".repeat(MAX_ROW_BYTES / 2 + 70_000));
    for (format, text, parts) in [
        (
            TableFormat::Jsonl,
            "{\"image\": \"a\", \"caption\": \"b\"}\n{\"image\": ",
            &["line 2 is not a JSON object"][..],
        ),
        (
            TableFormat::Jsonl,
            "[{\"image\": \"a\"}]",
            &["line 1 is not", "jq -c '.[]'"],
        ),
        (
            TableFormat::Jsonl,
            "{\"caption\": \"b\", \"x\": 1}",
            &["line 1: there is no column of images", "\"caption\", \"x\""],
        ),
        (
            TableFormat::Jsonl,
            "{\"url\": \"b\", \"caption\": \"c\"}",
            &["download the images first"],
        ),
        (TableFormat::Jsonl, "{\"image\": \"b\"}", &["no column of captions"]),
        (
            TableFormat::Csv,
            "\n\n",
            &["it is empty; the first line names the columns"],
        ),
        (
            TableFormat::Jsonl,
            "{\"image\": 5, \"caption\": \"b\"}",
            &["line 1, column \"image\" holds a number"],
        ),
        (
            TableFormat::Jsonl,
            "{\"image\": \"http://x/a.jpg\", \"caption\": \"b\"}",
            &["column \"image\" holds the URL"],
        ),
        (
            TableFormat::Jsonl,
            "{\"image\": \"a\", \"caption\": {}}",
            &["column \"caption\" holds an object"],
        ),
        (
            TableFormat::Jsonl,
            "{\"image\": \"a\", \"caption\": [true]}",
            &["column \"caption\" holds a list whose items are not texts"],
        ),
        (
            TableFormat::Jsonl,
            "{\"image\": \"a\", \"question\": [\"b\"]}",
            &["column \"question\" holds a list of texts, not one"],
        ),
        (TableFormat::Jsonl, &long, &["line 1 is too long"]),
        (
            TableFormat::Csv,
            "image,caption\na,b\nc\n",
            &["line 3 has 1 value, the first line 2"],
        ),
        (
            TableFormat::Csv,
            "image|caption\na|b\n",
            &["no column of images", "\"image|caption\""],
        ),
        (TableFormat::Csv, "", &["it is empty"]),
        (
            TableFormat::Csv,
            &open_quote,
            &["the quote that begins a value in line 2 is not closed within 16 MiB"],
        ),
        (
            TableFormat::Csv,
            "\u{feff}\"image\",caption\r\na,b\r\nc,\"d\"\"\r\ne,f\r\n",
            &["line 5: the quote that begins a value in line 3 is not closed"],
        ),
        (
            TableFormat::Csv,
            "image,caption, caption\na,b,c\n",
            &["there are 2 columns \"caption\"; rename all but one"],
        ),
        (
            TableFormat::Jsonl,
            "{\"image\": \"a\", \"id\": 1}\n{\"image\": \"b\"}\n",
            &["line 1: there is no column of captions"],
        ),
    ] {
        let message = error(format, text);
        for part in parts {
            assert!(message.contains(part), "{part:?} is not in {message}");
        }
    }
    let message = error_with(TableFormat::Csv, b"image,caption\na,\xff\n", &ColumnNames::default());
    assert_eq!(
        message,
        "line 2, column \"caption\" holds text that is not UTF-8, not text or a list of texts"
    );
    assert!(error_with(TableFormat::Csv, b"image,\xff\n", &ColumnNames::default()).contains("not UTF-8"));
    assert!(read("/no/such/file", TableFormat::Csv, &ColumnNames::default()).is_err());
    assert!(read("/", TableFormat::Jsonl, &ColumnNames::default()).is_err());
}

#[test]
fn joins_rows_of_the_same_image() {
    let text = "image,caption,split,id\na,1,,x\nb,2,,\n./a,3,,\na,4,val,\nb,5,,y\n";
    let joined = join(records(TableFormat::Csv, text));
    let row = |path, texts: &[&str], split: Option<&str>, id: Option<&str>| Record {
        split: split.map(str::to_string),
        image_id: id.map(str::to_string),
        ..caption_record(path, texts)
    };
    assert_eq!(
        joined,
        [
            row("a", &["1", "3"], None, Some("x")),
            row("b", &["2", "5"], None, Some("y")),
            row("a", &["4"], Some("val"), None),
        ]
    );
    let bytes = Record {
        images: [Some(ImageSource::Bytes(vec![1])), None],
        ..caption_record("", &["a"])
    };
    assert_eq!(join([bytes.clone(), bytes]).len(), 2);
}

/// Changes some of the last `window` bytes, and truncates at `cut`.
fn damage(bytes: &mut Vec<u8>, edits: &[(prop::sample::Index, u8)], cut: Option<prop::sample::Index>, window: usize) {
    let length = bytes.len();
    for (offset, value) in edits {
        bytes[length - 1 - offset.index(window.min(length))] = *value;
    }
    if let Some(cut) = cut {
        bytes.truncate(cut.index(length));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn reading_damaged_tables_never_panics(
        table in 0..9usize,
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
        cut in prop::option::weighted(0.2, any::<prop::sample::Index>()),
        window in prop::sample::select(vec![500usize, 100_000]),
    ) {
        let (format, mut bytes) = match table {
            0 => (TableFormat::Jsonl, br#"{"image": "a", "caption": ["b", "c"], "id": 1}
                                     {"image": "a", "question": "b", "answers": ["c"]}"#.to_vec()),
            1 => (TableFormat::Csv, b"image,caption,split\na,\"b\n, \"\"c\"\"\",train\nd,e,val\n".to_vec()),
            2 => (TableFormat::Tsv, b"image\tcaption\na\tb\nc\t\"d\te\"\n".to_vec()),
            3 => (TableFormat::Jsonl, br#"{"text": "a", "labels": ["b", 1], "image": null}
                                     {"image": "a", "labels": "b|c"}"#.to_vec()),
            4 => (TableFormat::Csv, b"image_0,image_1,statement,truth\na,b,c,True\nd,e,f,0\n".to_vec()),
            5 => (TableFormat::Tsv, b"text\tlabel\na\tb\nc\t1\n".to_vec()),
            6 => (TableFormat::Parquet, parquet_file(hugging_face_columns(), Compression::SNAPPY)),
            7 => (TableFormat::Parquet, include_bytes!("data/vqa.parquet").to_vec()),
            _ => (TableFormat::Parquet, parquet_file(hugging_face_columns(), Compression::UNCOMPRESSED)),
        };
        damage(&mut bytes, &edits, cut, window);
        if let Ok(rows) = read_bytes(format, &bytes, &ColumnNames::default()) {
            prop_assert!(rows.len() <= bytes.len());
            let _ = join(rows);
        }
    }
}
