//! Setting and copying the weights of a model by their published names.

use super::Vlc;
use crate::files::{POSITION_IDS, StateDict, StateError, StoredTensor, position_ids};

impl Vlc {
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
