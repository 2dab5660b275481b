//! Pre-training, questions and retrieval.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use tempfile::TempDir;
use vlct_train::trainer::run_rank;

use crate::support::{
    Disturbed, RANKS, assert_same, assert_same_checkpoints, config, control, data, on_ranks, records, run, run_of,
};

/// 140 captions are 35 micro-batches: the last window of an epoch has 3, so that one of 4 ranks has none.
const PRETRAINING: [&str; 10] = [
    "max_steps=50",
    "warmup_steps=5",
    "learning_rate=1e-3",
    "val_check_interval=1.0",
    "get_recall_metric=True",
    "recall_limit=10",
    "clip_grad_norm=1.0",
    "ema_decay=0.9",
    "drop_rate=0.1",
    "num_workers=2",
];

#[test]
fn pretraining_of_50_steps_gives_the_losses_metrics_and_recalls_of_one_rank() {
    let directory = TempDir::new().expect("a directory");
    let config = config("quickstart", &PRETRAINING);
    for ranks in RANKS {
        let finished = run(&config, ranks, &run_of(&directory, ranks));
        assert_eq!((finished.steps, finished.interrupted), (50, false));
        assert!(finished.metrics.iter().any(|(name, _)| name == "recalls/ir_r1"));
    }
    let alone = run_of(&directory, 1);
    let want = records(&alone);
    assert!(want.len() > 50);
    for ranks in [2, 4] {
        let of_ranks = run_of(&directory, ranks);
        let case = format!("{ranks} ranks");
        let losses = assert_same(&case, &records(&of_ranks), &want);
        let weights = assert_same_checkpoints(&case, &of_ranks, &alone);
        println!("{case}: losses differ by {losses:.1e}, tensors of checkpoints by {weights:.1e}");
        assert!(vlct_checkpoint::best_path(&of_ranks).is_file());
    }
}

/// Each part of the run is stopped by rank 1, whose stop flag alone is set.
#[test]
fn a_run_continues_with_other_numbers_of_ranks() {
    let directory = TempDir::new().expect("a directory");
    let whole = directory.path().join("whole");
    let words = [
        "max_steps=24",
        "learning_rate=1e-3",
        "val_check_interval=1.0",
        "warmup_steps=2",
    ];
    run(&config("quickstart", &words), 1, &whole);
    let parts = directory.path().join("parts");
    let resume = format!("resume_from={}", parts.display());
    let resumed: Vec<&str> = words.iter().copied().chain([resume.as_str()]).collect();
    // The first steps of both parts are in the middle of an epoch of 9 steps.
    for (ranks, config, steps, end) in [
        (4, config("quickstart", &words), 5, 5),
        (2, config("quickstart", &resumed), 6, 11),
    ] {
        let results = on_ranks(ranks, &|collectives, stop| {
            let own = Disturbed::new(collectives, steps, false, stop);
            let stopping = Disturbed::new(collectives, usize::MAX, false, stop);
            let own = if collectives.rank() == 1 { own } else { stopping };
            run_rank(&config, &control(stop, collectives, &parts), &own)
        });
        for result in results {
            let finished = result.expect("an interrupted run");
            assert_eq!((finished.steps, finished.interrupted), (end, true));
        }
    }
    run(&config("quickstart", &resumed), 1, &parts);
    let case = "4, 2 and 1 ranks";
    let losses = assert_same(case, &records(&parts), &records(&whole));
    let weights = assert_same_checkpoints(case, &parts, &whole);
    println!("{case}: losses differ by {losses:.1e}, tensors of checkpoints by {weights:.1e}");
    // With 3 ranks, a step has 3 micro-batches. The first step has what is left of the 3 micro-batches at its position.
    let longer = [&resumed[1..], &["max_steps=26"]].concat();
    assert_eq!(run(&config("quickstart", &longer), 3, &parts).steps, 26);
}

