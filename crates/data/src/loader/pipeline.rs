//! Batches made by several threads, delivered in order.
//!
//! Threads claim single samples, so that all threads work on one large batch. They begin batches before the consumer requests them.
//! A sample depends only on its position, never on the thread that makes it.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::share::Share;
use crate::{DataError, Result};
use vlct_util::panics;

/// A position in the sequence of batches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Epoch, from 0.
    pub epoch: u64,
    /// Batch within the epoch, from 0.
    pub batch: u64,
}

/// The work of the threads of a [`Pipeline`].
pub trait Job: Send + Sync + 'static {
    /// The data that all samples of a batch share, drawn once per batch.
    type Plan: Send + Sync;
    /// One sample.
    type Sample: Send;
    /// The collated samples of a batch.
    type Batch: Send;

    /// Batches per epoch, at least one.
    fn epoch_len(&self) -> u64;
    /// Returns the number of samples (at least one) and the plan of the batch at `position`.
    fn plan(&self, position: Position) -> (usize, Self::Plan);
    /// Makes sample `index` of a batch.
    ///
    /// # Errors
    /// The pipeline delivers the error instead of the batch.
    fn sample(&self, plan: &Self::Plan, index: usize) -> Result<Self::Sample>;
    /// Makes a batch of `samples`, which are in order.
    ///
    /// # Errors
    /// The pipeline delivers the error instead of the batch.
    fn collate(&self, plan: &Self::Plan, samples: Vec<Self::Sample>) -> Result<Self::Batch>;
}

/// A batch that is being made or waits for the consumer.
struct Slot<J: Job> {
    /// `None` if [`Job::plan`] panicked; `samples` is then empty.
    plan: Option<Arc<J::Plan>>,
    samples: Vec<Option<Result<J::Sample>>>,
    /// Number of samples that threads have begun.
    claimed: usize,
    /// Number of samples that threads have finished.
    made: usize,
    /// The batch or its error, when it is ready for the consumer.
    batch: Option<Result<J::Batch>>,
}

struct State<J: Job> {
    slots: VecDeque<Slot<J>>,
    /// Number of delivered batches. The first slot has the batch with this number, from 0.
    first: u64,
    /// The next batch to begin; `None` at the end.
    next: Option<Position>,
    stop: bool,
}

struct Shared<J: Job> {
    job: J,
    /// Maximum number of batches that are being made or wait for the consumer.
    prefetch: usize,
    /// The epoch before which the batches end; `None` if they do not end.
    end: Option<u64>,
    /// The batches of each epoch that are made.
    share: Share,
    state: Mutex<State<J>>,
    /// Notified when a thread may have work, or must stop.
    work: Condvar,
    /// Notified when a batch is complete.
    ready: Condvar,
}

/// An iterator over batches that threads make ahead. Dropping it stops the threads.
pub struct Pipeline<J: Job> {
    shared: Arc<Shared<J>>,
    threads: Vec<JoinHandle<()>>,
    waited: Duration,
}

impl<J: Job> Pipeline<J> {
    /// Starts `threads` threads that make at most `prefetch` batches ahead; 0 is treated as 1 for both. The first batch is at
    /// `start`, or the next one of `share`: nothing is made of batches of other shares. The batches end before epoch `end`, or never if it
    /// is `None`. There are none if an epoch has no batch of the share.
    ///
    /// # Errors
    /// Returns [`DataError::Invalid`] if an epoch has no batch or a thread cannot be started.
    pub fn new(
        job: J,
        start: Position,
        end: Option<u64>,
        share: Share,
        threads: usize,
        prefetch: usize,
    ) -> Result<Self> {
        if job.epoch_len() == 0 {
            return Err(DataError::Invalid(
                "there are no samples; name a dataset that has this split".into(),
            ));
        }
        let shared = Arc::new(Shared {
            prefetch: prefetch.max(1),
            end,
            share,
            state: Mutex::new(State {
                slots: VecDeque::new(),
                first: 0,
                next: None,
                stop: false,
            }),
            work: Condvar::new(),
            ready: Condvar::new(),
            job,
        });
        shared.lock().next = shared.normalise(start);
        let mut pipeline = Self {
            shared,
            threads: Vec::new(),
            waited: Duration::ZERO,
        };
        for number in 0..threads.max(1) {
            let shared = pipeline.shared.clone();
            let thread = std::thread::Builder::new()
                .name(format!("loader {number}"))
                .spawn(move || while shared.make_sample() {})
                .map_err(|e| DataError::Invalid(format!("loader thread {number} cannot be started: {e}")))?;
            pipeline.threads.push(thread);
        }
        Ok(pipeline)
    }

