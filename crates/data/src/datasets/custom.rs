//! Finds the files of custom datasets in the data root.

use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};

use super::files::{Split, prepared_shards, reject_unfinished};
use super::name::is_custom_name;
use super::published::NAMES;
use crate::error::MissingFile;
use crate::webdataset::tar_stem;
use crate::{DataError, Result};
use vlct_util::IoError;
use vlct_util::text::similar_name;

/// Returns the files of a split, in reading order. For the training split, these are `NAME_train_0.arrow`, `NAME_train_1.arrow`, … or
/// `NAME_train.arrow`. If no split has an Arrow file, returns the tars of the split in the directory `NAME`.
///
/// If the dataset exists but lacks the split, the result is empty for a validation or test split, and an error for the training split.
/// Unless `fewer_shards`, numbered files that the report of the preparation lists must exist.
pub(super) fn files(data_root: &Path, name: &str, split: Split, fewer_shards: bool) -> Result<Vec<PathBuf>> {
    if !is_custom_name(name) {
        let reason = "a name has at most 100 letters, digits, - and _, and begins with a letter or digit";
        return Err(DataError::Invalid(format!(
            "{name:?} is not a valid name of a dataset: {reason}"
        )));
    }
    let prefix = format!("{name}_{split}");
    reject_unfinished(data_root, name, |file| {
        file.strip_prefix(&prefix).is_some_and(is_empty_or_number)
    })?;
    if !fewer_shards {
        reject_missing_shards(data_root, name, &prefix)?;
    }
    let mut dataset_exists = false;
    for (find, first_file) in [
        (
            arrow_files as fn(&Path, &str, Split) -> Result<Vec<PathBuf>>,
            format!("{name}_{split}_0.arrow"),
        ),
        (tar_files, format!("{name}/{split}/*.tar")),
    ] {
        let files = find(data_root, name, split)?;
        if !files.is_empty() {
            return Ok(files);
        }
        for other in [Split::Train, Split::Val, Split::Test] {
            dataset_exists |= !find(data_root, name, other)?.is_empty();
        }
        match (dataset_exists, split) {
            (true, Split::Train) => return Err(missing_file_error(data_root, name, first_file)),
            (true, _) => return Ok(Vec::new()),
            (false, _) => {}
        }
    }
    reject_unfinished(data_root, name, |_| true)?;
    Err(unknown_dataset_error(data_root, name))
}

fn is_empty_or_number(rest: &str) -> bool {
    rest.is_empty()
        || rest
            .strip_prefix('_')
            .is_some_and(|number| number.parse::<u64>().is_ok())
}

fn missing_file_error(data_root: &Path, name: &str, file: String) -> DataError {
    DataError::MissingFiles {
        directory: data_root.to_path_buf(),
        missing: vec![MissingFile {
            dataset: name.to_string(),
            file,
            allows_fewer_shards: true,
        }],
    }
}

/// Rejects a split of which numbered files are missing that the report of the preparation lists. The report does not count if
/// the split is a single file, nor if no numbered file exists beside a directory `NAME`, which may have tars.
///
/// # Errors
/// Returns [`DataError::MissingFiles`] with all files that are missing.
fn reject_missing_shards(data_root: &Path, name: &str, prefix: &str) -> Result<()> {
    let Some(count) = prepared_shards(data_root, name, prefix) else {
        return Ok(());
    };
    let shards = (0..count).map(|number| format!("{prefix}_{number}.arrow"));
    let missing: Vec<String> = shards.filter(|file| !data_root.join(file).exists()).collect();
    let has_other_files =
        data_root.join(format!("{prefix}.arrow")).exists() || missing.len() == count && data_root.join(name).is_dir();
    if missing.is_empty() || has_other_files {
        return Ok(());
    }
    let missing_file = |file| MissingFile {
        dataset: name.to_string(),
        file,
        allows_fewer_shards: false,
    };
    Err(DataError::MissingFiles {
        directory: data_root.to_path_buf(),
        missing: missing.into_iter().map(missing_file).collect(),
    })
}

