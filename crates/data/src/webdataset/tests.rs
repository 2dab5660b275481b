use std::path::PathBuf;

use proptest::prelude::*;

use vlct_golden::write_tar;

use super::*;
use crate::DataError;

fn tar_of(members: &[(&str, &[u8])]) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("00000.tar");
    write_tar(&path, members);
    (directory, path)
}

fn open(members: &[(&str, &[u8])]) -> crate::Result<TarTable> {
    let (_directory, path) = tar_of(members);
    TarTable::open(path)
}

/// The error message of a file with these bytes.
fn open_error(bytes: &[u8]) -> String {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    let error = TarTable::open(file.path()).unwrap_err();
    assert!(matches!(error, DataError::Format { .. }), "{error}");
    let message = error.to_string();
    assert!(!message.contains('\n'), "{message}");
    message
}

fn rows(table: &TarTable) -> Vec<(Vec<u8>, Vec<String>, String)> {
    (0..table.rows())
        .map(|row| {
            let captions = table.captions(row).unwrap();
            (
                table.image(row).unwrap().to_vec(),
                captions.iter().map(|caption| caption.to_string()).collect(),
                table.image_id(row).unwrap(),
            )
        })
        .collect()
}

fn row(image: &[u8], captions: &[&str], id: &str) -> (Vec<u8>, Vec<String>, String) {
    (
        image.to_vec(),
        captions.iter().map(|c| c.to_string()).collect(),
        id.to_string(),
    )
}

#[test]
fn reads_samples_of_img2dataset() {
    let metadata = br#"{"caption": "two dogs", "url": "https://x/1.jpg", "key": "000000001", "status": "success",
                    "error_message": null, "width": 256, "exif": "{}", "nested": [{"a": [1]}]}"#;
    let table = open(&[
        ("000000001.jpg", b"one"),
        ("000000001.json", metadata),
        ("000000001.txt", b"two dogs\n"),
        ("000000002.jpg", b"two"),
        ("000000002.json", br#"{"caption": null, "key": "000000002"}"#),
        ("000000003.json", br#"{"caption": ["a", " b ", ""], "key": 3}"#),
        ("000000003.webp", b"three"),
    ])
    .unwrap();
    assert_eq!(
        rows(&table),
        [row(b"one", &["two dogs"], "000000001"), row(b"three", &["a", "b"], "3")]
    );
    let counts = TarCounts {
        samples: 2,
        without_caption: 1,
        ..TarCounts::default()
    };
    assert_eq!(table.counts(), counts);
    assert!(table.image(2).is_err() && table.captions(2).is_err() && table.image_id(2).is_err());
    assert!(table.index_memory() <= 2 * 24);
}

#[test]
fn keys_end_at_the_first_dot_as_in_webdataset() {
    let long = format!("{}/7.jpg", "directory".repeat(30));
    let long_text = long.replace(".jpg", ".txt");
    let table = open(&[
        ("./a/1.JPG", b"1"),
        ("./a/1.txt", b"first"),
        ("b/1.PNG", b"2"),
        ("b/1.Txt", b"another directory"),
        ("._b/1.jpg", b"3"),
        ("b/._1.jpg", b"made by macOS"),
        ("c.seg.jpg", b"a mask"),
        ("c.cls", b"4"),
        ("c.jpeg", b"4"),
        ("c.txt", b"dots"),
        (&long, b"5"),
        (&long_text, b"long"),
        ("d.txt", b"no image"),
    ])
    .unwrap();
    assert_eq!(
        rows(&table),
        [
            row(b"1", &["first"], "a/1"),
            row(b"2", &["another directory"], "b/1"),
            row(b"4", &["dots"], "c"),
            row(b"5", &["long"], &long[..long.len() - 4]),
        ]
    );
    let counts = TarCounts {
        samples: 4,
        without_caption: 1,
        without_image: 1,
        others: 3,
        ..TarCounts::default()
    };
    assert_eq!(table.counts(), counts);
}

#[test]
fn repeated_extension_begins_another_sample() {
    let table = open(&[
        ("a.jpg", b"1"),
        ("a.txt", b"one"),
        ("a.jpg", b"2"),
        ("a.txt", b"two"),
        ("a.png", b"3"),
    ])
    .unwrap();
    assert_eq!(rows(&table), [row(b"1", &["one"], "a"), row(b"2", &["two"], "a")]);
    assert_eq!(table.counts().without_caption, 1);
}

#[test]
fn reads_pax_headers_and_skips_directories_and_links() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("p.tar");
    let mut builder = tar::Builder::new(std::fs::File::create(&path).unwrap());
    let mut directory = tar::Header::new_ustar();
    directory.set_entry_type(tar::EntryType::Directory);
    directory.set_size(0);
    builder.append_data(&mut directory, "images", &b""[..]).unwrap();
    let mut link = tar::Header::new_ustar();
    link.set_entry_type(tar::EntryType::Symlink);
    link.set_size(0);
    builder.append_link(&mut link, "link.jpg", "/etc/passwd").unwrap();
    let member = |builder: &mut tar::Builder<std::fs::File>, name: &str, bytes: &[u8]| {
        let long = format!("images/{name}");
        let size = bytes.len().to_string();
        let records = [("path", long.as_bytes()), ("mtime", b"1.5"), ("size", size.as_bytes())];
        builder.append_pax_extensions(records).unwrap();
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        builder.append_data(&mut header, "short", bytes).unwrap();
    };
    member(&mut builder, "1.jpg", b"one");
    member(&mut builder, "1.txt", b"a caption");
    builder.finish().unwrap();
    assert_eq!(
        rows(&TarTable::open(&path).unwrap()),
        [row(b"one", &["a caption"], "images/1")]
    );
}

