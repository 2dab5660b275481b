//! Runs of `vlct imagenet`: what they take from weights and from earlier runs, and where they write.

mod support;

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use support::imagenet::{imagenet, log, words, write_classes};
use support::{assert_one_line_error, assert_success, stderr_of, stdout_of, vlct, vlct_in};
use tempfile::TempDir;
use vlct_model::files;

/// Runs `vlct imagenet` with these words alone.
fn alone(directory: &Path, words: &[&str]) -> Output {
    vlct_in(directory, &[&["imagenet"], words].concat())
}

#[test]
fn evaluations_take_sizes_and_head_from_the_weights() {
    let directory = TempDir::new().expect("temporary directory");
    let directory = directory.path();
    write_classes(directory, 40);
    assert_success(&imagenet(directory, "out", &["--epochs", "2", "--cls_token"]));
    let accuracy = log(&directory.join("out"))[1]["test_acc1"].as_f64().expect("a number");
    let data = ["--data_path", "data/classes"];
    for weights in ["out/last", "out/checkpoint-1.pth"] {
        let output = alone(directory, &[&["--eval", "--finetune", weights], &data[..]].concat());
        assert_success(&output);
        assert!(
            stdout_of(&output).starts_with(&format!("* Acc@1 {accuracy:.3} ")),
            "{}",
            stdout_of(&output)
        );
        assert!(
            stderr_of(&output).contains("images of 32 x 32 pixels"),
            "{}",
            stderr_of(&output)
        );
    }
    let larger = [&["--eval", "--finetune", "out", "--input_size", "64"], &data[..]].concat();
    assert!(!stderr_of(&alone(directory, &larger)).contains("32 x 32"));

    // A probe is recognised by its head.
    let probe = [
        "--linear_probe",
        "--finetune",
        "out",
        "--batch_size",
        "8",
        "--epochs",
        "2",
        "--output_dir",
        "probe",
    ];
    let output = alone(directory, &[&probe[..], &data].concat());
    assert_success(&output);
    assert!(
        stderr_of(&output).contains("too few for the learning rate"),
        "{}",
        stderr_of(&output)
    );
    let accuracy = log(&directory.join("probe"))[1]["test_acc1"]
        .as_f64()
        .expect("a number");
    for weights in ["probe/last", "probe/checkpoint-1.pth"] {
        let output = alone(directory, &[&["--eval", "--finetune", weights], &data[..]].concat());
        assert_success(&output);
        assert!(
            stdout_of(&output).starts_with(&format!("* Acc@1 {accuracy:.3} ")),
            "{}",
            stdout_of(&output)
        );
    }
    let digits = ["--hflip", "0", "--min_crop_area", "0.5", "--output_dir", "digits"];
    assert_success(&alone(directory, &[&probe[..7], &digits, &data].concat()));
    let output = alone(directory, &[&probe[..], &["--layer_decay", "0.5"], &data].concat());
    assert!(
        stderr_of(&output).contains("--layer_decay has no effect"),
        "{}",
        stderr_of(&output)
    );

    // The weights of a run that were converted keep the number of heads; without it, it must be given.
    for (file, more) in [
        ("dig.pth", &[][..]),
        ("mae.pth", &["--style", "mae"]),
        ("dig.safetensors", &[]),
    ] {
        assert_success(&vlct_in(directory, &[&["convert", "out/last", file], more].concat()));
        let output = alone(directory, &[&["--eval", "--finetune", file], &data[..]].concat());
        assert_success(&output);
        assert!(
            !stderr_of(&output).contains("number of attention heads"),
            "{}",
            stderr_of(&output)
        );
    }
    let state = files::read(&directory.join("out/checkpoint-1.pth"))
        .expect("weights")
        .state;
    files::write(&directory.join("plain.pth"), &state, &files::Style::Mae.into()).expect("written");
    let output = alone(directory, &[&["--eval", "--finetune", "plain.pth"], &data[..]].concat());
    assert_one_line_error("no heads", &output, &["plain.pth", "--heads"]);
}

#[test]
fn a_file_that_lacks_tensors_of_the_encoder_is_an_error() {
    let directory = TempDir::new().expect("temporary directory");
    let directory = directory.path();
    write_classes(directory, 20);
    assert_success(&imagenet(directory, "out", &["--epochs", "1"]));
    let state = files::read(&directory.join("out/checkpoint-0.pth"))
        .expect("weights")
        .state;
    let state = state
        .into_iter()
        .filter(|(name, _)| name != "blocks.1.mlp.fc1.bias")
        .collect();
    files::write(&directory.join("lacks.pth"), &state, &files::Style::Mae.into()).expect("written");
    let output = imagenet(directory, "more", &["--epochs", "1", "--finetune", "lacks.pth"]);
    assert_one_line_error("a missing tensor", &output, &["lacks.pth", "blocks.1.mlp.fc1.bias"]);
    assert!(!directory.join("more/last").exists());
}

