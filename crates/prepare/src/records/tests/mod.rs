mod packed;

use std::path::PathBuf;

use proptest::prelude::*;

use super::*;
use ::parquet::basic::Compression;
use packed::{hugging_face, parquet_file};

fn file(bytes: &[u8]) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    file
}

fn read_bytes(format: Format, bytes: &[u8], columns: &Columns) -> Result<Vec<Record>> {
    let file = file(bytes);
    read(file.path(), format, columns)?.collect()
}

fn records(format: Format, text: &str) -> Vec<Record> {
    read_bytes(format, text.as_bytes(), &Columns::default()).unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// The message without the file's path.
fn refused_with(format: Format, bytes: &[u8], columns: &Columns) -> String {
    let message = read_bytes(format, bytes, columns).unwrap_err().to_string();
    assert!(!message.contains('\n'), "{message}");
    message.split_once(": ").expect("a path").1.to_string()
}

fn refused(format: Format, text: &str) -> String {
    refused_with(format, text.as_bytes(), &Columns::default())
}

fn captions(path: &str, captions: &[&str]) -> Record {
    Record {
        picture: Picture::File(path.into()),
        captions: captions.iter().map(|c| c.to_string()).collect(),
        questions: Vec::new(),
        image_id: None,
        split: None,
    }
}

#[test]
fn json_lines() {
    let text = "\u{feff}{\"image\": \"a.jpg\", \"caption\": \"one\", \"url\": \"https://x\", \"size\": [1, 2]}\n\
                \n  \r\n\
                {\"captions\": [\"two\", \" \", \"three\"], \"FilePath\": \"b/c.png\", \"id\": 7, \"split\": \"val\"}\r\n\
                {\"path\": \"d\", \"question\": \"what?\", \"answers\": [\"x\", \"y\"], \"caption\": null}\n\
                {\"path\": \"d\", \"question\": \"why?\", \"answer\": 3}";
    let mut second = captions("b/c.png", &["two", "three"]);
    (second.image_id, second.split) = (Some("7".into()), Some("val".into()));
    let asked = |text: &str, answers: &[&str]| Record {
        questions: vec![Question {
            text: text.into(),
            answers: answers.iter().map(|a| a.to_string()).collect(),
        }],
        ..captions("d", &[])
    };
    assert_eq!(
        records(Format::Jsonl, text),
        [
            captions("a.jpg", &["one"]),
            second,
            asked("what?", &["x", "y"]),
            asked("why?", &["3"])
        ]
    );
    assert_eq!(records(Format::Jsonl, ""), []);
    // A key may be left out where there is no text.
    let text = "{\"image\": \"a\"}\n{\"image\": \"b\", \"caption\": \"c\"}\n{\"image\": \"d\"}\n";
    assert_eq!(
        records(Format::Jsonl, text),
        [captions("a", &[]), captions("b", &["c"]), captions("d", &[])]
    );
}

#[test]
fn csv_and_tsv() {
    let csv = "\u{feff}url,Image,Caption,split\n\
               https://x,a.jpg,\"one, \"\"two\"\"\nthree\",train\n\
               ,b.jpg,,\r\n";
    let mut first = captions("a.jpg", &["one, \"two\"\nthree"]);
    first.split = Some("train".into());
    assert_eq!(records(Format::Csv, csv), [first, captions("b.jpg", &[])]);
    let tsv = "file_name\tTEXT\na.jpg\tone, 5\" wide\nb.jpg\ttwo\n";
    assert_eq!(
        records(Format::Tsv, tsv),
        [captions("a.jpg", &["one, 5\" wide"]), captions("b.jpg", &["two"])]
    );
}

#[test]
fn columns_can_be_named() {
    let columns = Columns {
        image: Some("photo".into()),
        text: Some("alt".into()),
        id: Some("n".into()),
        ..Columns::default()
    };
    let mut wanted = captions("p.jpg", &["right"]);
    wanted.image_id = Some("9".into());
    for (format, text) in [
        (Format::Csv, "image,photo,caption,alt,n\nx,p.jpg,wrong,right,9\n"),
        (
            Format::Tsv,
            "image\tphoto\tcaption\talt\tn\nx\tp.jpg\twrong\tright\t9\n",
        ),
        (
            Format::Jsonl,
            r#"{"image": "x", "photo": "p.jpg", "caption": "wrong", "alt": "right", "n": 9}"#,
        ),
    ] {
        let read = read_bytes(format, text.as_bytes(), &columns).unwrap();
        assert_eq!(read, std::slice::from_ref(&wanted), "{format:?}");
    }
    let message = refused_with(Format::Csv, b"photo,caption,n\n", &columns);
    assert!(
        message.starts_with("there is no column \"alt\"; there are \"photo\", \"caption\", \"n\""),
        "{message}"
    );
}

#[test]
fn errors_name_line_and_column() {
    let long = format!("{{\"image\": \"{}\"}}", "x".repeat(MAX_ROW));
    let open_quote = format!("image,caption\na,\"{}", "x\n".repeat(MAX_ROW / 2 + 70_000));
    for (format, text, parts) in [
        (
            Format::Jsonl,
            "{\"image\": \"a\", \"caption\": \"b\"}\n{\"image\": ",
            &["line 2 is not a JSON object"][..],
        ),
        (Format::Jsonl, "[{\"image\": \"a\"}]", &["line 1 is not", "jq -c '.[]'"]),
        (
            Format::Jsonl,
            "{\"caption\": \"b\", \"x\": 1}",
            &["line 1: there is no column of pictures", "\"caption\", \"x\""],
        ),
        (
            Format::Jsonl,
            "{\"url\": \"b\", \"caption\": \"c\"}",
            &["download the pictures first"],
        ),
        (Format::Jsonl, "{\"image\": \"b\"}", &["no column of captions"]),
        (
            Format::Jsonl,
            "{\"image\": 5, \"caption\": \"b\"}",
            &["line 1, column \"image\" holds a number"],
        ),
        (
            Format::Jsonl,
            "{\"image\": \"\", \"caption\": \"b\"}",
            &["line 1, column \"image\" is empty"],
        ),
        (
            Format::Jsonl,
            "{\"image\": \"http://x/a.jpg\", \"caption\": \"b\"}",
            &["column \"image\" holds the address"],
        ),
        (
            Format::Jsonl,
            "{\"image\": \"a\", \"caption\": {}}",
            &["column \"caption\" holds an object"],
        ),
        (
            Format::Jsonl,
            "{\"image\": \"a\", \"caption\": [1]}",
            &["column \"caption\" holds a list of other things"],
        ),
        (
            Format::Jsonl,
            "{\"image\": \"a\", \"question\": [\"b\"]}",
            &["column \"question\" holds a list of texts, not one"],
        ),
        (Format::Jsonl, &long, &["line 1 is too long"]),
        (
            Format::Csv,
            "image,caption\na,b\nc\n",
            &["line 3 has 1 values, the first line 2"],
        ),
        (
            Format::Csv,
            "image;caption\na;b\n",
            &["no column of pictures", "\"image;caption\""],
        ),
        (Format::Csv, "", &["no column of pictures"]),
        (
            Format::Csv,
            "image,caption\na,b\n,b\n",
            &["line 3, column \"image\" is empty"],
        ),
        (Format::Csv, &open_quote, &["quote that is not closed"]),
        (
            Format::Csv,
            "\u{feff}\"image\",caption\r\na,b\r\nc,\"d\"\"\r\ne,f\r\n",
            &["line 5: the quote that begins a value in line 3 is not closed"],
        ),
        (
            Format::Tsv,
            "image\tcaption\na\t\"The sea\nb\tcats\nc\t\"Hello\n",
            &["line 4: the quote that begins a value in line 2 is closed before the value ends"],
        ),
        (
            Format::Jsonl,
            "{\"image\": \"a\", \"id\": 1}\n{\"image\": \"b\"}\n",
            &["line 1: there is no column of captions"],
        ),
    ] {
        let message = refused(format, text);
        for part in parts {
            assert!(message.contains(part), "{part:?} is not in {message}");
        }
    }
    let message = refused_with(Format::Csv, b"image,caption\na,\xff\n", &Columns::default());
    assert_eq!(
        message,
        "line 2, column \"caption\" holds text that is not UTF-8, not text or a list of texts"
    );
    assert!(refused_with(Format::Csv, b"image,\xff\n", &Columns::default()).contains("not UTF-8"));
    assert!(read("/no/such/file", Format::Csv, &Columns::default()).is_err());
    assert!(read("/", Format::Jsonl, &Columns::default()).is_err());
}

#[test]
fn rows_of_the_same_picture_are_joined() {
    let text = "image,caption,split,id\na,1,,x\nb,2,,\n./a,3,,\na,4,val,\nb,5,,y\n";
    let joined = join(records(Format::Csv, text).into_iter().map(Ok)).unwrap();
    let row = |path, texts: &[&str], split: Option<&str>, id: Option<&str>| Record {
        split: split.map(str::to_string),
        image_id: id.map(str::to_string),
        ..captions(path, texts)
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
        picture: Picture::Bytes(vec![1]),
        ..captions("", &["a"])
    };
    assert_eq!(join([Ok(bytes.clone()), Ok(bytes)].into_iter()).unwrap().len(), 2);
}

fn tree(files: &[&str]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for name in files {
        let path = root.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, name).unwrap();
    }
    root
}

