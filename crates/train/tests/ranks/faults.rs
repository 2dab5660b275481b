//! Errors of single ranks, which end all ranks.

use std::sync::atomic::AtomicBool;

use tempfile::TempDir;
use vlct_tensor::collectives::Single;
use vlct_train::TrainError;
use vlct_train::trainer::{self, run_rank};

use crate::support::{Disturbed, RANKS, config, control, on_ranks, run_of};

#[test]
fn a_rank_that_fails_ends_all_ranks_with_its_message_and_rank_0_saves() {
    let directory = TempDir::new().expect("a directory");
    let config = config("quickstart", &["max_steps=30", "learning_rate=1e-3"]);
    let run = run_of(&directory, 4);
    let results = on_ranks(4, &|collectives, stop| {
        let step = if collectives.rank() == 2 { 4 } else { usize::MAX };
        let own = Disturbed::new(collectives, step, true, stop);
        run_rank(&config, &control(stop, collectives, &run), &own)
    });
    for result in results {
        assert!(
            matches!(&result, Err(TrainError::Collective(error)) if error.to_string().contains("the cable is unplugged")),
            "{result:?}"
        );
    }
    let state = vlct_checkpoint::read_state(&vlct_checkpoint::last_path(&run)).expect("a checkpoint");
    assert_eq!(state.expect("a state")["global_step"], 3);
}

#[test]
fn a_configuration_of_several_ranks_is_no_run_of_one() {
    let directory = TempDir::new().expect("a directory");
    let config = config(
        "quickstart",
        &["max_steps=2", "num_gpus=2", "num_nodes=2", "device=cpu"],
    );
    let stop = AtomicBool::new(false);
    let result = trainer::run(&config, &control(&stop, &Single, &run_of(&directory, 1)));
    let Err(error) = result else {
        panic!("a contradiction is an error")
    };
    let message = error.to_string();
    assert!(message.contains("mean 4 ranks"), "{message}");
}

#[test]
fn a_loss_that_is_not_finite_is_reported_with_the_rows_of_its_rank() {
    let directory = TempDir::new().expect("a directory");
    // After an update with this rate, activations overflow.
    let config = config(
        "quickstart",
        &["max_steps=20", "learning_rate=1e30", "warmup_steps=0", "sanity_steps=0"],
    );
    let messages: Vec<Vec<String>> = RANKS
        .into_iter()
        .map(|ranks| {
            let run = run_of(&directory, ranks);
            let results = on_ranks(ranks, &|collectives, stop| {
                run_rank(&config, &control(stop, collectives, &run), collectives)
            });
            let message = |result: vlct_train::Result<_>| match result {
                Err(error @ TrainError::NonFinite { .. }) => error.to_string(),
                other => panic!("{:?}", other.map(|_| ())),
            };
            // The path of the last checkpoint comes last.
            let rows = |text: String| text.split("; ").next().unwrap_or_default().to_string();
            results.into_iter().map(message).map(rows).collect()
        })
        .collect();
    let first = &messages[0][0];
    assert!(
        first.contains("after step 1 (batch rows: coco_caption_karpathy"),
        "{first}"
    );
    assert!(
        messages.iter().flatten().all(|message| message == first),
        "{messages:?}"
    );
}

#[test]
fn ranks_with_other_settings_or_data_do_not_begin() {
    let directory = TempDir::new().expect("a directory");
    for (other, what) in [
        ("learning_rate=2e-3", "settings"),
        ("seed=1", "settings"),
        ("datasets=[\"coco\",\"coco\"]", "settings"),
    ] {
        let configs = ["seed=0", other].map(|word| config("quickstart", &["max_steps=2", "learning_rate=1e-3", word]));
        let results = on_ranks(2, &|collectives, stop| {
            let config = &configs[collectives.rank()];
            run_rank(config, &control(stop, collectives, &run_of(&directory, 2)), collectives)
        });
        for result in results {
            let message = result.expect_err("a contradiction").to_string();
            assert!(
                message.contains(&format!("rank 1 has other {what} than rank 0")),
                "{message}"
            );
        }
    }
    assert!(!run_of(&directory, 2).exists(), "no run is begun");
}

#[test]
fn a_batch_smaller_than_one_micro_batch_for_each_rank_is_an_error() {
    let directory = TempDir::new().expect("a directory");
    let config = config("quickstart", &["max_steps=2", "batch_size=8"]);
    let results = on_ranks(4, &|collectives, stop| {
        run_rank(
            &config,
            &control(stop, collectives, &run_of(&directory, 4)),
            collectives,
        )
    });
    for result in results {
        let message = result.expect_err("a contradiction").to_string();
        assert!(
            message.contains("batch_size=8 is smaller than one micro-batch of 16"),
            "{message}"
        );
    }
}