#[test]
fn a_resumed_run_keeps_its_flags_and_its_directory() {
    let directory = TempDir::new().expect("temporary directory");
    let directory = directory.path();
    write_classes(directory, 40);
    assert_success(&imagenet(
        directory,
        "whole",
        &["--epochs", "3", "--mixup", "0.8", "--keep", "2"],
    ));
    assert_success(&imagenet(
        directory,
        "out",
        &["--epochs", "1", "--mixup", "0.8", "--keep", "2"],
    ));
    let output = alone(directory, &["--resume", "out", "--output_dir", "new"]);
    assert_one_line_error(
        "another directory",
        &output,
        &["out: a run continues", "not in new", "out/checkpoint-EPOCH.pth"],
    );
    assert!(!directory.join("new").exists());

    let output = alone(directory, &["--resume", "out", "--epochs", "2"]);
    assert_success(&output);
    assert!(
        stdout_of(&output).contains("vlct report out\n"),
        "{}",
        stdout_of(&output)
    );
    assert!(
        stderr_of(&output).contains("epochs was 1 when the run began and is 2 now"),
        "{}",
        stderr_of(&output)
    );
    let config = std::fs::read_to_string(directory.join("out/config.toml")).expect("settings");
    for line in ["epochs = 2", "mixup = 0.8", "keep = 2", "heads = 2", "batch_size = 4"] {
        assert!(config.lines().any(|found| found == line), "{line}: {config}");
    }
    assert!(!directory.join("output_dir").exists());

    // From the file of an epoch, the run begins in another directory, with the same flags.
    let output = alone(
        directory,
        &["--resume", "whole/checkpoint-1.pth", "--output_dir", "new"],
    );
    assert_success(&output);
    let file = |run: &str| std::fs::read(directory.join(run).join("checkpoint-2.pth")).expect("a file");
    assert!(file("new") == file("whole"));

    for (more, parts) in [
        (&["--heads", "4"][..], &["2 attention heads, and has 4 now"][..]),
        (&["--batch_size", "2"], &["batch size was 4", "--batch_size"]),
        (&["--resume", "https://example.org/x.pth"], &["download the file first"]),
        (&["--resume", "nowhere"], &["--resume nowhere: it does not exist"]),
    ] {
        let output = alone(directory, &[&["--resume", "out", "--epochs", "4"], more].concat());
        assert_one_line_error(&more.join(" "), &output, parts);
    }
    let path = directory.join("out/last/checkpoint.safetensors");
    let bytes = std::fs::read(&path).expect("a checkpoint");
    std::fs::write(&path, &bytes[..bytes.len() / 2]).expect("written");
    let output = alone(directory, &["--resume", "out", "--epochs", "4"]);
    assert_one_line_error(
        "a truncated checkpoint",
        &output,
        &["last", "--resume out/checkpoint-1.pth --output_dir out"],
    );
}

#[cfg(unix)]
#[test]
fn a_directory_has_one_run_at_a_time_which_says_that_it_stops() {
    let directory = TempDir::new().expect("temporary directory");
    let directory = directory.path();
    write_classes(directory, 60);
    let long = words("out", &["--epochs", "1000"]);
    let log = std::fs::File::create(directory.join("log")).expect("a file");
    let mut first = vlct();
    let first = first
        .current_dir(directory)
        .args(&long)
        .stdout(Stdio::piped())
        .stderr(log);
    let first = first.spawn().expect("the program starts");
    let (begun, limit) = (Instant::now(), Duration::from_secs(60));
    while !directory.join("out/checkpoint-1.pth").exists() {
        assert!(begun.elapsed() < limit, "the run has not begun");
        std::thread::sleep(Duration::from_millis(20));
    }
    let second = imagenet(directory, "out", &["--epochs", "1"]);
    let resumed = alone(directory, &["--resume", "out"]);
    let killed = Command::new("kill").arg(first.id().to_string()).status();
    assert!(killed.expect("kill").success());
    let first = first.wait_with_output().expect("ended");
    for output in [second, resumed] {
        assert_one_line_error(
            "a running run",
            &output,
            &["out: another process trains in this run directory"],
        );
    }
    assert!(
        stdout_of(&first).contains("continue: vlct imagenet --resume out\n"),
        "{}",
        stdout_of(&first)
    );
    let log = std::fs::read_to_string(directory.join("log")).expect("text");
    assert!(log.contains("stopping after the current micro-batch"), "{log}");
    assert_success(&alone(directory, &["--resume", "out", "--epochs", "3"]));
}