#[test]
fn class_folders_are_read_as_torchvision_reads_them() {
    let root = tree(&[
        "b/2.JPG",
        "b/10.jpg",
        "b/sub/1.png",
        "b/sub/deep/3.png",
        "b/sub-a/0.webp",
        "b/notes.txt",
        "b/x.gif",
        "B/1.jpeg",
        "é/1.tiff",
        "beside.jpg",
    ]);
    let found = class_folders(root.path()).unwrap();
    assert_eq!(found.classes, ["B", "b", "é"]);
    let pictures: Vec<(PathBuf, usize)> = found
        .pictures
        .iter()
        .map(|p| (p.path.strip_prefix(root.path()).unwrap().to_path_buf(), p.class))
        .collect();
    let wanted = [
        ("B/1.jpeg", 0),
        ("b/10.jpg", 1),
        ("b/2.JPG", 1),
        ("b/sub/1.png", 1),
        ("b/sub-a/0.webp", 1),
        ("b/sub/deep/3.png", 1),
        ("é/1.tiff", 2),
    ];
    assert_eq!(pictures, wanted.map(|(path, class)| (PathBuf::from(path), class)));
    assert_eq!(
        split_folders(root.path()).unwrap(),
        [("train", root.path().to_path_buf())]
    );

    let message = class_folders(tree(&["a/1.jpg", "b/1.gif"]).path())
        .unwrap_err()
        .to_string();
    assert!(message.contains("/b: it has no picture"), "{message}");
    let root = tree(&["train/a/1.jpg", "val/a/1.jpg"]);
    let splits = [("train", root.path().join("train")), ("val", root.path().join("val"))];
    assert_eq!(split_folders(root.path()).unwrap(), splits);
    assert!(split_folders(tree(&["1.jpg"]).path()).is_err());
    assert!(class_folders(tree(&["1.jpg"]).path()).is_err());
}

