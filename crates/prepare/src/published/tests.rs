//! Comparison with the files that the original's writers make of the same raw data (`tests/golden/prepare`), and faults of raw data.

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use serde_json::Value;

use super::*;
use crate::testing::{coco, golden_directories, options, prepare, sorted};
use crate::{ImageProcessing, Report, WriteOptions, write};
use vlct_data::testing::{rows_as_json, schema, without_hash};

/// Compares the rows and columns of every recorded file with those of the file in `out`, whose name `rename` returns. Compares the
/// order of rows only if `is_ordered`.
fn assert_as_recorded(out: &Path, expected: &Path, rename: impl Fn(&str) -> String, is_ordered: bool) {
    let rows = vlct_golden::json(expected.join("rows.json"));
    let schemas = vlct_golden::json(expected.join("schema.json"));
    let mut compared = 0;
    for (file, want) in rows.as_object().unwrap() {
        let path = out.join(rename(file));
        let want: Vec<Value> = want.as_array().unwrap().clone();
        if want.is_empty() && !path.exists() {
            // The original adds an empty file after a full one; this crate does not.
            continue;
        }
        compared += 1;
        let (got, want): (Vec<Value>, Vec<Value>) = (rows_as_json(&path), want.iter().map(without_hash).collect());
        if is_ordered {
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

/// Returns the name of a type in pyarrow.
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
fn every_dataset_has_the_rows_of_the_original() {
    let datasets = [
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
    for (set, dataset, is_ordered) in datasets {
        assert!(!golden_directories(set).is_empty(), "{set}");
        for directory in golden_directories(set) {
            let out = tempfile::tempdir().unwrap();
            let report = prepare(dataset, &RawDataset::new(directory.join("raw")), &options(out.path())).unwrap();
            assert_eq!(report.left_out, [], "{set}");
            let rename = |file: &str| file.replace("pretrain_vg_", "pretrain_vgqa_");
            assert_as_recorded(out.path(), &directory.join("expected"), rename, is_ordered);
            // Most of the original's writers print three counts: found, kept, annotated.
            let printed = vlct_golden::json(directory.join("../printed.json"));
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
fn numbered_files_have_the_recorded_row_counts() {
    for directory in vlct_golden::directories("prepare") {
        let recorded = vlct_golden::json(directory.join("shards.json"));
        let rows_per_file = recorded["shard_size"].as_u64().unwrap() as usize;
        for (set, dataset) in [
            ("gcc", Dataset::Gcc),
            ("sbu", Dataset::Sbu),
            ("pretrain_vqav2", Dataset::PretrainVqa),
            ("pretrain_vg", Dataset::PretrainVg),
        ] {
            let out = tempfile::tempdir().unwrap();
            let mut raw = RawDataset::new(directory.join(set).join("raw"));
            raw.rows_per_file = rows_per_file;
            let report = prepare(dataset, &raw, &options(out.path())).unwrap();
            let got: BTreeMap<String, u64> = report.files.into_iter().map(|f| (f.file, f.rows)).collect();
            let want: BTreeMap<String, u64> = recorded["rows_per_file"][set]
                .as_object()
                .unwrap()
                .iter()
                // The original adds an empty file after a full one; this crate does not.
                .filter(|(_, rows)| **rows != 0)
                .map(|(file, rows)| (file.replace("pretrain_vg_", "pretrain_vgqa_"), rows.as_u64().unwrap()))
                .collect();
            assert_eq!(got, want, "{set}");
        }
    }
}

/// Copies the raw data of a dataset, and writes the many images that its `files.json` describes.
fn raw_with_many_images(directory: &Path) -> tempfile::TempDir {
    use base64::Engine;
    let raw = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(directory.join("raw")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, raw.path().join(path.file_name().unwrap())).unwrap();
    }
    let described = vlct_golden::json(directory.join("raw/files.json"));
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
fn last_thousand_validation_rows_of_vqa_are_held_out() {
    for directory in golden_directories("vqav2_large_val") {
        let raw = raw_with_many_images(&directory);
        let out = tempfile::tempdir().unwrap();
        prepare(Dataset::Vqav2, &RawDataset::new(raw.path()), &options(out.path())).unwrap();
        let rows = |name: &str| rows_as_json(&out.path().join(format!("vqav2_{name}.arrow")));
        let (val, head, tail) = (rows("val"), rows("trainable_val"), rows("rest_val"));
        let mut ids: Vec<i64> = val.iter().map(|row| row["image_id"].as_i64().unwrap()).collect();
        ids.sort_unstable();
        let order = vlct_golden::json(directory.join("expected/val_order.json"));
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

#[test]
fn seed_changes_only_the_order() {
    let raw = coco(30);
    let rows = |seed| {
        let out = tempfile::tempdir().unwrap();
        let mut raw = RawDataset::new(raw.path());
        raw.seed = seed;
        prepare(Dataset::Coco, &raw, &options(out.path())).unwrap();
        rows_as_json(&out.path().join("coco_caption_karpathy_train.arrow"))
    };
    let (a, repeated, b) = (rows(0), rows(0), rows(1));
    assert_eq!(a, repeated);
    assert_ne!(a, b);
    assert_eq!(sorted(a), sorted(b));
}

/// Returns the error message, which must have one line.
fn prepare_error(dataset: Dataset, root: &Path) -> String {
    let out = tempfile::tempdir().unwrap();
    let message = prepare(dataset, &RawDataset::new(root), &options(out.path()))
        .unwrap_err()
        .to_string();
    assert!(!message.contains('\n'), "{message}");
    message
}

#[test]
fn reports_faults_of_raw_data_in_one_line() {
    let raw = coco(4);
    let annotations = raw.path().join("karpathy/dataset_coco.json");
    let text = fs::read(&annotations).unwrap();

    fs::write(&annotations, &text[..text.len() / 2]).unwrap();
    let message = prepare_error(Dataset::Coco, raw.path());
    assert!(
        message.contains("dataset_coco.json") && message.contains("cut short"),
        "{message}"
    );
    fs::write(&annotations, r#"{"images": [{"filename": "a.jpg"}]}"#).unwrap();
    assert!(prepare_error(Dataset::Coco, raw.path()).contains("missing field `split`"));
    fs::write(&annotations, r#"{"photos": []}"#).unwrap();
    assert!(prepare_error(Dataset::Coco, raw.path()).contains("the key \"images\" is missing"));
    fs::write(
        &annotations,
        r#"{"images": [{"filename": "x.jpg", "split": "train", "sentences": [{"raw": "x"}]}]}"#,
    )
    .unwrap();
    assert!(prepare_error(Dataset::Coco, raw.path()).contains("no image here has an annotation"));
    fs::write(&annotations, &text).unwrap();

    fs::remove_dir(raw.path().join("val2014")).unwrap();
    let message = prepare_error(Dataset::Coco, raw.path());
    assert!(
        message.contains("val2014") && message.contains("no such directory"),
        "{message}"
    );
    assert!(prepare_error(Dataset::F30k, raw.path()).contains("dataset_flickr30k.json: no such annotation file"));

    // The training split alone does not need the directory of the validation images.
    let mut train = RawDataset::new(raw.path());
    train.splits = Some(vec!["train".into()]);
    let out = tempfile::tempdir().unwrap();
    let report = prepare(Dataset::Coco, &train, &options(out.path())).unwrap();
    assert_eq!(report.files.len(), 1);
    train.splits = Some(vec!["training".into()]);
    let message = prepare(Dataset::Coco, &train, &options(out.path()))
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("no split \"training\"") && message.contains("restval"),
        "{message}"
    );
}

#[test]
fn rejects_annotation_pairs_of_another_form() {
    let raw = tempfile::tempdir().unwrap();
    fs::create_dir_all(raw.path().join("images")).unwrap();
    for (text, part) in [
        (r#"[["a.jpg", ["x"]]]"#, "entry 0: [path, caption] is expected"),
        (r#"[["a.jpg", "x"], ["b.jpg"]]"#, "invalid length 1"),
        (r#"[["a.jpg", 3]]"#, "entry 0: [path, caption] is expected"),
        (r#"[["a.jpg", "x"], 3]"#, "entry 1: not the annotation expected here"),
        (r#"[["a.jpg", "x"]"#, "cut short"),
        (r#"{"a.jpg": "x"}"#, "an array"),
    ] {
        fs::write(raw.path().join("gqa_annt.json"), text).unwrap();
        let message = prepare_error(Dataset::PretrainGqa, raw.path());
        assert!(message.contains("gqa_annt.json") && message.contains(part), "{message}");
    }
}

#[test]
fn keeps_unusual_file_names_and_leaves_out_directories() {
    let raw = coco(2);
    let names = ["a b.jpg", "größe-图.jpg", "directory.jpg", "\u{65}\u{301}.jpg"];
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
            "directory.jpg" => fs::create_dir(path).unwrap(),
            _ => drop(fs::copy(raw.path().join("train2014/p0.jpg"), path).unwrap()),
        }
    }
    let out = tempfile::tempdir().unwrap();
    let report = prepare(Dataset::Coco, &RawDataset::new(raw.path()), &options(out.path())).unwrap();
    assert_eq!(report.left_out.len(), 1);
    assert!(report.left_out[0].image.ends_with("directory.jpg"));
    assert!(report.left_out[0].reason.contains("this is a directory"), "{report:?}");
    let rows = rows_as_json(&out.path().join("coco_caption_karpathy_train.arrow"));
    let mut got: Vec<String> = rows
        .iter()
        .map(|r| r["image_id"].as_str().unwrap().to_string())
        .collect();
    got.sort();
    let mut want: Vec<&str> = names.into_iter().filter(|n| *n != "directory.jpg").collect();
    want.sort_unstable();
    assert_eq!(got, want);
}

#[test]
fn loader_expects_as_many_shards_as_were_prepared() {
    let directory = tempfile::tempdir().unwrap();
    let sbu = vlct_golden::directories("prepare").remove(0).join("sbu/raw");
    let mut raw = RawDataset::new(sbu);
    raw.rows_per_file = 3;
    let options = WriteOptions {
        out: directory.path().to_path_buf(),
        processing: ImageProcessing::default(),
        overwrite: false,
        threads: 1,
    };
    let plan = Dataset::Sbu.plan(&raw).unwrap();
    let count = plan.files.len();
    assert!((2..9).contains(&count));
    write("sbu", &plan, &options, &mut |_| ControlFlow::Continue(())).unwrap();
    use vlct_data::datasets::Dataset as _;
    let open = |rules: &vlct_data::datasets::FileRules| {
        vlct_data::datasets::TableDataset::open_with(
            vlct_data::datasets::Contents::Captions,
            directory.path(),
            &["sbu"],
            vlct_data::datasets::Split::Train,
            rules,
        )
    };
    let all = open(&vlct_data::datasets::FileRules::default()).unwrap();
    assert_eq!(all.tables().count(), count);

    // Without the report, the published number of shards is expected.
    std::fs::remove_file(Report::path(directory.path(), "sbu")).unwrap();
    let message = open(&vlct_data::datasets::FileRules::default())
        .unwrap_err()
        .to_string();
    assert!(message.contains("sbu_8.arrow"), "{message}");
    assert_eq!(
        open(&vlct_data::datasets::FileRules {
            fewer_shards: true,
            ..Default::default()
        })
        .unwrap()
        .rows(),
        all.rows()
    );
}

#[test]
fn every_published_dataset_of_the_loader_can_be_prepared() {
    for dataset in vlct_data::datasets::DATASETS {
        let preparation = dataset.preparation;
        assert!(
            preparation.parse::<Dataset>().is_ok(),
            "{}: {preparation}",
            dataset.name
        );
    }
}
