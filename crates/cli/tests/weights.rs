//! End-to-end tests of weight files: parts of a model, damaged and odd files, run directories, runs that are complete.

mod support;

use std::path::Path;
use std::process::Output;

use support::{
    assert_one_line_error, assert_same_checkpoint, assert_success, last_checkpoint, run_directory, run_with, stderr_of,
    stdout_of, tiny_model_arguments, vlct_in, write_synthetic,
};
use tempfile::TempDir;
use vlct_checkpoint as checkpoint;
use vlct_model::files::{self, StateDict, StoredTensor, Style};

/// Returns a directory with a dataset and a run of 2 steps in `runs`.
fn trained() -> TempDir {
    let directory = TempDir::new().expect("a temporary directory");
    write_synthetic(&directory.path().join("data"), 24);
    assert_success(&train(directory.path(), &["log_dir=runs"]));
    directory
}

/// Trains 2 steps with `more` arguments.
fn train(directory: &Path, more: &[&str]) -> Output {
    let more = [
        &["max_steps=2", "val_check_interval=4", "limit_val_batches=1"][..],
        more,
    ]
    .concat();
    run_with(directory, &tiny_model_arguments("data", &more))
}

/// Writes the weights of the trained run as `name`, after `change`.
fn write(directory: &Path, name: &str, change: impl FnOnce(StateDict) -> StateDict) {
    let state = files::read(&run_directory(directory, "runs")).expect("weights").state;
    files::write(&directory.join(name), &change(state), &Style::Vlc.into()).expect("written");
}

#[test]
fn a_part_of_a_model_is_loaded_only_if_asked_for() {
    let directory = trained();
    let directory = directory.path();
    write(directory, "part.pth", |state| {
        let is_kept = |name: &str| !name.starts_with("transformer.blocks.");
        state.into_iter().filter(|(name, _)| is_kept(name)).collect()
    });
    for key in ["load_path", "pretrain_path"] {
        let load = format!("{key}=part.pth");
        assert_one_line_error(
            key,
            &train(directory, &[&load]),
            &[
                "part.pth: the file has",
                "not transformer.blocks.* (12)",
                "load_partial=True",
            ],
        );
        let output = train(directory, &[&load, "load_partial=True"]);
        assert_success(&output);
        let text = stderr_of(&output);
        assert!(
            text.contains("so they start at random: transformer.blocks.* (12)"),
            "{text}"
        );
    }
    // A backbone without decoder is complete, but masked autoencoding is trained.
    write(directory, "backbone.pth", |state| {
        let names = state.into_iter().filter_map(|(name, tensor)| {
            let backbone = name.strip_prefix("transformer.")?;
            let is_kept = !backbone.starts_with("decoder_") && backbone != "mask_token";
            is_kept.then(|| (format!("module.{backbone}"), tensor))
        });
        names.collect()
    });
    let output = train(directory, &["pretrain_path=backbone.pth"]);
    assert_success(&output);
    let text = stderr_of(&output);
    assert!(text.contains("masked autoencoding starts with a random one"), "{text}");
    assert_one_line_error(
        "backbone",
        &train(directory, &["load_path=backbone.pth"]),
        &["pretrain_path loads the weights of an image backbone"],
    );
    // A test needs all weights.
    assert_one_line_error(
        "test",
        &train(
            directory,
            &["load_path=part.pth", "test_only=True", "load_partial=True"],
        ),
        &["has no tensor transformer.blocks.0.norm1.weight"],
    );
}

