//! Communication between devices, of which each has a rank.

use super::{Address, Result, Stream};

/// What identifies the communicators of the same run; rank 0 makes it, and the others get its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct UniqueId(pub [u8; 128]);

/// The communication of one device with those of the other ranks.
///
/// All ranks call the same functions in the same order, with the same number of values. The functions submit work to a stream and do not
/// wait for it.
pub trait Communicator: Send + Sync {
    /// Returns the number of this rank, from 0.
    fn rank(&self) -> usize;

    /// Returns the number of ranks.
    fn ranks(&self) -> usize;

    /// Replaces `count` f32 values by their sums over all ranks.
    ///
    /// # Errors
    /// Returns an error if the range is not within an allocation, the communicator was aborted, or the library fails.
    fn all_reduce(&self, values: Address, count: usize, stream: Stream) -> Result<()>;

    /// Replaces `count` f32 values by those of rank 0.
    ///
    /// # Errors
    /// Returns the errors of [`Communicator::all_reduce`].
    fn broadcast(&self, values: Address, count: usize, stream: Stream) -> Result<()>;

    /// Returns the error of submitted work, if it has failed. Work that waits for a rank that has ended fails only sometimes, so the ranks
    /// need another way to notice that.
    ///
    /// # Errors
    /// Returns the error.
    fn check(&self) -> Result<()>;

    /// Ends submitted work, also while it waits for other ranks. Later calls are errors.
    fn abort(&self);
}
