//! Fine-tuning of image classifiers: outputs, loading, resuming, bad input.

mod support;

use std::path::{Path, PathBuf};

use serde_json::Value;
use support::imagenet::{csv_rows, imagenet, log, words, write_classes};
use support::kills::KilledRun;
use support::{assert_one_line_error, assert_success, stderr_of, stdout_of, vlct_in};
use tempfile::TempDir;
use vlct_checkpoint as checkpoint;
use vlct_data::random::{Purpose, stream};
use vlct_model::files;

#[test]
fn a_run_writes_the_published_outputs_and_its_weights_are_fine_tuned_further() {
    let directory = TempDir::new().expect("temporary directory");
    let directory = directory.path();
    write_classes(directory, 60);
    let output = imagenet(
        directory,
        "out",
        &[
            "--epochs",
            "2",
            "--accum_iter",
            "2",
            "--mixup",
            "0.8",
            "--cutmix",
            "1.0",
            "--dist_eval",
            "--keep",
            "1",
        ],
    );
    assert_success(&output);
    assert!(
        stderr_of(&output).contains("warning: without effect: --dist_eval"),
        "{}",
        stderr_of(&output)
    );
    assert!(
        stdout_of(&output).contains("among the five most probable classes"),
        "{}",
        stdout_of(&output)
    );
    let out = directory.join("out");
    let log = log(&out);
    assert_eq!(log.len(), 2);
    let keys: Vec<&String> = log[0].as_object().expect("an object").keys().collect();
    assert_eq!(
        keys,
        [
            "train_lr",
            "train_loss",
            "test_loss",
            "test_acc1",
            "test_acc5",
            "epoch",
            "n_parameters"
        ]
    );
    assert_eq!(log[1]["epoch"], 1);
    assert!(log[1]["test_acc5"].as_f64() >= log[1]["test_acc1"].as_f64());
    assert!(!out.join("checkpoint-0.pth").exists() && out.join("checkpoint-1.pth").is_file());
    let saved = files::read(&out.join("checkpoint-1.pth")).expect("weights");
    assert_eq!(saved.summary.weights_under.as_deref(), Some("model"));
    let parameters: usize = saved
        .state
        .iter()
        .map(|(_, tensor)| tensor.shape.iter().product::<usize>())
        .sum();
    assert_eq!(log[1]["n_parameters"], parameters);
    assert!(checkpoint::best_path(&out).is_file() && checkpoint::last_path(&out).is_file());

    let mut words = words("unused", &["--eval", "--finetune", "out/checkpoint-1.pth"]);
    let option = words.iter().position(|word| word == "--output_dir").expect("an option");
    words.drain(option..option + 2);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let evaluated = vlct_in(directory, &words);
    assert_success(&evaluated);
    let text = stdout_of(&evaluated);
    let accuracy = log[1]["test_acc1"].as_f64().expect("a number");
    let line = format!("* Acc@1 {accuracy:.3} Acc@5");
    assert!(text.lines().any(|found| found.starts_with(&line)), "{text}");
    assert!(text.contains("most frequent mistakes:"), "{text}");
    assert!(
        !directory.join("output_dir").exists(),
        "without the option, nothing is written"
    );

    // The predictions beside the best checkpoint are those of an evaluation of its weights.
    assert_success(&imagenet(directory, "evaluated", &["--eval", "--finetune", "out"]));
    for file in ["predictions.csv", "confusion.csv"] {
        let read = |run: &str| std::fs::read_to_string(directory.join(run).join(file)).expect("a table");
        assert_eq!(read("out"), read("evaluated"), "{file}");
    }
    let rows = csv_rows(&out.join("predictions.csv"));
    let best = log
        .iter()
        .filter_map(|line| line["test_acc1"].as_f64())
        .fold(0.0, f64::max);
    let correct = rows.iter().filter(|row| row[4] == "true").count();
    assert!(
        (100.0 * correct as f64 / rows.len() as f64 - best).abs() < 1e-9,
        "{best}"
    );
    assert!(rows[0][0].starts_with("data/classes/val/circle/"), "{:?}", rows[0]);
    let matrix = csv_rows(&out.join("confusion.csv"));
    let counts = |row: &Vec<String>| {
        row[1..]
            .iter()
            .map(|count| count.parse::<usize>().expect("a number"))
            .sum::<usize>()
    };
    assert_eq!(matrix.iter().map(counts).sum::<usize>(), rows.len());

    let class = vlct_in(
        directory,
        &["predict", "classify", "--load", "out", "--csv", "data/classes/val/star"],
    );
    assert_success(&class);
    assert!(stdout_of(&class).lines().count() > 1, "{}", stdout_of(&class));

    let inspected = vlct_in(directory, &["inspect", "out"]);
    assert_success(&inspected);
    let text = stdout_of(&inspected);
    for part in [
        "fine-tuning of an image classifier (vlct imagenet)",
        "    accum_iter = 2\n",
        "    mixup = 0.8\n",
        "that reads the mean of the patches\n  images of 32 x 32 pixels in patches of 8; width 16, 2 blocks, 2 attention heads",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains("smoothing"), "the default: {text}");

    let reported = vlct_in(directory, &["report", "out"]);
    assert_success(&reported);
    let page = std::fs::read_to_string(out.join("report.html")).expect("a page");
    for part in [
        "images: top5",
        "Confusion matrix",
        "Accuracy of each class",
        "Best checkpoint",
        "Correct: <span",
        "Trained a vision transformer (patches of 8, width 16, depth 2, heads 2) from random weights",
    ] {
        assert!(page.contains(part), "{part}");
    }
    let values: Value = serde_json::from_slice(&std::fs::read(out.join("report.json")).expect("values")).expect("JSON");
    assert_eq!(
        values["metrics"]["images/val/top5_epoch"]["value"],
        log[1]["test_acc5"].as_f64().expect("a number") / 100.0
    );
    let images: u64 = values["classes"]
        .as_object()
        .expect("classes")
        .values()
        .filter_map(|class| class["images"].as_u64())
        .sum();
    assert_eq!(images, rows.len() as u64);

    // The published file begins another run; a new number of classes has a new head.
    std::fs::remove_dir_all(directory.join("data/classes/train/circle")).expect("a class");
    std::fs::remove_dir_all(directory.join("data/classes/val/circle")).expect("a class");
    let output = imagenet(
        directory,
        "more",
        &["--epochs", "1", "--finetune", "out/checkpoint-1.pth"],
    );
    assert_success(&output);
    let text = stderr_of(&output);
    assert!(
        text.contains("head.weight") && text.contains("classes instead of"),
        "{text}"
    );
}