/// The sizes of a model are read from any file, and weights of another vocabulary are not loaded by mistake.
#[test]
fn own_data_is_trained_from_the_sizes_and_with_the_vocabulary_of_a_file() {
    let directory = trained();
    let directory = directory.path();
    write(directory, "converted.safetensors", |state| state);
    let data = directory.join("data");
    std::fs::copy(
        data.join("coco_caption_karpathy_train.arrow"),
        data.join("photos_train_0.arrow"),
    )
    .expect("copied");
    let own_data = |more: &[&str]| vlct_in(directory, &[&["train", "photos", "max_steps=2"], more].concat());
    let converted = "load_path=converted.safetensors";
    let heads = ["heads=2", "decoder_heads=2"];
    let output = own_data(&[&[converted, "tokenizer=data/vocab.txt"], &heads[..]].concat());
    assert_success(&output);
    let text = stderr_of(&output);
    for part in [
        "as in converted.safetensors",
        "hidden_size=32",
        "does not contain its vocabulary of ",
        " word embeddings: its weights suit tokenizer=\"data/vocab.txt\" with ",
    ] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }

    // The tokenizer of English has more tokens than the file has word embeddings.
    let parts = [
        "converted.safetensors",
        "word embeddings",
        "has 30522 tokens",
        "set tokenizer=FILE",
    ];
    assert_one_line_error("English", &own_data(&[&[converted], &heads[..]].concat()), &parts);

    // The checkpoint of a run contains its vocabulary.
    std::fs::copy(
        last_checkpoint(directory, "runs"),
        directory.join("checkpoint.safetensors"),
    )
    .expect("copied");
    let checkpoint = "load_path=checkpoint.safetensors";
    let reversed: Vec<String> = std::fs::read_to_string(data.join("vocab.txt"))
        .expect("there")
        .lines()
        .map(str::to_string)
        .collect();
    let reversed: Vec<String> = reversed[..5]
        .iter()
        .chain(reversed[5..].iter().rev())
        .cloned()
        .collect();
    std::fs::write(directory.join("other.txt"), reversed.join("\n")).expect("written");
    let parts = [
        "checkpoint.safetensors: its weights were trained with another vocabulary",
        "token 5 is",
    ];
    let other = "tokenizer=other.txt";
    assert_one_line_error("vlct train", &own_data(&[checkpoint, other]), &parts);
    assert_one_line_error("vlct run", &train(directory, &[checkpoint, other]), &parts);
    std::fs::write(directory.join("image.png"), "").expect("written");
    let predict = [
        "predict",
        "match",
        "--load",
        "checkpoint.safetensors",
        "--tokenizer",
        "other.txt",
        "image.png",
        "x",
    ];
    let parts = [
        "checkpoint.safetensors",
        "another vocabulary",
        "token 5 is",
        "leave out --tokenizer",
    ];
    assert_one_line_error("vlct predict", &vlct_in(directory, &predict), &parts);
    assert_success(&train(directory, &[checkpoint, other, "load_partial=True"]));
    assert_success(&train(directory, &[checkpoint]));
    // Without the file, the vocabulary is that of the checkpoint.
    std::fs::remove_file(data.join("vocab.txt")).expect("there");
    let output = train(directory, &[checkpoint]);
    assert_success(&output);
    assert!(
        stderr_of(&output).contains("does not exist: the vocabulary in"),
        "{}",
        stderr_of(&output)
    );
    assert_success(&own_data(&[
        "load_path=checkpoint.safetensors",
        "tokenizer=data/vocab.txt",
    ]));
}

