//! Weights by name, in one flat memory, and their gradients.

use crate::buffer::Buffer;
use crate::tensor::{PackedSlot, Tensor};
use rayon::prelude::*;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use vlct_kernels::mat::Beta;
use vlct_simd::math::sum;

/// Number of a parameter, in the order of declaration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ParameterId(pub(crate) usize);

impl ParameterId {
    /// Position in the order of declaration.
    pub fn index(self) -> usize {
        self.0
    }
}

/// One parameter's place and properties.
#[derive(Clone, Debug)]
pub struct Parameter {
    /// Published name.
    pub name: String,
    /// Published shape.
    pub shape: Vec<usize>,
    /// Whether the optimiser may change it.
    pub trainable: bool,
    start: usize,
    len: usize,
    rows: usize,
}

impl Parameter {
    /// Number of values.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no values.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn range(&self) -> Range<usize> {
        self.start..self.start + self.len
    }
}

/// All weights of a model.
pub struct Parameters {
    list: Vec<Parameter>,
    by_name: HashMap<String, ParameterId>,
    values: Arc<Buffer>,
    len: usize,
    /// For each parameter, its form as a right operand, until the values change.
    packed: Vec<PackedSlot>,
    any_packed: AtomicBool,
}

/// Values between parameters are left out so that each begins at a cache line.
const ALIGNMENT: usize = 16;

impl Parameters {
    /// Parameters of the given names, shapes and trainability, all zero.
    ///
    /// The matrix form of a parameter has the first axis as rows for two-dimensional weights and kernels
    /// (`[D, 3, P, P]` → `[D, 3·P·P]`); vectors are one row, and leading axes of size 1 (`[1, N, D]`) are dropped.
    pub fn new(declarations: impl IntoIterator<Item = (String, Vec<usize>, bool)>) -> Self {
        let (mut list, mut by_name, mut start) = (Vec::new(), HashMap::new(), 0);
        for (name, shape, trainable) in declarations {
            let len = shape.iter().product();
            let significant: &[usize] = match shape.iter().position(|s| *s != 1) {
                Some(i) if shape.len() - i >= 2 => &shape[i..],
                _ => &[1],
            };
            let rows = if shape.len() == 2 { shape[0] } else { significant[0] };
            by_name.insert(name.clone(), ParameterId(list.len()));
            list.push(Parameter {
                name,
                shape,
                trainable,
                start,
                len,
                rows,
            });
            start = (start + len).next_multiple_of(ALIGNMENT);
        }
        let mut values = Buffer::new::<f32>(start);
        values.as_mut_slice().fill(0f32);
        Self {
            packed: list.iter().map(|_| PackedSlot::default()).collect(),
            any_packed: AtomicBool::new(false),
            list,
            by_name,
            values: Arc::new(values),
            len: start,
        }
    }

    /// All parameters with their numbers, in order.
    pub fn iter(&self) -> impl Iterator<Item = (ParameterId, &Parameter)> {
        self.list.iter().enumerate().map(|(i, p)| (ParameterId(i), p))
    }

    /// The parameter of that number.
    pub fn get(&self, id: ParameterId) -> &Parameter {
        &self.list[id.0]
    }

    /// The number of the parameter of that name.
    pub fn id(&self, name: &str) -> Option<ParameterId> {
        self.by_name.get(name).copied()
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.list.len()
    }

    /// Number of trainable values.
    pub fn trainable_values(&self) -> usize {
        self.list.iter().filter(|p| p.trainable).map(|p| p.len).sum()
    }

    /// The parameter as a matrix.
    pub fn tensor(&self, id: ParameterId) -> Tensor {
        let p = &self.list[id.0];
        Tensor::window(&self.values, p.start, p.rows, p.len / p.rows.max(1))
    }

    /// The parameter as a matrix that products bring into their own form once, not each time: for inference.
    pub(crate) fn packed_tensor(&self, id: ParameterId) -> Tensor {
        self.any_packed.store(true, Ordering::Relaxed);
        self.tensor(id).with_packed(Arc::clone(&self.packed[id.0]))
    }

