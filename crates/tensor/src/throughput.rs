//! Times of the matrix products of a linear layer.

use crate::matmul::{self, Input, Layer, operand};
use crate::{F32Products, Precision, Tensor};
use std::time::{Duration, Instant};
use vlct_kernels::mat::Beta;

/// Times of the three products of a linear layer `y = x·wᵀ + b` in a training step, one for each repetition.
pub struct LayerTimes {
    /// `y [rows, out]` from `x [rows, in]`.
    pub forward: Vec<Duration>,
    /// The gradient of `x` from that of `y`.
    pub input_gradient: Vec<Duration>,
    /// The gradient of `w [out, in]` from that of `y`, and `x`.
    pub weight_gradient: Vec<Duration>,
}

/// Times each product `repetitions` times, after one that is not counted. Activations are operands and results become operands, as
/// inside a transformer block: in bfloat16 the times include bias, rounding and packing.
pub fn layer_times(rows: usize, inner: usize, out: usize, precision: Precision, repetitions: usize) -> LayerTimes {
    // Any values will do that are neither all zero nor subnormal.
    let ramp = |rows: usize, columns: usize| {
        Tensor::build(rows, columns, |values| {
            (0u32..)
                .zip(values)
                .for_each(|(i, v)| *v = (i % 253) as f32 / 126.0 - 1.0);
        })
    };
    let products = F32Products::measure();
    let x = operand(&ramp(rows, inner), precision);
    let dy = operand(&ramp(rows, out), precision);
    let layer = Layer {
        weight: ramp(out, inner),
        bias: Some(ramp(1, out)),
        f32_products: products,
    };
    let mut dw = Tensor::zeros(out, inner);
    LayerTimes {
        forward: times(repetitions, || drop(matmul::linear_operand(&x, &layer))),
        input_gradient: times(repetitions, || {
            drop(matmul::input_gradient_operand(&dy, &layer));
        }),
        weight_gradient: times(repetitions, || {
            matmul::layer_gradient(&dy, Input::Operand(&x), dw.make_mut(), Beta::Zero, products, None);
        }),
    }
}

fn times(repetitions: usize, mut work: impl FnMut()) -> Vec<Duration> {
    work();
    let mut once = || {
        let start = Instant::now();
        work();
        start.elapsed()
    };
    (0..repetitions).map(|_| once()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measures_each_repetition() {
        let mut calls = 0;
        assert_eq!(times(3, || calls += 1).len(), 3);
        assert_eq!(calls, 4);
        for precision in [Precision::F32, Precision::Bf16] {
            if precision == Precision::F32 || Precision::bf16_is_fast() {
                let times = layer_times(40, 33, 70, precision, 2);
                for times in [times.forward, times.input_gradient, times.weight_gradient] {
                    assert!(times.len() == 2 && times.iter().all(|t| *t > Duration::ZERO));
                }
            }
        }
    }
}
