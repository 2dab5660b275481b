//! How long the matrix products of a linear layer take, apart from everything else.

use crate::backend::{Backend, Beta, Input, Layer};
use crate::device::Device;
use crate::precision::Precision;
use crate::tensor::Tensor;
use std::time::Duration;

/// Times of the three products of a linear layer `y = x·wᵀ + b` in a training step, one for each repetition.
pub struct LayerTimes {
    /// `y [rows, out]` from `x [rows, in]`.
    pub forward: Vec<Duration>,
    /// The gradient of `x` from that of `y`.
    pub input_gradient: Vec<Duration>,
    /// The gradient of `w [out, in]` from that of `y`, and `x`.
    pub weight_gradient: Vec<Duration>,
}

/// Times each product `repetitions` times, after one that is not counted. Activations are operands already and results become
/// operands again, as inside a transformer block: in bfloat16 the bias, the rounding and the packing of weights and activations
/// are in the times.
pub fn layer_times(
    device: Device,
    rows: usize,
    inner: usize,
    out: usize,
    precision: Precision,
    repetitions: usize,
) -> LayerTimes {
    let backend = device.backend();
    let ramp = |rows: usize, columns: usize| ramp(backend, rows, columns);
    let x = backend.operand(&ramp(rows, inner), precision);
    let dy = backend.operand(&ramp(rows, out), precision);
    let layer = Layer {
        weight: ramp(out, inner),
        bias: Some(ramp(1, out)),
        reused: false,
        f32_products: device.fastest_f32_products(),
    };
    let mut dw = backend.zeros(out, inner);
    LayerTimes {
        forward: times(backend, repetitions, || drop(backend.linear_operand(&x, &layer))),
        input_gradient: times(backend, repetitions, || {
            drop(backend.input_gradient_operand(&dy, &layer));
        }),
        weight_gradient: times(backend, repetitions, || {
            backend.layer_gradient(&dy, Input::Operand(&x), &mut dw, Beta::Zero, None, layer.f32_products);
        }),
    }
}

/// A matrix to multiply with. Its values do not matter, as long as they are neither all zero nor very small.
fn ramp(backend: &dyn Backend, rows: usize, columns: usize) -> Tensor {
    let mut ramp = backend.empty(rows, columns);
    backend.overwrite(&mut ramp, &mut |values| {
        (0u32..)
            .zip(values)
            .for_each(|(i, v)| *v = (i % 253) as f32 / 126.0 - 1.0);
    });
    ramp
}

fn times(backend: &dyn Backend, repetitions: usize, mut work: impl FnMut()) -> Vec<Duration> {
    work();
    let mut once = || {
        let start = backend.time().clock;
        work();
        backend.time().clock.saturating_duration_since(start)
    };
    (0..repetitions).map(|_| once()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_repetition_is_timed_after_one_that_is_not() {
        let device = Device::cpu();
        let mut calls = 0;
        assert_eq!(times(device.backend(), 3, || calls += 1).len(), 3);
        assert_eq!(calls, 4);
        for precision in [Precision::F32, Precision::Bf16] {
            if precision == Precision::F32 || device.bf16_is_fast() {
                let times = layer_times(device, 40, 33, 70, precision, 2);
                for times in [times.forward, times.input_gradient, times.weight_gradient] {
                    assert!(times.len() == 2 && times.iter().all(|t| *t > Duration::ZERO));
                }
            }
        }
    }
}