    /// The first parameter with a value that is infinite or no number.
    pub fn first_non_finite(&self) -> Option<&Parameter> {
        // A product with zero is zero for finite values only.
        let finite = |p: &&Parameter| sum(&self.values.as_slice()[p.range()], |v| v * 0.0) == 0.0;
        self.list.iter().find(|p| !finite(p))
    }

    /// Replaces the values.
    ///
    /// # Panics
    /// If the number of values differs, or a tape still holds the weights.
    pub fn set(&mut self, id: ParameterId, values: &[f32]) {
        let range = self.list[id.0].range();
        self.memory_mut()[range].copy_from_slice(values);
    }

    /// Lets `write` replace the values of each parameter, all of them, several at a time.
    ///
    /// # Panics
    /// If a tape still holds the weights.
    pub fn fill(&mut self, write: impl Fn(ParameterId, &Parameter, &mut [f32]) + Sync) {
        let list = std::mem::take(&mut self.list);
        let (mut rest, mut at) = (self.memory_mut(), 0);
        let mut parts = Vec::with_capacity(list.len());
        for (index, p) in list.iter().enumerate() {
            let (values, behind) = std::mem::take(&mut rest)[p.start - at..].split_at_mut(p.len);
            (rest, at) = (behind, p.start + p.len);
            parts.push((ParameterId(index), p, values));
        }
        // One by one: a few are much larger than the others.
        let parts = parts.into_par_iter().with_max_len(1);
        parts.for_each(|(id, p, values)| write(id, p, values));
        self.list = list;
    }

    pub(crate) fn memory_mut(&mut self) -> &mut [f32] {
        if std::mem::take(self.any_packed.get_mut()) {
            self.packed.fill_with(PackedSlot::default);
        }
        match Arc::get_mut(&mut self.values) {
            Some(buffer) => buffer.as_mut_slice(),
            None => panic!("weights changed while a tape uses them"),
        }
    }

    pub(crate) fn range(&self, id: ParameterId) -> Range<usize> {
        self.list[id.0].range()
    }

    pub(crate) fn memory_len(&self) -> usize {
        self.len
    }
}

/// Gradients of the parameters of one model. A parameter that no loss depends on has none: the optimiser skips it.
///
/// Each has memory of its own, taken when the backward pass reaches it: by then the forward pass's values of later layers
/// are no longer needed.
pub struct Gradients {
    lens: Vec<usize>,
    trainable: Vec<bool>,
    values: Vec<Option<Buffer>>,
}

impl Gradients {
    /// No gradients yet.
    pub fn new(parameters: &Parameters) -> Self {
        Self {
            lens: parameters.list.iter().map(|p| p.len).collect(),
            trainable: parameters.list.iter().map(|p| p.trainable).collect(),
            values: parameters.list.iter().map(|_| None).collect(),
        }
    }

    /// Forgets all gradients.
    pub fn clear(&mut self) {
        self.values.fill_with(|| None);
    }

    /// The gradient, row by row, if there is one.
    pub fn get(&self, id: ParameterId) -> Option<&[f32]> {
        self.values[id.0]
            .as_ref()
            .map(|values| &values.as_slice()[..self.lens[id.0]])
    }

    pub(crate) fn wants(&self, id: ParameterId) -> bool {
        self.trainable[id.0]
    }

    /// Lets `write` add to the gradient; its second argument says whether there is something to add to
    /// (otherwise it has to overwrite).
    pub(crate) fn accumulate(&mut self, id: ParameterId, write: impl FnOnce(&mut [f32], Beta)) {
        let (len, present) = (self.lens[id.0], self.values[id.0].is_some());
        let values = self.values[id.0].get_or_insert_with(|| Buffer::new::<f32>(len));
        write(
            &mut values.as_mut_slice()[..len],
            if present { Beta::One } else { Beta::Zero },
        );
    }
}