#[cfg(unix)]
#[test]
fn folders_that_contain_themselves_end() {
    let root = tree(&["a/1.jpg"]);
    std::os::unix::fs::symlink(root.path(), root.path().join("a/again")).unwrap();
    let message = class_folders(root.path()).unwrap_err().to_string();
    assert!(message.contains("folders deep"), "{message}");
}

/// Bytes with some of them changed and the rest cut off.
fn damage(bytes: &mut Vec<u8>, edits: &[(prop::sample::Index, u8)], cut: Option<prop::sample::Index>, window: usize) {
    let length = bytes.len();
    for (at, value) in edits {
        bytes[length - 1 - at.index(window.min(length))] = *value;
    }
    if let Some(cut) = cut {
        bytes.truncate(cut.index(length));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn damaged_tables_never_panic(
        which in 0..5usize,
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
        cut in prop::option::weighted(0.2, any::<prop::sample::Index>()),
        window in prop::sample::select(vec![500usize, 100_000]),
    ) {
        let (format, mut bytes) = match which {
            0 => (Format::Jsonl, br#"{"image": "a", "caption": ["b", "c"], "id": 1}
                                     {"image": "a", "question": "b", "answers": ["c"]}"#.to_vec()),
            1 => (Format::Csv, b"image,caption,split\na,\"b\n, \"\"c\"\"\",train\nd,e,val\n".to_vec()),
            2 => (Format::Tsv, b"image\tcaption\na\tb\nc\t\"d\te\"\n".to_vec()),
            3 => (Format::Parquet, parquet_file(hugging_face(), Compression::SNAPPY)),
            _ => (Format::Parquet, parquet_file(hugging_face(), Compression::UNCOMPRESSED)),
        };
        damage(&mut bytes, &edits, cut, window);
        if let Ok(rows) = read_bytes(format, &bytes, &Columns::default()) {
            prop_assert!(rows.len() <= bytes.len());
            let _ = join(rows.into_iter().map(Ok));
        }
    }
}

#[test]
fn hidden_folders_are_no_classes_and_splits_stand_alone() {
    let root = tree(&[
        "train/cat/1.jpg",
        "train/.cache/x/2.jpg",
        "train/cat/._1.jpg",
        "val/cat/3.jpg",
        ".git/a/4.jpg",
    ]);
    let splits = split_folders(root.path()).unwrap();
    assert_eq!(
        splits.iter().map(|(split, _)| *split).collect::<Vec<_>>(),
        ["train", "val"]
    );
    let classes = class_folders(&splits[0].1).unwrap();
    assert_eq!((classes.classes, classes.pictures.len()), (vec!["cat".to_string()], 1));
    let beside = tree(&["train/cat/1.jpg", "other/cat/2.jpg"]);
    let message = split_folders(beside.path()).unwrap_err().to_string();
    assert!(
        message.contains("a folder train of classes beside a folder other"),
        "{message}"
    );
    // A class may be called so.
    let vehicles = tree(&["train/1.jpg", "bus/2.jpg"]);
    assert_eq!(split_folders(vehicles.path()).unwrap().len(), 1);
}
