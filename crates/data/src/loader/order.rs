//! The order of an epoch as a function of the position, without a list of indices in memory.

use rand::Rng;

use crate::random::{Purpose, stream};

/// Rounds of the Feistel network.
const ROUNDS: usize = 8;
/// Minimum number of bits of the permuted numbers. With fewer bits, a Feistel network mixes badly.
const MIN_BITS: u32 = 8;

/// A permutation of `0..len`, computed number by number.
///
/// The shuffled order is a keyed Feistel network: for any round function, it permutes the numbers that have a given, even number of
/// bits. A result outside `0..len` is permuted again (cycle walking; Black and Rogaway, *Ciphers with arbitrary finite domains*,
/// 2002). If `len` is 256 or more, computing an index takes at most four permutations on average.
#[derive(Clone, Debug)]
pub struct Order {
    len: u64,
    /// `None` for sequential order.
    network: Option<Network>,
}

#[derive(Clone, Debug)]
struct Network {
    half_bits: u32,
    keys: [u64; ROUNDS],
}

impl Order {
    /// The order 0, 1, 2, …
    pub fn sequential(len: usize) -> Self {
        Self {
            len: len as u64,
            network: None,
        }
    }

    /// The shuffled order of an epoch.
    pub fn shuffled(seed: u64, epoch: u64, len: usize) -> Self {
        let len = len as u64;
        let bits = (u64::BITS - len.saturating_sub(1).leading_zeros()).max(MIN_BITS);
        let mut rng = stream(seed, Purpose::Order, epoch, 0);
        let network = Network {
            half_bits: bits.div_ceil(2),
            keys: std::array::from_fn(|_| rng.next_u64()),
        };
        Self {
            len,
            network: Some(network),
        }
    }

    /// Number of positions.
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether there is no position.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the index at `position`; `None` beyond the end.
    pub fn at(&self, position: usize) -> Option<usize> {
        let mut value = position as u64;
        if value >= self.len {
            return None;
        }
        if let Some(network) = &self.network {
            // The loop terminates: the network permutes a finite set, so the cycle of a number below `len` comes back to that number.
            loop {
                value = network.permute(value);
                if value < self.len {
                    break;
                }
            }
        }
        Some(value as usize)
    }
}

impl Network {
    fn permute(&self, value: u64) -> u64 {
        let mask = (1u64 << self.half_bits) - 1;
        let (mut left, mut right) = (value >> self.half_bits, value & mask);
        for key in self.keys {
            (left, right) = (right, left ^ (mix(right.wrapping_add(key)) & mask));
        }
        left << self.half_bits | right
    }
}

/// The finaliser of SplitMix64: every input bit changes every output bit with probability one half.
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(order: &Order) -> Vec<usize> {
        (0..order.len()).map(|i| order.at(i).unwrap()).collect()
    }

    proptest! {
        #[test]
        fn every_index_occurs_exactly_once(seed: u64, epoch: u64, len in 0usize..3000) {
            let order = Order::shuffled(seed, epoch, len);
            let mut indices = all(&order);
            indices.sort_unstable();
            prop_assert_eq!(indices, (0..len).collect::<Vec<_>>());
            prop_assert_eq!(order.at(len), None);
        }

        #[test]
        fn every_index_of_a_large_order_is_below_its_length(seed: u64, len in 1usize..1 << 40, position: prop::sample::Index) {
            let order = Order::shuffled(seed, 0, len);
            prop_assert!(order.at(position.index(len)).unwrap() < len);
        }
    }

    #[test]
    fn seeds_and_epochs_give_different_orders() {
        let orders = [(1, 0), (1, 1), (2, 0)].map(|(seed, epoch)| all(&Order::shuffled(seed, epoch, 500)));
        assert_ne!(orders[0], orders[1]);
        assert_ne!(orders[0], orders[2]);
        assert_eq!(orders[0], all(&Order::shuffled(1, 0, 500)));
        assert_eq!(all(&Order::sequential(4)), [0, 1, 2, 3]);
    }

    /// The chi-squared statistic of counts against a uniform distribution, in standard deviations above its mean.
    fn excess(counts: &[u32]) -> f64 {
        let mean = counts.iter().sum::<u32>() as f64 / counts.len() as f64;
        let chi: f64 = counts.iter().map(|c| (*c as f64 - mean).powi(2) / mean).sum();
        let freedom = (counts.len() - 1) as f64;
        (chi - freedom) / (2.0 * freedom).sqrt()
    }

    #[test]
    fn positions_and_neighbours_are_uniform_over_seeds() {
        for len in [2usize, 3, 10, 20] {
            let mut single = vec![0; len * len];
            let mut neighbours = vec![0; len * len];
            for seed in 0..20_000 {
                let order = all(&Order::shuffled(seed, 3, len));
                for (position, index) in order.iter().enumerate() {
                    single[position * len + index] += 1;
                }
                neighbours[order[0] * len + order[1]] += 1;
            }
            assert!(excess(&single) < 5.0, "len {len}: {}", excess(&single));
            let different: Vec<u32> = (0..len * len)
                .filter(|i| i / len != i % len)
                .map(|i| neighbours[i])
                .collect();
            assert!(excess(&different) < 5.0, "len {len}: {}", excess(&different));
        }
    }
}
