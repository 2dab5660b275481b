//! The division of batches among the ranks of a run.

/// The batches of an epoch that belong to one rank: groups of consecutive batches go to the ranks in turn, so batch `k` belongs to rank
/// `(k / group) mod ranks`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Number of the rank, from 0.
    pub rank: u64,
    /// Number of ranks, at least 1.
    pub ranks: u64,
    /// Number of consecutive batches that belong to the same rank, at least 1.
    pub group: u64,
}

impl Share {
    /// All batches.
    pub const ALL: Self = Self {
        rank: 0,
        ranks: 1,
        group: 1,
    };

    /// Every batch `k` with `k mod ranks = rank`.
    pub fn of_rank(rank: usize, ranks: usize) -> Self {
        Self {
            rank: rank as u64,
            ranks: ranks as u64,
            group: 1,
        }
    }

    /// Whether batch `batch` belongs to the share.
    pub fn has(self, batch: u64) -> bool {
        batch / self.group % self.ranks == self.rank
    }

    /// Returns the first batch of the share that is not before `batch`.
    pub fn first_from(self, batch: u64) -> u64 {
        if self.has(batch) {
            return batch;
        }
        let group = batch / self.group;
        let ahead = (self.rank + self.ranks - group % self.ranks) % self.ranks;
        (group + ahead).saturating_mul(self.group)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_batch_belongs_to_one_rank_and_is_found_from_every_earlier_batch(
            ranks in 1u64..6, group in 1u64..5, batch in 0u64..200
        ) {
            let shares: Vec<Share> = (0..ranks).map(|rank| Share { rank, ranks, group }).collect();
            prop_assert_eq!(shares.iter().filter(|share| share.has(batch)).count(), 1);
            for share in shares {
                let first = share.first_from(batch);
                prop_assert!(first >= batch && share.has(first));
                prop_assert!((batch..first).all(|before| !share.has(before)));
            }
        }
    }
}
