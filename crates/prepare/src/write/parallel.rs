//! A parallel map whose results are consumed in order, with bounded memory.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Maximum number of results per thread that wait to be consumed. It is larger than 1, because images take different times.
const MAX_AHEAD_PER_THREAD: usize = 16;

/// A size in memory.
pub trait ByteSize {
    /// Returns the size in bytes.
    fn byte_size(&self) -> usize;
}

/// The state that the threads share. An item is an integer from which `make` makes a result.
struct State<T> {
    /// The next item to start.
    next: usize,
    /// The next item to consume.
    next_to_consume: usize,
    /// Results that wait to be consumed, by item.
    waiting: BTreeMap<usize, T>,
    /// Total size of the waiting results.
    bytes: usize,
    /// Whether the threads must end.
    stop: bool,
}

struct Shared<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
    /// The end of the range of items.
    end: usize,
    /// Maximum distance of a started item from the next item to consume.
    max_ahead: usize,
    /// Once the waiting results have this many bytes in total, only the next item to consume is started.
    budget: usize,
}

impl<T: ByteSize> Shared<T> {
    /// Makes the results of items until no item is left.
    fn work(&self, make: &impl Fn(usize) -> T) {
        let stop_on_panic = StopOnDrop(self);
        while let Some(item) = self.start() {
            let made = make(item);
            let mut state = self.lock();
            state.bytes += made.byte_size();
            state.waiting.insert(item, made);
            drop(state);
            self.changed.notify_all();
        }
        // This worker did not panic, so the others continue.
        std::mem::forget(stop_on_panic);
    }

    /// Waits until an item may be started, and returns it; `None` if no item is left, or if the threads must end.
    fn start(&self) -> Option<usize> {
        let mut state = self.lock();
        loop {
            if state.stop || state.next >= self.end {
                return None;
            }
            let is_next_to_consume = state.next == state.next_to_consume;
            if is_next_to_consume || (state.next - state.next_to_consume < self.max_ahead && state.bytes < self.budget)
            {
                state.next += 1;
                return Some(state.next - 1);
            }
            state = self.wait(state);
        }
    }

    /// Waits for the result of `item`, the next item to consume, and returns it; `None` if a worker panicked.
    fn consume(&self, item: usize) -> Option<T> {
        let mut state = self.lock();
        let made = loop {
            if let Some(made) = state.waiting.remove(&item) {
                break made;
            }
            if state.stop {
                return None;
            }
            state = self.wait(state);
        };
        state.next_to_consume = item + 1;
        state.bytes -= made.byte_size();
        drop(state);
        self.changed.notify_all();
        Some(made)
    }
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // No update of the state panics, so a poisoned lock holds a consistent state.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State<T>>) -> MutexGuard<'a, State<T>> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }
}

/// Stops the threads when it is dropped: when the consumer returns or panics, or when a worker panics.
struct StopOnDrop<'a, T>(&'a Shared<T>);

impl<T> Drop for StopOnDrop<'_, T> {
    fn drop(&mut self) {
        self.0.lock().stop = true;
        self.0.changed.notify_all();
    }
}

/// Calls `make` for every item on one of `threads` threads, and `take` with each result, in order, on the calling thread. Stops when
/// `take` returns an error.
///
/// Waiting results have about `budget` bytes at most: once this is reached, only the next item to consume is started.
///
/// # Errors
/// Returns the error of `take`.
///
/// # Panics
/// Panics if `make` panics.
pub fn map_in_order<T: ByteSize + Send, E>(
    items: Range<usize>,
    threads: usize,
    budget: usize,
    make: impl Fn(usize) -> T + Sync,
    mut take: impl FnMut(usize, T) -> Result<(), E>,
) -> Result<(), E> {
    let threads = threads.max(1);
    let shared = Shared {
        state: Mutex::new(State {
            next: items.start,
            next_to_consume: items.start,
            waiting: BTreeMap::new(),
            bytes: 0,
            stop: false,
        }),
        changed: Condvar::new(),
        end: items.end,
        max_ahead: MAX_AHEAD_PER_THREAD * threads,
        budget,
    };
    let (shared, make) = (&shared, &make);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| shared.work(make));
        }
        let _stop = StopOnDrop(shared);
        for item in items {
            let Some(made) = shared.consume(item) else {
                // A worker panicked. Leaving the scope propagates the panic.
                return Ok(());
            };
            take(item, made)?;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// A result: its item, and its size in bytes.
    struct MadeResult(usize, usize);

    impl ByteSize for MadeResult {
        fn byte_size(&self) -> usize {
            self.1
        }
    }

    #[test]
    fn results_are_consumed_in_order() {
        for threads in [1, 3, 8] {
            for budget in [0, 10, 1 << 20] {
                let mut seen = Vec::new();
                let slow = |i: usize| {
                    std::thread::sleep(std::time::Duration::from_micros((i % 7 * 50) as u64));
                    MadeResult(i, i % 5)
                };
                map_in_order::<_, ()>(3..60, threads, budget, slow, |i, item| {
                    assert_eq!(i, item.0);
                    seen.push(i);
                    Ok(())
                })
                .unwrap();
                assert_eq!(seen, (3..60).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn stops_at_a_full_budget_and_after_an_error() {
        let made = AtomicUsize::new(0);
        let heavy = |i| {
            made.fetch_add(1, Ordering::SeqCst);
            MadeResult(i, 100)
        };
        let result = map_in_order(0..1000, 4, 1, heavy, |i, _| if i == 5 { Err("stop") } else { Ok(()) });
        assert_eq!(result, Err("stop"));
        // Items 0 to 5 are made, and each worker may start one item ahead and one more before the error stops it.
        assert!(made.load(Ordering::SeqCst) <= 6 + 2 * 4, "{made:?}");
    }

    #[test]
    #[should_panic(expected = "a scoped thread panicked")]
    fn propagates_panics() {
        let _ = map_in_order::<_, ()>(
            0..10,
            2,
            100,
            |i| if i == 4 { panic!("broken") } else { MadeResult(i, 1) },
            |_, _| Ok(()),
        );
    }
}
