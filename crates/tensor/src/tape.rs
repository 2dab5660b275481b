//! Reverse-mode automatic differentiation with a tape of backward closures.

use crate::backend::{Backend, Beta, Input, Layer};
use crate::device::Device;
use crate::parameters::{Gradients, ParameterId, Parameters};
use crate::precision::{F32Products, Precision};
use crate::profile::{self, Span};
use crate::tensor::Tensor;
use std::cell::RefCell;

/// The options of a tape.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compute {
    /// The device.
    pub device: Device,
    /// Number format. Devices that are not fast at bfloat16 compute in f32.
    pub precision: Precision,
    /// The method for f32 products.
    pub f32_products: F32Products,
    /// Whether transformer sublayers save only their input and recompute activations in the backward pass: less memory, more time.
    pub recompute: bool,
}

/// The destination of a value's gradient. As in PyTorch, it is an edge of the graph. Backward closures hold edges instead of values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Edge {
    /// The value is constant: its gradient is dropped.
    Constant,
    /// The value is the result of this node of the tape.
    Node(usize),
    /// The value is a parameter.
    Parameter(ParameterId),
}

/// An f32 matrix in row-major order, and its origin: a constant, a parameter or a result on the tape.
#[derive(Clone, Debug)]
pub struct Var {
    tensor: Tensor,
    edge: Edge,
}

impl Var {
    /// Makes a value without gradient.
    pub fn constant(tensor: Tensor) -> Self {
        Self {
            tensor,
            edge: Edge::Constant,
        }
    }

    /// The value.
    pub fn tensor(&self) -> &Tensor {
        &self.tensor
    }

    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.tensor.rows()
    }

    /// The number of columns.
    pub fn columns(&self) -> usize {
        self.tensor.columns()
    }

    pub(crate) fn gradient_edge(&self) -> Edge {
        self.edge
    }
}

type BackwardFn<G> = Box<dyn FnOnce(G, &mut Backward)>;

/// The backward closure of an operation.
enum Node {
    Matrix(BackwardFn<Tensor>),
    /// The closure of a loss. The gradient of a loss is a product of constants in host memory.
    Scalar(BackwardFn<f32>),
}

/// Records operations on matrices, for a backward pass.
///
/// The operations are methods that take and return [`Var`]s; [`crate::ops`] lists them. A tape is used by one thread. An operation runs on
/// all cores of the device.
///
/// # Example
///
/// Two training steps of a linear layer with a cross-entropy loss.
///
/// ```
/// use vlct_tensor::optimizer::{Hyperparameters, Optimizer, Rule};
/// use vlct_tensor::{Compute, Gradients, Parameters, Tape, Var};
///
/// let compute = Compute::default(); // f32 on the CPU
/// let mut parameters = Parameters::new([("weight".into(), vec![3, 2], true)], compute.device);
/// let weight = parameters.id("weight").unwrap();
/// let mut optimizer = Optimizer::new(Rule::AdamW, &parameters);
/// let mut losses = Vec::new();
/// for _ in 0..2 {
///     let tape = Tape::new(compute);
///     let x = Var::constant(compute.device.tensor(1, 2, &[1.0, -1.0]));
///     let logits = tape.linear(&x, &tape.parameter(&parameters, weight), None, None); // [1, 3]
///     let loss = tape.cross_entropy(&logits, vec![2]);
///     losses.push(loss.tensor().item());
///     let mut gradients = Gradients::new(&parameters);
///     tape.backward(&loss, 1.0, &mut gradients);
///     optimizer.step(&mut parameters, &gradients, None, |_| Hyperparameters { learning_rate: 0.1, weight_decay: 0.0 });
/// }
/// assert!(losses[1] < losses[0]);
/// ```
pub struct Tape {
    nodes: RefCell<Vec<Node>>,
    recording: bool,
    compute: Compute,
}

impl Tape {
    /// Makes a tape that records operations, for training.
    pub fn new(compute: Compute) -> Self {
        Self::with_recording(compute, true)
    }

    /// Makes a tape that records nothing, for inference. Intermediate values are freed as soon as they are not needed.
    pub fn inference(compute: Compute) -> Self {
        Self::with_recording(compute, false)
    }

    fn with_recording(mut compute: Compute, recording: bool) -> Self {
        if !compute.device.bf16_is_fast() {
            compute.precision = Precision::F32;
        }
        Self {
            nodes: RefCell::default(),
            recording,
            compute,
        }
    }

    /// The device of the tape's operations.
    pub fn device(&self) -> Device {
        self.compute.device
    }

    /// The options of the tape's operations.
    pub(crate) fn compute(&self) -> Compute {
        self.compute
    }

