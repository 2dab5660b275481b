//! Invalid and missing input: an error is one line, with exit status 1. Training replaces images that cannot be decoded.

mod support;

use std::path::Path;
use support::{assert_one_line_error, assert_success, run_with, tiny_model_arguments, vlct, write_synthetic};
use tempfile::TempDir;
use vlct_data::arrow::{CaptionWriter, Nlvr2Row, Nlvr2Writer};

const TRAIN: &str = "data/coco_caption_karpathy_train.arrow";

fn synthetic_dataset() -> TempDir {
    let directory = TempDir::new().expect("temporary directory");
    write_synthetic(&directory.path().join("data"), 12);
    directory
}

fn train(directory: &Path, more: &[&str]) -> std::process::Output {
    let mut arguments = vec!["max_steps=2", "limit_val_batches=1"];
    arguments.extend(more);
    run_with(directory, &tiny_model_arguments("data", &arguments))
}

#[test]
fn rejects_invalid_tables() {
    let directory = synthetic_dataset();
    let directory = directory.path();
    let path = directory.join(TRAIN);
    let original = std::fs::read(&path).expect("written");
    for (case, bytes) in [
        ("truncated", original[..original.len() / 2].to_vec()),
        ("without its last bytes", original[..original.len() - 7].to_vec()),
        ("empty", Vec::new()),
        ("text", b"image,caption\na.jpg,a red circle\n".to_vec()),
    ] {
        std::fs::write(&path, bytes).expect("written");
        assert_one_line_error(case, &train(directory, &[]), &["coco_caption_karpathy_train.arrow"]);
    }
    std::fs::remove_file(&path).expect("removed");
    let mut writer = Nlvr2Writer::create(&path).expect("writable");
    let row = Nlvr2Row {
        image_0: b"",
        image_1: b"",
        sentences: &[("both show a circle".to_string(), true)],
        identifier: "train-0-0",
    };
    writer.push(row).expect("written");
    writer.finish().expect("written");
    assert_one_line_error(
        "another schema",
        &train(directory, &[]),
        &["coco_caption_karpathy_train.arrow", "caption"],
    );
}

#[test]
fn names_all_missing_files_in_one_message() {
    let directory = synthetic_dataset();
    std::fs::remove_file(directory.path().join(TRAIN)).expect("removed");
    std::fs::remove_file(directory.path().join("data/coco_caption_karpathy_restval.arrow")).expect("removed");
    let names = ["coco_caption_karpathy_train", "coco_caption_karpathy_restval"];
    assert_one_line_error("two files missing", &train(directory.path(), &[]), &names);
    assert_one_line_error(
        "no such directory",
        &train(directory.path(), &["data_root=nowhere"]),
        &["nowhere"],
    );
}

#[test]
fn training_replaces_and_evaluation_rejects_undecodable_images() {
    let directory = synthetic_dataset();
    let directory = directory.path();
    let good = {
        let scene = vlct_synthetic::Scene::generate(0, 0);
        vlct_image::encode_png(&vlct_synthetic::render(&scene, 32)).expect("encodes")
    };
    // A PNG header that claims 100,000 by 100,000 pixels.
    let mut huge = good.clone();
    huge[16..24].copy_from_slice(&[0, 1, 134, 160, 0, 1, 134, 160]);
    let write = |name: &str, images: &[&[u8]]| {
        let mut writer = CaptionWriter::create(directory.join(format!("data/{name}.arrow"))).expect("writable");
        for (i, image) in images.iter().enumerate() {
            writer
                .push(
                    image,
                    &["a red circle above a blue square"],
                    &format!("{i}.png"),
                    "train",
                )
                .expect("written");
        }
        writer.finish().expect("written");
    };
    let images: [&[u8]; 6] = [&good, b"", &huge, &good[..good.len() / 2], b"not an image", &good];
    write("coco_caption_karpathy_train", &images);
    let output = train(directory, &[]);
    assert_success(&output);
    let text = support::stderr_of(&output);
    assert!(
        text.contains("replaced an image that cannot be used") && text.contains("row"),
        "{text}"
    );

    write("coco_caption_karpathy_test", &[&good, &huge]);
    assert_one_line_error(
        "evaluation",
        &train(directory, &["test_only=True"]),
        &["coco_caption_karpathy_test.arrow", "row 1"],
    );
    write("coco_caption_karpathy_train", &[b"", b"", b""]);
    write("coco_caption_karpathy_restval", &[b""]);
    assert_one_line_error("nothing readable", &train(directory, &[]), &["coco_caption_karpathy_"]);
}

#[test]
fn rejects_invalid_and_incompatible_weights() {
    let directory = synthetic_dataset();
    let directory = directory.path();
    let golden = vlct_golden::directories("model")[0].join("pretrain.ckpt");
    let original = std::fs::read(golden).expect("golden data");
    // A pickle that creates the file `trapped` if its calls are executed.
    let trap = b"cos\nsystem\n(S'touch trapped'\ntR.".to_vec();
    for (case, bytes) in [
        ("truncated", original[..original.len() / 3].to_vec()),
        ("empty", Vec::new()),
        ("text", b"these are not the weights\n".to_vec()),
        ("executable", trap),
    ] {
        std::fs::write(directory.join("weights.ckpt"), bytes).expect("written");
        for key in ["load_path", "pretrain_path"] {
            let word = format!("{key}=weights.ckpt");
            assert_one_line_error(&format!("{case} {key}"), &train(directory, &[&word]), &["weights.ckpt"]);
        }
        let output = vlct()
            .current_dir(directory)
            .args(["convert", "weights.ckpt", "out.safetensors"])
            .output();
        assert_one_line_error(case, &output.expect("the program starts"), &["weights.ckpt"]);
        assert!(!directory.join("out.safetensors").exists());
    }
    assert!(!directory.join("trapped").exists(), "a pickle was executed");

    // Weights of another model: first no name matches, then the shapes differ.
    let state = vlct_model::files::StateDict::from_iter([(
        "conv1.weight".to_string(),
        vlct_model::files::StoredTensor::f32(vec![2], vec![0.0, 1.0]),
    )]);
    let header = vlct_model::files::Style::Vlc.into();
    vlct_model::files::write(&directory.join("other.safetensors"), &state, &header).expect("written");
    assert_one_line_error(
        "other names",
        &train(directory, &["load_path=other.safetensors"]),
        &["other.safetensors"],
    );
    std::fs::write(directory.join("weights.ckpt"), &original).expect("written");
    assert_one_line_error(
        "other shapes",
        &train(directory, &["load_path=weights.ckpt"]),
        &["weights.ckpt", "shape"],
    );
}

