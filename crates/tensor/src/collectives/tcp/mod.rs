//! Ranks that are processes, on one machine or several, and exchange values through rank 0 by TCP.
//!
//! Every other rank has a connection to rank 0, which adds and distributes. Values travel in parts of at most 1 MiB: rank 0 adds a part and
//! sends the sum while the next ones arrive. The order of summation is that of [`Threads`](super::Threads), so the bits are the same.
//!
//! The connections are not encrypted, and whoever reaches the port can connect: they belong into a network of trusted machines, as the
//! connections of PyTorch and NCCL do. A connection that does not begin as one of a rank of the run is refused.

mod join;
mod links;
mod message;
#[cfg(test)]
mod tests;

use std::sync::Arc;

pub use join::{JoinError, Listener, Waiting};

use self::links::{Links, QUEUE};
use self::message::{MAX_CONTENT, Message, Operation, bytes_of, values_of};
use super::{CollectiveError, Collectives};
use crate::device::Device;
use crate::tensor::Tensor;

/// Number of values in a message.
const PART: usize = MAX_CONTENT / 4;

/// Number of parts that a rank sends before it has received the sum of the first one. Its queue must have a place for each sum, or rank 0
/// and the rank would wait for each other.
const AHEAD: usize = QUEUE / 2;

/// Largest number of bytes that a rank passes to [`Collectives::all_gather`].
const MAX_GATHERED: u64 = 1 << 32;

/// One of several ranks in processes of their own. Dropping it ends the rank: others that wait for it get [`CollectiveError::Ended`].
pub struct Tcp {
    rank: usize,
    ranks: usize,
    device: Device,
    links: Arc<Links>,
}

/// Tells a thread of the failure of a run while the rank computes.
pub struct Watch(Arc<Links>);

impl Watch {
    /// Waits until a rank has failed or ended. Returns `None` when this rank has ended by itself.
    pub fn wait(&self) -> Option<CollectiveError> {
        self.0.wait_for_failure()
    }

    /// Whether this rank has ended.
    pub fn has_ended(&self) -> bool {
        self.0.is_closed()
    }
}

impl Tcp {
    /// Returns a handle that waits for the failure of another rank.
    pub fn watch(&self) -> Watch {
        Watch(Arc::clone(&self.links))
    }

    /// Returns the failure that has ended the run.
    pub fn failure(&self) -> Option<CollectiveError> {
        self.links.failure()
    }

    /// Runs the part of this rank in a function that all ranks call.
    fn call<T>(&self, work: impl FnOnce() -> Result<T, CollectiveError>) -> Result<T, CollectiveError> {
        self.links.begin_call()?;
        let result = work().map_err(|error| {
            self.links.stop(error.clone());
            self.links.failure().unwrap_or(error)
        });
        self.links.end_call();
        result
    }

    /// The ranks other than rank 0.
    fn others(&self) -> std::ops::Range<usize> {
        1..self.ranks
    }

    /// Says what this rank calls. Returns the lengths of all ranks on rank 0, and nothing on others.
    fn announce(&self, operation: Operation, length: usize) -> Result<Vec<u64>, CollectiveError> {
        let own = length as u64;
        let message = Message::Call { operation, length: own };
        if self.rank > 0 {
            self.links.send(0, &message.bytes())?;
            return Ok(Vec::new());
        }
        let mut lengths = vec![own];
        for peer in self.others() {
            match self.links.receive(peer)? {
                Message::Call {
                    operation: other,
                    length,
                } if other == operation => lengths.push(length),
                _ => return Err(CollectiveError::Diverged { rank: peer }),
            }
        }
        let is_free = operation == Operation::AllGather;
        match lengths.iter().position(|length| !is_free && *length != own) {
            Some(rank) => Err(CollectiveError::Diverged { rank }),
            None => Ok(lengths),
        }
    }

    /// Receives a part of `length` bytes.
    fn part(&self, peer: usize, length: usize) -> Result<Vec<u8>, CollectiveError> {
        match self.links.receive(peer)? {
            Message::Data(part) if part.len() == length => Ok(part),
            _ => Err(CollectiveError::Diverged {
                rank: peer.max(self.rank),
            }),
        }
    }

    /// Sends bytes to all other ranks.
    fn send_to_others(&self, bytes: &[u8]) -> Result<(), CollectiveError> {
        self.others().try_for_each(|peer| self.links.send(peer, bytes))
    }

    /// Replaces the values by their sums.
    fn sum_values(&self, values: &mut [f32]) -> Result<(), CollectiveError> {
        self.announce(Operation::Sum, values.len())?;
        if self.rank == 0 {
            for part in values.chunks_mut(PART) {
                for peer in self.others() {
                    let terms = self.part(peer, 4 * part.len())?;
                    part.iter_mut()
                        .zip(values_of(&terms))
                        .for_each(|(sum, value)| *sum += value);
                }
                self.send_to_others(&Message::Data(bytes_of(part)).bytes())?;
            }
            return Ok(());
        }
        let parts = values.len().div_ceil(PART);
        let range = |part: usize, length: usize| part * PART..((part + 1) * PART).min(length);
        for next in 0..parts + AHEAD {
            if next < parts {
                let part = &values[range(next, values.len())];
                self.links.send(0, &Message::Data(bytes_of(part)).bytes())?;
            }
            if let Some(done) = next.checked_sub(AHEAD) {
                let length = values.len();
                self.receive_values(&mut values[range(done, length)])?;
            }
        }
        Ok(())
    }

