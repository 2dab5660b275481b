//! A run directory belongs to one process at a time.

use crate::error::{Result, TrainError};
use std::fs::{File, TryLockError};
use std::path::Path;

/// Keeps other processes from training in a run directory as long as the file that is given is open: the directory itself, so that
/// nothing is left behind. `None` where the system has no such locks.
///
/// # Errors
/// [`TrainError::Invalid`] if another process has locked it.
pub(super) fn lock(run: &Path) -> Result<Option<File>> {
    let Ok(folder) = File::open(run) else {
        return Ok(None);
    };
    match folder.try_lock() {
        Ok(()) => Ok(Some(folder)),
        Err(TryLockError::WouldBlock) => Err(TrainError::Invalid(format!(
            "{}: another process trains in this run directory; wait for it, or stop it first",
            run.display()
        ))),
        Err(TryLockError::Error(_)) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_at_a_time() {
        let run = tempfile::tempdir().expect("a folder");
        let held = lock(run.path()).expect("nobody has it");
        let refused = lock(run.path()).expect_err("it is taken").to_string();
        assert!(
            refused.contains("another process trains in this run directory"),
            "{refused}"
        );
        drop(held);
        assert!(lock(run.path()).is_ok());
    }
}
