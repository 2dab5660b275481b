//! Directories of images: captions in files beside them, Hugging Face's metadata, and compressed tars.

use super::*;

#[test]
fn reads_captions_beside_images() {
    let raw = directory_of(&[
        ("00000/000.jpg", "A"),
        ("00000/000.txt", "\u{feff}a cat\n"),
        ("00000/000.json", r#"{"caption": "another", "similarity": NaN}"#),
        ("00000/001.JPG", "B"),
        ("00000/001.TXT", " "),
        (
            "00000/001.json",
            r#"{"caption": ["a dog", null, " two dogs "], "width": Infinity}"#,
        ),
        ("00000/002.webp", "C"),
        ("00000_stats.json", "{}"),
        ("10_style/x.y.png", "D"),
        ("10_style/x.y.caption", "tags, more tags"),
        ("10_style/x.npz", ""),
        ("10_style/z.png", "E"),
        ("10_style/z.json", "[]"),
        ("validation/1.jpg", "F"),
        ("validation/1.txt", "held out"),
        ("readme.txt", "no image"),
        (".hidden/1.jpg", "G"),
        (".hidden/1.txt", "hidden"),
    ]);
    let out = tempfile::tempdir().unwrap();
    let dataset = CustomDataset::new("sd", InputFormat::Files, raw.path());
    let report = prepare(&dataset, out.path()).unwrap();
    assert_eq!(
        rows(out.path(), "sd", Split::Train),
        [
            row("A", &["a cat"], "00000/000.jpg"),
            row("B", &["a dog", "two dogs"], "00000/001.JPG"),
            row("D", &["tags, more tags"], "10_style/x.y.png"),
        ]
    );
    assert_eq!(
        rows(out.path(), "sd", Split::Val),
        [row("F", &["held out"], "validation/1.jpg")]
    );
    assert_eq!(
        report.remarks,
        [
            "train: left out 1 image without a caption (00000/002.webp)",
            "train: left out 1 image whose caption cannot be read (10_style/z.png: it is not a JSON object (invalid type: sequence, \
             expected an object))",
        ]
    );
    let train = &report.coverage[0];
    assert_eq!((train.found, train.kept, train.without_image), (5, 3, 1));
}

#[test]
fn images_of_phones_are_left_out_by_name() {
    let raw = directory_of(&[
        ("a/1.jpg", "A"),
        ("a/1.txt", "a cat"),
        ("a/2.txt", "a dog"),
        ("b/3.txt", "a hen"),
    ]);
    let image = vlct_image::encode_png(&image::RgbImage::new(4, 4)).unwrap();
    std::fs::write(raw.path().join("a/1.jpg"), image).unwrap();
    for name in ["a/2.HEIC", "b/3.heif"] {
        std::fs::write(raw.path().join(name), b"\0\0\0\x18ftypheic\0\0\0\0mif1heic").unwrap();
    }
    let (files, classes) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for (format, out) in [
        (InputFormat::Files, files.path()),
        (InputFormat::ImageFolder, classes.path()),
    ] {
        let dataset = CustomDataset::new("phone", format, raw.path());
        let plan = dataset.plan().unwrap();
        let mut checked = options(out);
        checked.processing.validate = true;
        let Outcome::Written(report) = write("phone", &plan, &checked, &mut |_| ControlFlow::Continue(())).unwrap()
        else {
            panic!("it was not written");
        };
        let left_out: Vec<&str> = report.left_out.iter().map(|l| l.image.as_str()).collect();
        assert_eq!(left_out.len(), 2, "{format}: {left_out:?}");
        assert!(
            report.left_out.iter().all(|l| l.reason.contains("HEIC")),
            "{:?}",
            report.left_out
        );
    }
}

#[test]
fn directories_without_captions_are_an_error() {
    let raw = directory_of(&[("a/1.jpg", "A"), ("a/2.txt", "x")]);
    let message = plan_error(&CustomDataset::new("sd", InputFormat::Files, raw.path()));
    assert!(
        message.contains("images with captions in files beside them")
            && message.contains("1 image without a caption (a/1.jpg)"),
        "{message}"
    );
}

#[test]
fn reads_metadata_of_hugging_face() {
    let raw = directory_of(&[
        ("train/1.jpg", "A"),
        ("train/more/2.jpg", "B"),
        (
            "train/metadata.jsonl",
            "{\"file_name\": \"1.jpg\", \"text\": \"one\"}\n{\"file_name\": \"more/2.jpg\", \"text\": \"two\"}\n\
             {\"file_name\": \"3.jpg\", \"text\": \"three\"}\n",
        ),
        ("validation/1.jpg", "C"),
        (
            "validation/metadata.jsonl",
            "{\"file_name\": \"1.jpg\", \"text\": \"other\"}\n",
        ),
    ]);
    let out = tempfile::tempdir().unwrap();
    let dataset = CustomDataset::new("hf", InputFormat::ImageFolder, raw.path());
    let report = prepare(&dataset, out.path()).unwrap();
    assert_eq!(
        rows(out.path(), "hf", Split::Train),
        [
            row("A", &["one"], "train/1.jpg"),
            row("B", &["two"], "train/more/2.jpg")
        ]
    );
    assert_eq!(
        rows(out.path(), "hf", Split::Val),
        [row("C", &["other"], "validation/1.jpg")]
    );
    assert_eq!(report.coverage[0].examples, ["train/3.jpg"]);

    let raw = directory_of(&[
        ("1.jpg", "A"),
        ("2.jpg", "B"),
        (
            "metadata.csv",
            "file_name,text,split\n1.jpg,one,train\n2.jpg,two,test\n",
        ),
    ]);
    prepare(
        &CustomDataset::new("flat", InputFormat::ImageFolder, raw.path()),
        out.path(),
    )
    .unwrap();
    assert_eq!(rows(out.path(), "flat", Split::Train), [row("A", &["one"], "1.jpg")]);
    assert_eq!(rows(out.path(), "flat", Split::Test), [row("B", &["two"], "2.jpg")]);
    std::fs::write(raw.path().join("metadata.jsonl"), "").unwrap();
    let message = plan_error(&CustomDataset::new("flat", InputFormat::ImageFolder, raw.path()));
    assert!(message.contains("use one format"), "{message}");
}

#[test]
fn reads_compressed_tars_among_plain_ones() {
    let raw = directory_of(&[]);
    let compress = |name: &str, members: &[(&str, &[u8])]| {
        let tar = raw.path().join("temporary");
        write_tar(&tar, members);
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut encoder, &std::fs::read(&tar).unwrap()).unwrap();
        std::fs::write(raw.path().join(name), encoder.finish().unwrap()).unwrap();
        std::fs::remove_file(tar).unwrap();
    };
    compress(
        "0.tar.gz",
        &[("a.jpg", b"A"), ("b.jpg", b"B"), ("a.txt", b"x"), ("b.json", b"[]")],
    );
    write_tar(&raw.path().join("1.tar"), &[("c.jpg", b"C"), ("c.txt", b"y")]);
    compress(
        "2.tgz",
        &[("d.jpg", b"D"), ("d.json", br#"{"caption": ["z", "z"], "key": 4}"#)],
    );
    compress("3.tar.gz", &[("e.jpg", b"E"), ("e.txt", b"v")]);
    let out = tempfile::tempdir().unwrap();
    let dataset = CustomDataset::new("web", InputFormat::WebDataset, raw.path());
    let report = prepare(&dataset, out.path()).unwrap();
    assert_eq!(
        rows(out.path(), "web", Split::Train),
        [
            row("A", &["x"], "a"),
            row("C", &["y"], "c"),
            row("D", &["z"], "4"),
            row("E", &["v"], "e")
        ]
    );
    let [remark] = &report.remarks[..] else {
        panic!("{:?}", report.remarks)
    };
    assert!(
        remark.starts_with(
            "train: 0.tar.gz: left out 1 image whose caption cannot be read (\"b.json\" is not a JSON object"
        ),
        "{remark}"
    );
}
