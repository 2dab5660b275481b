//! End-to-end tests of training: interruption, resumption, number of threads, the published command, memory.

mod support;

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use support::kills::{KilledRun, resume_words, run_words};
use support::{
    assert_one_line_error, assert_same_checkpoint, assert_success, last_checkpoint, run_directory, run_with, stderr_of,
    tiny_model_arguments, vlct, write_synthetic,
};
use tempfile::TempDir;
use vlct_checkpoint as checkpoint;
use vlct_data::arrow::CaptionWriter;
use vlct_data::random::{Purpose, stream};

#[test]
fn killed_and_resumed_runs_have_the_weights_of_an_uninterrupted_run() {
    let directory = TempDir::new().expect("temporary directory");
    let directory = directory.path();
    write_synthetic(&directory.join("data"), 40);
    for precision in ["32", "bf16"] {
        kill_and_resume(directory, precision, 10);
    }
}

/// Kills runs of this precision at random moments, `kills` times in all, and resumes them.
fn kill_and_resume(directory: &Path, precision: &str, kills: u32) {
    let precision_argument = format!("precision={precision}");
    // With these settings, validation starts within an accumulation window, epochs end with an incomplete window, and a checkpoint is
    // written every 5 steps.
    let arguments = |log_dir: &str| {
        let log_dir = format!("log_dir={log_dir}");
        tiny_model_arguments(
            "data",
            &[
                &log_dir,
                &precision_argument,
                "max_steps=120",
                "checkpoint_every=5",
                "val_check_interval=13",
                "limit_val_batches=1",
            ],
        )
    };
    let killed_run = KilledRun {
        directory,
        arguments: &|log_dir| run_words(arguments(log_dir)),
        resume: &resume_words,
        run_directory: &|log_dir| run_directory(directory, log_dir),
        milliseconds: 50..600,
    };
    killed_run.assert_same_weights(precision, kills, &mut stream(7, Purpose::Synthetic, 0, 0));
}

#[test]
fn sigterm_saves_a_checkpoint_to_resume_from() {
    let directory = TempDir::new().expect("temporary directory");
    let directory = directory.path();
    write_synthetic(&directory.join("data"), 40);
    let arguments = |log_dir: &str| {
        let log_dir = format!("log_dir={log_dir}");
        tiny_model_arguments("data", &[&log_dir, "max_steps=200", "limit_val_batches=1"])
    };
    assert_success(&run_with(directory, &arguments("uninterrupted")));
    let child = vlct()
        .current_dir(directory)
        .args(["run", "with"])
        .args(arguments("stopped"))
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let metrics = run_directory(directory, "stopped").join("metrics.jsonl");
    while !std::fs::read_to_string(&metrics).is_ok_and(|text| text.lines().count() >= 2) {
        std::thread::sleep(Duration::from_millis(5));
    }
    let killed = std::process::Command::new("kill")
        .arg(child.id().to_string())
        .status()
        .expect("kill");
    assert!(killed.success());
    let output = child.wait_with_output().expect("waiting");
    assert_eq!(output.status.code(), Some(143), "{}", stderr_of(&output));
    assert!(stderr_of(&output).contains("saved step"), "{}", stderr_of(&output));
    let mut resumed = arguments("stopped");
    resumed.push(format!("resume_from={}", run_directory(directory, "stopped").display()));
    assert_success(&run_with(directory, &resumed));
    assert_same_checkpoint(
        &last_checkpoint(directory, "uninterrupted"),
        &last_checkpoint(directory, "stopped"),
    );
    // Every tenth step is logged, none of them twice.
    let text = std::fs::read_to_string(&metrics).expect("metrics");
    let steps: Vec<&str> = text.lines().filter(|l| l.contains("mlm/train/loss\"")).collect();
    assert_eq!(steps.len(), 20, "{text}");
}

#[test]
fn resuming_on_other_data_is_warned_of() {
    let directory = TempDir::new().expect("temporary directory");
    let directory = directory.path();
    write_synthetic(&directory.join("data"), 40);
    let first = ["log_dir=runs", "max_steps=2", "limit_val_batches=1"];
    assert_success(&run_with(directory, &tiny_model_arguments("data", &first)));
    let run = run_directory(directory, "runs");
    let resume = |data: &str, steps: u32| {
        let (from, steps) = (format!("resume_from={}", run.display()), format!("max_steps={steps}"));
        let more = ["log_dir=runs", &steps, "limit_val_batches=1", &from];
        let output = run_with(directory, &tiny_model_arguments(data, &more));
        assert_success(&output);
        let warnings = stderr_of(&output);
        let warnings: Vec<String> = warnings
            .lines()
            .filter(|line| line.contains("when the run began") && !line.contains("max_steps"))
            .map(str::to_owned)
            .collect();
        warnings
    };
    // The same files in another directory.
    std::fs::rename(directory.join("data"), directory.join("moved")).expect("renaming");
    assert!(resume("moved", 4).is_empty());
    write_synthetic(&directory.join("data"), 30);
    let warnings = resume("data", 6);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    let parts = [
        "warning: coco: coco_caption_karpathy_train.arrow had 40 rows when the run began and has 30 now",
        "the order of samples differs, so the run is not an exact continuation",
    ];
    assert!(parts.iter().all(|part| warnings[0].contains(part)), "{warnings:?}");
    // The checkpoint now says which data the run was continued on.
    assert!(resume("data", 8).is_empty());
}

