//! Mixup and CutMix of the images of a micro-batch, with timm's rules (version 0.3.2).
//!
//! An image is mixed with the image at the same place from the end of the micro-batch. Mixup (Zhang et al. 2018, arXiv 1710.09412) adds
//! `λ` times the image and `1 − λ` times the other; CutMix (Yun et al. 2019, arXiv 1905.04899) copies a box of the other image, and `λ` is
//! the part of the image that remains. The target is `λ` times the class of the image and `1 − λ` times that of the other.

use rand::{Rng, RngExt};
use rand_distr::{Beta, Distribution};
use serde::{Deserialize, Serialize};

/// Settings of mixing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MixupSpec {
    /// α of mixup: `λ` is drawn from Beta(α, α). With 0 there is no mixup.
    pub mixup_alpha: f64,
    /// α of CutMix; with 0 there is no CutMix.
    pub cutmix_alpha: f64,
    /// Smallest and largest side of the box of CutMix, as fractions of the image's side. Replaces the α of CutMix.
    pub cutmix_minmax: Option<[f64; 2]>,
    /// Probability of mixing.
    pub probability: f64,
    /// Probability of CutMix if both are possible.
    pub switch_probability: f64,
    /// What is drawn once.
    pub mode: MixupMode,
}

/// For what mixup draws `λ` and the box.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MixupMode {
    /// Once for the micro-batch.
    #[default]
    Batch,
    /// For each pair of images, which are mixed with each other.
    Pair,
    /// For each image.
    Elem,
}

impl MixupSpec {
    /// Whether images are ever mixed.
    pub fn is_active(&self) -> bool {
        self.mixup_alpha > 0.0 || self.has_cutmix()
    }

    fn has_cutmix(&self) -> bool {
        self.cutmix_alpha > 0.0 || self.cutmix_minmax.is_some()
    }
}

/// How two images are mixed.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mix {
    /// Not at all.
    None,
    /// `λ` of the first.
    Blend(f64),
    /// A box of the second: rows and columns.
    Cut(Box),
}

/// A box in an image: rows `top..bottom`, columns `left..right`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Box {
    top: usize,
    bottom: usize,
    left: usize,
    right: usize,
}

impl Mix {
    /// The weight of the first image in the target. `side` is the side of the images.
    fn weight(self, side: usize) -> f64 {
        match self {
            Self::None => 1.0,
            Self::Blend(lambda) => lambda,
            Self::Cut(b) => 1.0 - ((b.bottom - b.top) * (b.right - b.left)) as f64 / (side * side) as f64,
        }
    }

    /// Mixes `other` into `image`, both `[3, side, side]`.
    fn apply(self, image: &mut [f32], other: &[f32], side: usize) {
        match self {
            Self::None => {}
            Self::Blend(lambda) => {
                let (kept, added) = (lambda as f32, (1.0 - lambda) as f32);
                for (v, o) in image.iter_mut().zip(other) {
                    *v = *v * kept + o * added;
                }
            }
            Self::Cut(b) => {
                for (plane, other) in image.chunks_exact_mut(side * side).zip(other.chunks_exact(side * side)) {
                    for row in b.top..b.bottom {
                        let columns = row * side + b.left..row * side + b.right;
                        plane[columns.clone()].copy_from_slice(&other[columns]);
                    }
                }
            }
        }
    }
}

impl MixupSpec {
    /// Mixes the images `[3, side, side]` of a micro-batch. Returns the weight of each image in its own target; the rest belongs to the
    /// image at the same place from the end.
    ///
    /// The middle image of an odd number is mixed with itself.
    pub fn mix(&self, images: &mut [&mut [f32]], side: usize, rng: &mut impl Rng) -> Vec<f32> {
        let count = images.len();
        let mixes: Vec<Mix> = match self.mode {
            MixupMode::Batch => vec![self.draw(side, rng); count],
            MixupMode::Elem => (0..count).map(|_| self.draw(side, rng)).collect(),
            MixupMode::Pair => {
                let half: Vec<Mix> = (0..count.div_ceil(2)).map(|_| self.draw(side, rng)).collect();
                (0..count).map(|i| half[i.min(count - 1 - i)]).collect()
            }
        };
        let weights = mixes.iter().map(|mix| mix.weight(side) as f32).collect();
        // Both images of a pair are mixed with the other as it was.
        let mut before = Vec::new();
        for i in 0..count / 2 {
            let j = count - 1 - i;
            let (first, second) = images.split_at_mut(j);
            let (first, second) = (&mut *first[i], &mut *second[0]);
            before.clear();
            before.extend_from_slice(first);
            mixes[i].apply(first, second, side);
            mixes[j].apply(second, &before, side);
        }
        weights
    }

