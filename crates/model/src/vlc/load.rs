//! Setting and copying the weights of a model by their published names.

use super::Vlc;
use crate::config::VlcConfig;
use crate::files::mapping::{AdaptError, Fit, plan};
use crate::files::{LoadReport, Options, POSITION_IDS, StateDict, StateError, StoredTensor, WeightIndex, position_ids};
use vlct_tensor::{Compute, Parameters};

impl Vlc {
    /// Makes a model with the sizes `config` whose weights are those of a file. Every weight is copied once, from the bytes of the file
    /// to its place, on all cores; tensors of the file that the model does not have are not read.
    ///
    /// # Errors
    /// Returns the errors of [`crate::files::adapt`], [`AdaptError::Missing`] if the file lacks a tensor of the model, and
    /// [`AdaptError::NotFloating`] if a weight has integer or boolean values.
    pub fn read(config: VlcConfig, file: &WeightIndex) -> Result<(Self, LoadReport), AdaptError> {
        let declarations = config.parameters();
        let shapes: Vec<_> = declarations
            .iter()
            .map(|(n, shape, _)| (n.clone(), shape.clone()))
            .collect();
        let plan = plan(file.shapes(), &shapes, Options::default())?;
        if let Some(name) = plan.report.missing.first() {
            return Err(AdaptError::Missing { name: name.clone() });
        }
        let mut sources = Vec::with_capacity(plan.steps.len());
        for step in &plan.steps {
            let Some((index, fit)) = step.source else { continue };
            let Some((_, tensor)) = file.tensors.get_index(index) else {
                continue;
            };
            if !tensor.dtype().is_floating() {
                return Err(AdaptError::NotFloating {
                    name: shapes[step.target].0.clone(),
                    dtype: tensor.dtype(),
                });
            }
            sources.push((tensor, fit));
        }
        // No tensor is missing, so there is one source for each parameter, in the same order.
        let parameters = Parameters::filled(declarations, Compute::default().device, |id, _, out| {
            let (tensor, fit) = &sources[id.index()];
            let is_floating = if *fit == Fit::Same {
                tensor.read_f32(out)
            } else {
                let mut values = vec![0.0; tensor.shape().iter().product()];
                let is_floating = tensor.read_f32(&mut values);
                fit.write(&values, out);
                is_floating
            };
            assert!(is_floating, "the types were checked");
        });
        Ok((Self::with_parameters(config, parameters), plan.report))
    }

    /// Returns names and shapes of all parameters, in the form that [`crate::files::adapt`] takes as target.
    pub fn shapes(&self) -> Vec<(String, Vec<usize>)> {
        self.parameters()
            .iter()
            .map(|(_, p)| (p.name.clone(), p.shape.clone()))
            .collect()
    }

    /// Sets the parameters that `state` contains and leaves the others unchanged. Tensors that are not parameters are ignored.
    ///
    /// # Errors
    /// Returns [`StateError::NotFloating`] if a tensor has integer or boolean values.
    ///
    /// # Panics
    /// Panics if the size of a tensor differs from that of its parameter, which [`crate::files::adapt`] prevents.
    pub fn load(&mut self, state: &StateDict) -> Result<(), StateError> {
        for name in state.names() {
            if let Some(id) = self.parameters().id(name) {
                let values = state.f32(name)?;
                self.parameters_mut().set(id, &values);
            }
        }
        Ok(())
    }

    /// Returns the buffer `position_ids`, then a copy of the weights with their published names, in the published order.
    pub fn state_dict(&self) -> StateDict {
        let ids = position_ids(&[1, self.config().max_text_len]);
        let weights = self.parameters().iter().map(|(id, p)| {
            (
                p.name.clone(),
                StoredTensor::f32(p.shape.clone(), self.parameters().tensor(id).to_host().into_owned()),
            )
        });
        std::iter::once((POSITION_IDS.to_string(), ids))
            .chain(weights)
            .collect()
    }
}
