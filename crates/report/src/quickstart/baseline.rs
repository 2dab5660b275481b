//! What guessing from the text alone reaches.

use vlct_data::datasets::{CaptionDataset, Split};
use vlct_data::text::Tokenizer;
use vlct_synthetic::TextBaseline;
use vlct_train::config::Config;
use vlct_train::error::Result;

/// A guesser fitted to all captions of the training split.
pub fn fit(config: &Config, tokenizer: &Tokenizer) -> Result<TextBaseline> {
    let training = CaptionDataset::open(&config.data_root, &config.datasets, Split::Train)?;
    let mut sequences = Vec::with_capacity(training.len());
    for index in 0..training.len() {
        sequences.push(tokenizer.encode(&training.caption(index)?, config.max_text_len));
    }
    Ok(TextBaseline::fit(sequences.iter().map(Vec::as_slice)))
}
