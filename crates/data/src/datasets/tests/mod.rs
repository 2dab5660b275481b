mod answered;
mod labels;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::*;
use crate::DataError;
use crate::arrow::CaptionWriter;

/// Golden directory, name of the dataset, and its class in the original.
const SETS: &[(&str, &str, &str)] = &[
    ("coco", "coco", "CocoCaptionKarpathyDataset"),
    ("f30k", "f30k", "F30KCaptionKarpathyDataset"),
    ("vg", "vg", "VisualGenomeCaptionDataset"),
    ("gcc", "gcc", "ConceptualCaptionDataset"),
    ("sbu", "sbu", "SBUCaptionDataset"),
    ("pretrain_vqav2", "pretrainVQA", "VQACaptionDataset"),
    ("pretrain_gqa", "pretrainGQA", "GQACaptionDataset"),
    ("pretrain_openimages", "pretrainOI", "OICaptionDataset"),
    ("pretrain_f30k", "pretrainFlickr30k", "Flickr30kCaptionDataset"),
    ("pretrain_vg", "pretrainVGQA", "VGQACaptionDataset"),
];

fn split_name(split: Split) -> String {
    split.to_string()
}

fn sorted(texts: &[String]) -> Vec<String> {
    let mut texts = texts.to_vec();
    texts.sort();
    texts
}

/// The text of an item.
pub(super) fn text(dataset: &TableDataset, item: usize) -> String {
    dataset.text(item).unwrap().unwrap().into_owned()
}

/// Index of a row among the rows of all files.
fn row_of(dataset: &TableDataset, location: &Location) -> usize {
    let earlier_files = dataset.tables().take(location.table);
    earlier_files.map(|(_, rows)| rows).sum::<usize>() + location.row
}

/// The texts of every row, read item by item.
fn captions(dataset: &TableDataset) -> Vec<Vec<String>> {
    (0..dataset.rows())
        .map(|row| {
            let items = dataset.items_of(row).unwrap();
            items.map(|item| text(dataset, item)).collect()
        })
        .collect()
}

fn assert_as_recorded(dataset: &TableDataset, expected: &Value, what: &str) {
    assert_eq!(json!(dataset.len()), expected["length"], "{what}");
    if dataset.tables().len() == 0 {
        assert_eq!(expected["files"], json!([]), "{what}");
        return;
    }
    assert_eq!(json!(dataset.rows()), expected["rows"], "{what}");
    let with_rows: Vec<(&str, usize)> = dataset.tables().filter(|(_, rows)| *rows > 0).collect();
    // The original reads this file as pretrain_vgqa_0, although it writes pretrain_vg_0.
    if what != "pretrainVGQA train" {
        assert_eq!(json!(with_rows), expected["file_of_row"], "{what}");
    }
    let got: Vec<Vec<String>> = captions(dataset);
    let want_texts: Vec<Vec<String>> = serde_json::from_value(expected["texts"].clone()).unwrap();
    assert_eq!(got.iter().map(|t| sorted(t)).collect::<Vec<_>>(), want_texts, "{what}");
    let mapper: Vec<(usize, usize)> = (0..dataset.len())
        .map(|item| {
            let location = dataset.locate(item).unwrap();
            let example = dataset.example(item).unwrap();
            let row = row_of(dataset, &location);
            assert_eq!(example.text.unwrap(), got[row][location.text]);
            assert_eq!(
                example.images[0].as_deref().unwrap(),
                dataset.image_at(&location).unwrap()
            );
            (row, location.text)
        })
        .collect();
    assert_eq!(json!(mapper), expected["index_mapper"], "{what}");
    if let Some(ids) = expected.get("image_id") {
        let got: Vec<Option<String>> = (0..dataset.rows())
            .map(|row| dataset.image_id_at(&dataset.locate_row(row).unwrap()).unwrap())
            .collect();
        assert_eq!(&json!(got), ids, "{what}");
    }
}

#[test]
fn every_split_reads_as_the_original_reads_it() {
    for directory in vlct_golden::directories("prepare") {
        for (set, name, class) in SETS {
            let root = directory.join(set).join("expected");
            let recorded = &vlct_golden::json(root.join("reader.json"))[class];
            for split in [Split::Train, Split::Val, Split::Test] {
                let what = format!("{name} {split}");
                let dataset = TableDataset::open_with(
                    Contents::Captions,
                    &root,
                    &[name],
                    split,
                    &FileRules {
                        fewer_shards: true,
                        ..FileRules::default()
                    },
                )
                .unwrap();
                assert_as_recorded(&dataset, &recorded[split_name(split)], &what);
            }
        }
    }
}

