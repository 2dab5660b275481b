//! End-to-end tests of clipping, moving averages, frozen parts, early stopping, kept checkpoints, and averaging of checkpoints.

mod support;

use std::path::Path;

use serde_json::Value;
use support::kills::{KilledRun, resume_words, run_words};
use support::{
    assert_one_line_error, assert_same_checkpoint, assert_success, run_directory, run_with, stderr_of,
    tiny_model_arguments, vlct, write_synthetic,
};
use tempfile::TempDir;
use vlct_checkpoint::{self as checkpoint, Checkpoint};
use vlct_data::random::{Purpose, stream};

/// Clipping, averaging, freezing, early stopping and kept checkpoints together.
const ALL: [&str; 15] = [
    "precision=32",
    "depth=2",
    "max_steps=120",
    "checkpoint_every=5",
    "val_check_interval=13",
    "limit_val_batches=1",
    "log_every=1",
    "clip_grad_norm=2.0",
    "ema_decay=0.9",
    "ema_evaluation=True",
    "freeze_image_embedding=True",
    "freeze_text_embedding=True",
    "freeze_blocks=1",
    "patience=4",
    "keep_checkpoints=2",
];

/// Returns the arguments of a run of a tiny model with these keys.
fn arguments(log_dir: &str, keys: &[&str]) -> Vec<String> {
    let log_dir = format!("log_dir={log_dir}");
    tiny_model_arguments("data", &[&[log_dir.as_str()], keys].concat())
}

fn load(path: &Path) -> Checkpoint {
    checkpoint::load(path).expect("a valid checkpoint")
}

/// Returns the steps of the checkpoints that a run has kept.
fn steps(run: &Path) -> Vec<u64> {
    checkpoint::steps(run).expect("a run directory")
}

/// Returns the values of a metric in the order of the records.
fn metric(run: &Path, name: &str) -> Vec<f64> {
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).expect("metrics");
    let records = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    records.filter_map(|record| record[name].as_f64()).collect()
}

#[test]
fn killed_runs_with_all_options_have_the_results_of_an_uninterrupted_run() {
    let directory = TempDir::new().expect("temporary directory");
    let directory = directory.path();
    write_synthetic(&directory.join("data"), 40);
    let killed_run = KilledRun {
        directory,
        arguments: &|log_dir| run_words(arguments(log_dir, &ALL)),
        resume: &resume_words,
        run_directory: &|log_dir| run_directory(directory, log_dir),
        milliseconds: 50..600,
    };
    let runs = killed_run.assert_same_weights("all", 6, &mut stream(11, Purpose::Synthetic, 0, 0));
    let (expected, killed) = runs.split_first().expect("the uninterrupted run");
    for run in killed {
        assert_eq!(steps(run), steps(expected));
        assert_eq!(steps(run).len(), 2);
        for step in steps(run) {
            assert_same_checkpoint(
                &checkpoint::step_path(expected, step),
                &checkpoint::step_path(run, step),
            );
        }
        assert_same_weights(&checkpoint::best_path(expected), &checkpoint::best_path(run));
        assert_eq!(metric(run, "val/the_metric"), metric(expected, "val/the_metric"));
    }

    let last = load(&checkpoint::last_path(expected));
    let step = last.state()[checkpoint::STEP_KEY].as_u64().expect("a step");
    assert!((20..120).contains(&step), "the run ends early, at step {step}");
    check_frozen_and_averaged(directory, &last);
    let norms = metric(expected, "grad_norm");
    assert_eq!(norms.len() as u64, step);
    assert!(
        norms.iter().any(|norm| *norm < 2.0) && norms.iter().any(|norm| *norm > 2.0),
        "{norms:?}"
    );

    // A run that has ended early remains so; with more patience it continues.
    let resume = format!("resume_from={}", expected.display());
    for (more, last_step) in [("patience=4", step), ("patience=1000", 120)] {
        let output = run_with(directory, &arguments("runs", &[&ALL[..], &[&resume, more]].concat()));
        assert_success(&output);
        let is_complete = stderr_of(&output).contains(&format!("nothing left to do: the run ended at step {step}"));
        assert_eq!(is_complete, last_step == step, "{}", stderr_of(&output));
        let reached = load(&checkpoint::last_path(expected)).state()[checkpoint::STEP_KEY].as_u64();
        assert_eq!(reached, Some(last_step), "{more}");
    }
}

/// Panics unless frozen weights are those of a new model, without moments and averages, and the other weights have both.
fn check_frozen_and_averaged(directory: &Path, last: &Checkpoint) {
    let untrained = [
        &ALL[..],
        &[
            "max_steps=1",
            "learning_rate=1e-30",
            "warmup_steps=0",
            "val_check_interval=1.0",
        ],
    ];
    assert_success(&run_with(directory, &arguments("untrained", &untrained.concat())));
    let initial = load(&checkpoint::last_path(&run_directory(directory, "untrained")));
    let (mut frozen, mut trained) = (0, 0);
    let is_weight = |name: &&str| !name.starts_with("optimizer.") && !name.starts_with("ema.");
    for name in last.names().filter(is_weight) {
        let is_frozen = [
            "text_embeddings.",
            "token_type_embeddings.",
            "transformer.blocks.0.",
            "transformer.patch_embed.",
        ]
        .iter()
        .any(|prefix| name.starts_with(prefix))
            || name == "transformer.cls_token";
        let [has_moment, has_average] =
            ["optimizer.exp_avg_sq.", "ema."].map(|prefix| last.shape(&format!("{prefix}{name}")).is_some());
        if is_frozen {
            let values = |checkpoint: &Checkpoint| checkpoint.values(name).expect("listed");
            assert!(values(last) == values(&initial), "{name} has changed");
            assert!(!has_moment && !has_average, "{name}");
            frozen += 1;
        } else if !name.ends_with("pos_embed") {
            assert!(has_moment && has_average, "{name}");
            trained += 1;
        }
    }
    assert!(frozen > 15 && trained > 15, "{frozen} frozen, {trained} trained");
}

