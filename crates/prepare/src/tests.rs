//! Against what the original's writers make of the same raw folders (`tests/golden/prepare`), and against interruptions.

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::*;
use crate::Result;
use vlct_data::arrow::ArrowTable;
use vlct_data::testing::{rows_as_json, schema, without_hash};

pub(super) fn target(out: &Path) -> Target {
    Target {
        out: out.to_path_buf(),
        treatment: Treatment::default(),
        overwrite: false,
        threads: 3,
    }
}

/// Plans and writes; the report.
fn prepare(dataset: Dataset, raw: &Raw, target: &Target) -> Result<Report> {
    match write(dataset.name(), &dataset.plan(raw)?, target, &mut |_| {
        ControlFlow::Continue(())
    })? {
        Outcome::Done(report) | Outcome::WasDone(report) => Ok(report),
        Outcome::Stopped => panic!("nobody stopped it"),
    }
}

/// The folders of a set in all golden data.
fn sets(name: &str) -> Vec<PathBuf> {
    vlct_golden::directories("prepare")
        .into_iter()
        .map(|folder| folder.join(name))
        .filter(|folder| folder.join("raw").is_dir())
        .collect()
}

fn sorted(mut rows: Vec<Value>) -> Vec<String> {
    let mut texts: Vec<String> = rows.drain(..).map(|row| row.to_string()).collect();
    texts.sort();
    texts
}

/// Compares every file in `out` with the recorded rows and columns. `ordered`: the order of rows is defined.
fn assert_as_recorded(out: &Path, expected: &Path, renamed: impl Fn(&str) -> String, ordered: bool) {
    let rows = vlct_golden::json(expected.join("rows.json"));
    let schemas = vlct_golden::json(expected.join("schema.json"));
    let mut compared = 0;
    for (file, want) in rows.as_object().unwrap() {
        let path = out.join(renamed(file));
        let want: Vec<Value> = want.as_array().unwrap().clone();
        if want.is_empty() && !path.exists() {
            // The original's empty file behind a full one.
            continue;
        }
        compared += 1;
        let pictures = |row: &Value| without_hash(row);
        let (got, want): (Vec<Value>, Vec<Value>) = (rows_as_json(&path), want.iter().map(pictures).collect());
        if ordered {
            assert_eq!(got, want, "{}", path.display());
        } else {
            assert_eq!(sorted(got), sorted(want), "{}", path.display());
        }
        let fields: Vec<(String, String)> = schema(&path)
            .fields()
            .iter()
            .map(|f| (f.name().clone(), pyarrow_name(f.data_type())))
            .collect();
        let recorded: Vec<(String, String)> = schemas[file]["columns"]
            .as_array()
            .unwrap()
            .iter()
            .map(|c| (c["name"].as_str().unwrap().into(), c["type"].as_str().unwrap().into()))
            .collect();
        assert_eq!(fields, recorded, "{}", path.display());
    }
    assert!(compared > 0);
}

/// A type as pyarrow spells it.
fn pyarrow_name(data_type: &arrow_schema::DataType) -> String {
    use arrow_schema::DataType::*;
    match data_type {
        Binary => "binary".into(),
        Utf8 => "string".into(),
        Int64 => "int64".into(),
        Float64 => "double".into(),
        Null => "null".into(),
        List(item) => format!("list<{}: {}>", item.name(), pyarrow_name(item.data_type())),
        other => panic!("{other} is not written"),
    }
}

