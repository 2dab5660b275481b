//! Weights by name, and their gradients.

use crate::backend::Beta;
use crate::collectives::{CollectiveError, Collectives};
use crate::device::Device;
use crate::profile::memory_bound_span;
use crate::tensor::Tensor;
use rayon::prelude::*;
use std::collections::HashMap;

/// Number of gradient values that are summed over ranks in one call, unless a single gradient has more: 160 MB, large enough that the time of
/// a call is that of its transfer.
const SUMMED_TOGETHER: usize = 40_000_000;

/// The index of a parameter in the order of declaration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ParameterId(pub(crate) usize);

impl ParameterId {
    /// The index in the order of declaration.
    pub fn index(self) -> usize {
        self.0
    }
}

/// Name and properties of one parameter.
#[derive(Clone, Debug)]
pub struct Parameter {
    /// Name in published checkpoints.
    pub name: String,
    /// Shape in published checkpoints.
    pub shape: Vec<usize>,
    /// Whether the optimiser may change it.
    pub trainable: bool,
    /// Rows and columns of the matrix form.
    matrix: [usize; 2],
}

impl Parameter {
    /// Number of values.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether the parameter has no values.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// All weights of a model, on one device.
pub struct Parameters {
    list: Vec<Parameter>,
    by_name: HashMap<String, ParameterId>,
    values: Vec<Tensor>,
    device: Device,
}

impl Parameters {
    /// Makes parameters with value 0. A declaration is a name, a shape, and whether the parameter is trainable.
    ///
    /// Each parameter is stored as a matrix, its matrix form. The rows of the matrix form are the first axis of weights `[out, in]` and
    /// convolution kernels (`[D, 3, P, P]` → `[D, 3·P·P]`). A vector is one row. Leading axes of size 1 are dropped (`[1, N, D]` →
    /// `[N, D]`).
    pub fn new(declarations: impl IntoIterator<Item = (String, Vec<usize>, bool)>, device: Device) -> Self {
        Self::declare(declarations, device, |shapes| device.backend().zeros_together(shapes))
    }

    /// Makes parameters as [`Parameters::new`] does, with values that `write` writes, in parallel. Memory is written only once, which for
    /// the weights of a large model saves as much time as reading them takes.
    pub fn filled(
        declarations: impl IntoIterator<Item = (String, Vec<usize>, bool)>,
        device: Device,
        write: impl Fn(ParameterId, &Parameter, &mut [f32]) + Sync,
    ) -> Self {
        let mut parameters = Self::declare(declarations, device, |shapes| device.backend().empty_together(shapes));
        parameters.fill(write);
        parameters
    }

    /// Makes parameters whose matrices are those that `allocate` makes for the given shapes.
    fn declare(
        declarations: impl IntoIterator<Item = (String, Vec<usize>, bool)>,
        device: Device,
        allocate: impl FnOnce(&[[usize; 2]]) -> Vec<Tensor>,
    ) -> Self {
        let (mut list, mut by_name) = (Vec::new(), HashMap::new());
        for (name, shape, trainable) in declarations {
            let significant: &[usize] = match shape.iter().position(|s| *s != 1) {
                Some(i) if shape.len() - i >= 2 => &shape[i..],
                _ => &[1],
            };
            let rows = if shape.len() == 2 { shape[0] } else { significant[0] };
            let columns = shape.iter().product::<usize>() / rows.max(1);
            by_name.insert(name.clone(), ParameterId(list.len()));
            list.push(Parameter {
                name,
                shape,
                trainable,
                matrix: [rows, columns],
            });
        }
        let shapes: Vec<[usize; 2]> = list.iter().map(|p| p.matrix).collect();
        Self {
            values: allocate(&shapes),
            list,
            by_name,
            device,
        }
    }

    /// The device that holds the values.
    pub fn device(&self) -> Device {
        self.device
    }

    /// Moves all values to a device. Gradients, optimisers and averages must be made afterwards.
    ///
    /// # Panics
    /// If another tensor, such as one of a tape, shares the memory of a weight.
    pub fn move_to(&mut self, device: Device) {
        if device.backend().memory() == self.device.backend().memory() {
            return;
        }
        let backend = device.backend();
        let mut values = backend.empty_together(&self.shapes());
        for (from, to) in self.values.iter_mut().zip(&mut values) {
            assert_not_shared(from);
            backend.overwrite(to, &mut |to| to.copy_from_slice(&from.to_host()));
            // The memory of the first device is freed one parameter after the other.
            *from = self.device.backend().empty(0, 0);
        }
        (self.values, self.device) = (values, device);
    }

