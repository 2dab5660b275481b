//! End-to-end tests of the command line: configuration commands of `vlct run`, help, errors and exit statuses.

use std::path::Path;
use std::process::{Command, Output};

fn vlct(directory: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vlct"))
        .args(arguments)
        .current_dir(directory)
        .output()
        .unwrap()
}

/// Runs the program in a new directory. Returns exit status, standard output and standard error.
fn run(arguments: &[&str]) -> (i32, String, String) {
    let directory = tempfile::tempdir().unwrap();
    let output = vlct(directory.path(), arguments);
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn assert_contains(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
}

#[test]
fn print_config_shows_the_resulting_values() {
    let (status, out, _) = run(&[
        "run",
        "print_config",
        "with",
        "learning_rate=5e-4",
        "task_finetune_vqa_mae_randaug",
        "step50k",
        "loss_names.mlm=1",
    ]);
    assert_eq!(status, 0);
    assert_contains(
        &out,
        &[
            "\n* learning_rate = 0.0005    (base: 0.0001)\n",
            "\n* max_steps = 50000    (base: 25000)\n",
            "\n* datasets = ['vqa']    (base: ['coco', 'vg', 'sbu', 'gcc'])\n",
            "\n  loss_names.mlm = 1\n",
            "\n* loss_names.vqa = 1    (base: 0)\n",
            "\n  seed = 0\n",
        ],
    );
    // In the reverse order, `max_steps=None` of the task wins over `step50k`.
    let (_, out, _) = run(&[
        "run",
        "print_config",
        "with",
        "step50k",
        "task_finetune_vqa_mae_randaug",
    ]);
    assert_contains(&out, &["\n* max_steps = None    (base: 25000)\n"]);
}

#[test]
fn accepts_the_published_pre_training_command() {
    let published = "data_root=<ARROW_ROOT> num_gpus=1 num_nodes=1 task_mlm_itm_mae per_gpu_batchsize=8 \
                     whole_word_masking=True step25k image_size=384 pretrain_path=<PRETRAIN_PATH> log_dir=<LOG_FOLDER> \
                     mae_weight=1.0";
    let words: Vec<&str> = ["run", "print_config", "with"]
        .into_iter()
        .chain(published.split_whitespace())
        .collect();
    let (status, out, stderr) = run(&words);
    assert_eq!((status, stderr.as_str()), (0, ""));
    assert_contains(
        &out,
        &[
            "\n  image_size = 384\n",
            "\n* mask_ratio = 0.6 ",
            "\n* whole_word_masking = True ",
            "'<ARROW_ROOT>'",
        ],
    );
}

#[test]
fn errors_are_one_line_and_exit_with_1() {
    for (words, parts) in [
        (
            &["run", "with", "batchsize=3"][..],
            &["unknown key \"batchsize\"", "\"batch_size\""][..],
        ),
        (
            &["run", "with", "task_mlm_it"],
            &["unknown named config \"task_mlm_it\"", "did you mean task_mlm_itm?"],
        ),
        (
            &["run", "with", "test_only=true"],
            &["test_only='true'", "expected bool", "did you mean True?"],
        ),
        (
            &["run", "with", "mask_ratio=2"],
            &["mask_ratio=2 is out of range: must be at least 0 and below 1"],
        ),
        (&["run", "with", "nowhere.json"], &["nowhere.json"]),
        (&["run", "with", "data_root=/d"], &["per_gpu_batchsize is not set"]),
        (
            &["run", "with", "num_gpus=4"],
            &["num_gpus=4 needs 4 CUDA devices", "use num_gpus=1"],
        ),
        (&["run", "help", "batchsize"], &["batch_size"]),
        (&["inspect", "nowhere"], &["nowhere"]),
        (&["convert", "nowhere.ckpt", "out.safetensors"], &["nowhere.ckpt"]),
    ] {
        let (status, out, stderr) = run(words);
        assert_eq!((status, out.as_str()), (1, ""), "{words:?}");
        assert!(stderr.starts_with("error: "), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert_contains(&stderr, parts);
    }
}

#[test]
fn wrong_usage_exits_with_2() {
    for words in [
        &["fly"][..],
        &["run", "print_confg"],
        &["run", "batch_size=3"],
        &["run", "with", "--batch_size=3"],
        &["convert", "one"],
        &["convert", "a", "b", "--style", "x"],
        &["bench", "pretrain", "--steps", "0"],
        &["bench", "vqa", "--threads", "-1"],
        &["quickstart", "--minutes", "-1"],
        &[],
    ] {
        let (status, _, stderr) = run(words);
        assert_eq!(status, 2, "{words:?}: {stderr}");
    }
}

#[test]
fn print_config_reports_that_a_run_would_fail() {
    let (status, out, stderr) = run(&["run", "print_config", "with", "use_mae=True", "precision=16"]);
    assert_eq!(status, 0);
    assert_contains(&out, &["* use_mae = True", "* precision = 'bf16'"]);
    assert_contains(
        &stderr,
        &[
            "note: a run would fail: use_mae=True",
            "note: precision=16 selects bfloat16",
        ],
    );
}

#[test]
fn a_saved_configuration_can_be_loaded_again() {
    let directory = tempfile::tempdir().unwrap();
    let saved = vlct(
        directory.path(),
        &[
            "run",
            "save_config",
            "with",
            "task_finetune_nlvr2_mae_randaug",
            "seed=7",
        ],
    );
    assert!(saved.status.success());
    let json: serde_json::Value =
        serde_json::from_slice(&std::fs::read(directory.path().join("config.json")).unwrap()).unwrap();
    assert_eq!(
        (&json["seed"], &json["max_steps"]),
        (&7.into(), &serde_json::Value::Null)
    );

    let direct = vlct(
        directory.path(),
        &[
            "run",
            "print_config",
            "with",
            "task_finetune_nlvr2_mae_randaug",
            "seed=7",
        ],
    );
    let from_file = vlct(directory.path(), &["run", "print_config", "with", "config.json"]);
    assert_eq!(direct.stdout, from_file.stdout);

    let saved_as_other = vlct(
        directory.path(),
        &["run", "save_config", "with", "config_filename=other.json"],
    );
    assert!(saved_as_other.status.success() && directory.path().join("other.json").is_file());
}

#[test]
fn help_covers_commands_keys_and_named_configs() {
    let (status, out, _) = run(&["--help"]);
    assert_eq!(status, 0);
    assert_contains(
        &out,
        &[
            "vlct quickstart",
            "vlct run with",
            "Exit status",
            "inspect",
            "convert",
            "bench",
        ],
    );

    let (status, out, _) = run(&["run", "--help"]);
    assert_eq!(status, 0);
    assert_contains(
        &out,
        &[
            "KEY=VALUE",
            "print_config",
            "KEY=VALUE overrides named configs and files",
            "task_mlm_itm_mae",
        ],
    );

    for words in [&["run", "help"][..], &["run", "with", "seed=1", "-h"]] {
        let (status, out, _) = run(words);
        assert_eq!(status, 0);
        assert_contains(
            &out,
            &[
                "warmup_steps = 2500",
                "at least",
                "Peak learning rate.",
                "task_finetune_vqa_mae_randaug",
            ],
        );
    }
    let (_, out, _) = run(&["run", "help", "mask_ratio"]);
    assert_contains(&out, &["mask_ratio = 0.75    (float; at least 0 and below 1)"]);
    let (_, out, _) = run(&["run", "help", "task_mlm_itm_mae"]);
    assert_contains(&out, &["Command:", "step25k"]);
    let (_, out, _) = run(&["run", "print_named_configs"]);
    assert_contains(&out, &["step200k", "max_steps = 200000", "mask_ratio = 0.6"]);
}