#[test]
fn frozen_features_are_measured_by_neighbours_and_by_a_linear_probe() {
    let directory = TempDir::new().expect("temporary directory");
    let directory = directory.path();
    write_classes(directory, 40);
    assert_success(&imagenet(directory, "out", &["--epochs", "1"]));
    // The sizes are those of the weights.
    let with_sizes_of = |out: &str, more: &[&str]| {
        let fixed = ["imagenet", "--data_path", "data/classes", "--output_dir", out];
        let images = ["--input_size", "32", "--num_workers", "2", "--global_pool"];
        vlct_in(directory, &[&fixed, &images, more].concat())
    };

    let output = with_sizes_of("unused", &["--knn=1,5", "--finetune", "out"]);
    assert_success(&output);
    let text = stdout_of(&output);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert!(
        lines[0].starts_with("* k 1 Acc@1 ") && lines[1].starts_with("* k 5 Acc@1 "),
        "{text}"
    );
    assert!(!directory.join("unused").exists());

    let probe = [
        "--linear_probe",
        "--batch_size",
        "8",
        "--epochs",
        "2",
        "--warmup_epochs",
        "1",
    ];
    let output = with_sizes_of("probe", &[&probe[..], &["--finetune", "out"]].concat());
    assert_success(&output);
    let log = log(&directory.join("probe"));
    assert_eq!(log[1]["n_parameters"], 16 * 9 + 9, "the head alone is trained");
    let saved = files::read(&directory.join("probe/checkpoint-1.pth"))
        .expect("weights")
        .state;
    let begun = files::read(&directory.join("out/best/checkpoint.safetensors"))
        .expect("weights")
        .state;
    for (name, tensor) in begun.iter().filter(|(name, _)| !name.starts_with("head.")) {
        assert_eq!(saved.get(name), Some(tensor), "{name} is frozen");
    }
    assert!(saved.contains("head.0.running_mean") && saved.contains("head.1.weight"));
    let output = with_sizes_of(
        "unused",
        &[
            "--eval",
            "--linear_probe",
            "--heads",
            "2",
            "--finetune",
            "probe/checkpoint-1.pth",
        ],
    );
    assert_success(&output);
    let accuracy = log[1]["test_acc1"].as_f64().expect("a number");
    assert!(
        stdout_of(&output).contains(&format!("* Acc@1 {accuracy:.3} ")),
        "{}",
        stdout_of(&output)
    );
    let class = vlct_in(
        directory,
        &[
            "predict",
            "classify",
            "--load",
            "probe",
            "--csv",
            "data/classes/val/star",
        ],
    );
    assert_success(&class);
}