    /// All parameters with their ids, in order.
    pub fn iter(&self) -> impl Iterator<Item = (ParameterId, &Parameter)> {
        self.list.iter().enumerate().map(|(i, p)| (ParameterId(i), p))
    }

    /// The parameter with the given id.
    pub fn get(&self, id: ParameterId) -> &Parameter {
        &self.list[id.0]
    }

    /// The id of the parameter with the given name.
    pub fn id(&self, name: &str) -> Option<ParameterId> {
        self.by_name.get(name).copied()
    }

    /// The number of parameters.
    pub fn count(&self) -> usize {
        self.list.len()
    }

    /// The number of trainable values.
    pub fn trainable_values(&self) -> usize {
        self.list.iter().filter(|p| p.trainable).map(Parameter::len).sum()
    }

    /// Freezes the parameters whose name `select` accepts: they are constants of a tape, and have no gradients, moments and averages.
    /// Gradients, optimisers and averages must be made afterwards.
    pub fn freeze(&mut self, select: impl Fn(&str) -> bool) {
        for parameter in self.list.iter_mut().filter(|p| select(&p.name)) {
            parameter.trainable = false;
        }
    }

    /// The matrix form of a parameter. It shares the parameter's memory and must be dropped before the parameter can change.
    pub fn tensor(&self, id: ParameterId) -> Tensor {
        self.values[id.0].clone()
    }

    /// The first parameter with a value that is infinite or NaN.
    pub fn first_non_finite(&self) -> Option<&Parameter> {
        let position = self.device.backend().first_non_finite(&self.values);
        position.map(|i| &self.list[i])
    }

    /// Replaces the values of a parameter.
    ///
    /// # Panics
    /// If the number of values differs, or another tensor, such as one of a tape, shares the memory.
    pub fn set(&mut self, id: ParameterId, values: &[f32]) {
        assert_not_shared(&self.values[id.0]);
        let backend = self.device.backend();
        backend.overwrite(&mut self.values[id.0], &mut |to| to.copy_from_slice(values));
    }

    /// Replaces the values of all parameters, in parallel. `write` must write all values of the parameter, in host memory.
    ///
    /// # Panics
    /// If another tensor, such as one of a tape, shares the memory of a weight.
    pub fn fill(&mut self, write: impl Fn(ParameterId, &Parameter, &mut [f32]) + Sync) {
        self.values.iter().for_each(assert_not_shared);
        let backend = self.device.backend();
        let values = self.values.par_iter_mut().zip(&self.list).enumerate();
        // One parameter per task, because a few parameters are much larger than the others.
        values.with_max_len(1).for_each(|(i, (values, parameter))| {
            backend.overwrite(values, &mut |to| write(ParameterId(i), parameter, to));
        });
    }

    /// Replaces the values of all parameters by those of rank 0.
    ///
    /// # Errors
    /// Returns the errors of [`Collectives::broadcast`].
    ///
    /// # Panics
    /// If another tensor, such as one of a tape, shares the memory of a weight.
    pub fn broadcast(&mut self, collectives: &dyn Collectives) -> Result<(), CollectiveError> {
        collectives.broadcast(&mut self.iter_mut().map(|(_, values)| values).collect::<Vec<_>>())
    }

    /// All parameters with their mutable values.
    ///
    /// # Panics
    /// The iterator panics if another tensor, such as one of a tape, shares the memory of a weight.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (&Parameter, &mut Tensor)> {
        let values = self.values.iter_mut().inspect(|values| assert_not_shared(values));
        self.list.iter().zip(values)
    }

    /// Rows and columns of the matrix form of each parameter.
    pub(crate) fn shapes(&self) -> Vec<[usize; 2]> {
        self.list.iter().map(|p| p.matrix).collect()
    }
}

fn assert_not_shared(values: &Tensor) {
    assert!(!values.is_shared(), "weights changed while a tape uses them");
}

/// Gradients of the parameters of one model, on its device. A parameter that no loss depends on has no gradient, and the optimiser skips
/// it.
///
/// The memory of a gradient is allocated when the backward pass reaches its parameter. At that point, the activations of later layers
/// have been freed.
pub struct Gradients {
    shapes: Vec<[usize; 2]>,
    trainable: Vec<bool>,
    values: Vec<Option<Tensor>>,
    device: Device,
}

