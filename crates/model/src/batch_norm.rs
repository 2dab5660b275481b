//! The batch norm of linear probing: features with mean 0 and variance 1, without scale and shift.
//!
//! It is computed in host memory: its input is a row of features for each image, and no gradient passes through it, because what
//! precedes it is frozen.

use crate::blocks::ParameterIds;
use serde::{Deserialize, Serialize};
use vlct_tensor::{ParameterId, Parameters, Tape, Var};

/// ε that is added to the variance, as in MAE's linear probing.
const EPS: f32 = 1e-6;
/// Weight of a batch in the running statistics, PyTorch's default.
const MOMENTUM: f32 = 0.1;

/// Mean and variance of each feature over the images of a batch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BatchStatistics {
    mean: Vec<f32>,
    /// The mean squared deviation.
    variance: Vec<f32>,
    images: usize,
}

impl BatchStatistics {
    /// Computes the statistics of features `[images, width]`.
    pub(crate) fn of(features: &Var) -> Self {
        let (images, width) = (features.tensor().rows(), features.columns());
        let values = features.tensor().to_host();
        let count = images.max(1) as f64;
        let mut mean = vec![0.0f64; width];
        for row in values.chunks_exact(width) {
            mean.iter_mut().zip(row).for_each(|(sum, v)| *sum += f64::from(*v));
        }
        mean.iter_mut().for_each(|sum| *sum /= count);
        let mut variance = vec![0.0f64; width];
        for row in values.chunks_exact(width) {
            let deviations = row.iter().zip(&mean).map(|(v, mean)| f64::from(*v) - mean);
            variance.iter_mut().zip(deviations).for_each(|(sum, d)| *sum += d * d);
        }
        Self {
            mean: mean.iter().map(|v| *v as f32).collect(),
            variance: variance.iter().map(|sum| (sum / count) as f32).collect(),
            images,
        }
    }

    /// Returns features `[images, width]` minus the mean, divided by the standard deviation.
    pub(crate) fn normalise(&self, tape: &Tape, features: &Var) -> Var {
        let scales: Vec<f32> = self.variance.iter().map(|v| 1.0 / (v + EPS).sqrt()).collect();
        let mut values = features.tensor().to_host().into_owned();
        for row in values.chunks_exact_mut(self.mean.len()) {
            for ((value, mean), scale) in row.iter_mut().zip(&self.mean).zip(&scales) {
                *value = (*value - mean) * scale;
            }
        }
        Var::constant(
            tape.device()
                .tensor(features.tensor().rows(), features.columns(), &values),
        )
    }
}

/// The parameters with the running mean and variance.
pub(crate) struct RunningStatistics {
    mean: ParameterId,
    variance: ParameterId,
}

impl RunningStatistics {
    /// Returns the parameters whose names begin with `name`.
    pub fn new(ids: &ParameterIds, name: &str) -> Self {
        Self {
            mean: ids.id(&format!("{name}.running_mean")),
            variance: ids.id(&format!("{name}.running_var")),
        }
    }

    /// Returns the running statistics.
    pub fn read(&self, parameters: &Parameters) -> BatchStatistics {
        let values = |id| parameters.tensor(id).to_host().into_owned();
        BatchStatistics {
            mean: values(self.mean),
            variance: values(self.variance),
            images: 0,
        }
    }

