//! The threads of the arithmetic.

use crate::error::{Result, TrainError};
use crate::spec::ComputeSpec;
use std::sync::OnceLock;

/// How many threads the arithmetic has, and where they run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Threads {
    /// Their number; 0: one for each processor.
    pub count: usize,
    /// Whether each keeps to a processor of its own, the first ones of those that this process may use. Linux only.
    pub pinned: bool,
}

impl Threads {
    /// The threads of a run.
    pub fn of(compute: &ComputeSpec) -> Self {
        Self {
            count: compute.threads,
            pinned: compute.pin_threads,
        }
    }
}

/// Starts the threads of the arithmetic. Takes effect once: a process keeps what was asked first.
///
/// # Errors
/// If the system refuses so many, or they are to be pinned and there are fewer processors, or the system cannot do that.
pub fn use_threads(threads: Threads) -> Result<()> {
    static STARTED: OnceLock<std::result::Result<(), String>> = OnceLock::new();
    STARTED
        .get_or_init(|| start(threads))
        .clone()
        .map_err(TrainError::Threads)
}

fn start(Threads { count, pinned }: Threads) -> std::result::Result<(), String> {
    let mut pool = rayon::ThreadPoolBuilder::new().num_threads(count);
    if pinned {
        let processors = affinity::allowed()?;
        let count = match count {
            0 => processors.len(),
            count => count,
        };
        if count > processors.len() {
            return Err(format!(
                "pin_threads: {count} threads, but this process may use {} processors: take threads={0}",
                processors.len()
            ));
        }
        pool = pool.num_threads(count).start_handler(move |i| {
            // What the system just said to be allowed may have changed since; an unpinned thread computes the same.
            let _ = affinity::keep_to(processors[i]);
        });
    }
    pool.build_global().map_err(|e| format!("threads={count}: {e}"))
}

#[cfg(target_os = "linux")]
mod affinity {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

    /// The processors that the calling thread may run on.
    pub fn allowed() -> Result<Vec<usize>, String> {
        let set = sched_getaffinity(None).map_err(|e| format!("pin_threads: which processors may be used? {e}"))?;
        Ok((0..CpuSet::MAX_CPU).filter(|i| set.is_set(*i)).collect())
    }

    /// Makes it run on one of them only.
    pub fn keep_to(processor: usize) -> rustix::io::Result<()> {
        let mut set = CpuSet::new();
        set.set(processor);
        sched_setaffinity(None, &set)
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_thread_keeps_to_its_processor() {
            let before = allowed().unwrap();
            let last = *before.last().unwrap();
            std::thread::spawn(move || {
                keep_to(last).unwrap();
                assert_eq!(allowed().unwrap(), [last]);
            })
            .join()
            .unwrap();
            assert_eq!(allowed().unwrap(), before);
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod affinity {
    pub fn allowed() -> Result<Vec<usize>, String> {
        Err("pin_threads works on Linux only: leave it out".into())
    }

    pub fn keep_to(_processor: usize) -> Result<(), String> {
        allowed().map(|_| ())
    }
}
