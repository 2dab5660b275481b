//! Training on a custom dataset: the choice of the configuration, held-out rows, vocabularies, and the forecast of a run.

mod support;

use std::path::Path;

use serde_json::Value;
use support::{
    TINY_SIZES, assert_one_line_error, assert_success, run_with, stderr_of, stdout_of, tiny_model_arguments, vlct_in,
    write_synthetic,
};
use tempfile::TempDir;
use vlct_data::arrow::{CaptionWriter, VqaKind, VqaWriter};

/// Makes the custom dataset `photos` of `images` images in the directory `data`.
fn write_photos(directory: &Path, images: usize) {
    let synthetic = directory.join("synthetic");
    write_synthetic(&synthetic, images);
    let data = directory.join("data");
    std::fs::create_dir(&data).expect("created");
    std::fs::copy(
        synthetic.join("coco_caption_karpathy_train.arrow"),
        data.join("photos_train_0.arrow"),
    )
    .expect("copied");
    std::fs::copy(synthetic.join("vocab.txt"), data.join("vocab.txt")).expect("copied");
}

/// Returns the plan of `vlct train` as JSON.
fn plan(directory: &Path, words: &[&str]) -> Value {
    let output = vlct_in(directory, &[&["train", "photos", "--plan", "--json"], words].concat());
    assert_success(&output);
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// Returns the value that was chosen for a key; null if the key was not chosen.
fn chosen<'a>(plan: &'a Value, key: &str) -> &'a Value {
    let choices = plan["choices"].as_array().expect("a list");
    let found = choices.iter().find(|choice| choice["values"].get(key).is_some());
    found.map_or(&Value::Null, |choice| &choice["values"][key])
}

#[test]
fn the_plan_suits_the_data_and_keeps_what_is_given() {
    let directory = TempDir::new().expect("temporary directory");
    let directory = directory.path();
    write_photos(directory, 60);
    let tokenizer = "tokenizer=data/vocab.txt";
    let by_steps = plan(directory, &["max_steps=200", tokenizer]);
    assert_eq!(by_steps["images"], 60);
    assert_eq!(by_steps["captions"], 300, "five captions of each image");
    assert_eq!(by_steps["image_side"], 32);
    for (key, value) in [
        ("val_fraction", 0.25.into()),
        ("image_size", 32.into()),
        ("hidden_size", 128.into()),
        ("batch_size", 16.into()),
        ("max_steps", Value::Null),
        ("warmup_steps", 20.into()),
    ] {
        assert_eq!(*chosen(&by_steps, key), value, "{key}");
    }
    let vocabulary = std::fs::read_to_string(directory.join("data/vocab.txt"))
        .expect("there")
        .lines()
        .count();
    assert_eq!(*chosen(&by_steps, "vocab_size"), vocabulary.max(104));
    assert_eq!(by_steps["config"]["max_steps"], 200);
    let remarks = by_steps["remarks"].to_string();
    assert!(remarks.contains("225 captions are few"), "{remarks}");
    assert!(remarks.contains("the model sees 3,200 samples"), "{remarks}");

    let given = plan(
        directory,
        &[
            &["--hours", "0.05", "batch_size=16", "val_fraction=0.5", tokenizer],
            &TINY_SIZES[..],
        ]
        .concat(),
    );
    for key in ["batch_size", "val_fraction", "image_size", "hidden_size"] {
        assert_eq!(*chosen(&given, key), Value::Null, "{key} was given");
    }
    assert_eq!(given["config"]["batch_size"], 16);
    assert_eq!(given["config"]["hidden_size"], 32);
    // 10 steps per epoch; at most 200 epochs.
    let steps = given["config"]["max_steps"].as_u64().expect("a number");
    assert!((1..=2000).contains(&steps), "{steps}");
    // A single size replaces that of the chosen model; a number of epochs replaces the time.
    let small = plan(directory, &["max_epoch=3", "image_size=24", tokenizer]);
    assert_eq!(*chosen(&small, "image_size"), Value::Null);
    assert_eq!(
        (&small["config"]["hidden_size"], &small["config"]["image_size"]),
        (&128.into(), &24.into())
    );
    assert_eq!(
        small["config"]["max_steps"], 45,
        "15 steps of 16 in each epoch of 225 captions"
    );
    // A batch that is larger than the data is an epoch.
    let whole = plan(
        directory,
        &[&["max_steps=4", "batch_size=5000", tokenizer], &TINY_SIZES[..]].concat(),
    );
    assert!(
        whole["choices"].to_string().contains("1 optimiser step per epoch"),
        "{}",
        whole["choices"]
    );
    assert!(whole["config"]["learning_rate"].as_f64().expect("a number") < 0.0025);
    assert!(!directory.join("result").exists(), "a plan writes nothing");
}

