//! Optimisers over all parameters of a model.

use crate::backend::ParameterUpdate;
pub use crate::backend::{Clip, Rule};
use crate::collectives::{CollectiveError, Collectives};
use crate::device::Device;
use crate::parameters::{Gradients, ParameterId, Parameters};
use crate::profile::span;
use crate::tensor::Tensor;

/// Learning rate and weight decay for one parameter in one step.
#[derive(Clone, Copy, Debug)]
pub struct Hyperparameters {
    /// Learning rate.
    pub learning_rate: f64,
    /// Weight decay.
    pub weight_decay: f64,
}

/// An update rule with its moments, on the device of the parameters.
pub struct Optimizer {
    rule: Rule,
    /// The number of updates of each parameter.
    steps: Vec<u64>,
    /// The moments, indexed `[moment][parameter]`.
    moments: Vec<Vec<Tensor>>,
    device: Device,
}

impl Optimizer {
    /// Makes an optimiser whose moments are zero. The moments of parameters that are not trainable are empty.
    pub fn new(rule: Rule, parameters: &Parameters) -> Self {
        let count = rule.moments().len();
        let device = parameters.device();
        let shapes: Vec<[usize; 2]> = parameters
            .iter()
            .zip(parameters.shapes())
            .map(|((_, p), shape)| if p.trainable { shape } else { [0, 0] })
            .collect();
        let zeros = |_| device.backend().zeros_together(&shapes);
        Self {
            rule,
            steps: vec![0; parameters.count()],
            moments: (0..count).map(zeros).collect(),
            device,
        }
    }