impl Gradients {
    /// Makes an empty set of gradients.
    pub fn new(parameters: &Parameters) -> Self {
        Self {
            shapes: parameters.shapes(),
            trainable: parameters.list.iter().map(|p| p.trainable).collect(),
            values: parameters.list.iter().map(|_| None).collect(),
            device: parameters.device,
        }
    }

    /// Removes all gradients.
    pub fn clear(&mut self) {
        self.values.fill_with(|| None);
    }

    /// The gradient of a parameter in its matrix form, if there is one.
    pub fn get(&self, id: ParameterId) -> Option<&Tensor> {
        self.values[id.0].as_ref()
    }

    /// Whether each parameter has a gradient, in the order of declaration.
    pub fn present(&self) -> Vec<bool> {
        self.values.iter().map(Option::is_some).collect()
    }

    /// Replaces the gradients by their sums over all ranks, from the last parameter to the first, the order in which a backward pass completes
    /// them. `present` says which parameters have a gradient on any rank; where this rank has none, it counts as 0.
    ///
    /// # Errors
    /// Returns the errors of [`Collectives::sum`].
    pub fn sum(&mut self, collectives: &dyn Collectives, present: &[bool]) -> Result<(), CollectiveError> {
        self.sum_in_buckets(collectives, present, SUMMED_TOGETHER)
    }

    /// Does what [`Gradients::sum`] does, with at most `limit` values in one call, or a single gradient.
    fn sum_in_buckets(
        &mut self,
        collectives: &dyn Collectives,
        present: &[bool],
        limit: usize,
    ) -> Result<(), CollectiveError> {
        let backend = self.device.backend();
        let mut bucket: Vec<&mut Tensor> = Vec::new();
        let mut values = 0;
        for ((gradient, [rows, columns]), present) in self.values.iter_mut().zip(&self.shapes).zip(present).rev() {
            if !present {
                continue;
            }
            let gradient = gradient.get_or_insert_with(|| backend.zeros(*rows, *columns));
            if values > 0 && values + gradient.len() > limit {
                collectives.sum(&mut bucket)?;
                bucket.clear();
                values = 0;
            }
            values += gradient.len();
            bucket.push(gradient);
        }
        collectives.sum(&mut bucket)
    }

    /// The L2 norm of all gradients together, as a `[1, 1]` matrix on the device; 0 if there are none.
    pub fn norm(&self) -> Tensor {
        let values: Vec<&Tensor> = self.values.iter().flatten().collect();
        let backend = self.device.backend();
        let bytes = values.iter().map(|values| values.bytes()).sum();
        let _span = memory_bound_span(backend, "gradient norm", bytes);
        backend.l2_norm(&values)
    }

    pub(crate) fn is_trainable(&self, id: ParameterId) -> bool {
        self.trainable[id.0]
    }