    /// Replaces the values by those of rank 0.
    fn broadcast_values(&self, values: &mut [f32]) -> Result<(), CollectiveError> {
        self.announce(Operation::Broadcast, values.len())?;
        match self.rank {
            0 => values
                .chunks(PART)
                .try_for_each(|part| self.send_to_others(&Message::Data(bytes_of(part)).bytes())),
            _ => values.chunks_mut(PART).try_for_each(|part| self.receive_values(part)),
        }
    }

    /// Receives a part from rank 0.
    fn receive_values(&self, to: &mut [f32]) -> Result<(), CollectiveError> {
        let part = self.part(0, 4 * to.len())?;
        to.iter_mut().zip(values_of(&part)).for_each(|(to, value)| *to = value);
        Ok(())
    }

    /// Sends bytes to a rank in parts.
    fn send_bytes(&self, peer: usize, bytes: &[u8]) -> Result<(), CollectiveError> {
        let parts = bytes.chunks(MAX_CONTENT);
        parts
            .map(<[u8]>::to_vec)
            .try_for_each(|part| self.links.send(peer, &Message::Data(part).bytes()))
    }

    /// Receives bytes from a rank in parts. Memory is allocated as they arrive.
    fn receive_bytes(&self, peer: usize, length: u64) -> Result<Vec<u8>, CollectiveError> {
        if length > MAX_GATHERED {
            return Err(CollectiveError::Diverged {
                rank: peer.max(self.rank),
            });
        }
        let mut bytes = Vec::new();
        while (bytes.len() as u64) < length {
            let rest = length - bytes.len() as u64;
            bytes.extend(self.part(peer, rest.min(MAX_CONTENT as u64) as usize)?);
        }
        Ok(bytes)
    }

    fn gather(&self, bytes: Vec<u8>) -> Result<Vec<Vec<u8>>, CollectiveError> {
        let lengths = self.announce(Operation::AllGather, bytes.len())?;
        let mut all = Vec::new();
        if self.rank == 0 {
            all.push(bytes);
            for peer in self.others() {
                all.push(self.receive_bytes(peer, lengths[peer])?);
            }
            for peer in self.others() {
                for bytes in &all {
                    let call = Message::Call {
                        operation: Operation::AllGather,
                        length: bytes.len() as u64,
                    };
                    self.links.send(peer, &call.bytes())?;
                    self.send_bytes(peer, bytes)?;
                }
            }
            return Ok(all);
        }
        self.send_bytes(0, &bytes)?;
        for _ in 0..self.ranks {
            let Message::Call {
                operation: Operation::AllGather,
                length,
            } = self.links.receive(0)?
            else {
                return Err(CollectiveError::Diverged { rank: self.rank });
            };
            all.push(self.receive_bytes(0, length)?);
        }
        Ok(all)
    }

    /// Replaces the values of tensors by the result of `exchange`, which gets their concatenated values.
    fn exchange(
        &self,
        tensors: &mut [&mut Tensor],
        exchange: impl FnOnce(&mut [f32]) -> Result<(), CollectiveError>,
    ) -> Result<(), CollectiveError> {
        let mut values = Vec::with_capacity(tensors.iter().map(|tensor| tensor.len()).sum());
        tensors
            .iter()
            .for_each(|tensor| values.extend_from_slice(&tensor.to_host()));
        self.call(|| exchange(&mut values))?;
        let mut rest = values.as_slice();
        for tensor in tensors {
            let (own, others) = rest.split_at(tensor.len());
            rest = others;
            self.device
                .backend()
                .overwrite(tensor, &mut |to| to.copy_from_slice(own));
        }
        Ok(())
    }
}

impl Collectives for Tcp {
    fn rank(&self) -> usize {
        self.rank
    }

    fn ranks(&self) -> usize {
        self.ranks
    }

    fn sum(&self, tensors: &mut [&mut Tensor]) -> Result<(), CollectiveError> {
        self.exchange(tensors, |values| self.sum_values(values))
    }

    fn broadcast(&self, tensors: &mut [&mut Tensor]) -> Result<(), CollectiveError> {
        self.exchange(tensors, |values| self.broadcast_values(values))
    }

    fn all_gather(&self, bytes: Vec<u8>) -> Result<Vec<Vec<u8>>, CollectiveError> {
        self.call(|| self.gather(bytes))
    }

    fn fail(&self, message: &str) {
        self.links.stop(CollectiveError::Failed {
            rank: self.rank,
            message: message.into(),
        });
    }
}

impl Drop for Tcp {
    fn drop(&mut self) {
        self.links.close();
    }
}