#[test]
fn blank_captions_are_items_of_published_datasets_only() {
    let root = tempfile::tempdir().unwrap();
    for file in ["photos_train.arrow", "vg.arrow"] {
        let mut writer = CaptionWriter::create(root.path().join(file)).unwrap();
        for (image, captions) in [
            ("1", &["a dog", "", "a cat", " \t\n", "a dog"][..]),
            ("2", &["", " "]),
            ("3", &[]),
            ("4", &["\u{a0}", "a bird"]),
        ] {
            writer.push(image.as_bytes(), captions, image, "").unwrap();
        }
        writer.finish().unwrap();
    }
    let read = |name: &str| {
        let dataset = TableDataset::open(Contents::Captions, root.path(), &[name], Split::Train).unwrap();
        // Each item is found at its own location, and belongs to its row.
        for item in 0..dataset.len() {
            let location = dataset.locate(item).unwrap();
            assert_eq!(
                dataset.texts_at(&location).unwrap()[location.text],
                text(&dataset, item)
            );
        }
        (captions(&dataset).concat(), dataset.left_out())
    };
    assert_eq!(
        read("photos"),
        (
            ["a dog", "a cat", "a bird"].map(String::from).to_vec(),
            vec!["photos: left out 2 rows without text; 3 empty captions".to_string()]
        )
    );
    assert_eq!(
        read("vg"),
        (
            ["a dog", "", "a cat", " \t\n", "", " ", "\u{a0}", "a bird"]
                .map(String::from)
                .to_vec(),
            vec!["vg: left out 1 row without text".to_string()]
        )
    );
}

fn copy(from: &Path, to: &Path, names: &[&str]) {
    for name in names {
        std::fs::copy(from.join(name), to.join(name)).unwrap();
    }
}

#[test]
fn batch_boundaries_and_large_strings_do_not_matter() {
    for directory in vlct_golden::directories("prepare") {
        let plain = directory.join("coco/expected");
        let files = |split| -> &[&str] {
            match split {
                Split::Train => &[
                    "coco_caption_karpathy_train.arrow",
                    "coco_caption_karpathy_restval.arrow",
                ],
                _ => &["coco_caption_karpathy_test.arrow"],
            }
        };
        for (variant, split) in [("multi_batch", Split::Train), ("large_string", Split::Test)] {
            let mixed = tempfile::tempdir().unwrap();
            copy(&plain, mixed.path(), files(split));
            for name in files(split) {
                let replacement = directory.join("variants").join(variant).join(name);
                if replacement.exists() {
                    std::fs::copy(replacement, mixed.path().join(name)).unwrap();
                }
            }
            let content = |root: &Path| {
                let dataset = TableDataset::open(Contents::Captions, root, &["coco"], split).unwrap();
                let texts: BTreeSet<Vec<String>> = captions(&dataset).into_iter().collect();
                (dataset.len(), dataset.rows(), texts)
            };
            assert_eq!(content(mixed.path()), content(&plain), "{variant}");
        }
    }
}

#[test]
fn shards_are_concatenated_and_may_be_empty() {
    for directory in vlct_golden::directories("prepare") {
        let unsharded = TableDataset::open_with(
            Contents::Captions,
            directory.join("gcc/expected"),
            &["gcc"],
            Split::Train,
            &FileRules {
                fewer_shards: true,
                ..FileRules::default()
            },
        )
        .unwrap();
        let root = directory.join("gcc/expected/shard_size_4");
        let sharded = TableDataset::open_with(
            Contents::Captions,
            &root,
            &["gcc"],
            Split::Train,
            &FileRules {
                fewer_shards: true,
                ..FileRules::default()
            },
        )
        .unwrap();
        assert!(sharded.tables().len() > 2);
        assert_eq!(sharded.tables().last().unwrap().1, 0, "the last shard is empty");
        assert_eq!(captions(&sharded), captions(&unsharded));
    }
}

/// Writes Arrow files into a temporary directory. `files` has the name of each, and the captions of each of its rows.
fn directory_of(files: &[(&str, &[&[&str]])]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (name, rows) in files {
        let mut writer = CaptionWriter::create(directory.path().join(format!("{name}.arrow"))).unwrap();
        for (row, captions) in rows.iter().enumerate() {
            writer
                .push(format!("{name} {row}").as_bytes(), captions, &row.to_string(), "train")
                .unwrap();
        }
        writer.finish().unwrap();
    }
    directory
}

#[test]
fn rows_without_captions_are_rows_but_not_items() {
    // The first row has no text; the original fails on such files.
    let directory = directory_of(&[("vg", &[&[], &["a", "b"], &[], &[], &["c"], &[]])]);
    let dataset = TableDataset::open(Contents::Captions, directory.path(), &["vg"], Split::Train).unwrap();
    assert_eq!((dataset.len(), dataset.rows()), (3, 6));
    let texts: Vec<String> = (0..3).map(|i| text(&dataset, i)).collect();
    assert_eq!(texts, ["a", "b", "c"]);
    assert_eq!(dataset.locate(2).unwrap().row, 4);
    assert_eq!(dataset.items_of(0).unwrap(), 0..0);
    assert_eq!(dataset.items_of(1).unwrap(), 0..2);
    assert_eq!(dataset.items_of(5).unwrap(), 3..3);
    assert!(dataset.locate(3).is_err() && dataset.items_of(6).is_err());
}

