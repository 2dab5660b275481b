//! The tape: what was computed, in order, and how gradients flow back through it.

use crate::matmul::{self, Input};
use crate::parameters::{Gradients, ParameterId, Parameters};
use crate::precision::{F32Products, Precision};
use crate::tensor::Tensor;
use std::cell::RefCell;
use vlct_kernels::mat::Beta;

/// How a tape computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compute {
    /// Number format; where the machine has no fast bfloat16, everything is f32.
    pub precision: Precision,
    /// How f32 products are computed.
    pub f32_products: F32Products,
    /// Whether transformer layers keep their input only and compute the rest again for the backward pass: less memory, more
    /// time.
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

/// A value with its place on the tape.
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

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.tensor.rows()
    }

    /// Number of columns.
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

type BackwardFn = Box<dyn FnOnce(Tensor, &mut Backward)>;

/// Records operations.
///
/// A tape belongs to one thread; operations use all of them inside.
pub struct Tape {
    nodes: RefCell<Vec<BackwardFn>>,
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
        if !Precision::bf16_is_fast() {
            compute.precision = Precision::F32;
        }
        Self {
            nodes: RefCell::default(),
            recording,
            compute,
        }
    }

    /// How it computes.
    pub(crate) fn compute(&self) -> Compute {
        self.compute
    }

    /// Whether a backward pass may follow.
    pub(crate) fn is_recording(&self) -> bool {
        self.recording
    }

    /// A parameter as a value; frozen ones are constants.
    pub fn parameter(&self, parameters: &Parameters, id: ParameterId) -> Var {
        let trainable = self.recording && parameters.get(id).trainable;
        let source = if trainable {
            Source::Parameter(id)
        } else {
            Source::Constant
        };
        let tensor = if self.recording || self.compute.precision == Precision::F32 {
            parameters.tensor(id)
        } else {
            parameters.packed_tensor(id)
        };
        Var { tensor, source }
    }

    /// Registers the result of an operation. `backward` receives the gradient of the result and passes on those of the
    /// `inputs`; it is dropped at once if none of them wants one.
    pub(crate) fn push(
        &self,
        result: Tensor,
        inputs: &[&Var],
        backward: impl FnOnce(Tensor, &mut Backward) + 'static,
    ) -> Var {
        if !self.recording || inputs.iter().all(|v| v.source == Source::Constant) {
            return Var::constant(result);
        }
        let mut nodes = self.nodes.borrow_mut();
        nodes.push(Box::new(backward));
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
        let nodes = self.nodes.into_inner();
        let mut state = Backward {
            pending: (0..nodes.len()).map(|_| None).collect(),
            gradients,
            f32_products: self.compute.f32_products,
        };
        state.add(loss.target(), Tensor::from_slice(1, 1, &[seed]));
        for (i, backward) in nodes.into_iter().enumerate().rev() {
            if let Some(gradient) = state.pending[i].take() {
                backward(gradient, &mut state);
            }
        }
    }
}

/// Gradients on their way back.
pub(crate) struct Backward<'a> {
    pending: Vec<Option<Tensor>>,
    gradients: &'a mut Gradients,
    f32_products: F32Products,
}

impl Backward<'_> {
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
            Source::Node(i) if self.pending[i].is_none() => self.pending[i] = Some(gradient),
            _ => self.accumulate(target, gradient.rows(), gradient.columns(), |out, beta| {
                if beta == Beta::One {
                    vlct_kernels::elementwise::add(gradient.data(), out);
                } else {
                    out.copy_from_slice(gradient.data());
                }
            }),
        }
    }

    /// Adds the gradients of the weight `[out, in]` and the bias `[1, out]` of a linear layer, whose input has the width `in`.
    pub(crate) fn layer(&mut self, to_w: Target, to_b: Option<Target>, dy: &Tensor, x: Input, width: usize) {
        let out = dy.columns();
        let mut db = to_b.filter(|b| self.wants(*b)).map(|_| Tensor::zeros(1, out));
        let products = self.f32_products;
        if self.wants(to_w) {
            self.accumulate(to_w, out, width, |dw, beta| {
                matmul::layer_gradient(dy, x, dw, beta, products, db.as_mut().map(Tensor::make_mut));
            });
        } else if let Some(db) = &mut db {
            matmul::bias_gradient(dy, db.make_mut());
        }
        if let (Some(to_b), Some(db)) = (to_b, db) {
            self.add(to_b, db);
        }
    }

    /// Lets `write` add to the gradient of shape `[rows, columns]` in place; its second argument says whether there is
    /// something to add to (otherwise it has to overwrite all of it). Not called where no gradient is wanted.
    pub(crate) fn accumulate(
        &mut self,
        target: Target,
        rows: usize,
        columns: usize,
        write: impl FnOnce(&mut [f32], Beta),
    ) {
        match target.0 {
            Source::Constant => {}
            Source::Parameter(id) if self.gradients.wants(id) => self.gradients.accumulate(id, write),
            Source::Parameter(_) => {}
            Source::Node(i) => match &mut self.pending[i] {
                Some(gradient) => write(gradient.make_mut(), Beta::One),
                empty => *empty = Some(Tensor::build(rows, columns, |out| write(out, Beta::Zero))),
            },
        }
    }
}