#[test]
fn runs_continue_from_the_published_files_of_their_epochs() {
    let directory = TempDir::new().expect("temporary directory");
    let directory = directory.path();
    write_classes(directory, 40);
    let options = ["--epochs", "3", "--mixup", "0.8", "--accum_iter", "2"];
    assert_success(&imagenet(directory, "out", &options));
    let resumed = |out: &str, from: &str, more: &[&str]| {
        let output = imagenet(directory, out, &[&options, &["--resume", from][..], more].concat());
        assert_success(&output);
        output
    };
    let file = |out: &str| std::fs::read(directory.join(out).join("checkpoint-2.pth")).expect("a file");

    // In a new directory, and in the directory of the run itself.
    let whole = file("out");
    resumed("new", "out/checkpoint-0.pth", &[]);
    assert_eq!(file("new"), whole);
    assert_eq!(log(&directory.join("new")), log(&directory.join("out"))[1..]);
    let before = log(&directory.join("out"));
    resumed("out", "out/checkpoint-0.pth", &[]);
    assert_eq!(file("out"), whole);
    assert_eq!(log(&directory.join("out")), before);

    // A file without an optimiser begins at the epoch that is given.
    let weights = files::read(&directory.join("out/checkpoint-0.pth"))
        .expect("weights")
        .state;
    files::write(&directory.join("weights.pth"), &weights, &files::Style::Mae.into()).expect("written");
    let output = resumed("weights", "weights.pth", &["--start_epoch", "2"]);
    let text = stderr_of(&output);
    assert!(
        text.contains("no state of an optimiser") && text.contains("at epoch 2"),
        "{text}"
    );
    assert_eq!(log(&directory.join("weights")).len(), 1);

    // Another recipe has other groups.
    let probe = ["--linear_probe", "--global_pool", "--resume", "out/checkpoint-0.pth"];
    let output = imagenet(directory, "probe", &probe);
    assert_one_line_error("another recipe", &output, &["checkpoint-0.pth", "head.0.running_mean"]);
}

#[test]
fn images_that_cannot_be_read_are_named() {
    let directory = TempDir::new().expect("temporary directory");
    let directory = directory.path();
    write_classes(directory, 20);
    let star = directory.join("data/classes/val/star");
    let first = std::fs::read_dir(&star)
        .expect("a class")
        .next()
        .expect("an image")
        .expect("an entry");
    std::fs::write(first.path(), "not an image").expect("written");

    assert_success(&imagenet(directory, "out", &["--epochs", "1"]));
    std::fs::write(directory.join("file"), "").expect("written");
    let output = imagenet(directory, "file/evaluated", &["--eval", "--finetune", "out"]);
    assert_one_line_error("an --output_dir in a file", &output, &["file/evaluated"]);
    let output = imagenet(directory, "evaluated", &["--eval", "--finetune", "out"]);
    assert!(stdout_of(&output).starts_with("* Acc@1 "), "{}", stdout_of(&output));
    let name = first.file_name().into_string().expect("UTF-8");
    let error = stderr_of(&output);
    assert!(
        !output.status.success() && error.contains("1 image could not be read"),
        "{error}"
    );
    assert!(error.contains(&name), "{error}");
    for run in ["out", "evaluated"] {
        let rows = csv_rows(&directory.join(run).join("predictions.csv"));
        let damaged: Vec<&Vec<String>> = rows.iter().filter(|row| row[2].is_empty()).collect();
        let [row] = damaged.as_slice() else {
            panic!("{run}: {damaged:?}")
        };
        assert!(row[0].ends_with(&name) && row[1] == "star", "{row:?}");
        assert!(row[13].contains(&name), "{row:?}");
    }
}

