//! Ranks that are threads of one process and exchange values through host memory.
//!
//! In a *round*, each rank deposits values, waits for the deposits of all others, and reads them. A rank that has not yet read those of a
//! round has not deposited any for the next one, so the deposits of a round stay until all ranks have read them.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::{CollectiveError, Collectives};
use crate::device::Device;
use crate::tensor::Tensor;

/// One of several ranks in one process. Dropping it ends the rank: others that wait for it get [`CollectiveError::Ended`].
pub struct Threads {
    rank: usize,
    ranks: usize,
    device: Device,
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    /// Notified when a round is complete or a rank has failed.
    changed: Condvar,
}

struct State {
    /// The deposits of the current round, by rank.
    deposits: Vec<Option<Deposit>>,
    /// Number of complete rounds.
    round: u64,
    /// The deposits of the last complete round.
    complete: Arc<Vec<Deposit>>,
    failure: Option<CollectiveError>,
}

/// What a rank passes to the others in one round.
enum Deposit {
    /// Values to add.
    Terms(Vec<f32>),
    /// Values of rank 0, which replace those of others; from other ranks, their number.
    Replacement(Vec<f32>, usize),
    Bytes(Vec<u8>),
}

impl Deposit {
    /// Whether the deposits belong to the same call.
    fn fits(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Terms(ours), Self::Terms(theirs)) => ours.len() == theirs.len(),
            (Self::Replacement(_, ours), Self::Replacement(_, theirs)) => ours == theirs,
            (Self::Bytes(_), Self::Bytes(_)) => true,
            _ => false,
        }
    }

    fn values(&self) -> &[f32] {
        match self {
            Self::Terms(values) | Self::Replacement(values, _) => values,
            Self::Bytes(_) => &[],
        }
    }
}

