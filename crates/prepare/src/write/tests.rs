//! Tests of interruptions, damaged images and existing files.

use std::fs;

use super::*;
use crate::testing::{coco, golden_directories, options, prepare};
use crate::{Dataset, RawDataset};
use vlct_data::testing::rows_as_json;

#[test]
fn validation_leaves_out_and_reports_damaged_images() {
    let raw = coco(6);
    let out = tempfile::tempdir().unwrap();
    let mut options = options(out.path());
    options.processing.validate = true;
    let report = prepare(Dataset::Coco, &RawDataset::new(raw.path()), &options).unwrap();
    assert_eq!(report.left_out.len(), 1);
    assert!(report.left_out[0].image.ends_with("train2014/p3.jpg"), "{report:?}");
    assert!(report.left_out[0].reason.contains("damaged"), "{report:?}");
    let rows = rows_as_json(&out.path().join("coco_caption_karpathy_train.arrow"));
    assert_eq!(rows.len(), 5);
    assert!(rows.iter().all(|row| row["image_id"] != "p3.jpg"));
    // The directory has the returned report, the four Arrow files and no other file.
    assert_eq!(Report::read(out.path(), "coco").unwrap(), report);
    let mut names: Vec<_> = fs::read_dir(out.path())
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(names.len(), 5, "{names:?}");
}

/// Writes the raw data of [`coco`] with undecodable images of 1 MiB, so that the Arrow file has several batches.
fn coco_with_large_images(count: usize) -> tempfile::TempDir {
    let raw = coco(count);
    let image = raw.path().join("train2014/p0.jpg");
    fs::write(&image, vec![7; 1 << 20]).unwrap();
    for i in 1..count {
        let name = raw.path().join(format!("train2014/p{i}.jpg"));
        fs::remove_file(&name).unwrap();
        fs::hard_link(&image, &name).unwrap();
    }
    raw
}

