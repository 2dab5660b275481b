//! Communication between the ranks of a run.
//!
//! A run has one or more *ranks*, each with a device and a copy of the weights. All ranks call the same functions of [`Collectives`] in the
//! same order. [`Single`] is the only rank of a run, [`Threads`] are ranks in one process, and [`Tcp`] is a rank in a process of its own.

mod single;
mod tcp;
mod threads;

pub use single::Single;
pub use tcp::{JoinError, Listener, Tcp, Waiting, Watch};
pub use threads::Threads;

use crate::tensor::Tensor;

/// An error of the communication between ranks. Its message is one line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CollectiveError {
    /// A rank has failed, so all ranks stop.
    #[error("rank {rank}: {message}")]
    Failed {
        /// The rank.
        rank: usize,
        /// The error of the rank.
        message: String,
    },
    /// A rank has ended, but another one waits for it.
    #[error("rank {rank} has ended before the others")]
    Ended {
        /// The rank.
        rank: usize,
    },
    /// The ranks do different things at the same time.
    #[error(
        "rank {rank} and rank 0 are at different points of the run: start all ranks with the same program, settings and data"
    )]
    Diverged {
        /// The first rank that differs from rank 0.
        rank: usize,
    },
}

/// The communication of one rank with the others of a run.
///
/// Every function but [`Collectives::fail`] waits for all ranks. All ranks must call the same functions in the same order, with tensors of
/// the same shapes.
pub trait Collectives {
    /// Returns the number of this rank, from 0.
    fn rank(&self) -> usize;

    /// Returns the number of ranks, at least 1.
    fn ranks(&self) -> usize;

    /// Replaces the values of each tensor by their sum over all ranks. The order of summation is the same on all ranks, so all get the same
    /// bits. The tensors must be f32 matrices that share their memory with no other tensor.
    ///
    /// # Errors
    /// Returns an error if another rank has failed, has ended, or does something else.
    fn sum(&self, tensors: &mut [&mut Tensor]) -> Result<(), CollectiveError>;

    /// Replaces the values of each tensor by those of rank 0. The tensors are of the kind that [`Collectives::sum`] takes.
    ///
    /// # Errors
    /// Returns the errors of [`Collectives::sum`].
    fn broadcast(&self, tensors: &mut [&mut Tensor]) -> Result<(), CollectiveError>;

    /// Returns the bytes that each rank passes, in the order of ranks. Their numbers may differ.
    ///
    /// # Errors
    /// Returns the errors of [`Collectives::sum`].
    fn all_gather(&self, bytes: Vec<u8>) -> Result<Vec<Vec<u8>>, CollectiveError>;

    /// Waits until all ranks have called this function.
    ///
    /// # Errors
    /// Returns the errors of [`Collectives::sum`].
    fn barrier(&self) -> Result<(), CollectiveError> {
        self.all_gather(Vec::new()).map(|_| ())
    }

    /// Says that this rank has failed. The ranks that wait for it, and all later calls, return [`CollectiveError::Failed`]; of several
    /// failures, the first one.
    fn fail(&self, message: &str);
}
