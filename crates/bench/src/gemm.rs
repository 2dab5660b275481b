//! Throughput of matrix products.

use super::{Device, Precision, format_name, median, round};
use serde::Serialize;
use vlct_tensor::throughput::layer_times;

/// Number of tokens, input width and output width of the measured layer. The layer is the first of an MLP of the base model.
const SIZES: [usize; 3] = [1920, 768, 3072];

/// Throughput of the three products of a linear layer, printed as one line of JSON. The first four keys are those of
/// [`BenchResult`](super::BenchResult).
#[derive(Clone, Debug, Serialize)]
pub struct GemmResult {
    /// The measured work, always `gemm`.
    pub task: &'static str,
    /// The measured program, always `vlct`.
    pub style: &'static str,
    /// Model of the device.
    pub device: &'static str,
    /// Number format.
    pub precision: &'static str,
    /// Rows of input and output (tokens).
    pub rows: usize,
    /// Columns of the input.
    pub inner: usize,
    /// Columns of the output.
    pub columns: usize,
    /// Throughput of `y = x·wᵀ + b` in 10¹² floating-point operations per second. A multiply-add counts as two operations.
    pub forward_tflops: f64,
    /// Throughput of `dx = dy·w`.
    pub input_gradient_tflops: f64,
    /// Throughput of `dw = dyᵀ·x`.
    pub weight_gradient_tflops: f64,
}

/// Measures each product of a layer `repetitions` times. The throughput is computed from the median time.
pub fn measure_gemm(device: Device, precision: Precision, repetitions: usize) -> GemmResult {
    let [rows, inner, columns] = SIZES;
    let times = layer_times(device, rows, inner, columns, precision, repetitions);
    let flops = 2.0 * (rows * inner * columns) as f64;
    let [forward_tflops, input_gradient_tflops, weight_gradient_tflops] =
        [times.forward, times.input_gradient, times.weight_gradient].map(|durations| {
            let seconds = median(durations.iter().map(|t| t.as_secs_f64()).collect());
            round(flops / seconds / 1e12, 4)
        });
    GemmResult {
        task: "gemm",
        style: "vlct",
        device: device.model(),
        precision: format_name(precision),
        rows,
        inner,
        columns,
        forward_tflops,
        input_gradient_tflops,
        weight_gradient_tflops,
    }
}