fn unknown_dataset_error(data_root: &Path, name: &str) -> DataError {
    DataError::UnknownDataset {
        name: name.to_string(),
        similar: similar_name(name, NAMES),
        known: NAMES.to_vec(),
        directory: data_root.to_path_buf(),
    }
}

fn arrow_files(data_root: &Path, name: &str, split: Split) -> Result<Vec<PathBuf>> {
    let prefix = format!("{name}_{split}_");
    let numbers: BTreeSet<u64> = entries(data_root)?
        .iter()
        .filter_map(|path| {
            let digits = path
                .file_name()?
                .to_str()?
                .strip_prefix(&prefix)?
                .strip_suffix(".arrow")?;
            let number: u64 = digits.parse().ok()?;
            (number.to_string() == digits).then_some(number)
        })
        .collect();
    let file_name = |number: u64| format!("{prefix}{number}.arrow");
    let single = data_root.join(format!("{name}_{split}.arrow"));
    match (single.exists(), numbers.first()) {
        (true, None) => Ok(vec![single]),
        (true, Some(first)) => Err(DataError::Format {
            reason: format!(
                "{} exists too; remove this file or the numbered files",
                file_name(*first)
            ),
            path: single,
        }),
        (false, _) => match (0..).zip(&numbers).find(|(expected, number)| expected != *number) {
            Some((gap, _)) => Err(missing_file_error(data_root, name, file_name(gap))),
            None => Ok(numbers
                .into_iter()
                .map(|number| data_root.join(file_name(number)))
                .collect()),
        },
    }
}

fn tar_files(data_root: &Path, name: &str, split: Split) -> Result<Vec<PathBuf>> {
    split_tars(&data_root.join(name), split)
}

/// Returns the tars of a split in a directory of WebDataset shards, sorted by name. The tars of a split are in a subdirectory named
/// after the split; those of the training split may be in the directory itself.
///
/// # Errors
/// Returns [`DataError::Io`] if the directory cannot be read.
pub fn split_tars(directory: &Path, split: Split) -> Result<Vec<PathBuf>> {
    let of_split = tars(&directory.join(split.to_string()))?;
    match split {
        Split::Train if of_split.is_empty() => tars(directory),
        _ => Ok(of_split),
    }
}

/// Returns the tars in a directory, plain and compressed, sorted by name; an empty list if the directory does not exist. A compressed
/// tar is left out if it is also there decompressed.
///
/// # Errors
/// Returns [`DataError::Io`] if the directory cannot be read.
pub fn tars(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = entries(directory)?;
    let stem = |path: &Path| tar_stem(path).map(|(stem, is_compressed)| (stem.to_string(), is_compressed));
    let plain: HashSet<String> = paths
        .iter()
        .filter_map(|path| stem(path).filter(|(_, is_compressed)| !is_compressed))
        .map(|(stem, _)| stem)
        .collect();
    paths.retain(|path| stem(path).is_some_and(|(stem, is_compressed)| !is_compressed || !plain.contains(&stem)));
    paths.retain(|path| path.is_file());
    paths.sort();
    Ok(paths)
}

