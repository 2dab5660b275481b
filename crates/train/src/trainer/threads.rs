//! The threads of the computation.

use crate::error::{Result, TrainError};
use crate::spec::ComputeSpec;
use std::sync::OnceLock;
use vlct_config::Config;

/// Number and placement of the compute threads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Threads {
    /// Number of threads; 0 means one per CPU.
    pub count: usize,
    /// Whether thread `i` is bound to CPU `first + i` of those that this process may use (Linux only).
    pub pinned: bool,
    /// Number of the CPU of the first thread.
    pub first: usize,
}

impl Threads {
    /// Returns the number and placement of the threads of a run with this configuration.
    pub fn from_config(config: &Config) -> Self {
        Self {
            count: config.threads,
            pinned: config.pin_threads,
            first: 0,
        }
    }

    /// Returns the threads of one of `ranks` ranks that share the CPUs of this machine.
    pub fn of_rank(self, rank: usize, ranks: usize) -> Self {
        if ranks <= 1 {
            return self;
        }
        let count = match self.count {
            0 => {
                let cpus = std::thread::available_parallelism().map_or(1, usize::from);
                (cpus / ranks).max(1)
            }
            count => count,
        };
        Self {
            count,
            first: rank * count,
            ..self
        }
    }

    /// Returns the number and placement of the threads of a run.
    pub fn from_spec(compute: &ComputeSpec) -> Self {
        Self {
            count: compute.threads,
            pinned: compute.pin_threads,
            first: 0,
        }
    }
}

/// Starts the compute threads. Only the first call in a process has an effect; later calls return its result.
///
/// # Errors
/// Returns an error if the threads cannot be started, or there are fewer CPUs than threads to bind.
pub fn use_threads(threads: Threads) -> Result<()> {
    static STARTED: OnceLock<std::result::Result<(), String>> = OnceLock::new();
    STARTED
        .get_or_init(|| start(threads))
        .clone()
        .map_err(TrainError::Threads)
}

fn start(Threads { count, pinned, first }: Threads) -> std::result::Result<(), String> {
    let mut pool = rayon::ThreadPoolBuilder::new().num_threads(count);
    if pinned {
        let cpus = affinity::allowed()?;
        let allowed = cpus.len();
        let count = match count {
            0 => allowed,
            count => count,
        };
        if first + count > allowed {
            let (needed, others) = match first {
                0 => (allowed, String::new()),
                _ => (
                    allowed / (first / count + 1),
                    format!(", beside {first} of other ranks"),
                ),
            };
            return Err(format!(
                "pin_threads: {count} threads{others}, but this process may use {allowed} CPUs: set threads={needed}"
            ));
        }
        pool = pool.num_threads(count).start_handler(move |i| {
            // Binding fails if the set of allowed CPUs has changed. Threads that are not bound compute the same values.
            let _ = affinity::bind_to(cpus[first + i]);
        });
    }
    pool.build_global().map_err(|e| format!("threads={count}: {e}"))
}

#[cfg(target_os = "linux")]
mod affinity {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

    /// Returns the CPUs that the calling thread may run on.
    pub fn allowed() -> Result<Vec<usize>, String> {
        let set =
            sched_getaffinity(None).map_err(|e| format!("pin_threads: the allowed CPUs cannot be determined: {e}"))?;
        Ok((0..CpuSet::MAX_CPU).filter(|i| set.is_set(*i)).collect())
    }

    /// Binds the calling thread to one CPU.
    pub fn bind_to(cpu: usize) -> rustix::io::Result<()> {
        let mut set = CpuSet::new();
        set.set(cpu);
        sched_setaffinity(None, &set)
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn binds_a_thread_to_a_cpu() {
            let before = allowed().unwrap();
            let last = *before.last().unwrap();
            std::thread::spawn(move || {
                bind_to(last).unwrap();
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

    pub fn bind_to(_cpu: usize) -> Result<(), String> {
        allowed().map(|_| ())
    }
}