    pub(crate) fn backend(&self) -> &'static dyn Backend {
        self.compute.device.backend()
    }

    /// Whether the tape records operations with these inputs: a backward pass may follow, and at least one input is not constant.
    pub(crate) fn records(&self, inputs: &[&Var]) -> bool {
        self.recording && inputs.iter().any(|v| v.edge != Edge::Constant)
    }

    /// Reports memory-bound work; see [`profile::memory_bound_span`].
    pub(crate) fn memory_bound_span(&self, name: &str, bytes: f64) -> Option<Span<'static>> {
        profile::memory_bound_span(self.backend(), name, bytes)
    }

    /// Returns a parameter as a value. The value is a constant if the parameter is frozen or the tape does not record.
    ///
    /// # Panics
    /// If the parameters are on another device.
    pub fn parameter(&self, parameters: &Parameters, id: ParameterId) -> Var {
        let (theirs, ours) = (parameters.device().backend(), self.backend());
        assert_eq!(theirs.memory(), ours.memory(), "parameters are on another device");
        let trainable = self.recording && parameters.get(id).trainable;
        let edge = if trainable { Edge::Parameter(id) } else { Edge::Constant };
        Var {
            tensor: parameters.tensor(id),
            edge,
        }
    }

    /// Returns a linear layer for the backend. In inference the weights do not change, so they are packed once.
    pub(crate) fn linear_layer(&self, weight: &Var, bias: Option<&Var>) -> Layer {
        Layer {
            weight: weight.tensor.clone(),
            bias: bias.map(|b| b.tensor.clone()),
            reused: !self.recording,
            f32_products: self.compute.f32_products,
        }
    }

    /// Registers the result of an operation. `backward` receives the gradient of the result and adds the gradients of the `inputs`. If the
    /// tape does not record, or all inputs are constants, `backward` is dropped at once.
    pub(crate) fn push(
        &self,
        result: Tensor,
        inputs: &[&Var],
        backward: impl FnOnce(Tensor, &mut Backward) + 'static,
    ) -> Var {
        self.push_node(result, inputs, || Node::Matrix(Box::new(backward)))
    }

    /// Registers a result `[1, 1]`; see [`Tape::push`]. `backward` receives the gradient as a number.
    pub(crate) fn push_scalar(
        &self,
        result: Tensor,
        inputs: &[&Var],
        backward: impl FnOnce(f32, &mut Backward) + 'static,
    ) -> Var {
        self.push_node(result, inputs, || Node::Scalar(Box::new(backward)))
    }

    fn push_node(&self, result: Tensor, inputs: &[&Var], node: impl FnOnce() -> Node) -> Var {
        if !self.records(inputs) {
            return Var::constant(result);
        }
        let mut nodes = self.nodes.borrow_mut();
        nodes.push(node());
        Var {
            tensor: result,
            edge: Edge::Node(nodes.len() - 1),
        }
    }

    /// Runs the backward pass from the scalar `loss`, whose gradient is `seed`, and adds the gradients of parameters to `gradients`.
    ///
    /// Saved tensors are freed as soon as they have been used.
    ///
    /// # Panics
    /// If `loss` is not a scalar.
    pub fn backward(self, loss: &Var, seed: f32, gradients: &mut Gradients) {
        assert!(loss.rows() * loss.columns() == 1, "the loss must be a scalar");
        let backend = self.backend();
        let f32_products = self.compute.f32_products;
        let nodes = self.nodes.into_inner();
        let mut state = Backward {
            pending: (0..nodes.len()).map(|_| None).collect(),
            gradients,
            backend,
            f32_products,
        };
        state.add_scalar(loss.gradient_edge(), seed);
        for (i, node) in nodes.into_iter().enumerate().rev() {
            match (node, state.pending[i].take()) {
                (_, None) => {}
                (Node::Matrix(run), Some(gradient)) => run(gradient.into_tensor(backend), &mut state),
                (Node::Scalar(run), Some(gradient)) => run(gradient.into_scalar(), &mut state),
            }
        }
    }
}

/// The gradient of a result during the backward pass: the sum of the contributions of the operations that read the result.
enum Pending {
    Matrix(Tensor),
    /// The gradient of a `[1, 1]` value, in host memory.
    Scalar(f32),
}

impl Pending {
    fn into_tensor(self, backend: &dyn Backend) -> Tensor {
        match self {
            Self::Matrix(gradient) => gradient,
            Self::Scalar(gradient) => backend.upload(1, 1, &[gradient]),
        }
    }

    /// Returns the gradient as a number. The gradient is a matrix only if an operation other than a weighted sum reads the scalar; the
    /// gradient is then copied from the device.
    fn into_scalar(self) -> f32 {
        match self {
            Self::Matrix(gradient) => gradient.item(),
            Self::Scalar(gradient) => gradient,
        }
    }
}

/// The state of a backward pass.
pub(crate) struct Backward<'a> {
    pending: Vec<Option<Pending>>,
    gradients: &'a mut Gradients,
    backend: &'static dyn Backend,
    f32_products: F32Products,
}