#[test]
fn duplicate_captions_of_a_row_are_left_out() {
    let directory = directory_of(&[("vg", &[&["b", "a", "b", "", "a", "c", ""]])]);
    let dataset = TableDataset::open(Contents::Captions, directory.path(), &["vg"], Split::Train).unwrap();
    assert_eq!(captions(&dataset), [["b", "a", "", "c"]]);
}

#[test]
fn datasets_are_concatenated_and_peers_are_of_the_same_dataset() {
    let files: &[(&str, &[&[&str]])] = &[
        ("coco_caption_karpathy_train", &[&["a", "b"], &["c"]]),
        ("coco_caption_karpathy_restval", &[&["d", "e", "f"]]),
        ("vg", &[&["g"], &["h"]]),
    ];
    let directory = directory_of(files);
    let dataset = TableDataset::open(Contents::Captions, directory.path(), &["vg", "coco"], Split::Train).unwrap();
    let texts: String = (0..dataset.len()).map(|i| text(&dataset, i)).collect();
    assert_eq!(texts, "ghabcdef");
    assert_eq!(dataset.datasets().collect::<Vec<_>>(), [("vg", 0..2), ("coco", 2..8)]);
    assert_eq!(
        dataset.image_at(&dataset.locate(7).unwrap()).unwrap(),
        b"coco_caption_karpathy_restval 0"
    );
    assert_eq!(
        dataset.locate(5).unwrap(),
        Location {
            dataset: 1,
            table: 2,
            row: 0,
            text: 0
        }
    );
    assert_eq!(dataset.peers(1), 0..2);
    assert_eq!(dataset.peers(4), 2..8);
    assert_eq!(dataset.peers(8), 0..0);
}

#[test]
fn one_error_names_all_missing_files() {
    let directory = directory_of(&[("coco_caption_karpathy_restval", &[&["a"]]), ("sbu_3", &[&["a"]])]);
    let names = ["coco", "vg", "sbu"];
    let error = TableDataset::open(Contents::Captions, directory.path(), &names, Split::Train).unwrap_err();
    let message = error.to_string();
    let mut expected = vec!["coco_caption_karpathy_train.arrow".to_string(), "vg.arrow".into()];
    expected.extend((0..9).filter(|i| *i != 3).map(|i| format!("sbu_{i}.arrow")));
    let DataError::MissingFiles { missing, .. } = &error else {
        panic!("{message}");
    };
    assert_eq!(missing.iter().map(|m| m.file.clone()).collect::<Vec<_>>(), expected);
    for part in expected
        .iter()
        .map(String::as_str)
        .chain(names)
        .chain([directory.path().to_str().unwrap()])
    {
        assert!(message.contains(part), "{part} is not in {message}");
    }
    assert!(!message.contains('\n'));
    // A missing shard before an existing one is an error, even if there may be fewer shards.
    let gap = TableDataset::open_with(
        Contents::Captions,
        directory.path(),
        &["sbu"],
        Split::Train,
        &FileRules {
            fewer_shards: true,
            ..FileRules::default()
        },
    )
    .unwrap_err();
    assert!(
        gap.to_string()
            .contains("sbu_0.arrow, sbu_1.arrow, sbu_2.arrow (of sbu)"),
        "{gap}"
    );

    let nowhere = TableDataset::open(Contents::Captions, "/no/such/directory", &["vg"], Split::Train).unwrap_err();
    assert!(nowhere.to_string().contains("not a directory"), "{nowhere}");
}

#[test]
fn handles_the_cases_in_which_the_original_crashes() {
    for golden in vlct_golden::directories("prepare") {
        let recorded = vlct_golden::json(golden.join("reader_errors.json"));
        for (case, root, split) in [
            ("file_missing", directory_of(&[]), Split::Train),
            (
                "second_of_two_files_missing",
                directory_of(&[("coco_caption_karpathy_train", &[&["a"]])]),
                Split::Train,
            ),
            (
                "first_of_two_files_missing",
                directory_of(&[("coco_caption_karpathy_restval", &[&["a"]])]),
                Split::Train,
            ),
        ] {
            assert!(recorded[case].is_string(), "{case}");
            let error = TableDataset::open(Contents::Captions, root.path(), &["coco"], split).unwrap_err();
            assert!(matches!(error, DataError::MissingFiles { .. }), "{case}: {error}");
        }
        assert!(recorded["empty_split_image_only"].is_string());
        let empty = TableDataset::open(Contents::Captions, directory_of(&[]).path(), &["vg"], Split::Val).unwrap();
        assert_eq!((empty.len(), empty.rows(), empty.is_empty()), (0, 0, true));
        assert_eq!(recorded["later_row_has_no_text"], Value::Null);
    }
}