impl Threads {
    /// Makes `count` ranks, whose tensors are on `device`. Each is moved to a thread of its own.
    pub fn new(count: usize, device: Device) -> Vec<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                deposits: (0..count).map(|_| None).collect(),
                round: 0,
                complete: Arc::new(Vec::new()),
                failure: None,
            }),
            changed: Condvar::new(),
        });
        let rank = |rank| Self {
            rank,
            ranks: count,
            device,
            shared: Arc::clone(&shared),
        };
        (0..count).map(rank).collect()
    }

    /// Deposits values and returns those of all ranks.
    fn exchange(&self, deposit: Deposit) -> Result<Arc<Vec<Deposit>>, CollectiveError> {
        let mut state = self.shared.lock();
        if let Some(failure) = &state.failure {
            return Err(failure.clone());
        }
        let round = state.round;
        state.deposits[self.rank] = Some(deposit);
        if state.deposits.iter().all(Option::is_some) {
            let deposits: Vec<Deposit> = state.deposits.iter_mut().filter_map(Option::take).collect();
            if let Some(rank) = deposits.iter().position(|deposit| !deposit.fits(&deposits[0])) {
                let failure = CollectiveError::Diverged { rank };
                state.failure = Some(failure.clone());
                self.shared.changed.notify_all();
                return Err(failure);
            }
            state.complete = Arc::new(deposits);
            state.round += 1;
            self.shared.changed.notify_all();
            return Ok(Arc::clone(&state.complete));
        }
        loop {
            if state.round > round {
                return Ok(Arc::clone(&state.complete));
            }
            if let Some(failure) = &state.failure {
                return Err(failure.clone());
            }
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Makes all ranks return `failure` from now on, unless there was a failure before.
    fn stop(&self, failure: CollectiveError) {
        self.shared.lock().failure.get_or_insert(failure);
        self.shared.changed.notify_all();
    }

    /// Overwrites tensors by the result of `combine`, a function of the values of all ranks at the same index range, in the order of ranks.
    fn overwrite(
        &self,
        tensors: &mut [&mut Tensor],
        all: &[Deposit],
        combine: impl Fn(&mut [f32], &mut dyn Iterator<Item = &[f32]>),
    ) {
        let mut start = 0;
        for tensor in tensors {
            let range = start..start + tensor.len();
            start = range.end;
            self.device.backend().overwrite(tensor, &mut |to| {
                combine(
                    to,
                    &mut all.iter().filter_map(|deposit| deposit.values().get(range.clone())),
                );
            });
        }
    }
}

/// Concatenates the values of tensors.
fn concatenated(tensors: &[&mut Tensor]) -> Vec<f32> {
    let mut values = Vec::with_capacity(count(tensors));
    tensors
        .iter()
        .for_each(|tensor| values.extend_from_slice(&tensor.to_host()));
    values
}

fn count(tensors: &[&mut Tensor]) -> usize {
    tensors.iter().map(|tensor| tensor.len()).sum()
}

impl Shared {
    /// Locks the state. A poisoned lock is accepted, because no panic leaves the state inconsistent.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Collectives for Threads {
    fn rank(&self) -> usize {
        self.rank
    }

    fn ranks(&self) -> usize {
        self.ranks
    }

    fn sum(&self, tensors: &mut [&mut Tensor]) -> Result<(), CollectiveError> {
        let all = self.exchange(Deposit::Terms(concatenated(tensors)))?;
        self.overwrite(tensors, &all, |to, terms| {
            if let Some(first) = terms.next() {
                to.copy_from_slice(first);
            }
            terms.for_each(|term| to.iter_mut().zip(term).for_each(|(sum, value)| *sum += value));
        });
        Ok(())
    }

    fn broadcast(&self, tensors: &mut [&mut Tensor]) -> Result<(), CollectiveError> {
        let values = match self.rank {
            0 => concatenated(tensors),
            _ => Vec::new(),
        };
        let all = self.exchange(Deposit::Replacement(values, count(tensors)))?;
        if self.rank > 0 {
            self.overwrite(tensors, &all[..1], |to, values| {
                if let Some(values) = values.next() {
                    to.copy_from_slice(values);
                }
            });
        }
        Ok(())
    }

    fn all_gather(&self, bytes: Vec<u8>) -> Result<Vec<Vec<u8>>, CollectiveError> {
        let all = self.exchange(Deposit::Bytes(bytes))?;
        let bytes = all.iter().map(|deposit| match deposit {
            Deposit::Bytes(bytes) => bytes.clone(),
            Deposit::Terms(_) | Deposit::Replacement(..) => Vec::new(),
        });
        Ok(bytes.collect())
    }

    fn fail(&self, message: &str) {
        self.stop(CollectiveError::Failed {
            rank: self.rank,
            message: message.into(),
        });
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.stop(CollectiveError::Ended { rank: self.rank });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Calls `work` with each of `count` ranks, on a thread each, and returns the results in the order of ranks.
    fn on_ranks<T: Send>(count: usize, work: impl Fn(Threads) -> T + Sync) -> Vec<T> {
        std::thread::scope(|scope| {
            let work = &work;
            let threads: Vec<_> = Threads::new(count, Device::cpu())
                .into_iter()
                .map(|rank| scope.spawn(move || work(rank)))
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().expect("no panic"))
                .collect()
        })
    }

    fn tensors(rank: usize) -> [Tensor; 2] {
        let value = |i: usize| 1.0 / (3 + 7 * i + 11 * rank) as f32;
        let values: Vec<f32> = (0..8).map(value).collect();
        [
            Device::cpu().tensor(1, 3, &values[..3]),
            Device::cpu().tensor(5, 1, &values[3..]),
        ]
    }

    fn bits(tensors: &[Tensor]) -> Vec<u32> {
        tensors
            .iter()
            .flat_map(|t| t.to_host().iter().map(|v| v.to_bits()).collect::<Vec<_>>())
            .collect()
    }

    #[test]
    fn all_ranks_get_the_bits_of_the_sum_in_the_order_of_ranks() {
        let sums = on_ranks(4, |rank| {
            let mut own = tensors(rank.rank());
            for _ in 0..20 {
                own = tensors(rank.rank());
                let [a, b] = &mut own;
                rank.sum(&mut [a, b]).expect("all ranks sum");
            }
            bits(&own)
        });
        let terms: Vec<Vec<f32>> = (0..4)
            .map(|rank| tensors(rank).iter().flat_map(|t| t.to_host().into_owned()).collect())
            .collect();
        let expected: Vec<u32> = (0..8)
            .map(|i| (terms[0][i] + terms[1][i] + terms[2][i] + terms[3][i]).to_bits())
            .collect();
        assert_eq!(sums, vec![expected; 4]);
    }

    #[test]
    fn all_ranks_get_the_values_of_rank_0_and_the_bytes_of_all() {
        let results = on_ranks(3, |rank| {
            let [mut a, mut b] = tensors(rank.rank());
            rank.broadcast(&mut [&mut a, &mut b]).expect("all ranks broadcast");
            rank.barrier().expect("all ranks wait");
            let bytes = rank
                .all_gather(vec![rank.rank() as u8; rank.rank()])
                .expect("all ranks gather");
            (bits(&[a, b]), bytes)
        });
        let expected = (bits(&tensors(0)), vec![vec![], vec![1], vec![2, 2]]);
        assert_eq!(results, vec![expected; 3]);
    }

    #[test]
    fn a_failure_ends_the_wait_of_all_ranks_with_the_first_message() {
        let results = on_ranks(3, |rank| match rank.rank() {
            1 => {
                rank.fail("no space");
                rank.fail("later");
                rank.barrier()
            }
            _ => rank.barrier(),
        });
        let failure = CollectiveError::Failed {
            rank: 1,
            message: "no space".into(),
        };
        assert_eq!(failure.to_string(), "rank 1: no space");
        assert_eq!(results, vec![Err(failure); 3]);
    }

    #[test]
    fn a_rank_that_ends_and_a_rank_that_diverges_end_the_wait() {
        let results = on_ranks(2, |rank| match rank.rank() {
            0 => rank.barrier(),
            _ => Ok(()),
        });
        assert_eq!(results, [Err(CollectiveError::Ended { rank: 1 }), Ok(())]);
        let results = on_ranks(2, |rank| match rank.rank() {
            0 => rank.barrier(),
            _ => rank.sum(&mut [&mut Device::cpu().zeros(1, 2)]),
        });
        assert_eq!(results, vec![Err(CollectiveError::Diverged { rank: 1 }); 2]);
    }

    #[test]
    fn a_single_rank_keeps_its_values() {
        use super::super::Single;
        let own = tensors(3);
        let [mut a, mut b] = tensors(3);
        Single.sum(&mut [&mut a, &mut b]).expect("alone");
        Single.broadcast(&mut [&mut a, &mut b]).expect("alone");
        assert_eq!(bits(&[a, b]), bits(&own));
        assert_eq!(Single.all_gather(vec![7]), Ok(vec![vec![7]]));
    }
}
