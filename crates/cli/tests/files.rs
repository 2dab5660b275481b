//! End-to-end tests of `vlct convert` and `vlct inspect`.

mod support;

use std::path::{Path, PathBuf};

use support::run as vlct;
use vlct_checkpoint::{self as checkpoint, TensorRef};
use vlct_data::arrow::{CaptionWriter, LabelKind, LabelRow, LabelWriter};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/golden/model")
        .join(name)
}

#[test]
fn converting_back_and_forth_keeps_every_tensor() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_string();
    let original = golden("pretrain.ckpt");
    let original = original.to_str().unwrap();
    for (from, to) in [
        (original, &path("a.safetensors")),
        (&path("a.safetensors"), &path("b.ckpt")),
    ] {
        let (status, out, stderr) = vlct(&["convert", from, to]);
        assert_eq!((status, stderr.as_str()), (0, ""));
        assert!(out.contains("VLC names kept"), "{out}");
    }
    let tensors = |path: &str| {
        let (status, out, _) = vlct(&["inspect", "--tensors", path]);
        assert_eq!(status, 0);
        // A set, because a safetensors file does not keep the order of tensors.
        let lines = out.lines().filter(|line| line.starts_with("    "));
        lines.map(str::to_string).collect::<std::collections::BTreeSet<_>>()
    };
    let expected = tensors(original);
    assert!(
        expected
            .iter()
            .any(|line| line.contains("transformer.cls_token float32 [1, 1, ")),
        "{expected:?}"
    );
    assert_eq!(tensors(&path("b.ckpt")), expected);

    let (status, out, _) = vlct(&["convert", original, &path("mae.pth"), "--style", "mae"]);
    assert_eq!(status, 0);
    assert!(out.contains("from VLC to MAE") && out.contains("left out"), "{out}");
    assert!(
        tensors(&path("mae.pth"))
            .iter()
            .any(|line| line.trim_start().starts_with("cls_token "))
    );
}

#[test]
fn models_of_hugging_face_are_described_and_converted() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("mae.safetensors").to_str().unwrap().to_string();
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden_vilt/mae");
    let model = model.to_str().unwrap();
    let (status, out, _) = vlct(&["inspect", "--tensors", model]);
    assert_eq!(status, 0);
    assert!(
        out.contains("safetensors, Hugging Face names, read as MAE names"),
        "{out}"
    );
    assert!(out.contains("    blocks.0.attn.qkv.weight float32 ["), "{out}");
    let (status, out, stderr) = vlct(&["convert", model, &path]);
    assert_eq!((status, stderr.as_str()), (0, ""));
    assert!(out.contains("names changed from Hugging Face to MAE"), "{out}");
    let (_, out, _) = vlct(&["inspect", &path]);
    assert!(out.contains("safetensors, MAE names"), "{out}");
}

#[test]
fn rejects_a_damaged_weight_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("cut.ckpt");
    let bytes = std::fs::read(golden("pretrain.ckpt")).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    let (status, out, stderr) = vlct(&["inspect", path.to_str().unwrap()]);
    assert_eq!((status, out.as_str()), (1, ""));
    assert!(stderr.contains("cut.ckpt") && stderr.lines().count() == 1, "{stderr}");
}

#[test]
fn inspect_counts_and_checks_arrow_tables() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("vg.arrow");
    let mut writer = CaptionWriter::create(&path).unwrap();
    writer
        .push(&[1; 2048], &["a red circle", "a circle"], "1.png", "train")
        .unwrap();
    writer.push(&[2; 1024], &[] as &[&str], "2.png", "train").unwrap();
    writer.finish().unwrap();
    for argument in [path.as_path(), directory.path()] {
        let (status, out, _) = vlct(&["inspect", argument.to_str().unwrap()]);
        assert_eq!(status, 0);
        for part in [
            "2 rows",
            "image: 3.00 KiB of images",
            "caption: 2 texts",
            "rows without any: 1",
            "intact",
        ] {
            assert!(out.contains(part), "{part:?} is not in {out}");
        }
    }
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 100]).unwrap();
    let (status, _, stderr) = vlct(&["inspect", path.to_str().unwrap()]);
    assert_eq!(status, 1);
    assert!(stderr.contains("vg.arrow") && stderr.lines().count() == 1, "{stderr}");
}