#[cfg(unix)]
#[test]
fn a_full_disk_is_one_line() {
    let directory = TempDir::new().expect("temporary directory");
    let directory = directory.path();
    write_classes(directory, 20);
    assert_success(&imagenet(directory, "out", &["--epochs", "1"]));
    // A file may have 4 KiB, as if the disk had no more.
    let script = "trap '' XFSZ; ulimit -f 8; exec \"$0\" convert out/last converted.pth";
    let mut shell = Command::new("sh");
    let shell = shell
        .current_dir(directory)
        .args(["-c", script, env!("CARGO_BIN_EXE_vlct")]);
    let output = shell.output().expect("a shell");
    assert_one_line_error("a full disk", &output, &["converted.pth", "too large"]);
}

#[test]
fn flags_without_effect_or_sense_are_named() {
    let directory = TempDir::new().expect("temporary directory");
    let directory = directory.path();
    write_classes(directory, 20);
    std::fs::write(directory.join("file"), "").expect("written");
    for (more, parts) in [
        (&["--cutmix_minmax", "0.8", "0.2"][..], &["cutmix_minmax=0.8,0.2"][..]),
        (&["--start_epoch", "3", "--epochs", "2"], &["start_epoch=3", "epochs=2"]),
        (&["--output_dir", "file"], &["file: it is a file"]),
        (
            &["--finetune", "https://example.org/x.pth"],
            &["download the file first"],
        ),
        (
            &["--batch_size", "64"],
            &["there are 20 images for training", "--batch_size"],
        ),
        (
            &["--data_path", "data/classes/val", "--val_fraction", "1"],
            &["--val_fraction 1 holds all of them out"],
        ),
        (
            &["--data_path", "data/classes/val"],
            &["val/CLASS/IMAGE", "--val_fraction 0.1"],
        ),
    ] {
        let output = imagenet(directory, "out", more);
        assert_one_line_error(&more.join(" "), &output, parts);
    }
    for (more, part) in [
        (["--num_workers", "30000"], "from 0 to 1024"),
        (["--lr", "-1"], "a number that is not negative"),
        (["--epochs", "-1"], "invalid value '-1'"),
    ] {
        let output = imagenet(directory, "out", &more);
        assert!(
            output.status.code() == Some(2) && stderr_of(&output).contains(part),
            "{}",
            stderr_of(&output)
        );
    }
    let warned = [
        "--epochs",
        "1",
        "--warmup_epochs",
        "3",
        "--val_fraction",
        "0.1",
        "--lr",
        "1e-7",
    ];
    let output = imagenet(directory, "out", &warned);
    assert_success(&output);
    for part in [
        "warmup_epochs=3",
        "min_lr=0.000001 is larger",
        "--val_fraction has no effect",
    ] {
        assert!(stderr_of(&output).contains(part), "{part}: {}", stderr_of(&output));
    }
    // A directory of its own is evaluated as a whole.
    let whole = [
        "--eval",
        "--finetune",
        "out",
        "--data_path",
        "data/classes/val",
        "--val_fraction",
        "1",
    ];
    let output = imagenet(directory, "evaluated", &whole);
    assert_success(&output);
    let rows = support::imagenet::csv_rows(&directory.join("evaluated/predictions.csv"));
    assert_eq!(rows.len(), 20);

    // A run with images that were held out says so if other images are.
    let train = [
        "--data_path",
        "data/classes/train",
        "--epochs",
        "1",
        "--val_fraction",
        "0.2",
    ];
    assert_success(&imagenet(directory, "held", &train));
    let other = [
        "--data_path",
        "data/classes/train",
        "--eval",
        "--finetune",
        "held",
        "--val_fraction",
        "0.5",
    ];
    let output = imagenet(directory, "evaluated", &other);
    assert!(
        stderr_of(&output).contains("trained with --val_fraction 0.2"),
        "{}",
        stderr_of(&output)
    );
    let output = imagenet(directory, "unused", &["--knn=1", "--finetune", "out"]);
    assert!(
        stderr_of(&output).contains("--output_dir has no effect with --knn"),
        "{}",
        stderr_of(&output)
    );
}
