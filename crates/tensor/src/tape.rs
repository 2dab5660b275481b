//! The tape: what was computed, in order, and how gradients flow back through it.

use crate::backend::{Backend, Beta, Input, Layer};
use crate::device::Device;
use crate::parameters::{Gradients, ParameterId, Parameters};
use crate::precision::{F32Products, Precision};
use crate::profile::{self, Span};
use crate::tensor::Tensor;
use std::cell::RefCell;

/// How a tape computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compute {
    /// Where it computes.
    pub device: Device,
    /// Number format; where the device is not fast at bfloat16, everything is f32.
    pub precision: Precision,
    /// How f32 products are computed.
    pub f32_products: F32Products,
    /// Whether transformer layers save their input only and recompute the rest in the backward pass: less memory, more time.
    pub recompute: bool,
}

/// Where the gradient of a value goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// Nowhere.
    Constant,
    /// To an earlier result on the tape.
    Node(usize),
    /// To a parameter.
    Parameter(ParameterId),
}

/// A value, f32 in row-major order, with its place on the tape.
#[derive(Clone, Debug)]
pub struct Var {
    tensor: Tensor,
    source: Source,
}

impl Var {
    /// A value that no gradient flows to.
    pub fn constant(tensor: Tensor) -> Self {
        Self {
            tensor,
            source: Source::Constant,
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

    pub(crate) fn target(&self) -> Target {
        Target(self.source)
    }
}

/// The destination of a gradient, kept by backward closures in place of the value.
#[derive(Clone, Copy)]
pub(crate) struct Target(Source);

type BackwardFn<G> = Box<dyn FnOnce(G, &mut Backward)>;

/// The backward function of an operation.
enum Node {
    Matrix(BackwardFn<Tensor>),
    /// Of a loss, whose gradient is a product of constants, which the host knows.
    Scalar(BackwardFn<f32>),
}

/// Records operations on matrices and runs them backwards.
///
/// The operations are methods, each in a file of its own; [`crate::ops`] lists them. They take and return [`Var`]s. A tape
/// belongs to one thread; the device uses all of its cores inside an operation.
///
/// # Example
///
/// A linear layer and a classifier's loss: forward, backward, one step of the optimiser.
///
/// ```
/// use vlct_tensor::optimizer::{Optimizer, Rule, Setting};
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
///     optimizer.step(&mut parameters, &gradients, |_| Setting { learning_rate: 0.1, weight_decay: 0.0 });
/// }
/// assert!(losses[1] < losses[0]);
/// ```
pub struct Tape {
    nodes: RefCell<Vec<Node>>,
    recording: bool,
    compute: Compute,
}

impl Tape {
    /// A tape that records, for training.
    pub fn new(compute: Compute) -> Self {
        Self::with(compute, true)
    }

    /// A tape that records nothing, for inference: intermediate values are freed as soon as they are not needed.
    pub fn inference(compute: Compute) -> Self {
        Self::with(compute, false)
    }

    fn with(mut compute: Compute, recording: bool) -> Self {
        if !compute.device.bf16_is_fast() {
            compute.precision = Precision::F32;
        }
        Self {
            nodes: RefCell::default(),
            recording,
            compute,
        }
    }

    /// The device that it computes on, for values that the operations take.
    pub fn device(&self) -> Device {
        self.compute.device
    }

    /// How it computes.
    pub(crate) fn compute(&self) -> Compute {
        self.compute
    }

    pub(crate) fn backend(&self) -> &'static dyn Backend {
        self.compute.device.backend()
    }

    /// Whether a backward pass may follow.
    pub(crate) fn is_recording(&self) -> bool {
        self.recording
    }

    /// Reports work whose cost is the bytes that it reads and writes.
    pub(crate) fn pass(&self, name: &str, moved: f64) -> Option<Span<'static>> {
        profile::pass(self.backend(), name, moved)
    }

    /// A parameter as a value; frozen ones are constants.
    ///
    /// # Panics
    /// If it is on another device.
    pub fn parameter(&self, parameters: &Parameters, id: ParameterId) -> Var {
        let (theirs, ours) = (parameters.device().backend(), self.backend());
        assert_eq!(theirs.memory(), ours.memory(), "parameters on another device");
        let trainable = self.recording && parameters.get(id).trainable;
        let source = if trainable {
            Source::Parameter(id)
        } else {
            Source::Constant
        };
        Var {
            tensor: parameters.tensor(id),
            source,
        }
    }

    /// A linear layer. Inference reads the same weights again and again.
    pub(crate) fn layer(&self, weight: &Var, bias: Option<&Var>) -> Layer {
        Layer {
            weight: weight.tensor.clone(),
            bias: bias.map(|b| b.tensor.clone()),
            reused: !self.recording,
            f32_products: self.compute.f32_products,
        }
    }

    /// Registers the result of an operation. `backward` receives the gradient of the result and passes on those of the
    /// `inputs`; it is dropped at once if none of them wants one.
    pub(crate) fn push(
        &self,
        result: Tensor,
        inputs: &[&Var],
        backward: impl FnOnce(Tensor, &mut Backward) + 'static,
    ) -> Var {
        self.push_node(result, inputs, || Node::Matrix(Box::new(backward)))
    }

