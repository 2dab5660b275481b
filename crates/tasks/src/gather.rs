//! Exchange of values between the ranks of a run.
//!
//! Values travel as CBOR, which keeps all bits of floating-point numbers, NaN and infinities too.

use serde::Serialize;
use serde::de::DeserializeOwned;
use vlct_tensor::{CollectiveError, Collectives};

/// Returns the values that the ranks pass, in the order of ranks.
///
/// # Errors
/// Returns the errors of [`Collectives::sum`].
pub fn all<T: Serialize + DeserializeOwned>(
    collectives: &dyn Collectives,
    value: T,
) -> Result<Vec<T>, CollectiveError> {
    if collectives.ranks() == 1 {
        return Ok(vec![value]);
    }
    let mut bytes = Vec::new();
    ciborium::into_writer(&value, &mut bytes).map_err(|error| CollectiveError::Failed {
        rank: collectives.rank(),
        message: format!("a value cannot be sent to other ranks: {error}"),
    })?;
    let all = collectives.all_gather(bytes)?.into_iter().enumerate();
    all.map(|(rank, bytes)| ciborium::from_reader(bytes.as_slice()).map_err(|_| CollectiveError::Diverged { rank }))
        .collect()
}

/// Returns the value of rank 0. Rank 0 must pass a value; those of other ranks are not used.
///
/// # Errors
/// Returns the errors of [`all`], and [`CollectiveError::Diverged`] if rank 0 passes no value.
pub fn from_first<T: Serialize + DeserializeOwned>(
    collectives: &dyn Collectives,
    value: Option<T>,
) -> Result<T, CollectiveError> {
    let value = value.filter(|_| collectives.rank() == 0);
    let first = all(collectives, value)?.into_iter().next().flatten();
    first.ok_or(CollectiveError::Diverged { rank: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use vlct_tensor::Device;
    use vlct_tensor::collectives::{Single, Threads};

    #[test]
    fn values_come_in_the_order_of_ranks_with_all_their_bits() {
        let numbers = |rank: usize| vec![f32::NAN, f32::NEG_INFINITY, -0.0, 0.1 + rank as f32];
        let bits = |numbers: &[f32]| -> Vec<u32> { numbers.iter().map(|v| v.to_bits()).collect() };
        std::thread::scope(|scope| {
            for rank in Threads::new(3, Device::cpu()) {
                scope.spawn(move || {
                    let own = (rank.rank() as u64, numbers(rank.rank()));
                    let gathered = all(&rank, own).expect("all ranks gather");
                    for (i, (rank, values)) in gathered.iter().enumerate() {
                        assert_eq!((*rank, bits(values)), (i as u64, bits(&numbers(i))));
                    }
                    assert_eq!(from_first(&rank, Some(rank.rank())), Ok(0));
                    assert_eq!(
                        from_first::<u8>(&rank, None),
                        Err(CollectiveError::Diverged { rank: 0 })
                    );
                });
            }
        });
        assert_eq!(all(&Single, 3), Ok(vec![3]));
        assert_eq!(from_first(&Single, Some(3)), Ok(3));
    }
}