/// Returns the entries of a directory; an empty list if the directory does not exist.
fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
    if !directory.is_dir() {
        return Ok(Vec::new());
    }
    let io_error = |source| {
        DataError::Io(IoError {
            path: directory.to_path_buf(),
            source,
        })
    };
    let entries = std::fs::read_dir(directory).map_err(io_error)?;
    entries.map(|entry| Ok(entry.map_err(io_error)?.path())).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::text;
    use super::super::{Contents, Dataset, TableDataset, contents};
    use super::*;
    use crate::arrow::{CaptionWriter, VqaKind, VqaWriter};
    use crate::manifest::{Journal, Report};
    use vlct_golden::write_tar;

    fn write_arrow(directory: &Path, file: &str, caption: &str) {
        let mut writer = CaptionWriter::create(directory.join(file)).unwrap();
        writer.push(file.as_bytes(), &[caption], file, "").unwrap();
        writer.finish().unwrap();
    }

    fn write_shard(directory: &Path, file: &str, caption: &str) {
        let path = directory.join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        write_tar(&path, &[("1.jpg", file.as_bytes()), ("1.txt", caption.as_bytes())]);
    }

    fn captions(root: &Path, name: &str, split: Split) -> String {
        let dataset = TableDataset::open(Contents::Captions, root, &[name], split)
            .unwrap_or_else(|e| panic!("{name} {split}: {e}"));
        (0..dataset.len()).map(|item| text(&dataset, item)).collect()
    }

    fn open_error(root: &Path, name: &str, split: Split) -> String {
        let message = TableDataset::open(Contents::Captions, root, &[name], split)
            .unwrap_err()
            .to_string();
        assert!(!message.contains('\n'), "{message}");
        message
    }

    #[test]
    fn finds_numbered_and_single_files() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        // The order of more than ten files is numeric, not lexicographic.
        for number in 0..12 {
            write_arrow(root, &format!("cats_train_{number}.arrow"), &format!("{number},"));
        }
        for other in [
            "cats_train_00.arrow",
            "cats_train_x.arrow",
            "cats_train_1.txt",
            "cats_trainer_12.arrow",
        ] {
            std::fs::write(root.join(other), "").unwrap();
        }
        write_arrow(root, "cats_val.arrow", "val");
        write_arrow(root, "dogs_test_0.arrow", "test");
        write_arrow(root, "dogs_test_1.arrow", "more");
        assert_eq!(captions(root, "cats", Split::Train), "0,1,2,3,4,5,6,7,8,9,10,11,");
        assert_eq!(captions(root, "cats", Split::Val), "val");
        assert_eq!(captions(root, "cats", Split::Test), "", "a split that does not exist");
        assert_eq!(captions(root, "dogs", Split::Test), "testmore");
        assert!(open_error(root, "dogs", Split::Train).contains("dogs_train_0.arrow (of dogs)"));

        std::fs::remove_file(root.join("cats_train_7.arrow")).unwrap();
        let gap = open_error(root, "cats", Split::Train);
        assert!(gap.contains("cats_train_7.arrow (of cats)"), "{gap}");
        write_arrow(root, "cats_train.arrow", "all");
        let both = open_error(root, "cats", Split::Train);
        assert!(
            both.contains("cats_train.arrow: cats_train_0.arrow exists too"),
            "{both}"
        );
    }

    #[test]
    fn numbered_files_of_the_report_must_exist() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let names = ["cats_train_0", "cats_train_1", "cats_train_2", "cats_val_0"].map(|name| format!("{name}.arrow"));
        names
            .iter()
            .for_each(|file| write_arrow(root, file, &format!("{file} ")));
        let files = names
            .iter()
            .map(|file| serde_json::json!({"file": file, "rows": 1, "bytes": 1, "fingerprint": ""}));
        let report = serde_json::json!({
            "dataset": "cats", "files": files.collect::<Vec<_>>(), "coverage": [], "remarks": [], "left_out": []
        });
        std::fs::write(Report::path(root, "cats"), report.to_string()).unwrap();
        let of_split = |split, fewer_shards| files_of(root, "cats", split, fewer_shards);
        assert_eq!(of_split(Split::Train, false).unwrap(), 3);
        assert_eq!(of_split(Split::Test, false).unwrap(), 0);

        for (lost, split, fewer) in [(2, Split::Train, 2), (3, Split::Val, 0)] {
            std::fs::remove_file(root.join(&names[lost])).unwrap();
            let message = of_split(split, false).unwrap_err();
            assert!(message.contains(&format!("{} (of cats)", names[lost])), "{message}");
            assert_eq!(of_split(split, true).unwrap(), fewer);
        }
        std::fs::remove_file(root.join(&names[1])).unwrap();
        let message = of_split(Split::Train, false).unwrap_err();
        assert!(
            message.contains("cats_train_1.arrow, cats_train_2.arrow (of cats)"),
            "{message}"
        );
        std::fs::remove_file(root.join(&names[0])).unwrap();
        assert!(
            of_split(Split::Train, false)
                .unwrap_err()
                .contains("cats_train_0.arrow")
        );
        write_arrow(root, "cats_train.arrow", "merged");
        assert_eq!(of_split(Split::Train, false).unwrap(), 1);
        std::fs::remove_file(root.join("cats_train.arrow")).unwrap();
        write_shard(root, "cats/0.tar", "a");
        assert_eq!(of_split(Split::Train, false).unwrap(), 1);
    }

    fn files_of(root: &Path, name: &str, split: Split, fewer_shards: bool) -> Result<usize, String> {
        let files = files(root, name, split, fewer_shards);
        files.map(|files| files.len()).map_err(|error| error.to_string())
    }

    #[test]
    fn finds_directories_of_tars() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        write_shard(root, "web/00001.tar", "b");
        write_shard(root, "web/00000.tar", "a");
        std::fs::write(root.join("web/00000_stats.json"), "{}").unwrap();
        assert_eq!(captions(root, "web", Split::Train), "ab");
        assert_eq!(captions(root, "web", Split::Val), "");
        write_shard(root, "web/val/0.tar", "v");
        assert_eq!(captions(root, "web", Split::Val), "v");
        write_shard(root, "web/train/0.tar", "t");
        assert_eq!(
            captions(root, "web", Split::Train),
            "t",
            "the directory train takes precedence over tars in its parent"
        );
        let dataset = TableDataset::open(Contents::Captions, root, &["web"], Split::Train).unwrap();
        assert_eq!(
            dataset.image_at(&dataset.locate(0).unwrap()).unwrap(),
            b"web/train/0.tar"
        );
        let location = dataset.locate(0).unwrap();
        assert_eq!(dataset.image_id_at(&location).unwrap().as_deref(), Some("1"));
        let error = dataset.error(0, "is blue").to_string();
        assert!(error.ends_with("0.tar: row 0 (1): is blue"), "{error}");
        // Arrow files take precedence over tars.
        write_arrow(root, "web_train_0.arrow", "converted");
        assert_eq!(captions(root, "web", Split::Train), "converted");
        assert_eq!(captions(root, "web", Split::Val), "");
    }

    #[test]
    fn finds_tars_whatever_their_ending_and_names_compressed_ones() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        write_shard(root, "web/0.TAR", "a");
        write_shard(root, "web/1.tar", "b");
        std::fs::create_dir(root.join("web/directory.tar")).unwrap();
        std::fs::write(root.join("web/1.tar.gz"), b"\x1f\x8b").unwrap();
        assert_eq!(captions(root, "web", Split::Train), "ab");
        std::fs::write(root.join("web/2.tgz"), b"\x1f\x8b").unwrap();
        let message = open_error(root, "web", Split::Train);
        assert!(
            message.ends_with("web/2.tgz: it is compressed with gzip; unpack it with gunzip"),
            "{message}"
        );
    }

    #[test]
    fn says_what_is_left_out_of_each_dataset() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let shard = |file: &str, members: &[(&str, &[u8])]| {
            let path = root.join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            write_tar(&path, members);
        };
        shard("a/0.tar", &[("1.jpg", b""), ("1.txt", b"x"), ("2.jpg", b"")]);
        shard(
            "a/1.tar",
            &[
                ("1.jpg", b""),
                ("2.jpg", b""),
                ("2.json", b"[]"),
                ("3.txt", b"x"),
                ("2.txt", b"x"),
            ],
        );
        shard("b/0.tar", &[("1.input.jpg", b""), ("1.outputs.txt", b"x")]);
        let mut writer = CaptionWriter::create(root.join("c_train.arrow")).unwrap();
        writer.push(b"x", &["one"], "1", "").unwrap();
        writer.push::<&str>(b"x", &[], "2", "").unwrap();
        writer.finish().unwrap();
        write_arrow(root, "d_train.arrow", "whole");
        shard(
            "e/0.tar",
            &[("1.jpg", b""), ("1.txt", b"x"), ("1.cls", b"3"), ("2.seg.PNG", b"")],
        );
        shard("f/0.tar", &[("1.jpg", b""), ("1.txt", b"x"), ("1.cls", b"3")]);
        let dataset =
            TableDataset::open(Contents::Captions, root, &["a", "b", "c", "d", "e", "f"], Split::Train).unwrap();
        assert_eq!(
            dataset.left_out(),
            [
                "a: left out 2 images without a caption; 1 caption without an image",
                "b: left out members with other endings than .jpg, .txt, …: 1 input.jpg, 1 outputs.txt",
                "c: left out 1 row without text",
                "e: left out members with other endings than .jpg, .txt, …: 1 cls, 1 seg.PNG",
            ]
        );
    }

    #[test]
    fn arrow_and_tar_datasets_are_concatenated() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        write_shard(root, "web/0.tar", "a");
        write_arrow(root, "vg.arrow", "b");
        write_arrow(root, "cats_train.arrow", "c");
        let dataset = TableDataset::open(Contents::Captions, root, &["web", "vg", "cats"], Split::Train).unwrap();
        let texts: String = (0..dataset.len()).map(|item| text(&dataset, item)).collect();
        assert_eq!(texts, "abc");
        let parts: Vec<_> = dataset.datasets().collect();
        assert_eq!(parts, [("web", 0..1), ("vg", 1..2), ("cats", 2..3)]);
    }

    #[test]
    fn contents_are_detected_from_columns() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        write_arrow(root, "cats_val_0.arrow", "a");
        VqaWriter::create(root.join("ask_train.arrow"), VqaKind::Answered)
            .unwrap()
            .finish()
            .unwrap();
        write_shard(root, "web/0.tar", "a");
        assert_eq!(contents(root, "cats").unwrap(), Contents::Captions);
        assert_eq!(contents(root, "ask").unwrap(), Contents::Questions);
        assert_eq!(contents(root, "web").unwrap(), Contents::Captions);
        assert_eq!(contents(root, "nlvr2").unwrap(), Contents::Pairs);
        assert!(open_error(root, "ask", Split::Train).contains("ask is a dataset of questions, not of captions"));
    }

    #[test]
    fn a_preparation_that_has_finished_no_file_is_named() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let journal = Journal::path(root, "cats");
        std::fs::write(
            &journal,
            "{\"fingerprint\": \"a\", \"files\": [\"cats_train_0\", \"cats_train_1\"]}\n",
        )
        .unwrap();
        assert!(
            open_error(root, "cats", Split::Train).starts_with("unknown dataset"),
            "nothing is begun"
        );
        std::fs::write(root.join(".cats_train_0.arrow.part"), "").unwrap();
        let expected = format!(
            "{}: the preparation of cats is not finished",
            root.join("cats_train_0.arrow").display()
        );
        for split in [Split::Train, Split::Val] {
            assert_eq!(open_error(root, "cats", split), expected);
        }
        assert_eq!(contents(root, "cats").unwrap_err().to_string(), expected);
    }

    #[test]
    fn errors_of_unknown_names_say_what_was_searched() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let typo = open_error(root, "cocoa", Split::Train);
        for part in [
            "unknown dataset \"cocoa\" (did you mean \"coco\"?)",
            "cocoa_train_0.arrow",
            "cocoa_train.arrow",
            "a directory cocoa of .tar files",
            root.to_str().unwrap(),
        ] {
            assert!(typo.contains(part), "{part:?} is not in {typo}");
        }
        assert!(!open_error(root, "my-images_2", Split::Val).contains("did you mean"));
        let nowhere = open_error(&root.join("nowhere"), "cats", Split::Train);
        assert!(
            nowhere.ends_with("nowhere does not exist") && !nowhere.contains("_train"),
            "{nowhere}"
        );
        std::fs::write(root.join("file"), "").unwrap();
        let file = open_error(&root.join("file"), "cats", Split::Train);
        assert!(file.ends_with("file is not a directory"), "{file}");
        for name in ["", "a b", "../coco", "-x", "_x", "é", "a/b", &"x".repeat(101)] {
            assert!(!is_custom_name(name));
            assert!(
                open_error(root, name, Split::Train).contains("is not a valid name of a dataset"),
                "{name}"
            );
        }
    }
}
