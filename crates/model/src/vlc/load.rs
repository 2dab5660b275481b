//! Setting and copying the weights of a model by their published names.

use super::Vlc;
use crate::config::VlcConfig;
use crate::files::mapping::AdaptError;
use crate::files::{LoadReport, Options, POSITION_IDS, StateDict, StoredTensor, WeightIndex, position_ids};
use crate::load;

impl Vlc {
    /// Makes a model with the sizes `config` whose weights are those of a file. Every weight is copied once, from the bytes of the file
    /// to its place, on all cores; tensors of the file that the model does not have are not read.
    ///
    /// # Errors
    /// Returns the errors of [`Vlc::load`], and [`AdaptError::Missing`] if the file lacks any tensor of the model.
    pub fn read(config: VlcConfig, file: &WeightIndex) -> Result<(Self, LoadReport), AdaptError> {
        let (parameters, report) = load::read(config.parameters(), file)?;
        Ok((Self::with_parameters(config, parameters), report))
    }

    /// Sets the parameters that a file has and leaves the others unchanged. Every weight is copied from the bytes of the file; tensors of
    /// the file that the model does not have are not read.
    ///
    /// # Errors
    /// Returns an [`AdaptError`] if a shape differs and no rule adapts it, a tensor of the model has integers, values that cannot be read,
    /// or values that are NaN or infinite, the file has no tensor of the model, or, unless [`Options::partial`] is set, fewer than nearly
    /// all that the model needs. After an error about values, parameters before the tensor are already set.
    pub fn load(&mut self, file: &WeightIndex, options: Options) -> Result<LoadReport, AdaptError> {
        load::load(self.parameters_mut(), file, options)
    }

    /// Returns names and shapes of all parameters.
    pub fn shapes(&self) -> Vec<(String, Vec<usize>)> {
        load::shapes(self.parameters())
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