    /// The job.
    pub fn job(&self) -> &J {
        &self.shared.job
    }

    /// Total time that the consumer has waited for batches.
    pub fn wait_time(&self) -> Duration {
        self.waited
    }
}

impl<J: Job> Iterator for Pipeline<J> {
    type Item = Result<J::Batch>;

    fn next(&mut self) -> Option<Self::Item> {
        let start = Instant::now();
        let mut state = self.shared.lock();
        let batch = loop {
            if state.slots.is_empty() && state.next.is_none() {
                break None;
            }
            if let Some(batch) = state.slots.front_mut().and_then(|slot| slot.batch.take()) {
                state.slots.pop_front();
                state.first += 1;
                self.shared.work.notify_all();
                break Some(batch);
            }
            state = self.shared.ready.wait(state).unwrap_or_else(PoisonError::into_inner);
        };
        drop(state);
        self.waited += start.elapsed();
        batch
    }
}

impl<J: Job> Drop for Pipeline<J> {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.work.notify_all();
        for thread in self.threads.drain(..) {
            // A thread that panicked has stopped already.
            let _ = thread.join();
        }
    }
}

impl<J: Job> Shared<J> {
    /// Locks the state. A poisoned lock is accepted, because no panic leaves the state inconsistent.
    fn lock(&self) -> MutexGuard<'_, State<J>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the first position of the share that is not before `position`. A position beyond the last batch of its epoch means one in a
    /// later epoch. Returns `None` beyond the end.
    fn normalise(&self, position: Position) -> Option<Position> {
        let epoch_len = self.job.epoch_len();
        let mut position = Position {
            epoch: position.epoch.checked_add(position.batch / epoch_len)?,
            batch: self.share.first_from(position.batch % epoch_len),
        };
        if position.batch >= epoch_len {
            position = Position {
                epoch: position.epoch.checked_add(1)?,
                batch: self.share.first_from(0),
            };
            if position.batch >= epoch_len {
                return None;
            }
        }
        (self.end.is_none_or(|end| position.epoch < end)).then_some(position)
    }

    /// Makes one sample, and the batch if all its samples are made. Returns false if the thread must stop.
    fn make_sample(&self) -> bool {
        let Some((slot, plan, index)) = self.claim() else {
            return false;
        };
        let sample = catch_panic(|| self.job.sample(&plan, index));
        let mut state = self.lock();
        let Some(entry) = state.slot(slot) else {
            return false;
        };
        entry.samples[index] = Some(sample);
        entry.made += 1;
        if entry.made < entry.samples.len() {
            return true;
        }
        let samples = std::mem::take(&mut entry.samples);
        drop(state);
        // Of several errors, that of the smallest index is returned, not the first in time, so the number of threads has no effect.
        let batch = samples
            .into_iter()
            .flatten()
            .collect::<Result<Vec<_>>>()
            .and_then(|samples| catch_panic(|| self.job.collate(&plan, samples)));
        let mut state = self.lock();
        if let Some(entry) = state.slot(slot) {
            entry.batch = Some(batch);
        }
        self.ready.notify_all();
        true
    }