#[test]
fn rejects_unknown_names_and_other_contents() {
    let unknown = TableDataset::open(Contents::Captions, ".", &["cocoa"], Split::Train)
        .unwrap_err()
        .to_string();
    assert!(unknown.contains("cocoa") && unknown.contains("f30k"), "{unknown}");
    let other = TableDataset::open(Contents::Captions, ".", &["vqa"], Split::Train)
        .unwrap_err()
        .to_string();
    assert!(other.contains("vqa"), "{other}");
    let none: [&str; 0] = [];
    assert!(TableDataset::open(Contents::Captions, ".", &none, Split::Train).is_err());
    assert_eq!(NAMES.len(), 12);
}

#[test]
fn accepts_both_names_of_the_files_of_pretrain_vgqa() {
    let written = directory_of(&[("pretrain_vg_0", &[&["a"]]), ("pretrain_vg_1", &[&["b"]])]);
    let dataset = TableDataset::open(Contents::Captions, written.path(), &["pretrainVGQA"], Split::Train).unwrap();
    assert_eq!(dataset.len(), 2);
    let both = directory_of(&[("pretrain_vgqa_0", &[&["c"]]), ("pretrain_vg_0", &[&["a"]])]);
    let dataset = TableDataset::open(Contents::Captions, both.path(), &["pretrainVGQA"], Split::Train).unwrap();
    assert_eq!(captions(&dataset), [["c"]]);
    // The original reads only the first shard of pretrain_vgqa.
    let several = directory_of(&[("pretrain_vgqa_0", &[&["c"]]), ("pretrain_vgqa_1", &[&["d"]])]);
    let dataset = TableDataset::open(Contents::Captions, several.path(), &["pretrainVGQA"], Split::Train).unwrap();
    assert_eq!(captions(&dataset), [["c"], ["d"]]);
    let none = TableDataset::open(
        Contents::Captions,
        directory_of(&[]).path(),
        &["pretrainVGQA"],
        Split::Train,
    )
    .unwrap_err();
    assert!(
        none.to_string().contains("pretrain_vgqa_0.arrow (of pretrainVGQA)"),
        "{none}"
    );
}

#[test]
fn files_without_the_columns_of_their_dataset_are_rejected() {
    let root = directory_of(&[("f30k_caption_karpathy_val", &[&["a"]])]);
    let root = root.path();
    std::fs::write(root.join("f30k_caption_karpathy_train.arrow"), b"<html>404</html>").unwrap();
    let message = |name: &str| {
        let opened = TableDataset::open(Contents::Captions, root, &[name], Split::Train);
        opened.unwrap_err().to_string()
    };
    assert!(message("f30k").contains("f30k_caption_karpathy_train.arrow"));
    for golden in vlct_golden::directories("prepare") {
        std::fs::copy(golden.join("nlvr2/expected/nlvr2_dev.arrow"), root.join("vg.arrow")).unwrap();
        let message = message("vg");
        assert!(
            message.contains("vg.arrow") && message.contains("no column \"image\""),
            "{message}"
        );
    }
}

#[test]
fn index_is_small_and_finds_every_item() {
    let directory = tempfile::tempdir().unwrap();
    let path: PathBuf = directory.path().join("vg.arrow");
    let mut writer = CaptionWriter::create(&path).unwrap();
    let mut expected = Vec::new();
    for row in 0..3000usize {
        // The counts vary, so that entries of the index have different numbers of rows.
        let count: usize = [0, 1, 5, 5, 0, 60, 1, 300, 2][row % 9];
        let captions: Vec<String> = (0..count).map(|i| format!("{row} {}", i / 2 * 2)).collect();
        expected.extend((0..count.div_ceil(2)).map(|i| (row, i)));
        writer.push(b"", &captions, "", "").unwrap();
    }
    writer.finish().unwrap();
    let dataset = TableDataset::open(Contents::Captions, directory.path(), &["vg"], Split::Train).unwrap();
    assert_eq!(dataset.len(), expected.len());
    for (item, (row, caption)) in expected.iter().enumerate() {
        let location = dataset.locate(item).unwrap();
        assert_eq!((location.row, location.text), (*row, *caption));
    }
    let mut first = 0;
    for row in 0..dataset.rows() {
        let items = dataset.items_of(row).unwrap();
        assert_eq!(items.start, first);
        first = items.end;
    }
    // At most eight bytes per 128 captions that were read.
    assert!(
        dataset.index_memory() <= 8 + 8 * (2 * dataset.len() + dataset.rows()) / 128,
        "{}",
        dataset.index_memory()
    );
}
