//! Variable-length sequences, packed without padding.

use std::ops::Range;

/// Variable-length sequences in one packed matrix, without padding.
///
/// Sequence `s` has keys and values in the rows `cu_seqlens_k[s]..cu_seqlens_k[s+1]` of `qkv`. Its query tokens are a prefix of these rows;
/// their outputs are the rows `cu_seqlens_q[s]..cu_seqlens_q[s+1]` of the result. The names come from [FlashAttention's varlen
/// functions](https://github.com/Dao-AILab/flash-attention).
#[derive(Clone, Copy, Debug)]
pub struct Varlen<'a> {
    cu_seqlens_k: &'a [usize],
    cu_seqlens_q: &'a [usize],
}

impl<'a> Varlen<'a> {
    /// Makes sequences in which all tokens are query tokens.
    ///
    /// # Panics
    /// If the offsets do not ascend from 0.
    pub fn full(cu_seqlens: &'a [usize]) -> Self {
        Self::prefix_queries(cu_seqlens, cu_seqlens)
    }

    /// Makes sequences whose first `cu_seqlens_q[s+1] − cu_seqlens_q[s]` tokens are query tokens.
    ///
    /// # Panics
    /// If the offsets do not ascend from 0, the two slices differ in length, or a sequence has more query tokens than tokens.
    pub fn prefix_queries(cu_seqlens_k: &'a [usize], cu_seqlens_q: &'a [usize]) -> Self {
        assert!(
            [cu_seqlens_k, cu_seqlens_q]
                .iter()
                .all(|o| o.first() == Some(&0) && o.is_sorted()),
            "offsets do not ascend from 0"
        );
        let mut lengths = cu_seqlens_k.windows(2).zip(cu_seqlens_q.windows(2));
        assert!(
            cu_seqlens_k.len() == cu_seqlens_q.len() && lengths.all(|(k, q)| q[1] - q[0] <= k[1] - k[0]),
            "more query tokens than tokens"
        );
        Self {
            cu_seqlens_k,
            cu_seqlens_q,
        }
    }

    /// The number of rows of `qkv`: all tokens.
    pub fn total_k(&self) -> usize {
        self.cu_seqlens_k[self.cu_seqlens_k.len() - 1]
    }

    /// The number of rows of the result: all query tokens.
    pub fn total_q(&self) -> usize {
        self.cu_seqlens_q[self.cu_seqlens_q.len() - 1]
    }

    /// The number of sequences.
    pub(crate) fn batch(&self) -> usize {
        self.cu_seqlens_k.len() - 1
    }

    /// The rows of a sequence in `qkv`, and the rows of its outputs.
    pub(crate) fn rows(&self, sequence: usize) -> (Range<usize>, Range<usize>) {
        let range = |offsets: &[usize]| offsets[sequence]..offsets[sequence + 1];
        (range(self.cu_seqlens_k), range(self.cu_seqlens_q))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "more query tokens than tokens")]
    fn rejects_more_query_tokens_than_tokens() {
        Varlen::prefix_queries(&[0, 3, 4], &[0, 1, 3]);
    }
}