#[test]
fn altered_checkpoints_and_weights_that_are_not_finite_are_rejected() {
    let directory = trained();
    let directory = directory.path();
    let mut bytes = std::fs::read(last_checkpoint(directory, "runs")).expect("a checkpoint");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(directory.join("altered.safetensors"), bytes).expect("written");
    write(directory, "nan.pth", |mut state| {
        let mut values = state.f32("pooler.dense.bias").expect("a weight").into_owned();
        (values[3], values[5]) = (f32::NAN, f32::INFINITY);
        let shape = vec![values.len()];
        state.insert("pooler.dense.bias", StoredTensor::f32(shape, values));
        state
    });
    std::fs::write(directory.join("image.png"), "").expect("written");
    let last = last_checkpoint(directory, "runs");
    let last = last.to_str().expect("UTF-8");
    for (file, parts) in [
        (
            "altered.safetensors",
            &["altered.safetensors", "the checksum does not match"][..],
        ),
        ("nan.pth", &["nan.pth", "pooler.dense.bias"]),
    ] {
        let load = format!("load_path={file}");
        let pretrain = format!("pretrain_path={file}");
        assert_one_line_error("load_path", &train(directory, &[&load]), parts);
        assert_one_line_error("test", &train(directory, &[&load, "test_only=True"]), parts);
        let match_arguments = [
            "predict",
            "match",
            "--load",
            file,
            "--heads",
            "2",
            "--tokenizer",
            "data/vocab.txt",
            "image.png",
            "x",
        ];
        assert_one_line_error("predict", &vlct_in(directory, &match_arguments), parts);
        assert_one_line_error("inspect", &vlct_in(directory, &["inspect", file]), parts);
        if file == "altered.safetensors" {
            assert_one_line_error("pretrain_path", &train(directory, &[&pretrain]), parts);
            assert_one_line_error("convert", &vlct_in(directory, &["convert", file, "out.pth"]), parts);
        }
        let average = ["average", file, last, "--out", "out.pth"];
        assert_one_line_error("average", &vlct_in(directory, &average), &parts[1..]);
    }
    let output = vlct_in(directory, &["inspect", "nan.pth"]);
    assert!(stdout_of(&output).contains("VLC names") && !stdout_of(&output).contains("intact"));
    assert!(stderr_of(&output).contains("weights are NaN or infinite: pooler.dense.bias (2 values)"));
    assert!(!directory.join("out.pth").exists());
}

#[test]
fn changed_values_of_a_pytorch_file_are_found_by_every_command() {
    let directory = trained();
    let directory = directory.path();
    write(directory, "sound.ckpt", |state| state);
    let output = vlct_in(directory, &["inspect", "sound.ckpt"]);
    assert_success(&output);
    let text = stdout_of(&output);
    assert!(text.contains("intact: the checksums of all tensors match"), "{text}");
    let mut bytes = std::fs::read(directory.join("sound.ckpt")).expect("a file");
    let state = files::read(&directory.join("sound.ckpt")).expect("weights").state;
    let values = state.f32("pooler.dense.weight").expect("a weight");
    let start: Vec<u8> = values[..4].iter().flat_map(|value| value.to_le_bytes()).collect();
    let position = bytes.windows(start.len()).position(|window| window == start);
    // The lowest bit of a value.
    bytes[position.expect("the values of the tensor")] ^= 1;
    std::fs::write(directory.join("damaged.ckpt"), bytes).expect("written");
    std::fs::write(directory.join("image.png"), "").expect("written");

    let parts = ["damaged.ckpt", "pooler.dense.weight", "CRC-32"];
    let load = "load_path=damaged.ckpt";
    assert_one_line_error("load_path", &train(directory, &[load]), &parts);
    let output = vlct_in(directory, &["inspect", "damaged.ckpt"]);
    assert_one_line_error("inspect", &output, &parts);
    assert!(stdout_of(&output).contains("VLC names") && !stdout_of(&output).contains("intact"));
    let predict = [
        "predict",
        "match",
        "--load",
        "damaged.ckpt",
        "--heads",
        "2",
        "--tokenizer",
        "data/vocab.txt",
    ];
    let predict = [&predict[..], &["image.png", "x"]].concat();
    assert_one_line_error("predict", &vlct_in(directory, &predict), &parts);
    for words in [
        &["convert", "damaged.ckpt", "out.pth"][..],
        &["average", "sound.ckpt", "damaged.ckpt", "--out", "out.pth"],
    ] {
        assert_one_line_error(words[0], &vlct_in(directory, words), &parts);
    }
    assert!(!directory.join("out.pth").exists());
    // Format without checksums.
    write(directory, "plain.safetensors", |state| state);
    let output = vlct_in(directory, &["inspect", "plain.safetensors"]);
    assert_success(&output);
    assert!(
        stdout_of(&output).contains("complete; the file has no checksums"),
        "{}",
        stdout_of(&output)
    );
}

