//! Randomness as a function: every random decision has its own generator, keyed by (seed, purpose, epoch, sample).
//!
//! No generator state is carried from one sample or step to the next, so results do not depend on the number of loader threads, and a
//! resumed run draws the same values as an uninterrupted one.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

/// What random values are used for. Streams of different purposes are independent.
///
/// The discriminants are part of the keys, so a new purpose gets a new number and no number ever changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Purpose {
    /// Initial weights; keyed by the index of the parameter.
    Initialisation = 1,
    /// Order of the samples; keyed by epoch.
    Order = 2,
    /// Crops, flips and other image augmentation of one sample.
    Augmentation = 3,
    /// Which tokens of a caption are masked and how they are corrupted.
    TokenMask = 4,
    /// The image that replaces the true one in a negative pair.
    FalseImage = 5,
    /// The captions that replace the true one in negative pairs.
    FalseText = 6,
    /// Which pairs of a batch are positive.
    MatchLabels = 7,
    /// Which patches the first encoder pass (masked language modelling, masked autoencoding) sees.
    PatchMaskMlm = 8,
    /// Which patches the second encoder pass (image-text matching) sees.
    PatchMaskItm = 9,
    /// Dropout masks.
    Dropout = 10,
    /// The sample that replaces an unreadable one.
    Replacement = 11,
    /// Scenes of synthetic images.
    Synthetic = 12,
    /// Order of rows in written files.
    RowOrder = 13,
    /// Rows of training files that are held out for validation; keyed by file and number of rows.
    HeldOut = 14,
    /// How the images of a micro-batch are mixed; keyed by epoch and micro-batch.
    Mixup = 15,
    /// Which sublayers are left out for which images of a micro-batch; keyed by epoch and micro-batch.
    DropPath = 16,
    /// Which patches of an image the encoder sees, if the number of patches is limited; one stream per sample.
    PatchLimit = 17,
}

/// Returns the generator of a decision. `seed` is the seed of the run; `major` and `minor` identify the decision within its purpose, for
/// example epoch and sample.
pub fn stream(seed: u64, purpose: Purpose, major: u64, minor: u64) -> ChaCha8Rng {
    let mut key = [0u8; 32];
    for (chunk, word) in key.chunks_exact_mut(8).zip([seed, purpose as u64, major, minor]) {
        chunk.copy_from_slice(&word.to_le_bytes());
    }
    ChaCha8Rng::from_seed(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::Rng;

    #[test]
    fn streams_are_deterministic_and_differ_by_each_part_of_the_key() {
        let first = |s, p, a, b| stream(s, p, a, b).next_u64();
        let base = first(1, Purpose::Order, 2, 3);
        assert_eq!(base, first(1, Purpose::Order, 2, 3));
        for other in [
            first(2, Purpose::Order, 2, 3),
            first(1, Purpose::Synthetic, 2, 3),
            first(1, Purpose::Order, 3, 3),
            first(1, Purpose::Order, 2, 4),
        ] {
            assert_ne!(base, other);
        }
    }
}