    /// Draws how two images are mixed.
    fn draw(&self, side: usize, rng: &mut impl Rng) -> Mix {
        if !rng.random_bool(self.probability) {
            return Mix::None;
        }
        let cuts = match (self.mixup_alpha > 0.0, self.has_cutmix()) {
            (true, true) => rng.random_bool(self.switch_probability),
            (_, cuts) => cuts,
        };
        match (cuts, self.cutmix_minmax) {
            (true, Some(range)) => Mix::Cut(box_within(side, range, rng)),
            (true, None) => Mix::Cut(box_around(side, beta(self.cutmix_alpha, rng), rng)),
            (false, _) if self.mixup_alpha > 0.0 => Mix::Blend(beta(self.mixup_alpha, rng)),
            (false, _) => Mix::None,
        }
    }
}

/// Draws from Beta(α, α).
fn beta(alpha: f64, rng: &mut impl Rng) -> f64 {
    match Beta::new(alpha, alpha) {
        Ok(beta) => beta.sample(rng),
        Err(error) => unreachable!("α is positive: {error}"),
    }
}

/// Draws a box of about `1 − lambda` of the area, whose centre is anywhere in the image; the box is clipped to the image.
fn box_around(side: usize, lambda: f64, rng: &mut impl Rng) -> Box {
    let half = (side as f64 * (1.0 - lambda).sqrt()) as usize / 2;
    let mut range = || {
        let centre = rng.random_range(0..side);
        (centre.saturating_sub(half), (centre + half).min(side))
    };
    let ((top, bottom), (left, right)) = (range(), range());
    Box {
        top,
        bottom,
        left,
        right,
    }
}

