//! Exponential moving averages of the weights of a model.

use crate::backend::Beta;
use crate::collectives::{CollectiveError, Collectives};
use crate::device::Device;
use crate::parameters::{ParameterId, Parameters};
use crate::profile::span;
use crate::tensor::Tensor;

/// An exponential moving average of each trainable parameter, on the device of the parameters.
pub struct Averages {
    /// The averages by the index of their parameter; `None` for parameters that are not trainable.
    values: Vec<Option<Tensor>>,
    device: Device,
}

impl Averages {
    /// Makes averages that are equal to the weights.
    pub fn new(parameters: &Parameters) -> Self {
        let device = parameters.device();
        let trainable = || parameters.iter().filter(|(_, p)| p.trainable);
        let shapes: Vec<[usize; 2]> = trainable()
            .map(|(id, _)| parameters.tensor(id))
            .map(|t| [t.rows(), t.columns()])
            .collect();
        let mut values: Vec<Option<Tensor>> = vec![None; parameters.count()];
        for ((id, _), mut average) in trainable().zip(device.backend().zeros_together(&shapes)) {
            device.backend().add(&parameters.tensor(id), &mut average, Beta::Zero);
            values[id.0] = Some(average);
        }
        Self { values, device }
    }

    /// Moves each average towards its weight: `average ← decay · average + (1 − decay) · weight`.
    pub fn update(&mut self, parameters: &Parameters, decay: f64) {
        let backend = self.device.backend();
        let _span = span(backend, || {
            let bytes = self.values.iter().flatten().map(|average| 3.0 * average.bytes()).sum();
            ("average of weights".into(), 0.0, bytes)
        });
        let weights: Vec<Tensor> = parameters.iter().map(|(id, _)| parameters.tensor(id)).collect();
        let mut pairs: Vec<(&mut Tensor, &Tensor)> = self
            .values
            .iter_mut()
            .zip(&weights)
            .filter_map(|(average, weight)| Some((average.as_mut()?, weight)))
            .collect();
        backend.interpolate(&mut pairs, (1.0 - decay) as f32);
    }

    /// Exchanges averages and weights without copying them. A second call restores both.
    ///
    /// # Panics
    /// If another tensor, such as one of a tape, shares the memory of a weight.
    pub fn swap(&mut self, parameters: &mut Parameters) {
        for ((_, weight), average) in parameters.iter_mut().zip(&mut self.values) {
            if let Some(average) = average {
                std::mem::swap(weight, average);
            }
        }
    }

    /// Replaces all averages by those of rank 0.
    ///
    /// # Errors
    /// Returns the errors of [`Collectives::broadcast`].
    pub fn broadcast(&mut self, collectives: &dyn Collectives) -> Result<(), CollectiveError> {
        collectives.broadcast(&mut self.values.iter_mut().flatten().collect::<Vec<_>>())
    }

    /// The average of a parameter in its matrix form; `None` if the parameter is not trainable.
    pub fn get(&self, id: ParameterId) -> Option<&Tensor> {
        self.values[id.0].as_ref()
    }

    /// Replaces the average of a parameter. Does nothing if the parameter is not trainable.
    ///
    /// # Panics
    /// If the number of values is not the parameter's length.
    pub fn set(&mut self, id: ParameterId, values: &[f32]) {
        if let Some(average) = &mut self.values[id.0] {
            let backend = self.device.backend();
            backend.overwrite(average, &mut |to| to.copy_from_slice(values));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters(value: f32) -> Parameters {
        let declared = [("w", true), ("frozen", false)].map(|(name, trained)| (name.to_string(), vec![2, 3], trained));
        let mut parameters = Parameters::new(declared, Device::cpu());
        parameters.fill(|_, _, values| values.fill(value));
        parameters
    }

    #[test]
    fn averages_follow_the_formula_and_skip_frozen_parameters() {
        let mut averages = Averages::new(&parameters(1.0));
        let (mut expected, id) = (1f64, ParameterId(0));
        for (weight, decay) in [(1.0, 0.5), (3.0, 0.75), (-2.0, 0.9)] {
            averages.update(&parameters(weight), decay);
            expected = decay * expected + (1.0 - decay) * f64::from(weight);
            let average = averages.get(id).expect("trainable").to_host().into_owned();
            let is_near = |value: &f32| (f64::from(*value) - expected).abs() < 1e-6;
            assert!(average.iter().all(is_near), "{average:?} instead of {expected}");
        }
        assert!(averages.get(ParameterId(1)).is_none());
        averages.set(id, &[7.0; 6]);
        averages.update(&parameters(7.0), 0.999);
        assert_eq!(averages.get(id).expect("trainable").to_host()[..], [7.0; 6]);
    }

    #[test]
    fn swap_exchanges_averages_and_weights() {
        let mut weights = parameters(1.0);
        let mut averages = Averages::new(&weights);
        weights.fill(|_, _, values| values.fill(5.0));
        let first = |t: &Tensor| t.to_host()[0];
        let state = |weights: &Parameters, averages: &Averages| {
            let [w, frozen] = [0, 1].map(|i| first(&weights.tensor(ParameterId(i))));
            (w, frozen, first(averages.get(ParameterId(0)).expect("trainable")))
        };
        averages.swap(&mut weights);
        assert_eq!(state(&weights, &averages), (1.0, 5.0, 5.0));
        averages.swap(&mut weights);
        assert_eq!(state(&weights, &averages), (5.0, 5.0, 1.0));
    }
}