    /// The names of the moments in PyTorch's optimiser states.
    pub fn moment_names(&self) -> &'static [&'static str] {
        self.rule.moments()
    }

    /// A moment of a parameter, in the parameter's matrix form. `moment` is an index into [`Optimizer::moment_names`].
    pub fn moment(&self, moment: usize, id: ParameterId) -> &Tensor {
        &self.moments[moment][id.0]
    }

    /// Replaces a moment of a parameter.
    ///
    /// # Panics
    /// If the number of values is not the parameter's length.
    pub fn set_moment(&mut self, moment: usize, id: ParameterId, values: &[f32]) {
        let backend = self.device.backend();
        backend.overwrite(&mut self.moments[moment][id.0], &mut |to| to.copy_from_slice(values));
    }

    /// Replaces all moments by those of rank 0.
    ///
    /// # Errors
    /// Returns the errors of [`Collectives::broadcast`].
    pub fn broadcast(&mut self, collectives: &dyn Collectives) -> Result<(), CollectiveError> {
        let mut moments = self.moments.iter_mut();
        moments.try_for_each(|moments| collectives.broadcast(&mut moments.iter_mut().collect::<Vec<_>>()))
    }

    /// The number of updates of each parameter.
    pub fn steps(&self) -> &[u64] {
        &self.steps
    }

    /// Restores the number of updates of each parameter.
    ///
    /// # Panics
    /// If there is not one count for each parameter.
    pub fn set_steps(&mut self, steps: &[u64]) {
        self.steps.copy_from_slice(steps);
    }

    /// Updates every trainable parameter that has a gradient. With `clip`, whose norm is that of the gradients
    /// ([`Gradients::norm`]), gradients above the limit are scaled down to it.
    ///
    /// # Panics
    /// If another tensor, such as one of a tape, shares the memory of a weight.
    pub fn step(
        &mut self,
        parameters: &mut Parameters,
        gradients: &Gradients,
        clip: Option<&Clip>,
        hyperparameters: impl Fn(ParameterId) -> Hyperparameters,
    ) {
        let backend = self.device.backend();
        let _span = span(backend, || {
            let trained = parameters.iter().filter(|(id, _)| gradients.get(*id).is_some());
            let values: usize = trained.map(|(_, p)| p.len()).sum();
            let bytes = (values * (3 + 2 * self.moments.len()) * 4) as f64;
            ("optimiser".into(), 0.0, bytes)
        });
        let mut moments: Vec<_> = self.moments.iter_mut().map(|m| m.iter_mut()).collect();
        let mut updates = Vec::with_capacity(self.steps.len());
        for ((index, (parameter, values)), step) in parameters.iter_mut().enumerate().zip(&mut self.steps) {
            let moments = moments.iter_mut().filter_map(Iterator::next).collect();
            let id = ParameterId(index);
            let Some(gradient) = gradients.get(id).filter(|_| parameter.trainable) else {
                continue;
            };
            *step += 1;
            let Hyperparameters {
                learning_rate,
                weight_decay,
            } = hyperparameters(id);
            updates.push(ParameterUpdate {
                values,
                gradient,
                moments,
                learning_rate,
                weight_decay,
                step: *step,
            });
        }
        backend.update(self.rule, clip, &mut updates);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Makes two parameters, of 3 and 40 values, and gradients.
    fn parameters_and_gradients() -> (Parameters, Gradients) {
        let shapes = [("a", vec![3]), ("b", vec![8, 5])];
        let declared = shapes.map(|(name, shape)| (name.to_string(), shape, true));
        let mut parameters = Parameters::new(declared, Device::cpu());
        parameters.fill(|_, _, values| values.fill(1.0));
        let mut gradients = Gradients::new(&parameters);
        for (id, _) in parameters.iter() {
            let value = |i: usize| (i * 7 % 11) as f32 - 5.0 + id.index() as f32;
            gradients.accumulate(id, |out, _| {
                let write = |values: &mut [f32]| values.iter_mut().enumerate().for_each(|(i, v)| *v = value(i));
                Device::cpu().backend().overwrite(out, &mut { write });
            });
        }
        (parameters, gradients)
    }

    /// The first step of gradient descent with learning rate 1 subtracts the clipped gradient, so its norm is the limit or less.
    #[test]
    fn clipping_scales_all_gradients_by_one_factor() {
        let values_of = |parameters: &Parameters| -> Vec<f32> {
            let tensors = parameters.iter().map(|(id, _)| parameters.tensor(id));
            tensors.flat_map(|t| t.to_host().into_owned()).collect()
        };
        for (limit, is_clipped) in [(0.5, true), (1e4, false)] {
            let (mut parameters, gradients) = parameters_and_gradients();
            let unclipped: Vec<f32> = parameters
                .iter()
                .filter_map(|(id, _)| gradients.get(id))
                .flat_map(|g| g.to_host().into_owned())
                .collect();
            let norm = unclipped.iter().map(|g| g * g).sum::<f32>().sqrt();
            assert!((gradients.norm().item() - norm).abs() < 1e-5 * norm);
            let clip = Clip {
                norm: gradients.norm(),
                limit,
            };
            let rates = |_| Hyperparameters {
                learning_rate: 1.0,
                weight_decay: 0.0,
            };
            Optimizer::new(Rule::Sgd, &parameters).step(&mut parameters, &gradients, Some(&clip), rates);
            let factor = if is_clipped { limit / norm } else { 1.0 };
            for (value, gradient) in values_of(&parameters).iter().zip(&unclipped) {
                let expected = 1.0 - factor * gradient;
                assert!(
                    (value - expected).abs() < 1e-6 * (1.0 + gradient.abs()),
                    "{value} instead of {expected}"
                );
            }
            // A norm below the limit gives the bits of a step without clipping.
            let (mut parameters_without_clip, gradients) = parameters_and_gradients();
            Optimizer::new(Rule::Sgd, &parameters_without_clip).step(
                &mut parameters_without_clip,
                &gradients,
                None,
                rates,
            );
            assert_eq!(
                values_of(&parameters) == values_of(&parameters_without_clip),
                !is_clipped
            );
        }
    }
}