/// Writes until `rows` rows are done. Returns the number of rows that were done at the beginning.
fn write_until(rows: u64, plan: &Plan, options: &WriteOptions) -> u64 {
    let mut first = None;
    let mut watch = |now: Progress| {
        first.get_or_insert(now.done);
        if now.done >= rows {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    };
    assert_eq!(write("coco", plan, options, &mut watch).unwrap(), Outcome::Stopped);
    first.unwrap()
}

#[test]
fn resumed_preparation_writes_the_same_bytes() {
    let raw = coco_with_large_images(100);
    let file = "coco_caption_karpathy_train.arrow";
    let raw = RawDataset::new(raw.path());
    let uninterrupted = tempfile::tempdir().unwrap();
    prepare(Dataset::Coco, &raw, &options(uninterrupted.path())).unwrap();
    let expected = fs::read(uninterrupted.path().join(file)).unwrap();

    let out = tempfile::tempdir().unwrap();
    let plan = Dataset::Coco.plan(&raw).unwrap();
    let before: Vec<u64> = [40, 40, 90]
        .map(|rows| write_until(rows, &plan, &options(out.path())))
        .to_vec();
    assert!(before[0] == 0 && before[1] > 0 && before[2] == before[1], "{before:?}");
    assert!(!out.path().join(file).exists());
    prepare(Dataset::Coco, &raw, &options(out.path())).unwrap();
    assert!(fs::read(out.path().join(file)).unwrap() == expected);
    let again = write("coco", &plan, &options(out.path()), &mut |_| {
        panic!("there is nothing to write")
    })
    .unwrap();
    assert!(matches!(again, Outcome::UpToDate(_)));

    // A preparation from other inputs neither resumes the files nor replaces them without `overwrite`.
    let mut other = raw.clone();
    other.seed = 1;
    let message = prepare(Dataset::Coco, &other, &options(out.path()))
        .unwrap_err()
        .to_string();
    assert!(message.contains("already exists, made from other inputs"), "{message}");
    let mut replacing = options(out.path());
    replacing.overwrite = true;
    prepare(Dataset::Coco, &other, &replacing).unwrap();
    assert!(fs::read(out.path().join(file)).unwrap() != expected);
}

/// Makes an image file one hour older.
fn change_time(path: &Path) {
    let file = fs::File::options().write(true).open(path).unwrap();
    let modified = file.metadata().unwrap().modified().unwrap();
    file.set_modified(modified - std::time::Duration::from_secs(3600))
        .unwrap();
}

#[test]
fn repaired_images_are_other_inputs() {
    let raw = coco(6);
    let damaged = raw.path().join("train2014/p3.jpg");
    let inputs = RawDataset::new(raw.path());
    let out = tempfile::tempdir().unwrap();
    let mut options = options(out.path());
    options.processing.validate = true;
    let file = out.path().join("coco_caption_karpathy_train.arrow");
    prepare(Dataset::Coco, &inputs, &options).unwrap();
    assert_eq!(ArrowTable::open(&file).unwrap().rows(), 5);

    fs::copy(raw.path().join("train2014/p2.jpg"), &damaged).unwrap();
    let message = prepare(Dataset::Coco, &inputs, &options).unwrap_err().to_string();
    assert!(
        message.contains("coco_caption_karpathy_train.arrow already exists, made from other inputs"),
        "{message}"
    );
    options.overwrite = true;
    let report = prepare(Dataset::Coco, &inputs, &options).unwrap();
    assert_eq!((ArrowTable::open(&file).unwrap().rows(), report.left_out.len()), (6, 0));

    // A replaced image may have the same size.
    options.overwrite = false;
    let plan = Dataset::Coco.plan(&inputs).unwrap();
    let state = |options: &WriteOptions| write("coco", &plan, options, &mut |_| ControlFlow::Continue(()));
    assert!(matches!(state(&options).unwrap(), Outcome::UpToDate(_)));
    change_time(&damaged);
    assert!(matches!(state(&options), Err(PrepareError::OutputExists { .. })));

    // A report of an earlier version does not have the hash of image files.
    let mut report = Report::read(out.path(), "coco").unwrap();
    report.files.iter_mut().for_each(|file| file.images = None);
    report.write(out.path()).unwrap();
    assert!(matches!(state(&options).unwrap(), Outcome::UpToDate(_)));
}

#[test]
fn an_interrupted_preparation_does_not_resume_with_changed_images() {
    let raw = coco_with_large_images(50);
    let out = tempfile::tempdir().unwrap();
    let inputs = RawDataset::new(raw.path());
    let plan = Dataset::Coco.plan(&inputs).unwrap();
    write_until(45, &plan, &options(out.path()));
    change_time(&raw.path().join("train2014/p7.jpg"));
    let message = prepare(Dataset::Coco, &inputs, &options(out.path()))
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("unfinished preparation from other inputs"),
        "{message}"
    );
    // A journal of an earlier version does not have the hash of image files.
    let journal = Journal::path(out.path(), "coco");
    let text = fs::read_to_string(&journal).unwrap();
    let (head, rest) = text.split_once('\n').unwrap();
    let mut head: serde_json::Value = serde_json::from_str(head).unwrap();
    head.as_object_mut().unwrap().remove("images").unwrap();
    fs::write(&journal, format!("{head}\n{rest}")).unwrap();
    assert!(write_until(1, &plan, &options(out.path())) > 0);
}

#[test]
fn renames_a_complete_file_that_has_its_temporary_name() {
    let directory = golden_directories("vqav2").remove(0);
    let plan = Dataset::Vqav2.plan(&RawDataset::new(directory.join("raw"))).unwrap();
    let out = tempfile::tempdir().unwrap();
    let first = &plan.files[0];
    write_until(first.rows.rows() as u64 + 1, &plan, &options(out.path()));
    let path = out.path().join(format!("{}.arrow", first.name));
    let bytes = fs::read(&path).unwrap();
    // In the first pass, the files are as after a kill between the journal entry and the renaming. In the second, there is also an
    // older file with the final name.
    for older in [None, Some(b"older")] {
        fs::rename(&path, vlct_data::arrow::partial_path(&path).unwrap()).unwrap();
        if let Some(older) = older {
            fs::write(&path, older).unwrap();
        }
        let unfinished = vlct_data::manifest::unfinished_files(out.path(), "coco");
        assert!(unfinished.contains(&first.name), "{unfinished:?}");
        write_until(first.rows.rows() as u64 + 1, &plan, &options(out.path()));
        assert!(fs::read(&path).unwrap() == bytes);
    }
}