#[test]
fn inspect_counts_labels_and_draws_rows_without_image() {
    let directory = tempfile::tempdir().unwrap();
    let image =
        std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/images/cmyk.jpg")).unwrap();
    for (kind, line) in [
        (LabelKind::Single, "label: 2 classes: cat 2, dog 1; rows without any: 1"),
        (
            LabelKind::Multiple,
            "labels: 2 classes: cat 2, dog 2; rows without any: 1",
        ),
    ] {
        let path = directory.path().join(format!("pets_{kind:?}.arrow"));
        let mut writer = LabelWriter::create(&path, kind).unwrap();
        let both: &[&str] = if kind == LabelKind::Single {
            &["cat"]
        } else {
            &["cat", "dog"]
        };
        for (image, text, labels) in [
            (Some(image.as_slice()), Some("a red cat"), Some(both)),
            (None, Some("a dog"), Some(&["dog"])),
            (Some(image.as_slice()), None, Some(&["cat"])),
            (Some(image.as_slice()), None, None),
        ] {
            let labels: Option<Vec<String>> = labels.map(|labels| labels.iter().map(|l| l.to_string()).collect());
            let row = LabelRow {
                image,
                text,
                labels: labels.as_deref(),
                image_id: None,
                split: "train",
            };
            writer.push(row).unwrap();
        }
        writer.finish().unwrap();
        let sheet = directory.path().join("sheet.png");
        let (status, out, stderr) = vlct(&["inspect", path.to_str().unwrap(), "--sheet", sheet.to_str().unwrap()]);
        assert_eq!(status, 0, "{stderr}");
        for part in [
            "4 rows",
            "on average; rows without any: 1",
            "text: 2 texts of 2 to 3 words, median 2; rows without any: 2",
            line,
            "split: train 4",
            "sheet.png: 4 rows",
        ] {
            assert!(out.contains(part), "{part:?} is not in {out}");
        }
        assert!(vlct_image::decode(&std::fs::read(&sheet).unwrap()).is_ok());
    }
}

#[test]
fn inspect_describes_and_verifies_run_directories() {
    let directory = tempfile::tempdir().unwrap();
    let run = directory.path();
    std::fs::write(run.join("config.toml"), "seed = 9\n").unwrap();
    std::fs::write(run.join("metrics.jsonl"), "{\"step\":1}\n{\"step\":2}\n").unwrap();
    let last = checkpoint::last_path(run);
    std::fs::create_dir_all(last.parent().unwrap()).unwrap();
    let values = [1.0, 2.0, 3.0];
    let tensor = TensorRef {
        name: "transformer.cls_token",
        shape: &[1, 1, 3],
        data: vlct_bench::Device::default().tensor(1, values.len(), &values),
    };
    checkpoint::save(
        &last,
        &[tensor],
        &serde_json::json!({ "global_step": 1234, "epoch": 2 }),
        &serde_json::Value::Null,
    )
    .unwrap();

    let run_path = run.to_str().unwrap();
    let (status, out, _) = vlct(&["inspect", run_path]);
    assert_eq!(status, 0);
    for part in [
        "seed = 9",
        "2 lines",
        "{\"step\":2}",
        "step 1234, epoch 2",
        "the kind of model is not known",
        "the checksum matches",
        "does not exist",
    ] {
        assert!(out.contains(part), "{part:?} is not in {out}");
    }

    let mut bytes = std::fs::read(&last).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&last, bytes).unwrap();
    for argument in [run_path, last.to_str().unwrap()] {
        let (status, _, stderr) = vlct(&["inspect", argument]);
        assert_eq!(status, 1, "{stderr}");
        assert!(stderr.contains("checksum") && stderr.lines().count() == 1, "{stderr}");
    }
}

#[test]
fn converting_a_checkpoint_drops_the_optimizer_state() {
    let directory = tempfile::tempdir().unwrap();
    let from = directory.path().join("checkpoint.safetensors");
    let values = [1.0, 2.0];
    let tensor = |name| TensorRef {
        name,
        shape: &[2],
        data: vlct_bench::Device::default().tensor(1, values.len(), &values),
    };
    let tensors = [
        tensor("transformer.norm.bias"),
        tensor("optimizer.exp_avg.transformer.norm.bias"),
    ];
    let state = serde_json::json!({ "global_step": 77, "epoch": 3 });
    checkpoint::save(&from, &tensors, &state, &serde_json::Value::Null).unwrap();
    let to = directory.path().join("weights.ckpt");
    let (status, _, stderr) = vlct(&["convert", from.to_str().unwrap(), to.to_str().unwrap()]);
    assert_eq!(status, 0, "{stderr}");
    let (_, out, _) = vlct(&["inspect", "--tensors", to.to_str().unwrap()]);
    assert!(
        out.contains("transformer.norm.bias") && !out.contains("optimizer"),
        "{out}"
    );
    assert!(out.contains("optimiser step 77"), "{out}");
}

#[test]
fn rejects_converting_a_file_into_itself() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("mae.pth");
    std::fs::copy(golden("mae.pth"), &path).unwrap();
    let path = path.to_str().unwrap();
    let (status, _, stderr) = vlct(&["convert", path, path]);
    assert_eq!(status, 1);
    assert!(stderr.contains("same file"), "{stderr}");
    assert_eq!(std::fs::read(path).unwrap(), std::fs::read(golden("mae.pth")).unwrap());
}
