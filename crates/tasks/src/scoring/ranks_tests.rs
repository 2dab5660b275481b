//! Recalls that several ranks compute together.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use vlct_model::Vlc;
use vlct_tensor::collectives::{Single, Threads};
use vlct_tensor::{Collectives, Device};

use super::testing::{dataset, inputs, small_model};
use super::{Event, Found, RecallEvaluator, RecallSpec, ScorePlace};
use crate::error::Result;
use crate::metrics::Report;

/// Computes the recalls on ranks as threads, with scores in `directory`. With `stop_after`, rank `1` sets its stop flag after so many rounds.
/// Returns the results of the ranks, and what rank 0 found.
fn on_ranks(
    evaluator: &RecallEvaluator,
    model: &Vlc,
    ranks: usize,
    directory: &Path,
    stop_after: Option<usize>,
) -> Vec<(Result<Option<Report>>, Option<Found>)> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = Threads::new(ranks, Device::cpu())
            .into_iter()
            .map(|rank| {
                scope.spawn(move || {
                    let (stop, mut rounds, mut found) = (AtomicBool::new(false), 0, None);
                    let place = match rank.rank() {
                        0 => ScorePlace::Resumable(directory),
                        _ => ScorePlace::OtherRank,
                    };
                    let recalls = evaluator.recalls(model, place, &rank, &stop, &mut |event| match event {
                        Event::Started { found: before, .. } => drop(found.get_or_insert(before)),
                        Event::Progress { .. } => {
                            rounds += 1;
                            let stops = rank.rank() == 1 && stop_after.is_some_and(|after| rounds >= after);
                            stop.fetch_or(stops, Ordering::Relaxed);
                        }
                        Event::Estimate { .. } => {}
                    });
                    let found = found.filter(|_| rank.rank() == 0);
                    (recalls.map(|recalls| recalls.map(|(report, _)| report)), found)
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

#[test]
fn ranks_compute_the_recalls_of_a_single_rank_and_continue_from_its_scores() {
    let model = small_model(1);
    let (_files, data) = dataset(150);
    for rerank in [None, Some(12)] {
        let evaluator = RecallEvaluator::new(data.clone(), inputs(), 1, RecallSpec { limit: 0, rerank }).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let (stop, place) = (AtomicBool::new(false), ScorePlace::Temporary(directory.path()));
        let alone = evaluator.recalls(&model, place, &Single, &stop, &mut |_| ());
        let expected = alone.unwrap().unwrap().0;
        // The run of 2 ranks stops after 3 blocks, in the middle of a round of 2 ranks.
        for (ranks, others) in [(2, 2), (2, 3), (3, 1)] {
            let directory = tempfile::tempdir().unwrap();
            let stopped = on_ranks(&evaluator, &model, ranks, directory.path(), Some(1));
            assert!(stopped.iter().all(|(recalls, _)| matches!(recalls, Ok(None))));
            let finished = on_ranks(&evaluator, &model, others, directory.path(), None);
            assert!(
                matches!(finished[0].1, Some(Found::Scores(pairs)) if pairs > 0),
                "{:?}",
                finished[0].1
            );
            for (recalls, _) in finished {
                assert_eq!(recalls.unwrap(), Some(expected.clone()));
            }
        }
    }
}

#[test]
fn an_error_of_the_stored_scores_ends_all_ranks() {
    let (model, (_files, data)) = (small_model(1), dataset(12));
    let evaluator = RecallEvaluator::new(data, inputs(), 1, RecallSpec::default()).unwrap();
    // The place of the scores is a file, so rank 0 fails, and says so to the others.
    let file = tempfile::NamedTempFile::new().unwrap();
    std::thread::scope(|scope| {
        for rank in Threads::new(2, Device::cpu()) {
            let (evaluator, model, file) = (&evaluator, &model, file.path());
            scope.spawn(move || {
                let place = match rank.rank() {
                    0 => ScorePlace::Resumable(file),
                    _ => ScorePlace::OtherRank,
                };
                let result = evaluator.recalls(model, place, &rank, &AtomicBool::new(false), &mut |_| ());
                let Err(error) = result else {
                    panic!("scores are in a file that is no directory")
                };
                rank.fail(&error.to_string());
                assert_eq!(error.to_string().starts_with("rank 0: "), rank.rank() == 1, "{error}");
            });
        }
    });
}