#[test]
fn rejects_altered_and_incompatible_checkpoints() {
    let directory = synthetic_dataset();
    let directory = directory.path();
    assert_success(&train(directory, &["log_dir=runs"]));
    let run = directory.join("runs/quickstart_seed0_from_/version_0");
    let path = vlct_checkpoint::last_path(&run);
    let original = std::fs::read(&path).expect("saved");
    let resume = format!("resume_from={}", run.display());
    for offset in [10, original.len() / 2, original.len() - 1] {
        let mut altered = original.clone();
        altered[offset] ^= 1;
        std::fs::write(&path, altered).expect("written");
        assert_one_line_error(
            "altered",
            &train(directory, &[&resume, "max_steps=4"]),
            &["checkpoint.safetensors"],
        );
    }
    std::fs::write(&path, &original[..original.len() - 100]).expect("written");
    assert_one_line_error(
        "truncated",
        &train(directory, &[&resume, "max_steps=4"]),
        &["checkpoint.safetensors"],
    );
    std::fs::write(&path, &original).expect("written");
    let other = train(directory, &[&resume, "max_steps=4", "per_gpu_batchsize=8"]);
    assert_one_line_error(
        "another micro-batch size",
        &other,
        &["per_gpu_batchsize was 4", "is 8 now"],
    );
    // A resumed run does not read `pretrain_path`.
    assert_success(&train(directory, &[&resume, "max_steps=4", "pretrain_path=gone.pth"]));
    let nowhere = train(directory, &["resume_from=nowhere"]);
    assert_one_line_error("missing", &nowhere, &["resume_from=nowhere", "there is no checkpoint"]);
    let published = format!(
        "resume_from={}",
        vlct_golden::directories("model")[0].join("pretrain.ckpt").display()
    );
    assert_one_line_error(
        "a published checkpoint",
        &train(directory, &[&published]),
        &["pretrain.ckpt"],
    );
}

#[test]
fn rejects_invalid_keys_and_unsupported_tasks() {
    let directory = synthetic_dataset();
    for (word, part) in [
        ("mask_ratio=1.5", "mask_ratio"),
        ("per_gpu_batchsize=0", "per_gpu_batchsize"),
        ("max_text_len=1", "max_text_len"),
        ("learning_rate=-1", "learning_rate"),
        ("image_size=33", "image_size"),
        ("heads=3", "heads"),
        ("datasets=[\"cocoa\"]", "coco"),
        ("num_gpus=4", "num_gpus"),
        ("tokenizer=bert-base-uncased", "vocab_size"),
        ("lerning_rate=1", "learning_rate"),
        ("test_only=true", "True"),
        ("tokenizer=nowhere.txt", "nowhere.txt"),
    ] {
        assert_one_line_error(word, &train(directory.path(), &[word]), &[part]);
    }
    let vqa = [
        "loss_names.vqa=1",
        "loss_names.itm=0",
        "loss_names.mlm=0",
        "loss_names.mae=0",
        "use_mae=False",
    ];
    assert_one_line_error("vqa", &train(directory.path(), &vqa), &["vqa"]);
}

#[cfg(target_os = "linux")]
#[test]
fn full_disk_keeps_the_previous_checkpoint() {
    // A limit on the size of files simulates a full disk: writing fails in the middle of a checkpoint.
    let directory = synthetic_dataset();
    let directory = directory.path();
    assert_success(&train(directory, &["log_dir=runs", "max_steps=2"]));
    let run = directory.join("runs/quickstart_seed0_from_/version_0");
    let path = vlct_checkpoint::last_path(&run);
    let before = std::fs::read(&path).expect("saved");
    let mut arguments = tiny_model_arguments("data", &["max_steps=4", "limit_val_batches=1"]);
    arguments.push(format!("resume_from={}", run.display()));
    let limit = format!(
        "trap '' XFSZ; ulimit -f {}; exec \"$0\" run with \"$@\"",
        before.len() / 2 / 1024
    );
    let output = std::process::Command::new("bash")
        .current_dir(directory)
        .args(["-c", &limit, env!("CARGO_BIN_EXE_vlct")])
        .args(&arguments)
        .output()
        .expect("bash");
    assert_one_line_error(
        "full disk",
        &output,
        &["not saved", "the previous checkpoint (step 2) is intact"],
    );
    assert_eq!(std::fs::read(&path).expect("still there"), before);
    let files: Vec<_> = std::fs::read_dir(path.parent().expect("directory"))
        .expect("directory")
        .flatten()
        .collect();
    assert_eq!(files.len(), 1, "{files:?}");
    assert_success(&train(directory, &[arguments.last().expect("resume"), "max_steps=4"]));
}
