//! Variable-length sequences in one matrix.

use std::sync::Arc;

/// Variable-length sequences, packed without padding. Tokens attend within their sequence. The query tokens of a sequence are its first
/// tokens, or all of them.
///
/// Sequence `s` has keys and values in the rows `cu_seqlens_k[s]..cu_seqlens_k[s+1]`; the outputs of its query tokens are the rows
/// `cu_seqlens_q[s]..cu_seqlens_q[s+1]` (the names come from FlashAttention).
#[derive(Clone, Debug)]
pub struct Varlen {
    cu_seqlens_k: Arc<[usize]>,
    cu_seqlens_q: Arc<[usize]>,
}

impl Varlen {
    /// Makes sequences in which all tokens are query tokens.
    pub fn full(cu_seqlens: &Arc<[usize]>) -> Self {
        Self {
            cu_seqlens_k: Arc::clone(cu_seqlens),
            cu_seqlens_q: Arc::clone(cu_seqlens),
        }
    }

    /// Makes sequences; the query tokens of sequence `s` are its first `seqlens_q[s]` tokens.
    ///
    /// # Panics
    /// If the number of lengths is not the number of sequences.
    pub fn prefix_queries(cu_seqlens_k: &Arc<[usize]>, seqlens_q: impl IntoIterator<Item = usize>) -> Self {
        let mut end = 0;
        let ends = seqlens_q.into_iter().map(|len| {
            end += len;
            end
        });
        let cu_seqlens_q: Arc<[usize]> = std::iter::once(0).chain(ends).collect();
        assert_eq!(cu_seqlens_q.len(), cu_seqlens_k.len(), "one query length per sequence");
        Self {
            cu_seqlens_k: Arc::clone(cu_seqlens_k),
            cu_seqlens_q,
        }
    }

    /// Whether `other` has the same offsets in the same memory.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.cu_seqlens_k, &other.cu_seqlens_k) && Arc::ptr_eq(&self.cu_seqlens_q, &other.cu_seqlens_q)
    }

    /// Row offsets of the keys and values of each sequence.
    pub(crate) fn cu_seqlens_k(&self) -> &[usize] {
        &self.cu_seqlens_k
    }

    /// Row offsets of the query tokens of each sequence.
    pub(crate) fn cu_seqlens_q(&self) -> &[usize] {
        &self.cu_seqlens_q
    }

    /// The number of tokens of all sequences.
    pub(crate) fn tokens(&self) -> usize {
        self.cu_seqlens_k.last().copied().unwrap_or_default()
    }

    /// The rows of the query tokens among all tokens; `None` if all tokens are query tokens.
    pub(crate) fn query_rows(&self) -> Option<Arc<[u32]>> {
        let (k, q) = (self.cu_seqlens_k.windows(2), self.cu_seqlens_q.windows(2));
        let rows = k.zip(q).flat_map(|(k, q)| k[0] as u32..(k[0] + q[1] - q[0]) as u32);
        (self.cu_seqlens_q != self.cu_seqlens_k).then(|| rows.collect())
    }

    /// The number of pairs of a query token and a key token of the same sequence.
    pub(crate) fn pairs(&self) -> usize {
        let (k, q) = (self.cu_seqlens_k.windows(2), self.cu_seqlens_q.windows(2));
        k.zip(q).map(|(k, q)| (k[1] - k[0]) * (q[1] - q[0])).sum()
    }
}