    /// Moves the running statistics by a tenth of the way to those of a batch. As in PyTorch, the variance is that of a sample: the sum of
    /// the squared deviations is divided by the number of images minus 1.
    pub fn update(&self, parameters: &mut Parameters, batch: &BatchStatistics) {
        let of_sample = batch.images as f32 / (batch.images as f32 - 1.0).max(1.0);
        for (id, new, factor) in [
            (self.mean, &batch.mean, 1.0),
            (self.variance, &batch.variance, of_sample),
        ] {
            let running = parameters.tensor(id).to_host().into_owned();
            let pairs = running.iter().zip(new);
            let moved: Vec<f32> = pairs
                .map(|(running, new)| (1.0 - MOMENTUM) * running + MOMENTUM * (factor * new))
                .collect();
            parameters.set(id, &moved);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::{Vit, VitConfig};
    use vlct_tensor::{Compute, Tape};

    fn probe() -> Vit {
        let mut model = Vit::new(VitConfig {
            image_size: 8,
            patch_size: 4,
            width: 8,
            depth: 2,
            heads: 2,
            classes: 3,
            global_pool: false,
            drop_path: 0.0,
            layer_norm_eps: 1e-6,
            linear_probe: true,
        });
        crate::initialise::initialise_vit(&mut model, |i| {
            use rand_chacha::rand_core::SeedableRng;
            rand_chacha::ChaCha8Rng::seed_from_u64(i)
        });
        model
    }

    fn images() -> Vec<Vec<f32>> {
        let image = |n: usize| (0..192).map(|i| ((i * (n + 2)) % 13) as f32 / 6.0 - 1.0).collect();
        (0..5).map(image).collect()
    }

    fn values(model: &Vit, name: &str) -> Vec<f32> {
        let id = model.parameters().id(name).unwrap();
        model.parameters().tensor(id).to_host().into_owned()
    }

    #[test]
    fn only_the_head_is_trained() {
        let model = probe();
        let trained: Vec<&str> = model
            .parameters()
            .iter()
            .filter(|(_, p)| p.trainable)
            .map(|(_, p)| p.name.as_str())
            .collect();
        assert_eq!(trained, ["head.1.weight", "head.1.bias"]);
        assert_eq!(model.parameters().trainable_values(), 8 * 3 + 3);
    }

    #[test]
    fn training_uses_the_batch_and_evaluation_the_running_statistics() {
        let mut model = probe();
        let images = images();
        let images: Vec<&[f32]> = images.iter().map(Vec::as_slice).collect();
        let tape = Tape::inference(Compute::default());
        let features = model.features(&tape, &images, None);
        let features: Vec<f64> = features.tensor().to_host().iter().map(|v| f64::from(*v)).collect();
        let column = |c: usize| features.chunks_exact(8).map(move |row| row[c]);
        let mean: Vec<f64> = (0..8).map(|c| column(c).sum::<f64>() / 5.0).collect();
        let squares: Vec<f64> = (0..8).map(|c| column(c).map(|v| (v - mean[c]).powi(2)).sum()).collect();

        let (logits, statistics) = model.training_logits(&tape, &images, None);
        let (weight, bias) = (values(&model, "head.1.weight"), values(&model, "head.1.bias"));
        let expected = |image: usize, class: usize| -> f64 {
            let normalised = (0..8).map(|c| (features[image * 8 + c] - mean[c]) / (squares[c] / 5.0 + 1e-6).sqrt());
            let products = normalised.zip(&weight[class * 8..]).map(|(v, w)| v * f64::from(*w));
            products.sum::<f64>() + f64::from(bias[class])
        };
        for (i, logit) in logits.tensor().to_host().iter().enumerate() {
            assert!((f64::from(*logit) - expected(i / 3, i % 3)).abs() < 1e-5);
        }

        // The statistics begin with mean 0 and variance 1.
        let unchanged = model.logits(&tape, &images);
        assert!(values(&model, "head.0.running_var").iter().all(|v| *v == 1.0));
        model.update_statistics(&statistics.unwrap());
        for c in 0..8 {
            let (mean, variance) = (0.1 * mean[c], 0.9 + 0.1 * squares[c] / 4.0);
            assert!((f64::from(values(&model, "head.0.running_mean")[c]) - mean).abs() < 1e-6);
            assert!((f64::from(values(&model, "head.0.running_var")[c]) - variance).abs() < 1e-6);
        }
        assert_ne!(
            unchanged.tensor().to_host(),
            model.logits(&tape, &images).tensor().to_host()
        );
    }
}
