//! A run with one rank.

use super::{CollectiveError, Collectives};
use crate::tensor::Tensor;

/// The only rank of a run: its functions copy nothing and wait for nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Single;

impl Collectives for Single {
    fn rank(&self) -> usize {
        0
    }

    fn ranks(&self) -> usize {
        1
    }

    fn sum(&self, _tensors: &mut [&mut Tensor]) -> Result<(), CollectiveError> {
        Ok(())
    }

    fn broadcast(&self, _tensors: &mut [&mut Tensor]) -> Result<(), CollectiveError> {
        Ok(())
    }

    fn all_gather(&self, bytes: Vec<u8>) -> Result<Vec<Vec<u8>>, CollectiveError> {
        Ok(vec![bytes])
    }

    /// Does nothing: no other rank waits.
    fn fail(&self, _message: &str) {}
}
