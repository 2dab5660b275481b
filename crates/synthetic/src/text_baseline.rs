//! A text-only baseline of masked language modelling.
//!
//! A model may predict masked words without the image, from grammar and co-occurrence. [`TextBaseline`] measures how often this
//! succeeds, with counts of neighbouring words. A vision-language model that is more accurate on the same positions uses the image.

use rayon::prelude::*;

/// For each table, the neighbours that are its context, as offsets from the predicted word. Later tables are more specific: a table
/// that has counts for a context gets more weight than the tables before it.
const CONTEXTS: &[&[isize]] = &[
    &[],
    &[-3],
    &[3],
    &[2],
    &[-2],
    &[-2, 2],
    &[1],
    &[-1],
    &[1, 2],
    &[-2, -1],
    &[-2, 1],
    &[-1, 2],
    &[-1, 1],
    &[1, 2, 3],
    &[-3, -2, -1],
    &[-1, 1, 2],
    &[-2, -1, 1],
    &[-2, -1, 1, 2],
    &[-3, -2, -1, 1, 2, 3],
];

/// Token id that stands for the positions before the first and after the last token.
const OUTSIDE: u32 = u32::MAX;

/// A predictor of masked tokens from up to three neighbours on each side: counts with Witten-Bell interpolation (Witten and Bell,
/// 1991).
///
/// Contexts with a neighbour that did not occur in training, such as `[MASK]`, are skipped.
pub struct TextBaseline {
    tables: Vec<Table>,
    /// The count of each token.
    unigrams: Vec<u32>,
}

/// Counts for one set of neighbours, sorted by context.
struct Table {
    offsets: &'static [isize],
    /// (hash of the neighbours, id of the token, count).
    counts: Vec<(u64, u32, u32)>,
}

impl TextBaseline {
    /// Counts the tokens of `sequences`: ids of training captions, unmasked, with or without special tokens.
    ///
    /// The baseline needs at most 16 bytes of memory per token for each of the 19 tables.
    pub fn fit<'a>(sequences: impl Iterator<Item = &'a [u32]>) -> TextBaseline {
        let sequences: Vec<&[u32]> = sequences.collect();
        let size = sequences
            .iter()
            .flat_map(|s| s.iter())
            .max()
            .map_or(0, |&id| id as usize + 1);
        let mut unigrams = vec![0u32; size];
        for &id in sequences.iter().flat_map(|s| s.iter()) {
            unigrams[id as usize] += 1;
        }
        let tables = CONTEXTS
            .par_iter()
            .map(|offsets| Table::from_sequences(offsets, &sequences))
            .collect();
        TextBaseline { tables, unigrams }
    }

    /// Returns the most probable token at `position` of `ids`. Masking has replaced some tokens of `ids`, perhaps this one.
    ///
    /// A token other than `[MASK]` at `position` is evidence: with BERT's masking, it is the right token or a uniformly random
    /// one, with equal probability. Returns the smallest id if several tokens are equally probable, and 0 if there were no
    /// training texts.
    pub fn predict(&self, ids: &[u32], position: usize) -> u32 {
        let mut scores = self.distribution(ids, position);
        if let Some(&token) = ids.get(position)
            && self.occurs(token)
        {
            let uniform = 1.0 / scores.len() as f64;
            for (id, score) in scores.iter_mut().enumerate() {
                *score *= uniform + f64::from(u8::from(id == token as usize));
            }
        }
        let best = scores
            .iter()
            .enumerate()
            .fold((0, f64::MIN), |best, (id, &s)| if s > best.1 { (id, s) } else { best });
        best.0 as u32
    }

    /// Returns the fraction of correct predictions. Each element of `masked` is a sequence with
    /// replaced tokens, a position, and the right token at this position.
    pub fn accuracy<'a>(&self, masked: impl Iterator<Item = (&'a [u32], usize, u32)>) -> f64 {
        let (right, all) = masked.fold((0u64, 0u64), |(right, all), (ids, position, truth)| {
            (right + u64::from(self.predict(ids, position) == truth), all + 1)
        });
        if all == 0 { 0.0 } else { right as f64 / all as f64 }
    }

    /// Returns the probability of each token at `position`, given its neighbours.
    fn distribution(&self, ids: &[u32], position: usize) -> Vec<f64> {
        let mut scores = vec![0.0; self.unigrams.len()];
        for table in &self.tables {
            let neighbours = || table.offsets.iter().map(|&offset| neighbour(ids, position, offset));
            if neighbours().all(|id| id == OUTSIDE || self.occurs(id)) {
                table.interpolate(hash(neighbours()), &mut scores);
            }
        }
        scores
    }

    fn occurs(&self, id: u32) -> bool {
        self.unigrams.get(id as usize).is_some_and(|&count| count > 0)
    }
}