#[test]
fn it_trains_validates_on_held_out_images_and_says_how_to_go_on() {
    let directory = TempDir::new().expect("temporary directory");
    let directory = directory.path();
    write_photos(directory, 40);
    let words = [
        &["train", "photos", "max_steps=24", "tokenizer=data/vocab.txt"][..],
        &TINY_SIZES,
    ]
    .concat();
    let output = vlct_in(directory, &words);
    assert_success(&output);
    let (text, messages) = (stdout_of(&output), stderr_of(&output));
    for part in [
        "chosen:",
        "there are no validation files: about 10 of 40 images are held out",
        "150 captions of 30 images",
        "the validation data has only 50 items: an accuracy of 50 % on them is known within 13 %",
    ] {
        assert!(messages.contains(part), "{part:?} is not in {messages}");
    }
    assert!(
        messages.contains("measured: an optimiser step takes about"),
        "{messages}"
    );
    for part in [
        "matching of held-out images and captions:",
        "vlct report result/own_data_seed0_from_/version_0",
    ] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
    assert!(
        directory
            .join("result/own_data_seed0_from_/version_0/best/checkpoint.safetensors")
            .is_file()
    );
}

#[test]
fn images_are_held_out_of_each_dataset_without_validation_files() {
    let directory = TempDir::new().expect("temporary directory");
    let directory = directory.path();
    write_photos(directory, 40);
    let data = directory.join("data");
    for file in ["others_train_0", "others_val_0"] {
        std::fs::copy(data.join("photos_train_0.arrow"), data.join(format!("{file}.arrow"))).expect("copied");
    }
    let words = [
        &[
            "others",
            "max_steps=4",
            "limit_val_batches=0",
            "tokenizer=data/vocab.txt",
        ][..],
        &TINY_SIZES,
    ]
    .concat();
    let both = plan(directory, &words);
    assert_eq!(both["captions"], 400);
    assert_eq!(both["validation_captions"], 200, "captions of validation files");
    assert_eq!(*chosen(&both, "val_fraction"), 0.25);
    let choices = both["choices"].to_string();
    assert!(
        choices.contains("no validation files of photos: about 10 of 40 images are held out"),
        "{choices}"
    );
    let output = vlct_in(directory, &[&["train", "photos"], &words[..]].concat());
    assert_success(&output);
    let messages = stderr_of(&output);
    assert!(messages.contains("350 captions of 70 images, "), "{messages}");
    assert!(stdout_of(&output).contains("of all validations on 250 held-out captions"));

    // Of a few images none can be spared.
    let few = TempDir::new().expect("temporary directory");
    write_photos(few.path(), 6);
    let words = [&["max_steps=4", "tokenizer=data/vocab.txt"][..], &TINY_SIZES].concat();
    assert_eq!(*chosen(&plan(few.path(), &words), "val_fraction"), Value::Null);
}

#[test]
fn wrong_arguments_are_errors_before_any_measurement() {
    let directory = TempDir::new().expect("temporary directory");
    let directory = directory.path();
    write_photos(directory, 10);
    VqaWriter::create(directory.join("data/asked_train.arrow"), VqaKind::Answered)
        .and_then(VqaWriter::finish)
        .expect("a dataset of questions");
    for (words, parts) in [
        (&["phots"][..], &["unknown dataset \"phots\""][..]),
        (&["photos", "load_path=none.ckpt"], &["none.ckpt"]),
        (&["photos", "hidden_sise=3"], &["hidden_size"]),
        (&["photos", "--data-root", "nowhere"], &["nowhere"]),
        (&["photos", "load_path=data/vocab.txt"], &["data/vocab.txt"]),
        (
            &["photos", "asked"],
            &[
                "asked is a dataset of questions",
                "vlct run with data_root=data datasets=asked task_finetune_vqa_mae_randaug",
            ],
        ),
        (
            &["photos", "exp_name=../x"],
            &["exp_name=\"../x\" is not a name", "log_dir"],
        ),
    ] {
        let output = vlct_in(directory, &[&["train"], words].concat());
        assert_one_line_error(&words.join(" "), &output, parts);
    }
    for words in [
        &["train", "photos/x"][..],
        &["train", "photos", "datasets=['photos']"],
        &["train", "photos,photos"],
    ] {
        let output = vlct_in(directory, words);
        assert_eq!(output.status.code(), Some(2), "{words:?}");
    }
}