#[test]
fn answers_and_submissions_are_those_of_one_rank() {
    let directory = TempDir::new().expect("a directory");
    let words = [
        "max_steps=12",
        "val_check_interval=1.0",
        "learning_rate=1e-3",
        "warmup_steps=2",
        "exp_name=mine",
    ];
    let named = "task_finetune_vqa_mae_randaug";
    let train = config(named, &words);
    for ranks in RANKS {
        run(&train, ranks, &run_of(&directory, ranks));
        let want = records(&run_of(&directory, 1));
        assert_same(&format!("{ranks} ranks"), &records(&run_of(&directory, ranks)), &want);
    }
    // The answers are those of the weights of one rank, so that they must be equal.
    let load_path = format!("load_path={}", run_of(&directory, 1).display());
    let log_dir = format!("log_dir={}", directory.path().display());
    let test = config(
        named,
        &["test_only=True", "vqa_test_split=rest_val", &load_path, &log_dir],
    );
    let tests: Vec<_> = RANKS
        .into_iter()
        .map(|ranks| {
            let tested = directory.path().join(format!("test-{ranks}"));
            let finished = run(&test, ranks, &tested);
            let read = |name: &str| std::fs::read_to_string(tested.join(name)).expect("a file");
            (finished.metrics, read("vqa_submit_mine.json"), read("metrics.json"))
        })
        .collect();
    let questions = 7 * vlct_synthetic::QUESTIONS_PER_IMAGE;
    assert_eq!(tests[0].1.matches("question_id").count(), questions);
    assert!(tests.iter().all(|test| *test == tests[0]));
}

#[test]
fn retrieval_is_tested_with_the_recalls_of_one_rank() {
    let directory = TempDir::new().expect("a directory");
    let named = "task_finetune_irtr_coco_mae_randaug";
    let train = config(
        named,
        &[
            "max_steps=10",
            "val_check_interval=1.0",
            "warmup_steps=2",
            "draw_false_text=3",
            "get_recall_metric=True",
        ],
    );
    for ranks in RANKS {
        run(&train, ranks, &run_of(&directory, ranks));
        let want = records(&run_of(&directory, 1));
        assert_same(&format!("{ranks} ranks"), &records(&run_of(&directory, ranks)), &want);
    }
    let load_path = format!("load_path={}", run_of(&directory, 1).display());
    let log_dir = format!("log_dir={}", directory.path().join("scores").display());
    let words = [
        "test_only=True",
        &load_path,
        &log_dir,
        "draw_false_text=3",
        "get_recall_metric=True",
    ];
    for more in [&[][..], &["recall_rerank=10"]] {
        let test = config(named, &[&words, more].concat());
        let metrics: Vec<_> = RANKS
            .into_iter()
            .map(|ranks| run(&test, ranks, &directory.path().join(format!("{}-{ranks}", more.len()))).metrics)
            .collect();
        assert!(
            metrics[0].iter().any(|(name, _)| name.ends_with("ir_r1")),
            "{metrics:?}"
        );
        assert!(metrics.iter().all(|other| *other == metrics[0]), "{metrics:?}");
    }
    assert!(!has_scores(&directory.path().join("scores")), "the scores are removed");
}

/// Whether a directory below `directory` has stored scores.
fn has_scores(directory: &Path) -> bool {
    let entries = std::fs::read_dir(directory).expect("a directory");
    entries
        .map(|entry| entry.expect("an entry").path())
        .any(|path| path.is_dir() && (path.to_string_lossy().contains("scores_") || has_scores(&path)))
}

#[test]
fn a_trial_writes_nothing_on_any_rank() {
    let directory = TempDir::new().expect("a directory");
    let config = config("quickstart", &["fast_dev_run=6"]);
    let run = run_of(&directory, 2);
    let results = on_ranks(2, &|collectives, stop: &AtomicBool| {
        run_rank(&config, &control(stop, collectives, &run), collectives)
    });
    assert!(
        results
            .iter()
            .all(|result| result.as_ref().is_ok_and(|finished| finished.steps == 2)),
        "{results:?}"
    );
    assert!(!run.exists() && data().exists());
}
