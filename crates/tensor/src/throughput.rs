//! Timing of the matrix products of a linear layer.

use crate::backend::{Backend, Beta, Input, Layer};
use crate::device::Device;
use crate::precision::Precision;
use crate::tensor::Tensor;
use std::time::{Duration, Instant};

/// Times of the three products of a linear layer `y = x·wᵀ + b` in a training step. Each list has one time per repetition.
pub struct LayerTimes {
    /// `y [rows, out]` from `x [rows, in]`.
    pub forward: Vec<Duration>,
    /// The gradient of `x` from the gradient of `y`.
    pub input_gradient: Vec<Duration>,
    /// The gradient of `w [out, in]` from `x` and the gradient of `y`.
    pub weight_gradient: Vec<Duration>,
}

/// Times each product `repetitions` times, after one call that is not timed. `inner` and `out` are the widths of input and output.
///
/// As inside a transformer block, activations and their gradients are operands (see the trait `Backend`). In bfloat16, the times
/// therefore include the bias, the rounding of results, and the packing of weights and activations.
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
        forward: time_calls(backend, repetitions, || drop(backend.linear_operand(&x, &layer))),
        input_gradient: time_calls(backend, repetitions, || {
            drop(backend.input_gradient_operand(&dy, &layer));
        }),
        weight_gradient: time_calls(backend, repetitions, || {
            backend.layer_gradient(&dy, Input::Operand(&x), &mut dw, Beta::Zero, None, layer.f32_products);
        }),
    }
}

/// Returns a matrix of values from −1 to 1, because arithmetic with zeros and denormals can have another speed.
fn ramp(backend: &dyn Backend, rows: usize, columns: usize) -> Tensor {
    let mut ramp = backend.empty(rows, columns);
    backend.overwrite(&mut ramp, &mut |values| {
        (0u32..)
            .zip(values)
            .for_each(|(i, v)| *v = (i % 253) as f32 / 126.0 - 1.0);
    });
    ramp
}

fn time_calls(backend: &dyn Backend, repetitions: usize, mut work: impl FnMut()) -> Vec<Duration> {
    work();
    let mut time_once = || {
        backend.synchronize();
        let start = Instant::now();
        work();
        backend.synchronize();
        start.elapsed()
    };
    (0..repetitions).map(|_| time_once()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_every_call_but_the_first() {
        let device = Device::cpu();
        let mut calls = 0;
        assert_eq!(time_calls(device.backend(), 3, || calls += 1).len(), 3);
        assert_eq!(calls, 4);
        let times = layer_times(device, 40, 33, 70, Precision::F32, 2);
        for times in [times.forward, times.input_gradient, times.weight_gradient] {
            assert!(times.len() == 2 && times.iter().all(|t| *t > Duration::ZERO));
        }
    }
}