#[test]
fn a_vocabulary_of_the_captions_is_trained_and_used() {
    let directory = TempDir::new().expect("temporary directory");
    let directory = directory.path();
    write_photos(directory, 40);
    let output = vlct_in(
        directory,
        &["vocabulary", "photos", "--size", "300", "--out", "own.txt"],
    );
    assert_success(&output);
    let text = stdout_of(&output);
    assert!(
        text.contains("200 texts of") && text.contains("unknown words: 0.00 %"),
        "{text}"
    );
    let tokens = std::fs::read_to_string(directory.join("own.txt")).expect("written");
    assert!(tokens.starts_with("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n"), "{tokens}");
    assert!(tokens.lines().count() <= 300);

    let again = vlct_in(directory, &["vocabulary", "photos", "--out", "own.txt"]);
    assert_one_line_error("an existing file", &again, &["own.txt: the file exists", "--overwrite"]);
    let words = [
        &["train", "photos", "max_steps=8", "tokenizer=own.txt"][..],
        &TINY_SIZES,
    ]
    .concat();
    assert_success(&vlct_in(directory, &words));
}

#[test]
fn vocabularies_that_are_too_small_are_rejected_or_warned_of() {
    let directory = TempDir::new().expect("temporary directory");
    let directory = directory.path();
    std::fs::create_dir(directory.join("data")).expect("a directory");
    let write = |name: &str, caption: String| {
        let path = directory.join(format!("data/{name}_train.arrow"));
        let mut writer = CaptionWriter::create(path).expect("a file");
        writer.push(b"", &[caption], "1", "").expect("a row");
        writer.finish().expect("a file");
    };
    // 300 characters, each a word of its own.
    let characters = |count: u32| -> Vec<String> {
        let character = |i| char::from_u32(0x4e00 + i).map(String::from);
        (0..count).filter_map(character).collect()
    };
    write("characters", characters(300).concat());
    // 676 words of two letters, each twice, which no vocabulary of 104 tokens holds.
    let pairs = (0..676u32).map(|i| [i / 26, i % 26].map(|c| char::from(b'a' + c as u8)).iter().collect());
    write(
        "pairs",
        format!("{} ", pairs.collect::<Vec<String>>().join(" ")).repeat(2),
    );
    // Three common characters, and rare ones that 99.95 % of the texts do without.
    write(
        "rare",
        format!("{} {}", "一 二 三 ".repeat(100_000), characters(140).concat()),
    );

    let train = |name: &str, size: &str| {
        vlct_in(
            directory,
            &["vocabulary", name, "--size", size, "--out", "v.txt", "--overwrite"],
        )
    };
    let parts = ["--size 304 cannot hold the characters", "smallest possible size is 305"];
    assert_one_line_error("too small", &train("characters", "304"), &parts);
    assert!(!directory.join("v.txt").exists());

    let held = train("characters", "305");
    assert_success(&held);
    assert_eq!(stderr_of(&held), "");
    let text = stdout_of(&held);
    assert!(
        text.starts_with("1 text of 300 words, 300 of them different\nwrote v.txt: 305 tokens\n"),
        "{text}"
    );

    let small = train("pairs", "104");
    assert_success(&small);
    let messages = stderr_of(&small);
    let expected = "warning: --size 104 is small for these texts: 93 % are divided into several tokens; every character has a token, \
                    and a larger size gives whole words tokens";
    assert!(messages.contains(expected), "{messages}");

    let rare = train("rare", "104");
    assert_success(&rare);
    assert_eq!(stderr_of(&rare), "", "few words are unknown");
}

#[test]
fn captions_that_are_cut_are_warned_of() {
    let directory = TempDir::new().expect("temporary directory");
    let directory = directory.path();
    write_photos(directory, 8);
    for (length, is_warned_of) in [("6", true), ("64", false)] {
        let length = format!("max_text_len={length}");
        let more = ["datasets=['photos']", "max_steps=1", "val_check_interval=1.0", &length];
        let output = run_with(directory, &tiny_model_arguments("data", &more));
        assert_success(&output);
        let messages = stderr_of(&output);
        let warning = "% of the captions are cut after 6 tokens; max_text_len=";
        assert_eq!(messages.contains(warning), is_warned_of, "{length}: {messages}");
    }
    let words = [&["train", "photos", "--plan", "max_text_len=6"][..], &TINY_SIZES].concat();
    let plan = vlct_in(directory, &words);
    assert_success(&plan);
    assert!(
        stdout_of(&plan).contains("are cut after 6 tokens"),
        "{}",
        stdout_of(&plan)
    );
}

#[test]
fn a_batch_and_a_warm_up_that_do_not_suit_the_data_are_warned_of() {
    let directory = TempDir::new().expect("temporary directory");
    let directory = directory.path();
    write_photos(directory, 8);
    let more = [
        "datasets=['photos']",
        "batch_size=4096",
        "warmup_steps=2500",
        "max_steps=2",
        "limit_val_batches=1",
    ];
    let output = run_with(directory, &tiny_model_arguments("data", &more));
    assert_success(&output);
    let messages = stderr_of(&output);
    for part in [
        "warning: a batch of 4096 samples is larger than the training data of 40",
        "warning: the warm-up of 2500 steps is 2500 epochs of this data, and the run ends before it",
    ] {
        assert!(messages.contains(part), "{part:?} is not in {messages}");
    }
}