    /// Calls `write` with the gradient of a parameter and with [`Beta::One`] to add to it or [`Beta::Zero`] to overwrite it.
    pub(crate) fn accumulate(&mut self, id: ParameterId, write: impl FnOnce(&mut Tensor, Beta)) {
        let ([rows, columns], backend) = (self.shapes[id.0], self.device.backend());
        match &mut self.values[id.0] {
            Some(values) => write(values, Beta::One),
            missing => write(missing.insert(backend.empty(rows, columns)), Beta::Zero),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collectives::Threads;

    #[test]
    fn matrix_forms_follow_the_published_shapes() {
        let forms = [
            (vec![], [1, 1]),
            (vec![5], [1, 5]),
            (vec![4, 3], [4, 3]),
            (vec![1, 3], [1, 3]),
            (vec![1, 7, 4], [7, 4]),
            (vec![1, 1, 4], [1, 4]),
            (vec![4, 3, 2, 2], [4, 12]),
            (vec![0, 4], [0, 0]),
        ];
        let declarations = forms
            .iter()
            .map(|(shape, _)| (format!("{shape:?}"), shape.clone(), true));
        let parameters = Parameters::new(declarations, Device::cpu());
        for ((id, _), (shape, form)) in parameters.iter().zip(&forms) {
            let t = parameters.tensor(id);
            assert_eq!([t.rows(), t.columns()], *form, "{shape:?}");
            assert!(t.to_host().iter().all(|v| *v == 0.0));
        }
    }

    #[test]
    fn filled_parameters_have_the_written_values() {
        let shape = |name: &str| (name.to_string(), vec![2, 20], true);
        let write = |id: ParameterId, _: &Parameter, values: &mut [f32]| values.fill(id.index() as f32);
        let parameters = Parameters::filled(["a", "b"].map(shape), Device::cpu(), write);
        for (id, _) in parameters.iter() {
            let values = parameters.tensor(id);
            assert_eq!(*values.to_host(), [id.index() as f32; 40]);
        }
    }

    #[test]
    #[should_panic(expected = "weights changed while a tape uses them")]
    fn shared_weights_cannot_change() {
        let mut parameters = Parameters::new([("w".to_string(), vec![2], true)], Device::cpu());
        let id = parameters.id("w").expect("declared");
        let _shared = parameters.tensor(id);
        parameters.set(id, &[1.0, 2.0]);
    }

    #[test]
    fn finds_the_first_parameter_that_is_not_finite() {
        let shape = |name: &str| (name.to_string(), vec![2, 20], true);
        let mut parameters = Parameters::new(["a", "b", "c"].map(shape), Device::cpu());
        parameters.fill(|id, p, values| values.fill((id.index() * p.len()) as f32));
        assert!(parameters.first_non_finite().is_none());
        for bad in [f32::NAN, f32::INFINITY] {
            parameters.fill(|id, _, values| values[39] = if id.index() > 0 { bad } else { 0.0 });
            assert_eq!(parameters.first_non_finite().expect("not finite").name, "b");
        }
    }

    fn values(tensor: Option<&Tensor>) -> Option<Vec<f32>> {
        tensor.map(|tensor| tensor.to_host().into_owned())
    }

    #[test]
    fn gradients_are_summed_over_ranks_and_count_as_0_where_they_are_missing() {
        let declared =
            || [("a", 3), ("b", 5), ("c", 2), ("d", 4)].map(|(name, len)| (name.to_string(), vec![len], true));
        // Rank 0 has no gradient of c, rank 1 none of a, and no rank one of b.
        let has_gradient = [[true, false, false, true], [false, false, true, true]];
        for limit in [1, 6, 100] {
            let sums: Vec<Vec<Option<Vec<f32>>>> = std::thread::scope(|scope| {
                let threads: Vec<_> = Threads::new(2, Device::cpu())
                    .into_iter()
                    .map(|rank| {
                        scope.spawn(move || {
                            let parameters = Parameters::new(declared(), Device::cpu());
                            let mut gradients = Gradients::new(&parameters);
                            for (id, _) in parameters
                                .iter()
                                .filter(|(id, _)| has_gradient[rank.rank()][id.index()])
                            {
                                let value = (id.index() + 1) as f32 + 10.0 * rank.rank() as f32;
                                gradients.accumulate(id, |out, _| {
                                    Device::cpu().backend().overwrite(out, &mut |to| to.fill(value));
                                });
                            }
                            assert_eq!(gradients.present(), has_gradient[rank.rank()]);
                            let present = [true, false, true, true];
                            gradients.sum_in_buckets(&rank, &present, limit).expect("all ranks sum");
                            assert_eq!(gradients.present(), present);
                            parameters.iter().map(|(id, _)| values(gradients.get(id))).collect()
                        })
                    })
                    .collect();
                threads
                    .into_iter()
                    .map(|thread| thread.join().expect("no panic"))
                    .collect()
            });
            let expected = vec![Some(vec![1.0; 3]), None, Some(vec![13.0; 2]), Some(vec![4.0 + 14.0; 4])];
            assert_eq!(sums, [expected.clone(), expected], "limit {limit}");
        }
    }

    #[test]
    fn all_ranks_get_the_weights_of_rank_0() {
        std::thread::scope(|scope| {
            for rank in Threads::new(3, Device::cpu()) {
                scope.spawn(move || {
                    let declared = [("a", 3), ("b", 5)].map(|(name, len)| (name.to_string(), vec![len], true));
                    let mut parameters = Parameters::new(declared, Device::cpu());
                    parameters.fill(|id, _, to| to.fill((10 * rank.rank() + id.index()) as f32));
                    parameters.broadcast(&rank).expect("all ranks broadcast");
                    for (id, parameter) in parameters.iter() {
                        let expected = vec![id.index() as f32; parameter.len()];
                        assert_eq!(values(Some(&parameters.tensor(id))), Some(expected));
                    }
                });
            }
        });
    }
}