    /// As [`Tape::push`], for a result `[1, 1]`.
    pub(crate) fn push_scalar(
        &self,
        result: Tensor,
        inputs: &[&Var],
        backward: impl FnOnce(f32, &mut Backward) + 'static,
    ) -> Var {
        self.push_node(result, inputs, || Node::Scalar(Box::new(backward)))
    }

    fn push_node(&self, result: Tensor, inputs: &[&Var], node: impl FnOnce() -> Node) -> Var {
        if !self.recording || inputs.iter().all(|v| v.source == Source::Constant) {
            return Var::constant(result);
        }
        let mut nodes = self.nodes.borrow_mut();
        nodes.push(node());
        Var {
            tensor: result,
            source: Source::Node(nodes.len() - 1),
        }
    }

    /// Runs the tape backwards from the scalar `loss`, whose gradient is `seed`, adding to `gradients`.
    ///
    /// Saved values are freed as soon as they have been used.
    ///
    /// # Panics
    /// If `loss` is not a scalar.
    pub fn backward(self, loss: &Var, seed: f32, gradients: &mut Gradients) {
        assert!(loss.rows() * loss.columns() == 1, "backward starts at a scalar");
        let backend = self.backend();
        let f32_products = self.compute.f32_products;
        let nodes = self.nodes.into_inner();
        let mut state = Backward {
            pending: (0..nodes.len()).map(|_| None).collect(),
            gradients,
            backend,
            f32_products,
        };
        state.add_scalar(loss.target(), seed);
        for (i, node) in nodes.into_iter().enumerate().rev() {
            match (node, state.pending[i].take()) {
                (_, None) => {}
                (Node::Matrix(run), Some(gradient)) => run(gradient.into_tensor(backend), &mut state),
                (Node::Scalar(run), Some(gradient)) => run(gradient.into_scalar(), &mut state),
            }
        }
    }
}

/// The gradient of a result: the sum of what the operations that read it have added so far.
enum Pending {
    Matrix(Tensor),
    /// Of a `[1, 1]` value.
    Scalar(f32),
}

impl Pending {
    fn into_tensor(self, backend: &dyn Backend) -> Tensor {
        match self {
            Self::Matrix(gradient) => gradient,
            Self::Scalar(gradient) => backend.upload(1, 1, &[gradient]),
        }
    }

    /// Reads a matrix back from the device: when a loss is an input of an operation that is not a sum of losses.
    fn into_scalar(self) -> f32 {
        match self {
            Self::Matrix(gradient) => gradient.item(),
            Self::Scalar(gradient) => gradient,
        }
    }
}

/// Gradients on their way back.
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

    /// Reports work whose cost is the bytes that it reads and writes.
    pub(crate) fn pass(&self, name: &str, moved: f64) -> Option<Span<'static>> {
        profile::pass(self.backend, name, moved)
    }

    /// Whether anything depends on the gradient of this value.
    pub(crate) fn wants(&self, target: Target) -> bool {
        match target.0 {
            Source::Constant => false,
            Source::Node(_) => true,
            Source::Parameter(id) => self.gradients.wants(id),
        }
    }

    /// Adds a whole gradient.
    pub(crate) fn add(&mut self, target: Target, gradient: Tensor) {
        match target.0 {
            Source::Node(i) if self.pending[i].is_none() => self.pending[i] = Some(Pending::Matrix(gradient)),
            _ => {
                let backend = self.backend;
                self.accumulate(target, gradient.rows(), gradient.columns(), |out, beta| {
                    backend.add(&gradient, out, beta);
                });
            }
        }
    }

    /// Adds the gradient of a `[1, 1]` value.
    pub(crate) fn add_scalar(&mut self, target: Target, gradient: f32) {
        match target.0 {
            Source::Constant => return,
            Source::Parameter(_) => {}
            Source::Node(i) => match &mut self.pending[i] {
                Some(Pending::Matrix(_)) => {}
                Some(Pending::Scalar(sum)) => return *sum += gradient,
                empty => return *empty = Some(Pending::Scalar(gradient)),
            },
        }
        self.add(target, self.backend.upload(1, 1, &[gradient]));
    }

    /// Adds the gradients of the weight `[out, in]` and the bias `[1, out]` of a linear layer, whose input has the width `in`.
    pub(crate) fn layer(&mut self, to_w: Target, to_b: Option<Target>, dy: &Tensor, x: Input, width: usize) {
        let (backend, out, products) = (self.backend, dy.columns(), self.f32_products);
        let mut db = to_b.filter(|b| self.wants(*b)).map(|_| backend.zeros(1, out));
        if self.wants(to_w) {
            self.accumulate(to_w, out, width, |dw, beta| {
                backend.layer_gradient(dy, x, dw, beta, db.as_mut(), products);
            });
        } else if let Some(db) = &mut db {
            backend.bias_gradient(dy, db);
        }
        if let (Some(to_b), Some(db)) = (to_b, db) {
            self.add(to_b, db);
        }
    }

    /// Lets `write` add to the gradient of shape `[rows, columns]`; its second argument says whether there is something to add to
    /// (otherwise it has to overwrite all of it). Not called where no gradient is wanted.
    pub(crate) fn accumulate(
        &mut self,
        target: Target,
        rows: usize,
        columns: usize,
        write: impl FnOnce(&mut Tensor, Beta),
    ) {
        match target.0 {
            Source::Constant => {}
            Source::Parameter(id) if self.gradients.wants(id) => self.gradients.accumulate(id, write),
            Source::Parameter(_) => {}
            Source::Node(i) => {
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