#[test]
fn files_of_weights_and_data_are_not_replaced_without_being_asked() {
    let directory = trained();
    let directory = directory.path();
    for name in ["a.pth", "b.pth"] {
        write(directory, name, |state| state);
    }
    let (existing, options) = (
        directory.join("mine.safetensors"),
        ["--tokenizer", "data/vocab.txt", "--heads", "2"],
    );
    let features = [
        "predict",
        "features",
        "--load",
        "a.pth",
        "--text",
        "x",
        "--out",
        "mine.safetensors",
    ];
    let features = [&features[..], &options].concat();
    for words in [
        &["convert", "a.pth", "mine.safetensors"][..],
        &["average", "a.pth", "b.pth", "--out", "mine.safetensors"],
        &features,
        &["vocabulary", "coco", "--out", "mine.safetensors"],
    ] {
        std::fs::write(&existing, "mine").expect("written");
        let output = vlct_in(directory, words);
        assert_one_line_error(words[0], &output, &["mine.safetensors: the file exists", "--overwrite"]);
        assert_eq!(std::fs::read(&existing).expect("there"), b"mine", "{words:?}");
        assert_success(&vlct_in(directory, &[words, &["--overwrite"]].concat()));
        assert_ne!(std::fs::read(&existing).expect("there"), b"mine", "{words:?}");
    }
    // A file of data is not replaced by a configuration; a configuration is.
    std::fs::write(directory.join("captions.json"), "[1, 2]").expect("written");
    let save = |name: &str| {
        vlct_in(
            directory,
            &["run", "save_config", "with", &format!("config_filename={name}")],
        )
    };
    assert_one_line_error(
        "save_config",
        &save("captions.json"),
        &["captions.json", "not a configuration"],
    );
    assert_success(&save("new.json"));
    assert_success(&save("new.json"));
}

#[test]
fn run_directories_and_files_with_an_index_are_weights_for_every_command() {
    let directory = trained();
    let directory = directory.path();
    let run = run_directory(directory, "runs");
    for path in [run.join("best"), run.join("last"), run.clone()] {
        let path = path.to_str().expect("UTF-8");
        let output = vlct_in(directory, &["inspect", path]);
        assert_success(&output);
        assert!(stdout_of(&output).contains("intact: the checksum matches"), "{path}");
        let output = vlct_in(directory, &["convert", path, "out.safetensors", "--overwrite"]);
        assert_success(&output);
        assert!(
            stdout_of(&output).contains("checkpoint.safetensors: "),
            "{}",
            stdout_of(&output)
        );
        assert_success(&train(directory, &[&format!("load_path={path}")]));
    }
    // Two files with an index, and names with a prefix.
    let state = files::read(&run).expect("weights").state;
    std::fs::create_dir(directory.join("parts")).expect("created");
    let mut map = serde_json::Map::new();
    for part in 0..2 {
        let name = format!("model-{part}.safetensors");
        let tensors = state.iter().enumerate().filter(|(i, _)| i % 2 == part);
        let tensors: StateDict = tensors
            .map(|(_, (name, t))| (format!("model.{name}"), t.clone()))
            .collect();
        files::write(&directory.join("parts").join(&name), &tensors, &Style::Vlc.into()).expect("written");
        map.extend(tensors.names().map(|tensor| (tensor.to_owned(), name.clone().into())));
    }
    let index = serde_json::json!({ "weight_map": map }).to_string();
    std::fs::write(directory.join("parts/model.safetensors.index.json"), index).expect("written");
    let output = train(directory, &["load_path=parts"]);
    assert_success(&output);
    let loaded = format!("loaded {0} of {0} tensors", state.len());
    assert!(stderr_of(&output).contains(&loaded), "{}", stderr_of(&output));
    let output = vlct_in(directory, &["inspect", "parts"]);
    assert_success(&output);
    assert!(stdout_of(&output).contains("names in the file have the prefix model."));
    assert_success(&vlct_in(
        directory,
        &["convert", "parts", "whole.safetensors", "--style", "vlc"],
    ));
    let whole = files::read(&directory.join("whole.safetensors"))
        .expect("weights")
        .state;
    assert!(state.iter().all(|(name, tensor)| whole.get(name) == Some(tensor)));
}