impl Table {
    fn from_sequences(offsets: &'static [isize], sequences: &[&[u32]]) -> Table {
        let mut pairs: Vec<(u64, u32)> = Vec::with_capacity(sequences.iter().map(|s| s.len()).sum());
        for ids in sequences {
            for (position, &id) in ids.iter().enumerate() {
                pairs.push((hash(offsets.iter().map(|&offset| neighbour(ids, position, offset))), id));
            }
        }
        pairs.sort_unstable();
        let counts = pairs
            .chunk_by(|a, b| a == b)
            .map(|same| (same[0].0, same[0].1, same.len() as u32))
            .collect();
        Table { offsets, counts }
    }

    /// Interpolates `scores` with the counts of a context: with n observations of t different tokens, the counts have weight n and the
    /// previous scores have weight t.
    fn interpolate(&self, context: u64, scores: &mut [f64]) {
        let start = self.counts.partition_point(|entry| entry.0 < context);
        let length = self.counts[start..]
            .iter()
            .take_while(|entry| entry.0 == context)
            .count();
        let entries = &self.counts[start..start + length];
        if entries.is_empty() {
            return;
        }
        let observations: f64 = entries.iter().map(|entry| f64::from(entry.2)).sum();
        let total = observations + entries.len() as f64;
        for score in scores.iter_mut() {
            *score *= entries.len() as f64 / total;
        }
        for &(_, id, count) in entries {
            scores[id as usize] += f64::from(count) / total;
        }
    }
}

fn neighbour(ids: &[u32], position: usize, offset: isize) -> u32 {
    position
        .checked_add_signed(offset)
        .and_then(|index| ids.get(index))
        .copied()
        .unwrap_or(OUTSIDE)
}

/// Hashes the ids of a context with the finaliser of MurmurHash3. The probability that two of a million contexts collide is 3 in 10⁸.
fn hash(ids: impl Iterator<Item = u32>) -> u64 {
    ids.fold(0x9E37_79B9_7F4A_7C15, |state: u64, id| {
        let mut h = state.rotate_left(5) ^ (u64::from(id) + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        h = (h ^ (h >> 33)).wrapping_mul(0xFF51_AFD7_ED55_8CCD);
        h = (h ^ (h >> 33)).wrapping_mul(0xC4CE_B9FE_1A85_EC53);
        h ^ (h >> 33)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MASK: u32 = 4;

    #[test]
    fn uses_both_neighbours_and_backs_off() {
        let text: Vec<Vec<u32>> = vec![
            vec![10, 20, 30],
            vec![10, 20, 30],
            vec![10, 21, 31],
            vec![11, 22, 31],
            vec![11, 22, 30],
        ];
        let baseline = TextBaseline::fit(text.iter().map(Vec::as_slice));
        assert_eq!(baseline.predict(&[10, MASK, 30], 1), 20);
        assert_eq!(baseline.predict(&[10, MASK, 31], 1), 21);
        assert_eq!(
            baseline.predict(&[11, MASK, MASK], 1),
            22,
            "a masked neighbour is unknown"
        );
        assert_eq!(baseline.predict(&[11, MASK, MASK], 2), 30);
        assert_eq!(baseline.predict(&[MASK, MASK, MASK], 0), 10);
    }

    #[test]
    fn unmasked_token_is_evidence_for_itself() {
        let text: Vec<Vec<u32>> = (0..40).map(|i| vec![1, 10 + i % 10, 2]).collect();
        let baseline = TextBaseline::fit(text.iter().map(Vec::as_slice));
        assert_eq!(baseline.predict(&[1, 17, 2], 1), 17);
        assert_eq!(
            baseline.predict(&[1, 2, 2], 1),
            10,
            "the token never occurs in this context"
        );
    }

    #[test]
    fn accepts_empty_texts_and_positions_out_of_range() {
        let baseline = TextBaseline::fit(std::iter::empty());
        assert_eq!(baseline.predict(&[1, 2, 3], 7), 0);
        assert_eq!(baseline.accuracy(std::iter::empty()), 0.0);
    }
}
