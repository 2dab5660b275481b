//! A run directory belongs to one process at a time.

use crate::error::{Result, TrainError};
use std::fs::{File, TryLockError};
use std::path::Path;

/// Keeps other processes from training in a run directory until it is dropped, or the process ends.
pub(super) struct RunLock(#[allow(dead_code, reason = "the lock lasts as long as the open file")] Option<File>);

impl RunLock {
    /// Locks the directory itself: nothing is left behind. Where a system has no such locks there is none.
    ///
    /// # Errors
    /// [`TrainError::Invalid`] if another process holds it.
    pub fn take(run: &Path) -> Result<Self> {
        let Ok(folder) = File::open(run) else {
            return Ok(Self(None));
        };
        match folder.try_lock() {
            Ok(()) => Ok(Self(Some(folder))),
            Err(TryLockError::WouldBlock) => Err(TrainError::Invalid(format!(
                "{}: another process trains in this run directory; wait for it, or stop it first",
                run.display()
            ))),
            Err(TryLockError::Error(_)) => Ok(Self(None)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_at_a_time() {
        let run = tempfile::tempdir().expect("a folder");
        let lock = RunLock::take(run.path()).expect("nobody has it");
        let refused = RunLock::take(run.path())
            .map(drop)
            .expect_err("it is taken")
            .to_string();
        assert!(
            refused.contains("another process trains in this run directory"),
            "{refused}"
        );
        drop(lock);
        assert!(RunLock::take(run.path()).is_ok());
    }
}