/// Panics unless two files have the same names and bits.
fn assert_same_weights(a: &Path, b: &Path) {
    let (a, b) = (load(a), load(b));
    assert_eq!(a.names().collect::<Vec<_>>(), b.names().collect::<Vec<_>>());
    for name in a.names() {
        let bits =
            |c: &Checkpoint| -> Vec<u32> { c.values(name).expect("listed").iter().map(|v| v.to_bits()).collect() };
        assert_eq!(bits(&a), bits(&b), "{name}");
    }
}

#[test]
fn averages_are_evaluated_loaded_and_not_resumed() {
    let directory = TempDir::new().expect("temporary directory");
    let directory = directory.path();
    write_synthetic(&directory.join("data"), 24);
    let keys = [
        "max_steps=6",
        "val_check_interval=2",
        "limit_val_batches=1",
        "ema_decay=0.9",
        "keep_checkpoints=3",
    ];
    assert_success(&run_with(
        directory,
        &arguments("runs", &[&keys[..], &["ema_evaluation=True"]].concat()),
    ));
    let run = run_directory(directory, "runs");
    assert_eq!(steps(&run), [4, 5, 6]);

    // The best checkpoint has the averages of a kept one as its weights.
    let best = load(&checkpoint::best_path(&run));
    assert_eq!(best.description().expect("a description")["weights"], "ema");
    assert!(
        best.names()
            .all(|name| !name.starts_with("optimizer.") && !name.starts_with("ema."))
    );
    let step = best.state()[checkpoint::STEP_KEY].as_u64().expect("a step");
    if let Ok(kept) = checkpoint::load(&checkpoint::step_path(&run, step)) {
        let name = "pooler.dense.weight";
        assert_eq!(
            best.values(name).expect("a weight"),
            kept.values(&format!("ema.{name}")).expect("an average")
        );
        assert_ne!(
            best.values(name).expect("a weight"),
            kept.values(name).expect("a weight")
        );
    }
    let best_path = checkpoint::best_path(&run);
    let resume = format!("resume_from={}", best_path.display());
    let output = run_with(directory, &arguments("runs", &[&keys[..], &[&resume]].concat()));
    assert_one_line_error("best", &output, &["has averaged weights", "resume from the last"]);

    // A test of the averages of the last checkpoint differs from a test of its weights.
    let last = checkpoint::last_path(&run);
    let test = |path: &Path, more: &str| {
        let load = format!("load_path={}", path.display());
        run_with(directory, &arguments("tests", &["test_only=True", &load, more]))
    };
    let results = ["load_ema=False", "load_ema=True"].map(|more| {
        let output = test(&last, more);
        assert_success(&output);
        String::from_utf8_lossy(&output.stdout).into_owned()
    });
    assert_ne!(results[0], results[1]);
    assert_success(&test(&best_path, "load_ema=True"));

    // The mean of the kept checkpoints.
    let mean = directory.join("mean.safetensors");
    let output = vlct().arg("average").arg(&run).arg("--out").arg(&mean).output();
    let output = output.expect("the program starts");
    assert_success(&output);
    assert!(String::from_utf8_lossy(&output.stdout).contains("step_000005"));
    assert_success(&test(&mean, "load_ema=False"));
    let output = test(&mean, "load_ema=True");
    assert_one_line_error("mean", &output, &["no averaged weights", "ema_decay"]);
    let inspected = vlct().arg("inspect").arg(&run).output().expect("the program starts");
    assert_success(&inspected);
    let text = String::from_utf8_lossy(&inspected.stdout);
    for part in [
        "step_000004",
        "averages of the weights",
        "vision-language model for pre-training\n",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }

    // A run resumed from a kept checkpoint removes the later ones.
    let resume = format!("resume_from={}", checkpoint::step_path(&run, 4).display());
    let resumed = |max_steps: &str| {
        let more = [max_steps, "ema_evaluation=True", &resume];
        run_with(directory, &arguments("runs", &[&keys[1..], &more].concat()))
    };
    // A run that has nothing left to do removes none.
    let output = resumed("max_steps=4");
    assert_success(&output);
    assert!(stderr_of(&output).contains("nothing left to do: the run has taken all 4 steps"));
    assert_eq!(steps(&run), [4, 5, 6]);
    assert_success(&resumed("max_steps=5"));
    assert_eq!(steps(&run), [4, 5]);
    let one = run.join("step_000004");
    let mean = directory.join("mean_of_one.safetensors");
    let output = vlct().arg("average").arg(&one).arg("--out").arg(&mean).output();
    assert_one_line_error(
        "one",
        &output.expect("the program starts"),
        &["1 weight file cannot be averaged"],
    );
}