/// A tar of one image with an edited header and a valid checksum.
fn tar_with_header(edit: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let (_directory, path) = tar_of(&[("a.jpg", b"1")]);
    let mut bytes = std::fs::read(path).unwrap();
    let mut header = tar::Header::from_byte_slice(&bytes[..512]).clone();
    edit(header.as_mut_bytes());
    header.set_cksum();
    bytes[..512].copy_from_slice(header.as_bytes());
    bytes
}

#[test]
fn rejects_damaged_files_and_other_formats_in_one_line() {
    let (_directory, path) = tar_of(&[
        ("a.jpg", &[7; 3000]),
        ("a.txt", b"one"),
        ("b.jpg", b"1"),
        ("b.txt", b"two"),
    ]);
    let tar = std::fs::read(path).unwrap();
    let end = tar.len() - 1024;
    for length in [512, 600, 3000, 4096, 4600, end - 512, end] {
        let message = open_error(&tar[..length]);
        assert!(message.contains("cut short"), "{length}: {message}");
    }
    assert!(open_error(&tar[..511]).contains("not a tar file"));
    assert!(open_error(b"").contains("is empty"));
    assert!(open_error(&[b'<'; 2000]).contains("not a tar file"));

    let mut damaged = tar.clone();
    damaged[3584 + 100] ^= 1;
    assert!(
        open_error(&damaged).contains("byte 3584 has a wrong checksum"),
        "{}",
        open_error(&damaged)
    );

    for (reason, bytes) in [
        (
            "impossible size",
            tar_with_header(|h| h[124..136].copy_from_slice(b"99999999999x")),
        ),
        (
            "impossible size",
            tar_with_header(|h| h[124..136].copy_from_slice(&[0x80, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])),
        ),
        (
            "cut short",
            tar_with_header(|h| h[124..136].copy_from_slice(b"77777777777\0")),
        ),
        (
            "cut short",
            tar_with_header(|h| h[124..136].copy_from_slice(&[0x80, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255])),
        ),
        ("sparse", tar_with_header(|h| h[156] = b'S')),
        ("unknown type 'M'", tar_with_header(|h| h[156] = b'M')),
        ("a member of its type has none", tar_with_header(|h| h[156] = b'2')),
        ("damaged pax records", tar_with_header(|h| h[156] = b'x')),
    ] {
        let message = open_error(&bytes);
        assert!(message.contains(reason), "{reason}: {message}");
    }
    // Absolute and relative paths are only names; nothing is unpacked.
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), tar_with_header(|h| h[..9].copy_from_slice(b"/../a.jpg"))).unwrap();
    assert_eq!(TarTable::open(file.path()).unwrap().counts().without_caption, 1);
}

