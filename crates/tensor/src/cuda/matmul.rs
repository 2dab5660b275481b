//! Matrix products and the operations fused with them: cuBLASLt's products with their epilogues.
//!
//! An operand is the f32 matrix itself, or its copy in bfloat16. Weights are rounded at their first use after an update. Products of f32
//! operands are followed by the exact GELU; with bfloat16 operands, the epilogue computes its tanh form.

use super::memory::{CudaTensor, empty};
use super::{Cuda, complete};
use crate::backend::{Beta, Input, Layer};
use crate::precision::Precision;
use crate::tensor::Tensor;
use vlct_cuda::column_sums::column_sums;
use vlct_cuda::driver::Element::{self, Bf16, F32};
use vlct_cuda::driver::{Epilogue, Matmul, Operand};
use vlct_cuda::elementwise;
use vlct_cuda::matrix::{Matrix, MatrixMut};

/// The two matrices of a product, whose sums are `inner` long.
struct Factors {
    a: Operand,
    b: Operand,
    inner: usize,
}

impl Factors {
    /// `x·wᵀ`.
    fn with_weight(x: Matrix, weight: Matrix) -> Self {
        Self {
            a: x.operand(false),
            b: weight.operand(true),
            inner: x.columns(),
        }
    }

    /// `dy·w`.
    fn with_transposed_weight(dy: Matrix, weight: Matrix) -> Self {
        Self {
            a: dy.operand(false),
            b: weight.operand(false),
            inner: dy.columns(),
        }
    }
}

impl Cuda {
    /// Computes `d = a·b + summand`, and the epilogue.
    fn multiply(&self, factors: Factors, summand: Option<Matrix>, d: MatrixMut, epilogue: Epilogue) {
        let (m, n, k) = (d.rows(), d.columns(), factors.inner);
        if m * n == 0 {
            return;
        }
        assert!(k > 0, "a product without terms");
        let product = Matmul {
            m,
            n,
            k,
            alpha: 1.0,
            a: factors.a,
            b: factors.b,
            beta: if summand.is_some() { 1.0 } else { 0.0 },
            c: summand.unwrap_or(*d).operand(false),
            d: d.operand(false),
            epilogue,
        };
        complete(self.context.driver().matmul(&product, self.context.stream()));
    }

    /// Converts `x` to an operand of products in this precision.
    pub(super) fn to_operand(&self, x: &Tensor, precision: Precision) -> Tensor {
        match precision {
            Precision::F32 => x.clone(),
            Precision::Bf16 => x.bf16(),
        }
    }

    /// Returns `x·wᵀ + b (+ residual)` as a matrix of these elements.
    fn linear_as(&self, x: &Tensor, layer: &Layer, residual: Option<&Tensor>, element: Element) -> Tensor {
        let mut y = empty(&self.context, x.rows(), layer.weight.rows(), element);
        let weight = like(&layer.weight, x.element());
        // cuBLASLt reads a bias of the type of the result.
        let bias = layer.bias.as_ref().map(|bias| like(bias, element));
        let epilogue = match &bias {
            Some(bias) => Epilogue::Bias {
                bias: bias.matrix().address(),
            },
            None => Epilogue::None,
        };
        let factors = Factors::with_weight(x.matrix(), weight.matrix());
        self.multiply(factors, residual.map(CudaTensor::matrix), y.overwritten(), epilogue);
        y
    }

    pub(super) fn linear_f32(&self, x: &Tensor, layer: &Layer, residual: Option<&Tensor>) -> Tensor {
        let _span = self.matmul_span("linear", x, layer.weight.rows(), &layer.weight);
        self.linear_as(x, layer, residual, F32)
    }

    pub(super) fn linear_to_operand(&self, x: &Tensor, layer: &Layer) -> Tensor {
        let _span = self.matmul_span("linear", x, layer.weight.rows(), &layer.weight);
        self.linear_as(x, layer, None, x.element())
    }

    pub(super) fn linear_with_gelu(&self, x: &Tensor, layer: &Layer, save_hidden: bool) -> (Option<Tensor>, Tensor) {
        let _span = self.matmul_span("linear, GELU", x, layer.weight.rows(), &layer.weight);
        let (rows, out) = (x.rows(), layer.weight.rows());
        if x.element() == F32 {
            let hidden = self.linear_as(x, layer, None, F32);
            let mut activation = empty(&self.context, rows, out, F32);
            complete(elementwise::gelu(
                &self.context,
                hidden.matrix(),
                activation.overwritten(),
            ));
            return (save_hidden.then_some(hidden), activation);
        }
        let hidden = save_hidden.then(|| empty(&self.context, rows, out, Bf16));
        let mut activation = empty(&self.context, rows, out, Bf16);
        let weight = layer.weight.bf16();
        let bias = layer.bias.as_ref().map(CudaTensor::bf16);
        let epilogue = Epilogue::Gelu {
            bias: bias.as_ref().map(|bias| bias.matrix().address()),
            aux: hidden.as_ref().map(|hidden| hidden.matrix().address()),
        };
        let factors = Factors::with_weight(x.matrix(), weight.matrix());
        self.multiply(factors, None, activation.overwritten(), epilogue);
        (hidden, activation)
    }