/// Draws a box within the image whose sides are between these fractions of the image's side.
fn box_within(side: usize, [min, max]: [f64; 2], rng: &mut impl Rng) -> Box {
    // The upper ends are exclusive, as in NumPy's `randint`.
    let mut length = || {
        let (low, high) = ((side as f64 * min) as usize, (side as f64 * max) as usize);
        if low < high { rng.random_range(low..high) } else { low }
    };
    let (height, width) = (length(), length());
    let mut start = |length: usize| rng.random_range(0..side.saturating_sub(length).max(1));
    let (top, left) = (start(height), start(width));
    Box {
        top,
        bottom: (top + height).min(side),
        left,
        right: (left + width).min(side),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::SeedableRng;

    const SIDE: usize = 6;

    fn spec(mixup: f64, cutmix: f64, mode: MixupMode) -> MixupSpec {
        MixupSpec {
            mixup_alpha: mixup,
            cutmix_alpha: cutmix,
            cutmix_minmax: None,
            probability: 1.0,
            switch_probability: 0.5,
            mode,
        }
    }

    /// Image `i` of a batch has the value `2^i` everywhere.
    fn mix(spec: &MixupSpec, count: usize, seed: u64) -> (Vec<Vec<f32>>, Vec<f32>) {
        let mut images: Vec<Vec<f32>> = (0..count).map(|i| vec![(1u32 << i) as f32; 3 * SIDE * SIDE]).collect();
        let mut views: Vec<&mut [f32]> = images.iter_mut().map(Vec::as_mut_slice).collect();
        let weights = spec.mix(&mut views, SIDE, &mut ChaCha8Rng::seed_from_u64(seed));
        (images, weights)
    }

    fn modes() -> impl Strategy<Value = MixupMode> {
        prop_oneof![Just(MixupMode::Batch), Just(MixupMode::Pair), Just(MixupMode::Elem)]
    }

    proptest! {
        /// The mean of a mixed image of constant images is the mean of the constants with the weights of the target.
        #[test]
        fn weights_of_targets_are_those_of_the_images(
            mode in modes(),
            mixup in prop_oneof![Just(0.0), 0.1f64..2.0],
            cutmix in prop_oneof![Just(0.0), 0.1f64..2.0],
            minmax in prop::option::of((0.1f64..0.5, 0.5f64..0.9)),
            count in 1usize..6,
            seed in 0u64..1000,
        ) {
            let spec = MixupSpec {
                cutmix_minmax: minmax.map(|(min, max)| [min, max]),
                ..spec(mixup, cutmix, mode)
            };
            let (images, weights) = mix(&spec, count, seed);
            for (i, (image, weight)) in images.iter().zip(&weights).enumerate() {
                let (own, other) = ((1u32 << i) as f32, (1u32 << (count - 1 - i)) as f32);
                let mean = image.iter().sum::<f32>() / image.len() as f32;
                let want = weight * own + (1.0 - weight) * other;
                prop_assert!((mean - want).abs() < 1e-3 * want, "image {}: {} instead of {}", i, mean, want);
                prop_assert!((-1e-6..=1.0).contains(weight));
            }
            if mode == MixupMode::Batch {
                prop_assert!(weights.iter().all(|weight| *weight == weights[0]));
            }
            if mode == MixupMode::Pair {
                for i in 0..count {
                    prop_assert_eq!(weights[i], weights[count - 1 - i]);
                }
            }
        }

        #[test]
        fn boxes_lie_in_the_image(side in 1usize..40, lambda in 0.0f64..=1.0, min in 0.0f64..0.9, seed in 0u64..500) {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            for b in [box_around(side, lambda, &mut rng), box_within(side, [min, 1.0], &mut rng)] {
                prop_assert!(b.top <= b.bottom && b.bottom <= side && b.left <= b.right && b.right <= side);
            }
        }
    }

    #[test]
    fn probabilities_and_alphas_choose_the_kind_of_mixing() {
        let fraction = |spec: &MixupSpec, is_kind: fn(&Mix) -> bool| {
            let mut rng = ChaCha8Rng::seed_from_u64(5);
            let draws: Vec<Mix> = (0..4000).map(|_| spec.draw(SIDE, &mut rng)).collect();
            draws.iter().filter(|mix| is_kind(mix)).count() as f64 / 4000.0
        };
        let both = MixupSpec {
            probability: 0.6,
            switch_probability: 0.25,
            ..spec(0.8, 1.0, MixupMode::Batch)
        };
        assert!((fraction(&both, |mix| *mix == Mix::None) - 0.4).abs() < 0.03);
        assert!((fraction(&both, |mix| matches!(mix, Mix::Cut(_))) - 0.15).abs() < 0.03);
        assert_eq!(
            fraction(&spec(0.8, 0.0, MixupMode::Elem), |mix| matches!(mix, Mix::Blend(_))),
            1.0
        );
        assert_eq!(
            fraction(&spec(0.0, 0.3, MixupMode::Pair), |mix| matches!(mix, Mix::Cut(_))),
            1.0
        );
        assert!(!spec(0.0, 0.0, MixupMode::Batch).is_active());
        let minmax = MixupSpec {
            cutmix_minmax: Some([0.2, 0.4]),
            ..spec(0.0, 0.0, MixupMode::Batch)
        };
        assert!(minmax.is_active() && fraction(&minmax, |mix| matches!(mix, Mix::Cut(_))) == 1.0);
    }

    #[test]
    fn lambda_has_mean_one_half_and_the_variance_of_its_distribution() {
        let mut rng = ChaCha8Rng::seed_from_u64(9);
        for alpha in [0.2, 0.8, 1.0, 3.0] {
            let draws: Vec<f64> = (0..20_000).map(|_| beta(alpha, &mut rng)).collect();
            let mean = draws.iter().sum::<f64>() / draws.len() as f64;
            let variance = draws.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / draws.len() as f64;
            assert!((mean - 0.5).abs() < 0.01, "{mean}");
            let want = 0.25 / (2.0 * alpha + 1.0);
            assert!(
                (variance - want).abs() < 0.03 * want + 1e-3,
                "α {alpha}: {variance} instead of {want}"
            );
        }
    }
}