#[test]
fn unreadable_captions_cost_their_sample_only() {
    let large = vec![b' '; (16 << 20) + 1];
    for (name, bytes, reason) in [
        ("b.txt", &b"\xff\xfe"[..], "\"b.txt\" is not UTF-8"),
        ("b.json", b"{\"caption\": ", "\"b.json\" is not a JSON object (EOF"),
        ("b.json", b"", "\"b.json\" is not a JSON object (EOF"),
        ("b.json", b"{\"caption\": {}}", "neither text nor a list of texts"),
        ("b.json", &[b'['; 100_000], "is not a JSON object"),
        (
            "b.json",
            b"[{\"caption\": \"c\"}]",
            "is not a JSON object (invalid type: sequence, expected an object)",
        ),
        ("b.txt", &large, "too many for a caption"),
    ] {
        let table = open(&[("a.jpg", b"1"), ("a.txt", b"one"), ("b.jpg", b"2"), (name, bytes)]).unwrap();
        assert_eq!(rows(&table), [row(b"1", &["one"], "a")]);
        let counts = TarCounts {
            samples: 1,
            unreadable: 1,
            ..TarCounts::default()
        };
        assert_eq!(table.counts(), counts, "{name}");
        let [remark] = &table.left_out()[..] else { panic!() };
        assert!(
            remark.starts_with("1 image whose caption cannot be read (") && remark.contains(reason),
            "{remark}"
        );
    }
}