    /// Waits until there is a sample to make, and claims it. Returns the number of the batch, its plan, and the index of the sample in
    /// the batch; `None` if the thread must stop.
    fn claim(&self) -> Option<(u64, Arc<J::Plan>, usize)> {
        let mut state = self.lock();
        loop {
            if state.stop {
                return None;
            }
            let first = state.first;
            for (i, slot) in state.slots.iter_mut().enumerate() {
                if let Some(plan) = &slot.plan
                    && slot.claimed < slot.samples.len()
                {
                    slot.claimed += 1;
                    return Some((first + i as u64, plan.clone(), slot.claimed - 1));
                }
            }
            match state.next {
                Some(position) if state.slots.len() < self.prefetch => {
                    let (samples, plan, batch) = match catch_panic(|| Ok(self.job.plan(position))) {
                        Ok((samples, plan)) => (samples, Some(Arc::new(plan)), None),
                        Err(error) => {
                            self.ready.notify_all();
                            (0, None, Some(Err(error)))
                        }
                    };
                    state.slots.push_back(Slot {
                        plan,
                        samples: (0..samples).map(|_| None).collect(),
                        claimed: 0,
                        made: 0,
                        batch,
                    });
                    state.next = self.normalise(Position {
                        batch: position.batch + 1,
                        ..position
                    });
                }
                _ => state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

impl<J: Job> State<J> {
    fn slot(&mut self, number: u64) -> Option<&mut Slot<J>> {
        let index = number.checked_sub(self.first)?;
        self.slots.get_mut(usize::try_from(index).ok()?)
    }
}

/// Converts a panic, such as a bug in a decoder, into an error. Otherwise the consumer would wait forever.
fn catch_panic<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    panics::catch(work).unwrap_or_else(|message| {
        Err(DataError::Invalid(format!(
            "a loader thread panicked, which is a bug: {message}"
        )))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// A job of `total` samples per epoch in batches of `size`. A sample is its epoch and index, made after a wait that varies.
    #[derive(Default)]
    struct Indices {
        total: u64,
        size: u64,
        fail_from: Option<u64>,
        panic_at: Option<u64>,
        panic_in_plan_of: Option<u64>,
        made: Arc<AtomicUsize>,
    }

    impl Job for Indices {
        type Plan = Position;
        type Sample = (u64, u64);
        type Batch = (Position, Vec<(u64, u64)>);

        fn epoch_len(&self) -> u64 {
            self.total.div_ceil(self.size)
        }

        fn plan(&self, position: Position) -> (usize, Position) {
            if self.panic_in_plan_of == Some(position.batch) {
                std::panic::resume_unwind(Box::new("broken plan"));
            }
            let remaining = self.total - position.batch * self.size;
            (remaining.min(self.size) as usize, position)
        }

        fn sample(&self, plan: &Position, index: usize) -> Result<(u64, u64)> {
            self.made.fetch_add(1, Ordering::SeqCst);
            let index = plan.batch * self.size + index as u64;
            for _ in 0..(index * 7919) % 13 {
                std::thread::yield_now();
            }
            if self.panic_at == Some(index) {
                std::panic::resume_unwind(Box::new("broken decoder"));
            }
            match self.fail_from {
                Some(first) if index >= first => Err(DataError::Invalid(format!("index {index}"))),
                _ => Ok((plan.epoch, index)),
            }
        }

        fn collate(&self, plan: &Position, samples: Vec<(u64, u64)>) -> Result<Self::Batch> {
            Ok((*plan, samples))
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        #[test]
        fn delivers_every_sample_once_in_order_for_any_number_of_threads(
            total in 1u64..60, size in 1u64..20, threads in 0usize..6, prefetch in 0usize..5,
            epoch in 0u64..3, batch in 0u64..30,
        ) {
            let job = Indices { total, size, ..Indices::default() };
            let epoch_len = job.epoch_len();
            let start = Position { epoch, batch };
            let batches: Vec<_> = Pipeline::new(job, start, Some(6), Share::ALL, threads, prefetch).unwrap().map(|b| b.unwrap()).collect();
            let first = (epoch * epoch_len + batch).min(6 * epoch_len);
            let expected: Vec<_> = (first..6 * epoch_len)
                .map(|b| {
                    let position = Position { epoch: b / epoch_len, batch: b % epoch_len };
                    let indices = position.batch * size..(position.batch * size + size).min(total);
                    (position, indices.map(|i| (position.epoch, i)).collect::<Vec<_>>())
                })
                .collect();
            prop_assert_eq!(batches, expected);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn shares_have_each_batch_once_and_make_no_samples_of_others(
            total in 1u64..40, size in 1u64..8, ranks in 1u64..5, group in 1u64..4, start in 0u64..12,
        ) {
            let start = Position { epoch: 1, batch: start };
            let of = |share: Share| -> (Vec<_>, usize) {
                let job = Indices { total, size, ..Indices::default() };
                let made = job.made.clone();
                let batches = Pipeline::new(job, start, Some(4), share, 2, 3).unwrap().map(|b| b.unwrap()).collect();
                (batches, made.load(Ordering::SeqCst))
            };
            let (all, _) = of(Share::ALL);
            for rank in 0..ranks {
                let share = Share { rank, ranks, group };
                let (batches, made) = of(share);
                let expected: Vec<_> = all.iter().filter(|(position, _)| share.has(position.batch)).cloned().collect();
                prop_assert_eq!(made, expected.iter().map(|(_, samples)| samples.len()).sum::<usize>());
                prop_assert_eq!(batches, expected);
            }
        }
    }

    #[test]
    fn error_of_a_batch_is_that_of_its_first_failing_sample() {
        for threads in [1, 4] {
            let job = Indices {
                total: 10,
                size: 5,
                fail_from: Some(7),
                ..Indices::default()
            };
            let mut batches = Pipeline::new(job, Position::default(), Some(1), Share::ALL, threads, 2).unwrap();
            assert!(batches.next().unwrap().is_ok());
            assert_eq!(batches.next().unwrap().unwrap_err().to_string(), "index 7");
            assert!(batches.next().is_none());
        }
    }

    #[test]
    fn panic_becomes_an_error_of_its_batch() {
        let job = Indices {
            total: 6,
            size: 3,
            panic_at: Some(1),
            ..Indices::default()
        };
        let mut batches = Pipeline::new(job, Position::default(), Some(1), Share::ALL, 2, 2).unwrap();
        let error = batches.next().unwrap().unwrap_err().to_string();
        assert!(error.contains("broken decoder"), "{error}");
        assert!(batches.next().unwrap().is_ok());
        assert!(batches.next().is_none());
    }

    #[test]
    fn panic_in_a_plan_becomes_an_error_of_its_batch() {
        let job = Indices {
            total: 9,
            size: 3,
            panic_in_plan_of: Some(1),
            ..Indices::default()
        };
        let mut batches = Pipeline::new(job, Position::default(), Some(1), Share::ALL, 2, 2).unwrap();
        assert!(batches.next().unwrap().is_ok());
        let error = batches.next().unwrap().unwrap_err().to_string();
        assert!(error.contains("broken plan"), "{error}");
        assert!(batches.next().unwrap().is_ok());
        assert!(batches.next().is_none());
    }

    #[test]
    fn prefetch_bounds_the_samples_made_and_dropping_stops_the_threads() {
        let job = Indices {
            total: 1_000_000,
            size: 4,
            ..Indices::default()
        };
        let made = job.made.clone();
        let mut batches = Pipeline::new(job, Position::default(), None, Share::ALL, 3, 2).unwrap();
        for _ in 0..5 {
            batches.next().unwrap().unwrap();
        }
        drop(batches);
        let made = made.load(Ordering::SeqCst);
        assert!(made <= 7 * 4, "{made} samples were made for five batches and two ahead");
    }

    #[test]
    fn rejects_jobs_without_batches() {
        let job = Indices {
            total: 0,
            size: 4,
            ..Indices::default()
        };
        assert!(Pipeline::new(job, Position::default(), None, Share::ALL, 1, 1).is_err());
    }
}