#[test]
fn every_dataset_becomes_what_the_original_makes_of_it() {
    let named = [
        ("coco", Dataset::Coco, false),
        ("f30k", Dataset::F30k, false),
        ("vg", Dataset::Vg, false),
        ("sbu", Dataset::Sbu, false),
        ("gcc", Dataset::Gcc, false),
        ("nlvr2", Dataset::Nlvr2, true),
        ("vqav2", Dataset::Vqav2, false),
        ("vgqa", Dataset::Vgqa, true),
        ("valid_vgqa", Dataset::Vgqa, true),
        ("pretrain_vqav2", Dataset::PretrainVqa, false),
        ("pretrain_gqa", Dataset::PretrainGqa, false),
        ("pretrain_openimages", Dataset::PretrainOpenimages, false),
        ("pretrain_f30k", Dataset::PretrainF30k, false),
        ("pretrain_vg", Dataset::PretrainVg, false),
    ];
    for (set, dataset, ordered) in named {
        assert!(!sets(set).is_empty(), "{set}");
        for folder in sets(set) {
            let out = tempfile::tempdir().unwrap();
            let report = prepare(dataset, &Raw::new(folder.join("raw")), &target(out.path())).unwrap();
            assert_eq!(report.left_out, [], "{set}");
            let renamed = |file: &str| file.replace("pretrain_vg_", "pretrain_vgqa_");
            assert_as_recorded(out.path(), &folder.join("expected"), renamed, ordered);
            // The three numbers that most of the original's writers print: found, kept, annotated.
            let printed = vlct_golden::json(folder.join("../printed.json"));
            let printed: Vec<String> = printed[set]
                .as_array()
                .into_iter()
                .flatten()
                .map(|line| line.as_str().unwrap().to_string())
                .filter(|line| line.starts_with(|c: char| c.is_ascii_digit()))
                .collect();
            let counted = report
                .coverage
                .iter()
                .map(|c| format!("{} {} {}", c.found, c.kept, c.annotated));
            if !printed.is_empty() {
                assert_eq!(counted.collect::<Vec<_>>(), printed, "{set}");
            }
        }
    }
}

#[test]
fn numbered_files_hold_the_number_of_rows_that_is_asked_for() {
    for folder in vlct_golden::directories("prepare") {
        let recorded = vlct_golden::json(folder.join("shards.json"));
        let rows_per_file = recorded["shard_size"].as_u64().unwrap() as usize;
        for (set, dataset) in [
            ("gcc", Dataset::Gcc),
            ("sbu", Dataset::Sbu),
            ("pretrain_vqav2", Dataset::PretrainVqa),
            ("pretrain_vg", Dataset::PretrainVg),
        ] {
            let out = tempfile::tempdir().unwrap();
            let mut raw = Raw::new(folder.join(set).join("raw"));
            raw.rows_per_file = rows_per_file;
            let report = prepare(dataset, &raw, &target(out.path())).unwrap();
            let got: BTreeMap<String, u64> = report.files.into_iter().map(|f| (f.file, f.rows)).collect();
            let want: BTreeMap<String, u64> = recorded["rows_per_file"][set]
                .as_object()
                .unwrap()
                .iter()
                // The original adds an empty file behind a full one.
                .filter(|(_, rows)| **rows != 0)
                .map(|(file, rows)| (file.replace("pretrain_vg_", "pretrain_vgqa_"), rows.as_u64().unwrap()))
                .collect();
            assert_eq!(got, want, "{set}");
        }
    }
}

/// Makes the pictures of the set that has many, described in `files.json`.
fn raw_with_many_pictures(folder: &Path) -> tempfile::TempDir {
    use base64::Engine;
    let raw = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(folder.join("raw")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, raw.path().join(path.file_name().unwrap())).unwrap();
    }
    let described = vlct_golden::json(folder.join("raw/files.json"));
    let payloads: Vec<Vec<u8>> = described["payloads_base64"]
        .as_array()
        .unwrap()
        .iter()
        .map(|text| {
            base64::engine::general_purpose::STANDARD
                .decode(text.as_str().unwrap())
                .unwrap()
        })
        .collect();
    for group in described["files"].as_array().unwrap() {
        let name = group["folder"].as_str().unwrap();
        fs::create_dir_all(raw.path().join(name)).unwrap();
        for id in group["ids"].as_array().unwrap() {
            let file = format!("COCO_{name}_{:012}.jpg", id.as_u64().unwrap());
            let payload = &payloads[group["payload"].as_u64().unwrap() as usize];
            fs::write(raw.path().join(name).join(file), payload).unwrap();
        }
    }
    raw
}

#[test]
fn the_last_thousand_validation_rows_of_vqa_are_held_out() {
    for folder in sets("vqav2_large_val") {
        let raw = raw_with_many_pictures(&folder);
        let out = tempfile::tempdir().unwrap();
        prepare(Dataset::Vqav2, &Raw::new(raw.path()), &target(out.path())).unwrap();
        let rows = |name: &str| rows_as_json(&out.path().join(format!("vqav2_{name}.arrow")));
        let (val, head, tail) = (rows("val"), rows("trainable_val"), rows("rest_val"));
        let mut ids: Vec<i64> = val.iter().map(|row| row["image_id"].as_i64().unwrap()).collect();
        ids.sort_unstable();
        let order = vlct_golden::json(folder.join("expected/val_order.json"));
        let mut recorded: Vec<i64> = order["vqav2_val_image_ids_in_file_order"]
            .as_array()
            .unwrap()
            .iter()
            .map(|id| id.as_i64().unwrap())
            .collect();
        recorded.sort_unstable();
        assert_eq!(ids, recorded);
        assert_eq!((head.len(), tail.len()), (val.len() - 1000, 1000));
        assert_eq!([head, tail].concat(), val);
    }
}

