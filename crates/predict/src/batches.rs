//! Preparation of many inputs on threads, ahead of the model.
//!
//! Inputs are taken from an iterator in batches. Threads prepare the inputs of the next batches while the model computes the current one.
//! A batch consists of consecutive inputs, so the results do not depend on the number of threads or on timing.

use std::sync::mpsc::sync_channel;

use rayon::prelude::*;
use vlct_util::panics;

use crate::{PredictError, Result};

/// Number of prepared batches that wait for the model.
const AHEAD: usize = 2;

/// Settings of [`run`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchSpec {
    /// Inputs per forward pass, at least 1. With 1, only a few inputs are read ahead of the answers, which suits inputs that
    /// another program writes one at a time.
    pub batch_size: usize,
    /// Number of threads that prepare inputs, at least 1.
    pub threads: usize,
}

/// Predicts from inputs, in order.
///
/// `prepare` is called on threads. `predict` is called on this thread with the prepared inputs of a batch, without those that could not be
/// prepared, and returns one result for each. `sink` gets every input with its result or error, in order, and `None` with the error of an
/// input that could not be read; if it returns an error, the remaining inputs are not read.
///
/// # Errors
/// Returns the errors of `sink`, and an error if the threads cannot be started.
pub fn run<I: Send, P: Send, R, E: From<PredictError>>(
    inputs: impl Iterator<Item = Result<I>> + Send,
    spec: BatchSpec,
    prepare: impl Fn(&I) -> Result<P> + Sync,
    mut predict: impl FnMut(&[P]) -> Vec<R>,
    mut sink: impl FnMut(Option<I>, Result<R>) -> Result<(), E>,
) -> Result<(), E> {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(spec.threads.max(1))
        .thread_name(|i| format!("loader {i}"))
        .build()
        .map_err(|error| PredictError::Invalid(format!("loader threads cannot be started: {error}")))?;
    let prepare = &prepare;
    // A panic, such as a bug in a decoder, becomes an error of the input.
    let prepare = |input: Result<I>| {
        let input = match input {
            Ok(input) => input,
            Err(error) => return (None, Err(error)),
        };
        let prepared = panics::catch(|| prepare(&input)).unwrap_or_else(|message| {
            let reason = format!("a loader thread panicked, which is a bug: {message}");
            Err(PredictError::Invalid(reason))
        });
        (Some(input), prepared)
    };
    std::thread::scope(|scope| {
        let (sender, receiver) = sync_channel::<Vec<(Option<I>, Result<P>)>>(AHEAD);
        scope.spawn(move || {
            let mut inputs = inputs;
            loop {
                let batch: Vec<Result<I>> = inputs.by_ref().take(spec.batch_size.max(1)).collect();
                if batch.is_empty() {
                    break;
                }
                let prepared = pool.install(|| batch.into_par_iter().map(prepare).collect());
                // The receiver is gone if the sink returned an error.
                if sender.send(prepared).is_err() {
                    break;
                }
            }
        });
        for batch in receiver {
            let mut prepared = Vec::with_capacity(batch.len());
            let mut results = Vec::with_capacity(batch.len());
            for (input, result) in batch {
                let error = match result {
                    Ok(item) => {
                        prepared.push(item);
                        None
                    }
                    Err(error) => Some(error),
                };
                results.push((input, error));
            }
            let mut predicted = match prepared.is_empty() {
                true => Vec::new(),
                false => predict(&prepared),
            }
            .into_iter();
            for (input, error) in results {
                let result = match error {
                    Some(error) => Err(error),
                    None => match predicted.next() {
                        Some(result) => Ok(result),
                        None => unreachable!("one result for each prepared input"),
                    },
                };
                sink(input, result)?;
            }
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn doubled(spec: BatchSpec) -> Vec<(u32, Option<u32>)> {
        let mut results = Vec::new();
        let prepare = |input: &u32| match input % 5 {
            0 => Err(PredictError::Invalid("a multiple of five".into())),
            1 => panic!("a bug"),
            _ => Ok(2 * input),
        };
        let done: Result<()> = run(
            (0..17).map(Ok),
            spec,
            prepare,
            |batch| {
                assert!(batch.len() <= spec.batch_size);
                batch.to_vec()
            },
            |input, result| {
                results.push((input.expect("an input"), result.ok()));
                Ok(())
            },
        );
        done.expect("no error of the sink");
        results
    }

    #[test]
    fn results_are_in_order_for_any_batches_and_threads() {
        let want: Vec<_> = (0..17).map(|i| (i, (i % 5 > 1).then_some(2 * i))).collect();
        for (batch_size, threads) in [(1, 1), (4, 3), (100, 2)] {
            assert_eq!(doubled(BatchSpec { batch_size, threads }), want);
        }
    }

    #[test]
    fn an_error_of_the_sink_ends_the_run() {
        let spec = BatchSpec {
            batch_size: 2,
            threads: 1,
        };
        let mut count = 0;
        let result: Result<()> = run(
            (0..).map(Ok),
            spec,
            |input: &u64| Ok(*input),
            |batch| batch.to_vec(),
            |_, _| {
                count += 1;
                match count {
                    5 => Err(PredictError::Invalid("closed".into())),
                    _ => Ok(()),
                }
            },
        );
        assert_eq!((result.unwrap_err().to_string().as_str(), count), ("closed", 5));
    }
}
