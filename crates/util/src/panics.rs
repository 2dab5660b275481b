//! Converts panics, such as that of a decoder on a damaged file, to errors.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    /// Number of nested calls of [`catch`] on this thread.
    static DEPTH: Cell<usize> = const { Cell::new(0) };
}

/// Calls `work` and returns its result, or the message of its panic as an error. The panic hook still runs; it can call [`is_caught`].
///
/// The caller must not use values that `work` may have left half changed.
///
/// # Errors
/// Returns the message of the panic; it is empty if the payload of the panic is not text.
pub fn catch<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    DEPTH.set(DEPTH.get() + 1);
    let result = catch_unwind(AssertUnwindSafe(work));
    DEPTH.set(DEPTH.get() - 1);
    result.map_err(|payload| {
        let text = payload.downcast_ref::<&str>().map(|text| text.to_string());
        text.or_else(|| payload.downcast_ref::<String>().cloned())
            .unwrap_or_default()
    })
}

/// Returns whether [`catch`] will convert a panic of this thread to an error, so that a panic hook need not print it.
pub fn is_caught() -> bool {
    DEPTH.get() > 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn returns_results_and_messages() {
        assert!(!is_caught());
        assert_eq!(catch(|| catch(is_caught)), Ok(Ok(true)));
        let error = |panic: fn() -> ()| catch(panic).unwrap_err();
        assert_eq!(error(|| std::panic::resume_unwind(Box::new("text"))), "text");
        assert_eq!(error(|| std::panic::resume_unwind(Box::new("a".to_string()))), "a");
        assert_eq!(error(|| std::panic::resume_unwind(Box::new(5))), "");
        assert!(!is_caught());
    }
}