#[test]
fn a_run_needs_its_vocabulary_file_only_to_begin() {
    let directory = trained();
    let directory = directory.path();
    let vocabulary = directory.join("data/vocab.txt");
    let (run, copy) = (run_directory(directory, "runs"), directory.join("copy"));
    std::fs::create_dir_all(copy.join("last")).expect("created");
    for file in ["config.toml", "metrics.jsonl", "last/checkpoint.safetensors"] {
        std::fs::copy(run.join(file), copy.join(file)).expect("copied");
    }
    let resume = |run: &Path| {
        let from = format!("resume_from={}", run.display());
        let more = ["max_steps=4", "val_check_interval=4", "limit_val_batches=1", &from];
        run_with(directory, &tiny_model_arguments("data", &more))
    };
    let test = || train(directory, &[&format!("load_path={}", run.display()), "test_only=True"]);
    assert_success(&resume(&copy));

    let text = std::fs::read_to_string(&vocabulary).expect("there");
    let mut tokens: Vec<&str> = text.lines().collect();
    tokens[5..].reverse();
    std::fs::write(&vocabulary, tokens.join("\n")).expect("written");
    let parts = [
        "last/checkpoint.safetensors: the run began with another vocabulary",
        "token 5 is",
    ];
    assert_one_line_error("resume", &resume(&run), &parts);
    assert_one_line_error("test", &test(), &["checkpoint.safetensors", "another vocabulary"]);
    std::fs::write(&vocabulary, "no vocabulary").expect("written");
    assert_one_line_error("resume", &resume(&run), &["vocab.txt"]);

    std::fs::remove_file(&vocabulary).expect("removed");
    for output in [resume(&run), test()] {
        assert_success(&output);
        let text = stderr_of(&output);
        assert!(text.contains("vocab.txt\" does not exist: the vocabulary in"), "{text}");
        assert!(!text.contains("warning: tokenizer"), "{text}");
    }
    assert_same_checkpoint(&checkpoint::last_path(&run), &checkpoint::last_path(&copy));
    let output = vlct_in(directory, &["report", run.to_str().expect("UTF-8")]);
    assert_success(&output);
    let page = std::fs::read_to_string(run.join("report.html")).expect("a page");
    assert!(page.contains("id=\"words\""), "{}", stderr_of(&output));
    // A new run needs the file.
    assert_one_line_error("new", &train(directory, &[]), &["no tokenizer", "vocab.txt"]);
}