#[test]
fn number_of_threads_does_not_change_the_weights() {
    let directory = TempDir::new().expect("temporary directory");
    let directory = directory.path();
    write_synthetic(&directory.join("data"), 40);
    for precision in ["32", "bf16"] {
        let run = |log_dir: &str, threads: &str, workers: &str| {
            let (log_dir, precision) = (format!("log_dir={log_dir}"), format!("precision={precision}"));
            let more = [
                &log_dir,
                &precision,
                threads,
                workers,
                "max_steps=12",
                "limit_val_batches=1",
            ];
            assert_success(&run_with(directory, &tiny_model_arguments("data", &more)));
        };
        let (one, three) = (format!("one{precision}"), format!("three{precision}"));
        run(&one, "threads=1", "num_workers=1");
        run(&three, "threads=3", "num_workers=3");
        assert_same_checkpoint(&last_checkpoint(directory, &one), &last_checkpoint(directory, &three));
    }
}

#[test]
fn a_trained_run_can_be_evaluated_and_inspected() {
    let directory = TempDir::new().expect("temporary directory");
    let directory = directory.path();
    write_synthetic(&directory.join("data"), 40);
    let arguments = [
        "log_dir=runs",
        "max_steps=6",
        "limit_val_batches=2",
        "get_recall_metric=True",
        "val_check_interval=6",
    ];
    assert_success(&run_with(directory, &tiny_model_arguments("data", &arguments)));
    let run = run_directory(directory, "runs");
    for part in [
        "config.toml",
        "metrics.jsonl",
        "last/checkpoint.safetensors",
        "best/checkpoint.safetensors",
    ] {
        assert!(run.join(part).is_file(), "{part}");
    }
    let metrics = std::fs::read_to_string(run.join("metrics.jsonl")).expect("metrics");
    assert!(
        metrics.contains("val/the_metric") && metrics.contains("recalls/ir_r1"),
        "{metrics}"
    );

    let load = format!("load_path={}", last_checkpoint(directory, "runs").display());
    let output = run_with(directory, &tiny_model_arguments("data", &[&load, "test_only=True"]));
    assert_success(&output);
    assert!(String::from_utf8_lossy(&output.stdout).contains("itm/val/accuracy_epoch "));
    assert!(stderr_of(&output).contains("weights of"), "{}", stderr_of(&output));

    let output = vlct().arg("inspect").arg(&run).output().expect("the program starts");
    assert_success(&output);
    assert!(String::from_utf8_lossy(&output.stdout).contains("step 6"));

    let trial = run_with(
        directory,
        &tiny_model_arguments("data", &["fast_dev_run=2", "log_dir=none"]),
    );
    assert_success(&trial);
    assert!(!directory.join("none").exists(), "a trial run writes no files");
}

#[test]
fn non_finite_weights_and_losses_end_the_run() {
    let directory = TempDir::new().expect("temporary directory");
    let directory = directory.path();
    write_synthetic(&directory.join("data"), 12);
    let arguments = |decay: &str| {
        tiny_model_arguments(
            "data",
            &[
                "learning_rate=1e25",
                "warmup_steps=0",
                "max_steps=30",
                "checkpoint_every=1",
                "log_dir=runs",
                decay,
            ],
        )
    };
    let output = run_with(directory, &arguments("weight_decay=1"));
    assert_one_line_error(
        "weights",
        &output,
        &["not finite after step 1", "there is no checkpoint yet"],
    );
    // Without weight decay, the weights are finite but the loss is not.
    let output = run_with(directory, &arguments("weight_decay=0"));
    let parts = [
        "after step 1",
        "coco_caption_karpathy_train",
        "the last good checkpoint",
    ];
    assert_one_line_error("a loss", &output, &parts);
}