#[test]
fn json_is_needed_only_without_text() {
    for json in [
        &br#"{"caption": "x", "similarity": NaN}"#[..],
        br#"{"caption": 2020}"#,
        br#"{"caption": "x \ud83d", "key": 4.0}"#,
        b"[1]",
        b"",
        b"\xff",
    ] {
        let table = open(&[("a.jpg", b"1"), ("a.json", json), ("a.txt", b"one")]).unwrap();
        assert_eq!(rows(&table), [row(b"1", &["one"], "a")]);
    }
    for (json, captions) in [
        (
            &br#"{"caption": "x \ud83d", "size": Infinity}"#[..],
            &["x \u{fffd}"][..],
        ),
        (br#"{"caption": 2020, "caption_": {}}"#, &["2020"]),
        (br#"{"caption": ["one", null, " two "], "key": [1]}"#, &["one", "two"]),
    ] {
        let table = open(&[("a.jpg", b"1"), ("a.txt", b" \n"), ("a.json", json)]).unwrap();
        assert_eq!(rows(&table), [row(b"1", captions, "a")]);
    }
}

#[test]
fn joins_members_that_are_apart() {
    let table = open(&[
        ("a.jpg", b"1"),
        ("b.jpg", b"2"),
        ("c.jpg", b"3"),
        ("d.jpg", b"4"),
        ("d.txt", b"four"),
        ("b.json", br#"{"caption": "two", "key": 22}"#),
        ("x.txt", b"no image"),
        ("a.txt", b"one"),
        ("a.json", br#"{"caption": "other", "key": "first"}"#),
    ])
    .unwrap();
    assert_eq!(
        rows(&table),
        [
            row(b"1", &["one"], "first"),
            row(b"2", &["two"], "22"),
            row(b"4", &["four"], "d")
        ]
    );
    let counts = TarCounts {
        samples: 3,
        without_caption: 1,
        without_image: 1,
        ..TarCounts::default()
    };
    assert_eq!(table.counts(), counts);
    assert_eq!(
        table.left_out(),
        ["1 image without a caption", "1 caption without an image"]
    );

    let repeated = open(&[
        ("a.jpg", b"1"),
        ("a.jpg", b"2"),
        ("a.txt", b"one"),
        ("b.txt", b""),
        ("a.txt", b"two"),
    ])
    .unwrap();
    assert_eq!(rows(&repeated), [row(b"1", &["two"], "a"), row(b"2", &["one"], "a")]);
    let unrelated = [("a.jpg", &b""[..]), ("a_caption.txt", b"a")];
    let message = open(&unrelated).unwrap_err().to_string();
    assert!(message.contains("no image has a caption"), "{message}");
}

#[test]
fn second_text_of_a_sample_is_found_anywhere() {
    let json = |caption: &str, key: &str| format!(r#"{{"caption": "{caption}", "key": "{key}"}}"#).into_bytes();
    let [a, b, c, d] = ["a", "b", "c", "d"].map(|name| json(&format!("json {name}"), &format!("key {name}")));
    let members: [(&str, &[u8]); 12] = [
        // The JSON before, after, or in another place than the adjacent image and text; the text apart from image and JSON.
        ("a.json", &a),
        ("c.jpg", b"3"),
        ("c.json", &c),
        ("a.jpg", b"1"),
        ("a.txt", b"one"),
        ("b.jpg", b"2"),
        ("b.txt", b"two"),
        ("c.txt", b"three"),
        ("d.txt", b"four"),
        ("d.jpg", b"4"),
        ("b.json", &b),
        ("d.json", &d),
    ];
    let expected = [
        row(b"1", &["one"], "key a"),
        row(b"2", &["two"], "key b"),
        row(b"3", &["three"], "key c"),
        row(b"4", &["four"], "key d"),
    ];
    // Rotations have every member first, and the ends of the file at every place.
    for rotation in 0..members.len() {
        let mut members = members;
        members.rotate_left(rotation);
        let table = open(&members).unwrap();
        let mut found = rows(&table);
        found.sort();
        assert_eq!(found, expected, "{rotation}");
        assert_eq!(
            table.left_out(),
            Vec::<String>::new(),
            "{rotation}: {:?}",
            table.counts()
        );
    }

    // A second text of the same kind belongs to no image.
    let surplus = open(&[("a.jpg", b"1"), ("a.txt", b"one"), ("b.txt", b""), ("a.txt", b"other")]).unwrap();
    assert_eq!(rows(&surplus), [row(b"1", &["one"], "a")]);
    assert_eq!(surplus.left_out(), ["1 caption without an image"]);
}

#[test]
fn lists_unknown_endings() {
    let table = open(&[
        ("1.input.jpg", b"1"),
        ("1.outputs.txt", b"one"),
        ("2.input.jpg", b"1"),
        ("._2.input.jpg", b"made by macOS"),
    ])
    .unwrap();
    assert_eq!(table.other_endings().unwrap(), "2 input.jpg, 1 outputs.txt");
    assert_eq!((table.rows(), table.counts().others), (0, 4));
    assert_eq!(
        open(&[("a.jpg", b"1"), ("a.txt", b"one")]).unwrap().other_endings(),
        None
    );
}

#[test]
fn reads_compressed_tars_from_a_temporary_file() {
    let (directory, path) = tar_of(&[("a.jpg", b"1"), ("b.jpg", b"2"), ("a.txt", b"one")]);
    let compressed = directory.path().join("1.tar.gz");
    let write = |bytes: &[u8]| std::fs::write(&compressed, bytes).unwrap();
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut encoder, &std::fs::read(&path).unwrap()).unwrap();
    let bytes = encoder.finish().unwrap();
    write(&bytes);
    let message = TarTable::open(&compressed).unwrap_err().to_string();
    assert!(
        message.ends_with("1.tar.gz: it is compressed with gzip; unpack it with gunzip"),
        "{message}"
    );
    assert_eq!(
        rows(&TarTable::open_compressed(&compressed).unwrap()),
        [row(b"1", &["one"], "a")]
    );
    assert_eq!(TarTable::open_compressed(&path).unwrap().rows(), 1);
    write(&bytes[..bytes.len() / 2]);
    let message = TarTable::open_compressed(&compressed).unwrap_err().to_string();
    assert!(message.contains("cut short"), "{message}");
    write(b"\x1f\x8bnonsense");
    assert!(TarTable::open_compressed(&compressed).is_err());
}

/// Reads all values of a file, to find panics. Errors are ignored.
fn read_all_values(bytes: &[u8]) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    let Ok(table) = TarTable::open(file.path()) else {
        return;
    };
    assert!(table.index_memory() <= 2 * bytes.len());
    for row in 0..table.rows() {
        let _ = table.image(row);
        let _ = table.captions(row);
        let _ = table.image_id(row);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn reading_damaged_files_never_panics(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>()), 1..6),
        valid_checksums in any::<bool>(),
        cut in prop::option::weighted(0.2, any::<prop::sample::Index>()),
    ) {
        let long = format!("{}.jpg", "n".repeat(150));
        let (_directory, path) = tar_of(&[
            ("a.jpg", b"1"), ("a.json", br#"{"caption": "c", "key": "k"}"#), (&long, b"2"), ("b.txt", b"one"),
        ]);
        let mut bytes = std::fs::read(path).unwrap();
        let blocks = bytes.len() / 512;
        for (block, offset, value) in edits {
            let block = block.index(blocks) * 512;
            bytes[block + offset.index(512)] = value;
            if valid_checksums {
                let mut header = tar::Header::from_byte_slice(&bytes[block..block + 512]).clone();
                header.set_cksum();
                bytes[block..block + 512].copy_from_slice(header.as_bytes());
            }
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        read_all_values(&bytes);
    }

    #[test]
    fn order_of_members_changes_no_count(
        parts in prop::collection::vec(1usize..8, 1..12),
        order in any::<prop::sample::Selector>(),
    ) {
        // Bits: image, text, JSON.
        let members: Vec<(String, Vec<u8>)> = parts.iter().enumerate().flat_map(|(i, parts)| {
            let members = [("jpg", format!("{i}")), ("txt", format!("text {i}")), ("json", format!(r#"{{"caption": "json {i}", "key": {i}}}"#))];
            (0..3).filter(move |bit| parts >> bit & 1 == 1).map(move |bit| (format!("x{i}.{}", members[bit].0), members[bit].1.clone().into_bytes()))
        }).collect();
        let mut indices: Vec<usize> = (0..members.len()).collect();
        let mut shuffled = Vec::new();
        while !indices.is_empty() {
            let index = *order.select(&indices);
            indices.retain(|i| *i != index);
            shuffled.push((&*members[index].0, &*members[index].1));
        }
        let count = |is_counted: fn(usize) -> bool| parts.iter().filter(|parts| is_counted(**parts)).count();
        let expected = TarCounts {
            samples: count(|parts| parts & 1 == 1 && parts > 1),
            without_caption: count(|parts| parts == 1),
            without_image: count(|parts| parts & 1 == 0),
            ..TarCounts::default()
        };
        let found = match open(&shuffled) {
            Ok(table) => table.counts(),
            // No image has a caption.
            Err(_) => TarCounts { samples: 0, ..expected },
        };
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn members_round_trip(
        samples in prop::collection::vec(
            (prop::collection::vec(any::<u8>(), 0..1200), "[a-z]{1,20}( [a-z]{1,20}){0,3}", "[a-z/]{0,200}[a-z0-9]"), 0..8),
    ) {
        let names: Vec<[String; 2]> = samples.iter().enumerate()
            .map(|(i, (.., name))| [format!("x{name}{i}.jpg"), format!("x{name}{i}.txt")])
            .collect();
        let members: Vec<(&str, &[u8])> = names.iter().zip(&samples)
            .flat_map(|(names, (image, text, _))| [(&*names[0], &**image), (&*names[1], text.as_bytes())])
            .collect();
        let table = open(&members).unwrap();
        let read: Vec<(Vec<u8>, String)> = rows(&table).into_iter().map(|(image, texts, _)| (image, texts.concat())).collect();
        let expected: Vec<(Vec<u8>, String)> = samples.into_iter().map(|(image, text, _)| (image, text)).collect();
        prop_assert_eq!(read, expected);
    }
}
