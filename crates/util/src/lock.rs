//! Advisory file locks between processes.

use std::fs::{File, TryLockError};

/// The result of [`try_lock`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lock {
    /// This process holds the lock, or the file system has no locks. The lock is released when the file is closed.
    Acquired,
    /// Another process, or another open file of this process, holds the lock.
    HeldElsewhere,
}

/// Locks an open file or directory exclusively, without waiting.
pub fn try_lock(file: &File) -> Lock {
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => Lock::HeldElsewhere,
        // The file system has no locks, so other processes cannot be detected.
        Ok(()) | Err(TryLockError::Error(_)) => Lock::Acquired,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rejects_a_second_lock_until_the_first_is_closed() {
        let directory = tempfile::tempdir().unwrap();
        let open = || File::open(directory.path()).unwrap();
        let (first, second) = (open(), open());
        assert_eq!(try_lock(&first), Lock::Acquired);
        assert_eq!(try_lock(&second), Lock::HeldElsewhere);
        drop(first);
        assert_eq!(try_lock(&second), Lock::Acquired);
    }
}
