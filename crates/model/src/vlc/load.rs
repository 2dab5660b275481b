//! Weights in and out of a model, by their published names.

use super::Vlc;
use crate::files::{StateDict, StateError, StoredTensor, TensorData};

/// The buffer that published checkpoints carry besides the parameters.
const POSITION_IDS: &str = "text_embeddings.position_ids";

impl Vlc {
    /// Names and shapes that a file is fitted to (see [`crate::files::adapt`]).
    pub fn shapes(&self) -> Vec<(String, Vec<usize>)> {
        self.parameters()
            .iter()
            .map(|(_, p)| (p.name.clone(), p.shape.clone()))
            .collect()
    }

    /// Takes over the weights that `state` has, leaves the others as they are. Names without a parameter are ignored.
    ///
    /// # Errors
    /// Returns an error if a tensor holds no floats.
    ///
    /// # Panics
    /// Panics if a tensor has another size than its parameter: fit the state first.
    pub fn load(&mut self, state: &StateDict) -> Result<(), StateError> {
        for name in state.names() {
            if let Some(id) = self.parameters().id(name) {
                let values = state.f32(name)?;
                self.parameters_mut().set(id, &values);
            }
        }
        Ok(())
    }

    /// A copy of the weights under their published names, in the published order.
    pub fn state_dict(&self) -> StateDict {
        let length = self.config().max_text_len;
        let ids = StoredTensor::new(vec![1, length], TensorData::I64((0..length as i64).collect()));
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