/// COCO-like raw data of `count` pictures, the fourth of which is damaged.
fn made_up(count: usize) -> tempfile::TempDir {
    let raw = tempfile::tempdir().unwrap();
    for folder in ["karpathy", "train2014", "val2014"] {
        fs::create_dir(raw.path().join(folder)).unwrap();
    }
    let mut images = Vec::new();
    for i in 0..count {
        let name = format!("p{i}.jpg");
        let picture = image::RgbImage::from_fn(32, 24, |x, y| image::Rgb([(x * 7) as u8, (y * 9) as u8, i as u8]));
        let mut bytes = vlct_image::encode_jpeg(&picture, 90).unwrap();
        if i == 3 {
            bytes.truncate(bytes.len() / 2);
        }
        fs::write(raw.path().join("train2014").join(&name), bytes).unwrap();
        images.push(
            serde_json::json!({"filename": name, "split": "train", "sentences": [{"raw": format!("picture {i}")}]}),
        );
    }
    let annotations = serde_json::json!({"images": images});
    fs::write(raw.path().join("karpathy/dataset_coco.json"), annotations.to_string()).unwrap();
    raw
}

#[test]
fn damaged_pictures_are_left_out_and_reported_if_pictures_are_looked_at() {
    let raw = made_up(6);
    let out = tempfile::tempdir().unwrap();
    let mut target = target(out.path());
    target.treatment.validate = true;
    let report = prepare(Dataset::Coco, &Raw::new(raw.path()), &target).unwrap();
    assert_eq!(report.left_out.len(), 1);
    assert!(report.left_out[0].image.ends_with("train2014/p3.jpg"), "{report:?}");
    assert!(report.left_out[0].reason.contains("ends before"), "{report:?}");
    let rows = rows_as_json(&out.path().join("coco_caption_karpathy_train.arrow"));
    assert_eq!(rows.len(), 5);
    assert!(rows.iter().all(|row| row["image_id"] != "p3.jpg"));
    // What is on the disk is what was returned, and nothing else is there.
    assert_eq!(Report::read(out.path(), "coco").unwrap(), report);
    let mut names: Vec<_> = fs::read_dir(out.path())
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(names.len(), 5, "{names:?}");
}

#[test]
fn the_seed_decides_the_order_and_nothing_else() {
    let raw = made_up(30);
    let rows = |seed| {
        let out = tempfile::tempdir().unwrap();
        let mut raw = Raw::new(raw.path());
        raw.seed = seed;
        prepare(Dataset::Coco, &raw, &target(out.path())).unwrap();
        rows_as_json(&out.path().join("coco_caption_karpathy_train.arrow"))
    };
    let (a, again, b) = (rows(0), rows(0), rows(1));
    assert_eq!(a, again);
    assert_ne!(a, b);
    assert_eq!(sorted(a), sorted(b));
}

/// As [`made_up`], with pictures of a mebibyte, so that there are a few batches. They cannot be decoded.
fn made_up_of_large_pictures(count: usize) -> tempfile::TempDir {
    let raw = made_up(count);
    let picture = raw.path().join("train2014/p0.jpg");
    fs::write(&picture, vec![7; 1 << 20]).unwrap();
    for i in 1..count {
        let name = raw.path().join(format!("train2014/p{i}.jpg"));
        fs::remove_file(&name).unwrap();
        fs::hard_link(&picture, &name).unwrap();
    }
    raw
}

