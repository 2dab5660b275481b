//! The weights of a run with several ranks.

use std::hash::{DefaultHasher, Hasher};

use vlct_tensor::{CollectiveError, Collectives, Tensor};

use super::Weights;

impl Weights {
    /// Replaces the gradients by their sums over all ranks. `present` says which parameters have a gradient on any rank.
    ///
    /// # Errors
    /// Returns the errors of [`Collectives::sum`].
    pub fn sum_gradients(&mut self, collectives: &dyn Collectives, present: &[bool]) -> Result<(), CollectiveError> {
        match collectives.ranks() {
            1 => Ok(()),
            _ => self.gradients.sum(collectives, present),
        }
    }

    /// Replaces the weights, the moments and the averages by those of rank 0.
    ///
    /// # Errors
    /// Returns the errors of [`Collectives::broadcast`].
    pub fn broadcast(&mut self, collectives: &dyn Collectives) -> Result<(), CollectiveError> {
        self.model.parameters_mut().broadcast(collectives)?;
        self.optimizer.broadcast(collectives)?;
        match &mut self.ema {
            Some(ema) => ema.averages.broadcast(collectives),
            None => Ok(()),
        }
    }

    /// Returns a hash of the weights, the moments, the averages and the numbers of updates.
    pub fn hash(&self) -> u64 {
        let mut hash = DefaultHasher::new();
        let mut add = |tensor: &Tensor| {
            for values in tensor.to_host().chunks(1 << 14) {
                let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
                hash.write(&bytes);
            }
        };
        for (id, _) in self.model.parameters().iter() {
            add(&self.model.parameters().tensor(id));
            (0..self.optimizer.moment_names().len()).for_each(|moment| add(self.optimizer.moment(moment, id)));
            if let Some(average) = self.ema.as_ref().and_then(|ema| ema.averages.get(id)) {
                add(average);
            }
        }
        self.optimizer.steps().iter().for_each(|steps| hash.write_u64(*steps));
        hash.finish()
    }
}