#[test]
fn the_report_of_a_damaged_run_has_what_is_whole_and_fails() {
    let directory = TempDir::new().expect("a temporary directory");
    let directory = directory.path();
    write_synthetic(&directory.join("data"), 24);
    assert_success(&train(directory, &["log_dir=runs", "log_every=1"]));
    let run = run_directory(directory, "runs");
    let report = || vlct_in(directory, &["report", run.to_str().expect("UTF-8")]);
    let page_has = |parts: &[&str], lacking: &[&str]| {
        let page = std::fs::read_to_string(run.join("report.html")).expect("a page");
        assert!(parts.iter().all(|part| page.contains(part)), "{parts:?}");
        assert!(!lacking.iter().any(|part| page.contains(part)), "{lacking:?}");
    };
    let (curves, words) = ("id=\"curves\"", "id=\"words\"");
    let (best, last) = (checkpoint::best_path(&run), checkpoint::last_path(&run));
    let sound = std::fs::read(&best).expect("a checkpoint");
    let damage = |path: &Path| {
        let mut bytes = std::fs::read(path).expect("a checkpoint");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(path, bytes).expect("written");
    };
    assert_success(&report());
    page_has(&[curves, words], &["aria-label=\"Damaged"]);

    // The page does not need the events of TensorBoard. A damaged line costs this line.
    for entry in std::fs::read_dir(&run).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.to_string_lossy().contains("events.out") {
            std::fs::remove_file(path).expect("removed");
        }
    }
    let metrics = run.join("metrics.jsonl");
    let lines = std::fs::read_to_string(&metrics).expect("metrics");
    std::fs::write(&metrics, format!("{{\"st\n{lines}")).expect("written");
    let output = report();
    assert_success(&output);
    assert!(
        stderr_of(&output).contains("1 line left out, not JSON"),
        "{}",
        stderr_of(&output)
    );
    page_has(&[curves, words, "1 line left out"], &[]);

    damage(&best);
    let parts = [
        "the page is incomplete",
        "best/checkpoint.safetensors: the content was altered",
    ];
    assert_one_line_error("best", &report(), &parts);
    page_has(
        &[curves, words, "best/checkpoint.safetensors: the content was altered"],
        &[],
    );
    damage(&last);
    assert_one_line_error("both", &report(), &["best/checkpoint", "last/checkpoint"]);
    page_has(
        &[curves, "last/checkpoint.safetensors: the content was altered"],
        &[words],
    );
    std::fs::write(&best, sound).expect("written");
    assert_one_line_error(
        "last",
        &report(),
        &["last/checkpoint.safetensors: the content was altered"],
    );
    page_has(
        &[curves, words],
        &["best/checkpoint.safetensors: the content was altered"],
    );
    std::fs::remove_file(&metrics).expect("removed");
    assert_one_line_error("metrics", &report(), &["metrics.jsonl", "last/checkpoint"]);
    page_has(&[words, "metrics.jsonl"], &[curves]);
}

#[test]
fn a_complete_run_is_not_changed_by_resuming_it() {
    let directory = trained();
    let directory = directory.path();
    let run = run_directory(directory, "runs");
    let resume = format!("resume_from={}", run.display());
    let content = || {
        let files = ["config.toml", "metrics.jsonl", "last/checkpoint.safetensors"];
        files.map(|file| std::fs::read(run.join(file)).expect("a file of the run"))
    };
    let before = content();
    for (key, part) in [
        (
            "max_steps=2",
            "nothing left to do: the run has taken all 2 steps; a larger max_steps continues it",
        ),
        (
            "max_steps=1",
            "nothing left to do: the run has taken 2 steps, more than the 1 of max_steps",
        ),
    ] {
        let output = train(directory, &[&resume, key, "learning_rate=1e-3"]);
        assert_success(&output);
        let text = stderr_of(&output);
        assert_eq!(
            text.lines().filter(|line| line.contains("nothing left to do")).count(),
            1,
            "{text}"
        );
        assert!(text.contains(part) && !text.contains("run directory"), "{text}");
        assert!(before == content(), "{key}: the run was changed");
    }
    assert_success(&train(directory, &[&resume, "max_steps=3"]));
    assert!(before != content());

    // Weights alone are not a run.
    write(directory, "weights.pth", |state| state);
    write(directory, "weights.safetensors", |state| state);
    let last = checkpoint::last_path(&run);
    let last = last.to_str().expect("UTF-8");
    let average = [
        "average",
        last,
        &format!("{}/best", run.display()),
        "--out",
        "average.safetensors",
    ];
    assert_success(&vlct_in(directory, &average));
    for file in ["weights.pth", "weights.safetensors", "average.safetensors"] {
        assert_one_line_error(
            file,
            &train(directory, &[&format!("resume_from={file}")]),
            &[file, "no state of the optimiser", "load_path="],
        );
    }
}