/// The files are those of the original Python writers. Shards that the golden data lacks are copies of an empty shard.
#[test]
fn published_command_trains_on_files_of_the_original_writers() {
    for prepare in vlct_golden::directories("prepare") {
        let directory = TempDir::new().expect("temporary directory");
        let data = directory.path().join("arrow");
        std::fs::create_dir(&data).expect("directory");
        for dataset in ["coco", "vg", "sbu", "gcc"] {
            for entry in std::fs::read_dir(prepare.join(dataset).join("expected"))
                .expect("golden data")
                .flatten()
            {
                if entry.path().extension().is_some_and(|e| e == "arrow") {
                    std::fs::copy(entry.path(), data.join(entry.file_name())).expect("copied");
                }
            }
        }
        let shards = prepare.join("gcc/expected/shard_size_4");
        let empty = std::fs::read_dir(&shards)
            .expect("golden data")
            .flatten()
            .map(|e| e.path())
            .filter(|p| p.extension().is_some_and(|e| e == "arrow"))
            .min_by_key(|p| p.metadata().map_or(u64::MAX, |m| m.len()))
            .expect("an empty shard");
        let names = (0..9)
            .map(|i| format!("sbu_{i}"))
            .chain((0..31).map(|i| format!("conceptual_caption_train_{i}")));
        for name in names {
            let path = data.join(format!("{name}.arrow"));
            if !path.exists() {
                std::fs::copy(&empty, path).expect("copied");
            }
        }
        let mae = vlct_golden::directories("model")[0].join("mae.pth");
        let pretrain_path = format!("pretrain_path={}", mae.display());
        let config = vlct_golden::json(mae.with_file_name("config.json"));
        let size_argument = |key: &str, golden_key: &str| format!("{key}={}", config[golden_key]);
        // The arguments of the published command, with the sizes of the golden model.
        let arguments = [
            "data_root=arrow".to_string(),
            "num_gpus=1".into(),
            "num_nodes=1".into(),
            "task_mlm_itm_mae".into(),
            "per_gpu_batchsize=4".into(),
            "whole_word_masking=True".into(),
            "step25k".into(),
            "image_size=64".into(),
            pretrain_path,
            "log_dir=result".into(),
            "mae_weight=1.0".into(),
            "batch_size=8".into(),
            "max_steps=2".into(),
            size_argument("hidden_size", "dim"),
            size_argument("depth", "depth"),
            size_argument("heads", "heads"),
            size_argument("decoder_width", "decoder_dim"),
            size_argument("decoder_depth", "decoder_depth"),
            size_argument("decoder_heads", "decoder_heads"),
            // Evaluation would reject the damaged images in the files, so these keys avoid it.
            "sanity_steps=0".into(),
            "val_check_interval=1.0".into(),
        ];
        let output = run_with(directory.path(), &arguments);
        assert_success(&output);
        assert!(stderr_of(&output).contains("weights of"), "{}", stderr_of(&output));
        let run = directory.path().join("result/mlm_itm_mae_seed0_from_/version_0");
        let checkpoint = checkpoint::load(&checkpoint::last_path(&run)).expect("a valid checkpoint");
        assert_eq!(checkpoint.state()[checkpoint::STEP_KEY], 2);
    }
}

/// Returns the peak resident memory, in KiB, of a short run on `rows` images with five captions each.
#[cfg(target_os = "linux")]
fn peak_memory(directory: &Path, rows: usize) -> u64 {
    let data = directory.join(format!("data{rows}"));
    write_synthetic(&data, 4);
    let scene = vlct_synthetic::Scene::generate(0, 0);
    let image = vlct_image::encode_png(&vlct_synthetic::render(&scene, 32)).expect("encodes");
    let mut writer = CaptionWriter::create(data.join("coco_caption_karpathy_train.arrow")).expect("writable");
    for row in 0..rows {
        let captions: Vec<String> = (0..5)
            .map(|i| format!("a small red circle number {row} of {i} above a blue square"))
            .collect();
        writer
            .push(&image, &captions, &format!("{row}.png"), "train")
            .expect("written");
    }
    writer.finish().expect("written");
    let arguments = tiny_model_arguments(
        &data.display().to_string(),
        &["max_steps=4", "limit_val_batches=1", "log_dir=runs"],
    );
    let mut child = vlct()
        .current_dir(directory)
        .args(["run", "with"])
        .args(&arguments)
        .spawn()
        .expect("the program starts");
    let mut peak = 0;
    while child.try_wait().expect("waiting").is_none() {
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let line = status
            .lines()
            .find_map(|l| l.strip_prefix("VmHWM:"))
            .unwrap_or_default();
        peak = peak.max(line.split_whitespace().next().and_then(|k| k.parse().ok()).unwrap_or(0));
        std::thread::sleep(Duration::from_millis(2));
    }
    assert!(child.wait().expect("waiting").success());
    peak
}

#[cfg(target_os = "linux")]
#[test]
fn peak_memory_does_not_grow_with_the_number_of_captions() {
    let directory = TempDir::new().expect("temporary directory");
    let peak_of_few = peak_memory(directory.path(), 200);
    let peak_of_many = peak_memory(directory.path(), 200_000);
    println!("peak of a run on 1e3 captions: {peak_of_few} KiB, on 1e6: {peak_of_many} KiB");
    assert!(
        peak_of_many < peak_of_few + 24 * 1024,
        "1e3 captions: {peak_of_few} KiB, 1e6 captions: {peak_of_many} KiB"
    );
}
