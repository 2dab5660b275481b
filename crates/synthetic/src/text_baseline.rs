//! How far guessing a masked word from the text alone gets.
//!
//! A model that fills in masked words may do so without looking at the picture: grammar and habit give some of them
//! away. [`TextBaseline`] is the best guess of a count model over the neighbouring words. A vision-language model has
//! learned to look where it beats this number on the same masked positions.

use rayon::prelude::*;

/// Which neighbours of a word a context table looks at, as offsets from it, from the vaguest to the most specific.
/// Guesses of later tables, where they have seen the context, outweigh those of earlier ones.
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

/// Stands for the place before the first and after the last token.
const OUTSIDE: u32 = u32::MAX;

/// A guesser of masked tokens from their neighbours: interpolated counts (Witten and Bell, 1991) of the contexts
/// that two or three tokens on each side form.
///
/// A neighbour that never occurred in training (such as `[MASK]`, which texts do not contain) counts as unknown, and
/// the contexts that need it are passed over.
pub struct TextBaseline {
    tables: Vec<Table>,
    /// How often each token occurs.
    unigrams: Vec<u32>,
}

/// Counts of one set of neighbours, sorted by context.
struct Table {
    offsets: &'static [isize],
    /// (hash of the neighbours, token between them, how often).
    counts: Vec<(u64, u32, u32)>,
}

impl TextBaseline {
    /// Counts the tokens of `sequences` (token ids of training captions, unmasked, with or without special tokens).
    ///
    /// Memory: at most 16 bytes per token for each of the 19 tables; repeated contexts share theirs.
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
            .map(|offsets| Table::count(offsets, &sequences))
            .collect();
        TextBaseline { tables, unigrams }
    }

    /// The most probable token at `position` of `ids`, a sequence in which masked tokens are replaced.
    ///
    /// If the token at `position` is an ordinary one, it is taken as what it is under BERT's corruption: with equal
    /// odds the right token left in place or a uniformly random one. Ties go to the smaller id; 0 if there was no
    /// training text.
    pub fn predict(&self, ids: &[u32], position: usize) -> u32 {
        let mut scores = self.distribution(ids, position);
        if let Some(&token) = ids.get(position)
            && self.known(token)
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

    /// The share of `masked` positions (sequence with replaced tokens, position, right token) that are guessed right.
    pub fn accuracy<'a>(&self, masked: impl Iterator<Item = (&'a [u32], usize, u32)>) -> f64 {
        let (right, all) = masked.fold((0u64, 0u64), |(right, all), (ids, position, truth)| {
            (right + u64::from(self.predict(ids, position) == truth), all + 1)
        });
        if all == 0 { 0.0 } else { right as f64 / all as f64 }
    }

    /// Probability of each token at `position`, given its neighbours.
    fn distribution(&self, ids: &[u32], position: usize) -> Vec<f64> {
        let mut scores = vec![0.0; self.unigrams.len()];
        for table in &self.tables {
            let neighbours = || table.offsets.iter().map(|&offset| neighbour(ids, position, offset));
            if neighbours().all(|id| id == OUTSIDE || self.known(id)) {
                table.refine(hash(neighbours()), &mut scores);
            }
        }
        scores
    }

    fn known(&self, id: u32) -> bool {
        self.unigrams.get(id as usize).is_some_and(|&count| count > 0)
    }
}

impl Table {
    fn count(offsets: &'static [isize], sequences: &[&[u32]]) -> Table {
        let mut seen: Vec<(u64, u32)> = Vec::with_capacity(sequences.iter().map(|s| s.len()).sum());
        for ids in sequences {
            for (position, &id) in ids.iter().enumerate() {
                seen.push((hash(offsets.iter().map(|&offset| neighbour(ids, position, offset))), id));
            }
        }
        seen.sort_unstable();
        let counts = seen
            .chunk_by(|a, b| a == b)
            .map(|same| (same[0].0, same[0].1, same.len() as u32))
            .collect();
        Table { offsets, counts }
    }

    /// Replaces `scores` by their mixture with the counts of a context: with n observations of t different tokens,
    /// the counts weigh n and the previous scores t.
    fn refine(&self, context: u64, scores: &mut [f64]) {
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
        .and_then(|at| ids.get(at))
        .copied()
        .unwrap_or(OUTSIDE)
}

/// Mixes the ids of a context into one number (the finaliser of MurmurHash3). Two of a million contexts collide with
/// a probability of 3 in 10⁸.
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
    fn an_unmasked_token_is_evidence_for_itself() {
        let text: Vec<Vec<u32>> = (0..40).map(|i| vec![1, 10 + i % 10, 2]).collect();
        let baseline = TextBaseline::fit(text.iter().map(Vec::as_slice));
        assert_eq!(baseline.predict(&[1, 17, 2], 1), 17);
        assert_eq!(baseline.predict(&[1, 2, 2], 1), 10, "but not against the grammar");
    }

    #[test]
    fn no_text_and_no_position_are_harmless() {
        let baseline = TextBaseline::fit(std::iter::empty());
        assert_eq!(baseline.predict(&[1, 2, 3], 7), 0);
        assert_eq!(baseline.accuracy(std::iter::empty()), 0.0);
    }
}