impl Backward<'_> {
    pub(crate) fn backend(&self) -> &'static dyn Backend {
        self.backend
    }

    /// Reports memory-bound work; see [`profile::memory_bound_span`].
    pub(crate) fn memory_bound_span(&self, name: &str, bytes: f64) -> Option<Span<'static>> {
        profile::memory_bound_span(self.backend, name, bytes)
    }

    /// Whether the gradient along this edge is needed.
    pub(crate) fn needs_gradient(&self, edge: Edge) -> bool {
        match edge {
            Edge::Constant => false,
            Edge::Node(_) => true,
            Edge::Parameter(id) => self.gradients.is_trainable(id),
        }
    }

    /// Adds `gradient` to the gradient of the value with this edge.
    pub(crate) fn add(&mut self, edge: Edge, gradient: Tensor) {
        match edge {
            Edge::Node(i) if self.pending[i].is_none() => self.pending[i] = Some(Pending::Matrix(gradient)),
            _ => {
                let backend = self.backend;
                self.accumulate(edge, gradient.rows(), gradient.columns(), |out, beta| {
                    backend.add(&gradient, out, beta);
                });
            }
        }
    }

    /// Adds `gradient` to the gradient of the `[1, 1]` value with this edge.
    pub(crate) fn add_scalar(&mut self, edge: Edge, gradient: f32) {
        match edge {
            Edge::Constant => return,
            Edge::Parameter(_) => {}
            Edge::Node(i) => match &mut self.pending[i] {
                Some(Pending::Matrix(_)) => {}
                Some(Pending::Scalar(sum)) => return *sum += gradient,
                missing => return *missing = Some(Pending::Scalar(gradient)),
            },
        }
        self.add(edge, self.backend.upload(1, 1, &[gradient]));
    }

    /// Adds the gradients of the weight `[out, in]` and the bias `[1, out]` of a linear layer, whose input has the width `in`.
    pub(crate) fn add_layer_gradients(
        &mut self,
        w_edge: Edge,
        b_edge: Option<Edge>,
        dy: &Tensor,
        x: Input,
        width: usize,
    ) {
        let (backend, out, method) = (self.backend, dy.columns(), self.f32_products);
        let mut db = b_edge
            .filter(|b| self.needs_gradient(*b))
            .map(|_| backend.zeros(1, out));
        if self.needs_gradient(w_edge) {
            self.accumulate(w_edge, out, width, |dw, beta| {
                backend.layer_gradient(dy, x, dw, beta, db.as_mut(), method);
            });
        } else if let Some(db) = &mut db {
            backend.bias_gradient(dy, db);
        }
        if let (Some(b_edge), Some(db)) = (b_edge, db) {
            self.add(b_edge, db);
        }
    }

    /// Calls `write` with the gradient `[rows, columns]` of a value and with [`Beta::One`] to add to it or [`Beta::Zero`] to overwrite all
    /// of it. Does nothing if no gradient is needed.
    pub(crate) fn accumulate(
        &mut self,
        edge: Edge,
        rows: usize,
        columns: usize,
        write: impl FnOnce(&mut Tensor, Beta),
    ) {
        match edge {
            Edge::Constant => {}
            Edge::Parameter(id) if self.gradients.is_trainable(id) => self.gradients.accumulate(id, write),
            Edge::Parameter(_) => {}
            Edge::Node(i) => {
                let (mut gradient, beta) = match self.pending[i].take() {
                    Some(pending) => (pending.into_tensor(self.backend), Beta::One),
                    None => (self.backend.empty(rows, columns), Beta::Zero),
                };
                write(&mut gradient, beta);
                self.pending[i] = Some(Pending::Matrix(gradient));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::optimizer::{Optimizer, Rule};

    #[test]
    fn operations_on_frozen_parameters_are_not_recorded() {
        let declared = ["first", "second"].map(|name| (name.to_string(), vec![4, 4], true));
        let mut parameters = Parameters::new(declared, Device::cpu());
        let [first, second] = [0, 1].map(ParameterId);
        let recorded = |parameters: &Parameters| {
            let tape = Tape::new(Compute::default());
            let x = Var::constant(tape.device().tensor(1, 4, &[1.0, 2.0, 3.0, 4.0]));
            let x = tape.gelu(&tape.linear(&x, &tape.parameter(parameters, first), None, None));
            let y = tape.linear(&x, &tape.parameter(parameters, second), None, None);
            let loss = tape.cross_entropy(&y, vec![0]);
            let nodes = tape.nodes.borrow().len();
            let mut gradients = Gradients::new(parameters);
            tape.backward(&loss, 1.0, &mut gradients);
            (nodes, [first, second].map(|id| gradients.get(id).is_some()))
        };
        assert_eq!(recorded(&parameters), (4, [true, true]));
        parameters.freeze(|name| name == "first");
        assert_eq!(recorded(&parameters), (2, [false, true]));
        let optimizer = Optimizer::new(Rule::AdamW, &parameters);
        let sizes = [first, second].map(|id| [0, 1].map(|moment| optimizer.moment(moment, id).to_host().len()));
        assert_eq!(sizes, [[0, 0], [16, 16]]);
        parameters.freeze(|_| true);
        assert_eq!(recorded(&parameters), (0, [false, false]));
    }
}
