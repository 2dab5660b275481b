//! The models among which a run chooses.

use vlct_config::{Config, Value};

/// A model, and when it is chosen.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    /// The name in messages.
    pub name: &'static str,
    /// Keys of the sizes with their values.
    sizes: [(&'static str, usize); 8],
    /// Samples per micro-batch.
    pub micro_batch: u64,
    /// Peak learning rate at [`BATCH`](super::BATCH) samples per step.
    pub learning_rate: f64,
    /// Smallest number of captions: a larger model memorises fewer ones.
    pub captions: u64,
    /// Smallest number of samples of a run: a larger model needs more to learn which word belongs to which patch.
    pub samples: u64,
}

/// The models that are trained from random weights, from the smallest on. The first is the model of the quickstart.
pub(super) const FROM_SCRATCH: [Candidate; 3] = [
    Candidate {
        name: "tiny",
        sizes: sizes([64, 8], [128, 4, 4], [96, 2, 4]),
        micro_batch: 64,
        learning_rate: 1e-3,
        captions: 0,
        samples: 0,
    },
    Candidate {
        name: "small",
        sizes: sizes([96, 8], [256, 6, 8], [128, 2, 4]),
        micro_batch: 32,
        learning_rate: 7e-4,
        captions: 20_000,
        samples: 1_000_000,
    },
    Candidate {
        name: "medium",
        sizes: sizes([160, 16], [384, 12, 6], [256, 4, 8]),
        micro_batch: 16,
        learning_rate: 5e-4,
        captions: 200_000,
        samples: 5_000_000,
    },
];

/// The published base model with MAE weights or those of a pre-trained model, from the smallest image size on.
pub(super) const FROM_WEIGHTS: [Candidate; 3] = [
    base("base at 128 pixels", 128, 0),
    base("base at 224 pixels", 224, 20_000),
    base("base at 384 pixels", 384, 200_000),
];

const fn base(name: &'static str, image_size: usize, samples: u64) -> Candidate {
    Candidate {
        name,
        sizes: sizes([image_size, 16], [768, 12, 12], [512, 8, 16]),
        micro_batch: 8,
        learning_rate: 1e-4,
        captions: 0,
        samples,
    }
}

/// Returns the keys of image and patch size, of the encoder's width, depth and heads, and of the decoder's.
const fn sizes(image: [usize; 2], encoder: [usize; 3], decoder: [usize; 3]) -> [(&'static str, usize); 8] {
    [
        ("image_size", image[0]),
        ("patch_size", image[1]),
        ("hidden_size", encoder[0]),
        ("depth", encoder[1]),
        ("heads", encoder[2]),
        ("decoder_width", decoder[0]),
        ("decoder_depth", decoder[1]),
        ("decoder_heads", decoder[2]),
    ]
}

impl Candidate {
    /// Returns the keys of the sizes with their values. `side` is the shorter side of typical images: larger inputs would only enlarge
    /// them.
    pub fn keys(&self, side: usize) -> Vec<(&'static str, Value)> {
        let [(_, image_size), (_, patch_size), ..] = self.sizes;
        let enough = match side {
            0 => image_size,
            side => image_size.min(side.next_multiple_of(patch_size).max(4 * patch_size)),
        };
        let value = |(key, size)| (key, Value::Int(if key == "image_size" { enough } else { size } as i64));
        self.sizes.into_iter().map(value).collect()
    }

    /// Returns whether `key` is one of the sizes of a model.
    pub fn has_key(key: &str) -> bool {
        matches!(key, "vit" | "position_size") || FROM_SCRATCH[0].sizes.iter().any(|(name, _)| *name == key)
    }

    /// Returns whether the captions and samples of a run suffice for this model.
    pub fn suits(&self, captions: u64, samples: u64) -> bool {
        captions >= self.captions && samples >= self.samples
    }
}

/// Returns the keys of the sizes and the tokeniser of the model of another run.
pub(super) fn sizes_of_run(config: &Config) -> Vec<(&'static str, Value)> {
    vlct_config::KEYS
        .iter()
        .filter(|key| Candidate::has_key(key.name) || matches!(key.name, "vocab_size" | "tokenizer" | "max_text_len"))
        .map(|key| (key.name, (key.get)(config)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use vlct_config::resolve;
    use vlct_train::spec::model_size;

    #[test]
    fn every_candidate_is_a_valid_model() {
        for candidate in FROM_SCRATCH.iter().chain(&FROM_WEIGHTS) {
            for side in [0, 20, 64, 100, 500] {
                let mut config = resolve(&["own_data"]).unwrap().config;
                for (key, value) in candidate.keys(side) {
                    config.set(key, &value).unwrap();
                }
                let size = model_size(&config).unwrap_or_else(|e| panic!("{} at {side}: {e}", candidate.name));
                assert!(config.image_size >= 4 * size.patch_size);
            }
        }
    }

    #[test]
    fn small_images_are_not_enlarged() {
        let image_size = |side| match &FROM_SCRATCH[1].keys(side)[0] {
            ("image_size", Value::Int(size)) => *size,
            other => panic!("{other:?}"),
        };
        assert_eq!([0, 1000, 70, 10].map(image_size), [96, 96, 72, 32]);
    }
}