/// Writes until `rows` rows are done, then stops. The rows that were done before.
fn write_until(rows: u64, plan: &Plan, target: &Target) -> u64 {
    let mut first = None;
    let mut watch = |now: Progress| {
        first.get_or_insert(now.done);
        match now.done >= rows {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    };
    assert_eq!(write("coco", plan, target, &mut watch).unwrap(), Outcome::Stopped);
    first.unwrap()
}

#[test]
fn what_was_stopped_goes_on_where_it_was_and_ends_with_the_same_bytes() {
    let raw = made_up_of_large_pictures(100);
    let file = "coco_caption_karpathy_train.arrow";
    let raw = Raw::new(raw.path());
    let whole = tempfile::tempdir().unwrap();
    prepare(Dataset::Coco, &raw, &target(whole.path())).unwrap();
    let whole = fs::read(whole.path().join(file)).unwrap();

    let out = tempfile::tempdir().unwrap();
    let plan = Dataset::Coco.plan(&raw).unwrap();
    let before: Vec<u64> = [40, 40, 90]
        .map(|rows| write_until(rows, &plan, &target(out.path())))
        .to_vec();
    assert!(before[0] == 0 && before[1] > 0 && before[2] == before[1], "{before:?}");
    assert!(!out.path().join(file).exists());
    prepare(Dataset::Coco, &raw, &target(out.path())).unwrap();
    assert!(fs::read(out.path().join(file)).unwrap() == whole);
    let again = write("coco", &plan, &target(out.path()), &mut |_| {
        panic!("nothing is to be done")
    })
    .unwrap();
    assert!(matches!(again, Outcome::WasDone(_)));

    // Other inputs do not go on with it, nor replace it unasked.
    let mut other = raw.clone();
    other.seed = 1;
    let refused = prepare(Dataset::Coco, &other, &target(out.path()))
        .unwrap_err()
        .to_string();
    assert!(refused.contains("--overwrite"), "{refused}");
    let mut replacing = target(out.path());
    replacing.overwrite = true;
    prepare(Dataset::Coco, &other, &replacing).unwrap();
    assert!(fs::read(out.path().join(file)).unwrap() != whole);
}

#[test]
fn an_unfinished_file_that_was_cut_or_deleted_is_not_gone_on_with() {
    let raw = made_up_of_large_pictures(50);
    let raw = Raw::new(raw.path());
    let out = tempfile::tempdir().unwrap();
    let plan = Dataset::Coco.plan(&raw).unwrap();
    let file = out.path().join("coco_caption_karpathy_train.arrow");
    let part = vlct_data::arrow::partial(&file).unwrap();
    write_until(45, &plan, &target(out.path()));
    fs::write(&part, &fs::read(&part).unwrap()[..1 << 20]).unwrap();
    let refused = prepare(Dataset::Coco, &raw, &target(out.path()))
        .unwrap_err()
        .to_string();
    assert!(refused.contains("shorter than was recorded; delete it"), "{refused}");
    fs::remove_file(part).unwrap();
    // Other options do not wipe out what is known of it.
    let mut other = raw.clone();
    other.seed = 1;
    let refused = prepare(Dataset::Coco, &other, &target(out.path()))
        .unwrap_err()
        .to_string();
    assert!(refused.contains("unfinished preparation"), "{refused}");
    assert_eq!(write_until(1, &plan, &target(out.path())), 0);
    prepare(Dataset::Coco, &raw, &target(out.path())).unwrap();
    assert_eq!(ArrowTable::open(&file).unwrap().rows(), 50);
}

/// One message of one line.
fn refusal(dataset: Dataset, root: &Path) -> String {
    let out = tempfile::tempdir().unwrap();
    let message = prepare(dataset, &Raw::new(root), &target(out.path()))
        .unwrap_err()
        .to_string();
    assert!(!message.contains('\n'), "{message}");
    message
}

#[test]
fn faults_of_raw_data_are_one_clear_line_each() {
    let raw = made_up(4);
    let annotations = raw.path().join("karpathy/dataset_coco.json");
    let text = fs::read(&annotations).unwrap();

    fs::write(&annotations, &text[..text.len() / 2]).unwrap();
    let message = refusal(Dataset::Coco, raw.path());
    assert!(
        message.contains("dataset_coco.json") && message.contains("cut short"),
        "{message}"
    );
    fs::write(&annotations, r#"{"images": [{"filename": "a.jpg"}]}"#).unwrap();
    assert!(refusal(Dataset::Coco, raw.path()).contains("missing field `split`"));
    fs::write(&annotations, r#"{"pictures": []}"#).unwrap();
    assert!(refusal(Dataset::Coco, raw.path()).contains("no key \"images\""));
    fs::write(
        &annotations,
        r#"{"images": [{"filename": "x.jpg", "split": "train", "sentences": [{"raw": "x"}]}]}"#,
    )
    .unwrap();
    assert!(refusal(Dataset::Coco, raw.path()).contains("no picture here has an annotation"));
    fs::write(&annotations, &text).unwrap();

    fs::remove_dir(raw.path().join("val2014")).unwrap();
    let message = refusal(Dataset::Coco, raw.path());
    assert!(
        message.contains("val2014") && message.contains("no such folder"),
        "{message}"
    );
    assert!(refusal(Dataset::F30k, raw.path()).contains("dataset_flickr30k.json: no such annotation file"));

    // Only the training split is wanted: its folder is there.
    let mut train = Raw::new(raw.path());
    train.splits = Some(vec!["train".into()]);
    let out = tempfile::tempdir().unwrap();
    let report = prepare(Dataset::Coco, &train, &target(out.path())).unwrap();
    assert_eq!(report.files.len(), 1);
    train.splits = Some(vec!["training".into()]);
    let message = prepare(Dataset::Coco, &train, &target(out.path()))
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("no split \"training\"") && message.contains("restval"),
        "{message}"
    );
}

#[test]
fn pairs_must_be_of_the_kind_that_their_dataset_has() {
    let raw = tempfile::tempdir().unwrap();
    fs::create_dir_all(raw.path().join("images")).unwrap();
    for (text, part) in [
        (r#"[["a.jpg", ["x"]]]"#, "entry 0: [path, caption] is expected"),
        (r#"[["a.jpg", "x"], ["b.jpg"]]"#, "invalid length 1"),
        (r#"[["a.jpg", 3]]"#, "not the annotations expected here"),
        (r#"{"a.jpg": "x"}"#, "an array"),
    ] {
        fs::write(raw.path().join("gqa_annt.json"), text).unwrap();
        let message = refusal(Dataset::PretrainGqa, raw.path());
        assert!(message.contains("gqa_annt.json") && message.contains(part), "{message}");
    }
}

#[test]
fn odd_names_are_kept_and_what_is_no_file_is_left_out() {
    let raw = made_up(2);
    let names = ["a b.jpg", "größe-图.jpg", "folder.jpg", "\u{65}\u{301}.jpg"];
    let sentences = serde_json::json!([{"raw": "x"}]);
    let images: Vec<Value> = names
        .iter()
        .map(|name| serde_json::json!({"filename": name, "split": "train", "sentences": sentences}))
        .collect();
    let annotations = serde_json::json!({"images": images});
    fs::write(raw.path().join("karpathy/dataset_coco.json"), annotations.to_string()).unwrap();
    for name in names {
        let path = raw.path().join("train2014").join(name);
        match name {
            "folder.jpg" => fs::create_dir(path).unwrap(),
            _ => drop(fs::copy(raw.path().join("train2014/p0.jpg"), path).unwrap()),
        }
    }
    let out = tempfile::tempdir().unwrap();
    let report = prepare(Dataset::Coco, &Raw::new(raw.path()), &target(out.path())).unwrap();
    assert_eq!(report.left_out.len(), 1);
    assert!(report.left_out[0].image.ends_with("folder.jpg"));
    assert!(report.left_out[0].reason.contains("this is a folder"), "{report:?}");
    let rows = rows_as_json(&out.path().join("coco_caption_karpathy_train.arrow"));
    let mut got: Vec<String> = rows
        .iter()
        .map(|r| r["image_id"].as_str().unwrap().to_string())
        .collect();
    got.sort();
    let mut want: Vec<&str> = names.into_iter().filter(|n| *n != "folder.jpg").collect();
    want.sort_unstable();
    assert_eq!(got, want);
}

#[test]
fn splits_that_are_there_are_not_made_again() {
    let folder = sets("vqav2").remove(0);
    let whole = tempfile::tempdir().unwrap();
    let raw = Raw::new(folder.join("raw"));
    prepare(Dataset::Vqav2, &raw, &target(whole.path())).unwrap();

    let out = tempfile::tempdir().unwrap();
    let mut train = raw.clone();
    train.splits = Some(vec!["train".into()]);
    let train = Dataset::Vqav2.plan(&train).unwrap();
    let go_on = |_| ControlFlow::Continue(());
    write("vqav2", &train, &target(out.path()), &mut go_on.clone()).unwrap();

    // A file from elsewhere that a split to come would replace.
    let foreign = out.path().join("vqav2_rest_val.arrow");
    fs::write(&foreign, b"mine").unwrap();
    let all = Dataset::Vqav2.plan(&raw).unwrap();
    let message = write("vqav2", &all, &target(out.path()), &mut go_on.clone()).unwrap_err();
    assert!(
        message.to_string().contains("vqav2_rest_val.arrow is there already"),
        "{message}"
    );
    fs::remove_file(&foreign).unwrap();

    let mut first = None;
    let outcome = write("vqav2", &all, &target(out.path()), &mut |now| {
        first.get_or_insert(now.done);
        ControlFlow::Continue(())
    })
    .unwrap();
    let Outcome::Done(report) = outcome else {
        panic!("there was more to do");
    };
    assert_eq!(first, Some(train.rows()));
    let mut names: Vec<&str> = report.files.iter().map(|file| file.file.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), report.files.len());
    for name in names {
        assert!(
            fs::read(out.path().join(name)).unwrap() == fs::read(whole.path().join(name)).unwrap(),
            "{name}"
        );
    }
    assert_eq!(Report::read(whole.path(), "vqav2").unwrap().left_out, report.left_out);
}

#[test]
fn splits_prepared_one_after_the_other_share_a_report() {
    let folder = sets("gcc").remove(0);
    let out = tempfile::tempdir().unwrap();
    let mut raw = Raw::new(folder.join("raw"));
    raw.rows_per_file = 3;
    let mut of = |split: &str| {
        raw.splits = Some(vec![split.to_string()]);
        let plan = Dataset::Gcc.plan(&raw).unwrap();
        write("gcc", &plan, &target(out.path()), &mut |_| ControlFlow::Continue(())).unwrap()
    };
    let Outcome::Done(train) = of("train") else {
        panic!("it was not there")
    };
    let Outcome::Done(both) = of("val") else {
        panic!("it was not there")
    };
    assert!(train.files.iter().all(|file| both.files.contains(file)));
    assert!(both.files.len() > train.files.len());
    assert_eq!(both.coverage.len(), 2);
    // Both are known to be there.
    assert!(matches!(of("train"), Outcome::WasDone(_)));
    assert!(matches!(of("val"), Outcome::WasDone(_)));

    // Fewer, larger files replace the series of small ones, and nothing else.
    raw.rows_per_file = 100;
    raw.splits = Some(vec!["train".into()]);
    let mut replacing = target(out.path());
    replacing.overwrite = true;
    let report = prepare(Dataset::Gcc, &raw, &replacing).unwrap();
    let names: Vec<&str> = report.files.iter().map(|file| file.file.as_str()).collect();
    assert_eq!(names[0], "conceptual_caption_train_0.arrow");
    assert!(
        names[1..].iter().all(|name| name.starts_with("conceptual_caption_val")),
        "{names:?}"
    );
    let there = fs::read_dir(out.path())
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap());
    assert_eq!(there.filter(|name| name.ends_with(".arrow")).count(), names.len());
}

#[test]
fn as_many_shards_are_needed_as_were_prepared_or_published() {
    let folder = tempfile::tempdir().unwrap();
    let sbu = vlct_golden::directories("prepare").remove(0).join("sbu/raw");
    let mut raw = Raw::new(sbu);
    raw.rows_per_file = 3;
    let target = Target {
        out: folder.path().to_path_buf(),
        treatment: Treatment::default(),
        overwrite: false,
        threads: 1,
    };
    let plan = Dataset::Sbu.plan(&raw).unwrap();
    let count = plan.files.len();
    assert!((2..9).contains(&count));
    write("sbu", &plan, &target, &mut |_| ControlFlow::Continue(())).unwrap();
    let open = |shards| {
        vlct_data::datasets::CaptionDataset::open_with(
            folder.path(),
            &["sbu"],
            vlct_data::datasets::Split::Train,
            shards,
        )
    };
    let all = open(vlct_data::datasets::Shards::All).unwrap();
    assert_eq!(all.tables().count(), count);

    // Without the report, the published number counts.
    std::fs::remove_file(Report::path(folder.path(), "sbu")).unwrap();
    let message = open(vlct_data::datasets::Shards::All).unwrap_err().to_string();
    assert!(message.contains("sbu_8.arrow"), "{message}");
    assert_eq!(open(vlct_data::datasets::Shards::AsFound).unwrap().len(), all.len());
}

#[test]
fn every_published_dataset_of_the_loader_can_be_prepared() {
    for name in vlct_data::datasets::names() {
        let preparation = vlct_data::datasets::preparation(name).unwrap();
        assert!(preparation.parse::<Dataset>().is_ok(), "{name}: {preparation}");
    }
}