    pub(super) fn input_gradient_f32(&self, dy: &Tensor, layer: &Layer, dx: &mut Tensor, beta: Beta) {
        let _span = self.matmul_span("input gradient", dy, layer.weight.columns(), &layer.weight);
        let weight = like(&layer.weight, dy.element());
        let dx = match beta {
            Beta::Zero => dx.overwritten(),
            Beta::One => dx.matrix_mut(),
        };
        let summand = (beta == Beta::One).then_some(*dx);
        let factors = Factors::with_transposed_weight(dy.matrix(), weight.matrix());
        self.multiply(factors, summand, dx, Epilogue::None);
    }

    pub(super) fn input_gradient_to_operand(&self, dy: &Tensor, layer: &Layer) -> Tensor {
        let _span = self.matmul_span("input gradient", dy, layer.weight.columns(), &layer.weight);
        let weight = like(&layer.weight, dy.element());
        let mut dx = empty(&self.context, dy.rows(), weight.columns(), dy.element());
        let factors = Factors::with_transposed_weight(dy.matrix(), weight.matrix());
        self.multiply(factors, None, dx.overwritten(), Epilogue::None);
        dx
    }

    pub(super) fn input_gradient_with_gelu(&self, dy: &Tensor, layer: &Layer, hidden: &Tensor) -> Tensor {
        if dy.element() == F32 {
            let mut d_hidden = self.input_gradient_to_operand(dy, layer);
            complete(elementwise::gelu_backward(
                &self.context,
                hidden.matrix(),
                d_hidden.matrix_mut(),
            ));
            return d_hidden;
        }
        let _span = self.matmul_span("input gradient, GELU", dy, layer.weight.columns(), &layer.weight);
        let weight = layer.weight.bf16();
        let mut d_hidden = empty(&self.context, dy.rows(), weight.columns(), Bf16);
        let epilogue = Epilogue::GeluGradient {
            aux: hidden.matrix().address(),
            bias_gradient: None,
        };
        let factors = Factors::with_transposed_weight(dy.matrix(), weight.matrix());
        self.multiply(factors, None, d_hidden.overwritten(), epilogue);
        d_hidden
    }

    pub(super) fn weight_gradient(&self, dy: &Tensor, x: Input, dw: &mut Tensor, beta: Beta, db: Option<&mut Tensor>) {
        let x = match x {
            Input::Operand(x) => x.clone(),
            Input::NormOutput(saved, norm) => self.norm_output(saved, norm),
            Input::Gelu(hidden) => self.activation(hidden),
        };
        let _span = self.matmul_span("weight gradient", dy, x.columns(), &x);
        let dw = match beta {
            Beta::Zero => dw.overwritten(),
            Beta::One => dw.matrix_mut(),
        };
        if dy.rows() == 0 {
            if beta == Beta::Zero {
                complete(elementwise::fill(&self.context, 0.0, dw));
            }
            return;
        }
        let sums = db.as_ref().map(|db| empty(&self.context, 1, db.columns(), F32));
        let epilogue = match &sums {
            Some(sums) => Epilogue::BiasGradient {
                bias_gradient: sums.matrix().address(),
            },
            None => Epilogue::None,
        };
        let factors = Factors {
            a: dy.matrix().operand(true),
            b: x.matrix().operand(false),
            inner: dy.rows(),
        };
        let summand = (beta == Beta::One).then_some(*dw);
        self.multiply(factors, summand, dw, epilogue);
        if let (Some(db), Some(sums)) = (db, sums) {
            complete(elementwise::add(
                &self.context,
                sums.matrix(),
                db.matrix_mut(),
                Beta::One,
            ));
        }
    }

    pub(super) fn add_bias_gradient(&self, dy: &Tensor, db: &mut Tensor) {
        let _span = self.memory_span("bias gradient", dy.bytes());
        complete(column_sums(&self.context, dy.matrix(), db.matrix_mut(), Beta::One));
    }

    /// Returns the GELU of an operand, in the form that [`Cuda::linear_with_gelu`] computes.
    fn activation(&self, hidden: &Tensor) -> Tensor {
        let _span = self.memory_span("GELU", 2.0 * hidden.bytes());
        let mut y = empty(&self.context, hidden.rows(), hidden.columns(), hidden.element());
        complete(match hidden.element() {
            F32 => elementwise::gelu(&self.context, hidden.matrix(), y.overwritten()),
            Bf16 => elementwise::gelu_tanh(&self.context, hidden.matrix(), y.overwritten()),
        });
        y
    }
}

/// Returns f32 values as a matrix of these elements.
fn like(x: &Tensor, element: Element) -> Tensor {
    match element {
        F32 => x.clone(),
        Bf16 => x.bf16(),
    }
}