#[cfg(unix)]
#[test]
fn an_image_that_is_no_file_has_its_class_in_the_predictions() {
    let directory = TempDir::new().expect("temporary directory");
    let directory = directory.path();
    write_classes(directory, 20);
    assert_success(&imagenet(directory, "out", &["--epochs", "1"]));
    let star = directory.join("data/classes/val/star");
    std::fs::remove_dir_all(&star).expect("removed");
    std::fs::create_dir(&star).expect("created");
    std::os::unix::fs::symlink("nowhere.png", star.join("a.png")).expect("a link");
    std::os::unix::fs::symlink("/dev/null", star.join("b.png")).expect("a link");
    let output = imagenet(directory, "evaluated", &["--eval", "--finetune", "out"]);
    let error = stderr_of(&output);
    assert!(error.contains("2 images could not be read and are"), "{error}");
    assert!(error.contains("no validation image can be read of \"star\""), "{error}");
    // In training, images are counted one by one; in its validation, each of them once.
    let train = std::fs::read_dir(directory.join("data/classes/train/circle")).expect("a class");
    for image in train.take(2) {
        std::fs::write(image.expect("an entry").path(), "not an image").expect("written");
    }
    let output = imagenet(directory, "more", &["--epochs", "1"]);
    assert_success(&output);
    for part in [
        "(1 in this run)",
        "(2 in this run)",
        "the validation has replaced 2 unreadable images",
    ] {
        assert!(stderr_of(&output).contains(part), "{part}: {}", stderr_of(&output));
    }
    let rows = csv_rows(&directory.join("evaluated/predictions.csv"));
    let damaged: Vec<&Vec<String>> = rows.iter().filter(|row| row[2].is_empty()).collect();
    assert_eq!(damaged.len(), 2);
    assert!(damaged.iter().all(|row| row[1] == "star"), "{damaged:?}");
    let output = vlct_in(
        directory,
        &[
            "predict",
            "classify",
            "--load",
            "out/checkpoint-0.pth",
            "data/classes/val/circle",
        ],
    );
    assert_one_line_error(
        "the file of an epoch",
        &output,
        &["give the run directory", "--load out"],
    );
}

#[test]
fn killed_runs_have_the_weights_of_an_uninterrupted_run() {
    let directory = TempDir::new().expect("temporary directory");
    let directory = directory.path();
    write_classes(directory, 50);
    let mixed = "--mixup 0.8 --cutmix 1.0 --clip_grad 1.0";
    // The running statistics of the batch norm are restored, too.
    for (i, options) in [mixed, "--linear_probe --min_lr 0.01"].into_iter().enumerate() {
        let common = format!("--epochs 8 --accum_iter 2 --ema_decay 0.9 {options}");
        assert_killed_runs_are_equal(directory, &common.split(' ').collect::<Vec<_>>(), 13 + i as u64);
    }
}

/// Checks that runs with these options that are killed and resumed have the weights and the log of an uninterrupted run.
fn assert_killed_runs_are_equal(directory: &Path, options: &[&str], seed: u64) {
    let killed_run = KilledRun {
        directory,
        arguments: &|out| words(out, options),
        resume: &|out: &Path| vec!["--resume".to_string(), out.display().to_string()],
        run_directory: &|out| directory.join(out),
        milliseconds: 100..700,
    };
    let name = format!("classes{seed}");
    let runs: Vec<PathBuf> = killed_run.assert_same_weights(&name, 4, &mut stream(seed, Purpose::Synthetic, 0, 0));
    for run in &runs {
        assert_eq!(log(run), log(&runs[0]), "{}", run.display());
        let predictions = |run: &Path| std::fs::read_to_string(run.join("predictions.csv")).expect("predictions");
        assert_eq!(predictions(run), predictions(&runs[0]), "{}", run.display());
    }
}

#[test]
fn bad_input_is_one_line() {
    let directory = TempDir::new().expect("temporary directory");
    let directory = directory.path();
    write_classes(directory, 20);
    std::fs::create_dir_all(directory.join("empty")).expect("created");
    for (more, parts) in [
        (&["--data_path", "nowhere"][..], &["nowhere"][..]),
        (&["--data_path", "empty"], &["empty"]),
        (&["--nb_classes", "1000"], &["classes, not the 1000 of --nb_classes"]),
        (&["--finetune", "none.pth"], &["none.pth"]),
        (
            &["--input_size", "30"],
            &["input_size=30 is not a multiple of the patch size 8"],
        ),
        (&["--aa", "rand-x9"], &["rand-x9"]),
        (&["--resume", "https://example.org/x.pth"], &["download the file first"]),
        (&["--batch_size", "64"], &["fewer than the 64 of an optimiser step"]),
        (&["--linear_probe", "--mixup", "0.8"], &["leave out mixup"]),
    ] {
        let output = imagenet(directory, "out", more);
        assert_one_line_error(&more.join(" "), &output, parts);
    }
}