#[test]
fn does_not_resume_a_shortened_or_deleted_file() {
    let raw = coco_with_large_images(50);
    let raw = RawDataset::new(raw.path());
    let out = tempfile::tempdir().unwrap();
    let plan = Dataset::Coco.plan(&raw).unwrap();
    let file = out.path().join("coco_caption_karpathy_train.arrow");
    let part = vlct_data::arrow::partial_path(&file).unwrap();
    write_until(45, &plan, &options(out.path()));
    fs::write(&part, &fs::read(&part).unwrap()[..1 << 20]).unwrap();
    let message = prepare(Dataset::Coco, &raw, &options(out.path()))
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("shorter than its recorded batches; delete it"),
        "{message}"
    );
    fs::remove_file(part).unwrap();
    // A preparation with another seed does not replace the journal.
    let mut other = raw.clone();
    other.seed = 1;
    let message = prepare(Dataset::Coco, &other, &options(out.path()))
        .unwrap_err()
        .to_string();
    assert!(message.contains("unfinished preparation"), "{message}");
    assert_eq!(write_until(1, &plan, &options(out.path())), 0);
    prepare(Dataset::Coco, &raw, &options(out.path())).unwrap();
    assert_eq!(ArrowTable::open(&file).unwrap().rows(), 50);
}

#[test]
fn existing_splits_are_not_written_again() {
    let directory = golden_directories("vqav2").remove(0);
    let all_at_once = tempfile::tempdir().unwrap();
    let raw = RawDataset::new(directory.join("raw"));
    prepare(Dataset::Vqav2, &raw, &options(all_at_once.path())).unwrap();

    let out = tempfile::tempdir().unwrap();
    let mut train = raw.clone();
    train.splits = Some(vec!["train".into()]);
    let train = Dataset::Vqav2.plan(&train).unwrap();
    let proceed = |_| ControlFlow::Continue(());
    write("vqav2", &train, &options(out.path()), &mut proceed.clone()).unwrap();

    // The remaining splits would replace a file that no preparation has written.
    let foreign = out.path().join("vqav2_rest_val.arrow");
    fs::write(&foreign, b"mine").unwrap();
    let all = Dataset::Vqav2.plan(&raw).unwrap();
    let message = write("vqav2", &all, &options(out.path()), &mut proceed.clone()).unwrap_err();
    assert!(
        message.to_string().contains("vqav2_rest_val.arrow already exists"),
        "{message}"
    );
    fs::remove_file(&foreign).unwrap();

    let mut first = None;
    let outcome = write("vqav2", &all, &options(out.path()), &mut |now| {
        first.get_or_insert(now.done);
        ControlFlow::Continue(())
    })
    .unwrap();
    let Outcome::Written(report) = outcome else {
        panic!("there are files to write");
    };
    assert_eq!(first, Some(train.rows()));
    let mut names: Vec<&str> = report.files.iter().map(|file| file.file.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), report.files.len());
    for name in names {
        assert!(
            fs::read(out.path().join(name)).unwrap() == fs::read(all_at_once.path().join(name)).unwrap(),
            "{name}"
        );
    }
    assert_eq!(
        Report::read(all_at_once.path(), "vqav2").unwrap().left_out,
        report.left_out
    );
}

#[test]
fn splits_prepared_separately_share_a_report() {
    let directory = golden_directories("gcc").remove(0);
    let out = tempfile::tempdir().unwrap();
    let mut raw = RawDataset::new(directory.join("raw"));
    raw.rows_per_file = 3;
    let mut prepare_split = |split: &str| {
        raw.splits = Some(vec![split.to_string()]);
        let plan = Dataset::Gcc.plan(&raw).unwrap();
        write("gcc", &plan, &options(out.path()), &mut |_| ControlFlow::Continue(())).unwrap()
    };
    let Outcome::Written(train) = prepare_split("train") else {
        panic!("there are files to write")
    };
    let Outcome::Written(both) = prepare_split("val") else {
        panic!("there are files to write")
    };
    assert!(train.files.iter().all(|file| both.files.contains(file)));
    assert!(both.files.len() > train.files.len());
    assert_eq!(both.coverage.len(), 2);
    // The report lists the files of both splits.
    assert!(matches!(prepare_split("train"), Outcome::UpToDate(_)));
    assert!(matches!(prepare_split("val"), Outcome::UpToDate(_)));

    // One large file replaces the series of small files, and no other file.
    raw.rows_per_file = 100;
    raw.splits = Some(vec!["train".into()]);
    let mut replacing = options(out.path());
    replacing.overwrite = true;
    let report = prepare(Dataset::Gcc, &raw, &replacing).unwrap();
    let names: Vec<&str> = report.files.iter().map(|file| file.file.as_str()).collect();
    assert_eq!(names[0], "conceptual_caption_train_0.arrow");
    assert!(
        names[1..].iter().all(|name| name.starts_with("conceptual_caption_val")),
        "{names:?}"
    );
    let existing = fs::read_dir(out.path())
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap());
    assert_eq!(existing.filter(|name| name.ends_with(".arrow")).count(), names.len());
}
