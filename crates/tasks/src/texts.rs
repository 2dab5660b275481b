//! Statistics of the texts of a dataset, from a sample of them.

use std::fmt;

use vlct_data::Result;
use vlct_data::datasets::{Contents, Dataset, TableDataset};
use vlct_text::Tokenizer;

/// Number of texts that are tokenised.
const SAMPLED_TEXTS: usize = 2000;
/// Share of cut texts above which [`TextStatistics::cut`] returns them.
const MANY_CUT: f64 = 0.01;

/// Statistics of sampled texts.
#[derive(Clone, Debug, PartialEq)]
pub struct TextStatistics {
    /// Numbers of tokens, with `[CLS]` and `[SEP]`, in ascending order.
    lengths: Vec<usize>,
    /// Mean number of tokens of a word.
    pub tokens_per_word: f64,
    /// Fraction of the words that are `[UNK]`.
    pub unknown_words: f64,
    /// What the texts are, in the plural.
    noun: &'static str,
}

/// Texts with more tokens than a model reads.
#[derive(Clone, Debug, PartialEq)]
pub struct CutTexts {
    /// Share of the texts that are cut.
    share: f64,
    /// Number of tokens that the model reads.
    max_text_len: usize,
    /// Number of tokens that 99 % of the texts do not exceed.
    most: usize,
    /// What the texts are, in the plural.
    noun: &'static str,
}

impl TextStatistics {
    /// Tokenises texts at equal distances in the dataset, at most 2,000.
    ///
    /// # Errors
    /// Returns an error if a text is damaged.
    pub fn sample(dataset: &TableDataset, tokenizer: &Tokenizer) -> Result<Self> {
        let (mut lengths, mut words, mut tokens, mut unknown) = (Vec::new(), 0u64, 0u64, 0u64);
        for item in spread(dataset.len(), SAMPLED_TEXTS) {
            let Some(text) = dataset.text(item)? else { continue };
            let ids = tokenizer.encode(&text, usize::MAX);
            lengths.push(ids.len());
            for id in &ids[1..ids.len() - 1] {
                tokens += 1;
                words += u64::from(!tokenizer.is_continuation(*id));
                unknown += u64::from(*id == tokenizer.unk());
            }
        }
        lengths.sort_unstable();
        let share = |count: u64| count as f64 / words.max(1) as f64;
        Ok(Self {
            lengths,
            tokens_per_word: share(tokens),
            unknown_words: share(unknown),
            noun: match dataset.contents() {
                Contents::Captions => "captions",
                Contents::Questions => "questions",
                Contents::Pairs => "statements",
                Contents::Labels => "texts",
            },
        })
    }

    /// Returns the number of tokens, with `[CLS]` and `[SEP]`, that 99 % of the texts do not exceed.
    pub fn most(&self) -> usize {
        self.lengths.get(self.lengths.len() * 99 / 100).copied().unwrap_or(2)
    }

    /// Returns the texts that a model cuts which reads `max_text_len` tokens; `None` if these are at most 1 %.
    pub fn cut(&self, max_text_len: usize) -> Option<CutTexts> {
        let whole = self.lengths.partition_point(|length| *length <= max_text_len);
        let share = (self.lengths.len() - whole) as f64 / self.lengths.len().max(1) as f64;
        (share > MANY_CUT).then(|| CutTexts {
            share,
            max_text_len,
            most: self.most(),
            noun: self.noun,
        })
    }
}

impl fmt::Display for CutTexts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "about {:.0} % of the {} are cut after {} tokens; max_text_len={} keeps 99 % of them whole",
            100.0 * self.share,
            self.noun,
            self.max_text_len,
            self.most
        )
    }
}

/// Returns `count` of `len` indices, or all, at equal distances.
pub fn spread(len: usize, count: usize) -> impl Iterator<Item = usize> {
    let count = count.min(len);
    (0..count).map(move |i| i * len / count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_are_spread_over_the_whole_range() {
        assert_eq!(spread(10, 3).collect::<Vec<_>>(), [0, 3, 6]);
        assert_eq!(spread(2, 5).collect::<Vec<_>>(), [0, 1]);
        assert_eq!(spread(0, 5).count(), 0);
    }

    #[test]
    fn texts_that_are_cut_are_counted() {
        let statistics = TextStatistics {
            lengths: (1..=200).collect(),
            tokens_per_word: 1.0,
            unknown_words: 0.0,
            noun: "captions",
        };
        assert_eq!(statistics.most(), 199);
        assert_eq!(statistics.cut(198), None, "two of 200 are 1 %");
        let cut = statistics.cut(150).expect("a quarter").to_string();
        assert_eq!(
            cut,
            "about 25 % of the captions are cut after 150 tokens; max_text_len=199 keeps 99 % of them whole"
        );
        let none = TextStatistics {
            lengths: Vec::new(),
            ..statistics
        };
        assert_eq!((none.most(), none.cut(1)), (2, None));
    }
}
