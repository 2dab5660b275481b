//! The CPU backend. Only this module calls `vlct_kernels`.

mod attention;
mod buffer;
mod f32_products;
mod losses;
mod matmul;
mod memory;
mod norm;
mod optimizer;
mod rows;
mod transport;

use crate::backend::{
    Backend, Beta, Clip, Input, Ipot, Layer, LayerNorm, Pair, ParameterUpdate, Rule, SavedNorm, SavedTransport,
    SparseMatrix, Timestamp,
};
use crate::precision::{F32Products, Precision};
use crate::profile::{self, Span};
use crate::tensor::{Order, Planes, Tensor};
use crate::varlen::Varlen;
use memory::{CpuTensor, build};
use std::ops::Range;
use std::time::{Duration, Instant};
use vlct_kernels::bf16::engine;
use vlct_kernels::{dropout, elementwise, gelu};
use vlct_simd::math::sum;

/// The CPU of this machine. Functions use the threads of the current rayon pool.
pub(crate) struct Cpu {
    name: &'static str,
}

/// The only instance.
pub(crate) static CPU: Cpu = Cpu { name: "cpu" };

/// Reports work to the profile; see [`profile::span`].
fn span(describe: impl FnOnce() -> (String, f64, f64)) -> Option<Span<'static>> {
    profile::span(&CPU, describe)
}

/// Reports memory-bound work, which reads and writes `bytes` bytes, to the profile.
fn memory_bound_span(name: &str, bytes: f64) -> Option<Span<'static>> {
    profile::memory_bound_span(&CPU, name, bytes)
}

/// Reports a product of `[rows, inner]` and `[inner, columns]`, which reads and writes `bytes` bytes, to the profile.
fn matmul_span(name: &str, rows: usize, inner: usize, columns: usize, bytes: f64) -> Option<Span<'static>> {
    span(|| {
        (
            format!("{name} {rows}×{inner}×{columns}"),
            2.0 * (rows * inner * columns) as f64,
            bytes,
        )
    })
}

/// CPU time of all threads of this process; zero where the operating system does not report it.
#[cfg(unix)]
fn process_cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

#[cfg(not(unix))]
fn process_cpu_time() -> Duration {
    Duration::ZERO
}

impl Backend for Cpu {
    fn name(&self) -> &str {
        self.name
    }

    fn bf16_is_fast(&self) -> bool {
        engine().is_some()
    }

    fn supports_f32_products(&self, method: F32Products) -> bool {
        f32_products::is_available(method)
    }

    fn fastest_f32_products(&self) -> F32Products {
        f32_products::fastest()
    }

    fn timestamp(&self) -> Timestamp {
        Timestamp::Host {
            wall: Instant::now(),
            cpu: process_cpu_time(),
        }
    }

    fn release_unused(&self) {
        memory::release_unused();
    }

    fn empty(&self, rows: usize, columns: usize) -> Tensor {
        build(rows, columns, |_| ())
    }

    fn zeros(&self, rows: usize, columns: usize) -> Tensor {
        memory::zeros(rows, columns)
    }

    fn empty_together(&self, shapes: &[[usize; 2]]) -> Vec<Tensor> {
        memory::empty_together(shapes)
    }

    fn zeros_together(&self, shapes: &[[usize; 2]]) -> Vec<Tensor> {
        let mut zeros = memory::empty_together(shapes);
        zeros.iter_mut().for_each(|zeros| zeros.data_mut().fill(0.0));
        zeros
    }

    fn upload(&self, rows: usize, columns: usize, values: &[f32]) -> Tensor {
        build(rows, columns, |out| out.copy_from_slice(values))
    }

    fn overwrite(&self, to: &mut Tensor, write: &mut dyn FnMut(&mut [f32])) {
        write(to.data_mut());
    }

    fn patches(&self, images: &[(Planes, &[u32])], side: usize, order: Order) -> Tensor {
        rows::extract_patches(images, side, order)
    }

    fn first_non_finite(&self, matrices: &[Tensor]) -> Option<usize> {
        // An infinite value or NaN times zero is NaN.
        matrices.iter().position(|t| sum(t.data(), |v| v * 0.0) != 0.0)
    }

    fn operand(&self, x: &Tensor, precision: Precision) -> Tensor {
        matmul::operand(x, precision)
    }

    fn linear(&self, x: &Tensor, layer: &Layer, residual: Option<&Tensor>) -> Tensor {
        matmul::linear(x, layer, residual)
    }

    fn linear_operand(&self, x: &Tensor, layer: &Layer) -> Tensor {
        matmul::linear_operand(x, layer)
    }

    fn linear_gelu(&self, x: &Tensor, layer: &Layer, save_hidden: bool) -> (Option<Tensor>, Tensor) {
        matmul::linear_gelu(x, layer, save_hidden)
    }

    fn input_gradient(&self, dy: &Tensor, layer: &Layer, dx: &mut Tensor, beta: Beta) {
        matmul::input_gradient(dy, layer, dx.data_mut(), beta);
    }

    fn input_gradient_operand(&self, dy: &Tensor, layer: &Layer) -> Tensor {
        matmul::input_gradient_operand(dy, layer)
    }

    fn input_gradient_gelu(&self, dy: &Tensor, layer: &Layer, hidden: &Tensor) -> Tensor {
        matmul::input_gradient_gelu(dy, layer, hidden)
    }

    fn layer_gradient(
        &self,
        dy: &Tensor,
        x: Input,
        dw: &mut Tensor,
        beta: Beta,
        db: Option<&mut Tensor>,
        method: F32Products,
    ) {
        matmul::layer_gradient(dy, x, dw.data_mut(), beta, db.map(CpuTensor::data_mut), method);
    }

    fn bias_gradient(&self, dy: &Tensor, db: &mut Tensor) {
        matmul::bias_gradient(dy, db.data_mut());
    }

    fn norm(&self, x: &Tensor, norm: &LayerNorm, precision: Precision) -> (SavedNorm, Tensor) {
        norm::forward(x, norm, precision)
    }

    fn norm_gradient(
        &self,
        saved: &SavedNorm,
        dy: &Tensor,
        norm: &LayerNorm,
        dx: &mut Tensor,
        beta: Beta,
    ) -> [Tensor; 2] {
        norm::backward(saved, dy, norm, dx, beta)
    }

    fn attention(&self, qkv: &Tensor, varlen: &Varlen, heads: usize) -> (Tensor, Tensor) {
        attention::attention(qkv, varlen, heads)
    }

    fn attention_gradient(
        &self,
        d_out: &Tensor,
        qkv: &Tensor,
        out: &Tensor,
        log_sum_exp: &Tensor,
        varlen: &Varlen,
        heads: usize,
    ) -> Tensor {
        attention::attention_gradient(d_out, qkv, out, log_sum_exp, varlen, heads)
    }

    fn add(&self, x: &Tensor, sum: &mut Tensor, beta: Beta) {
        match beta {
            Beta::Zero => sum.data_mut().copy_from_slice(x.data()),
            Beta::One => elementwise::add(x.data(), sum.data_mut()),
        }
    }

    fn gelu(&self, x: &Tensor) -> Tensor {
        build(x.rows(), x.columns(), |y| gelu::forward(x.data(), y))
    }

    fn gelu_gradient(&self, x: &Tensor, dy: &mut Tensor) {
        gelu::backward_in_place(x.data(), dy.data_mut());
    }

    fn tanh(&self, x: &Tensor) -> Tensor {
        build(x.rows(), x.columns(), |y| elementwise::tanh(x.data(), y))
    }

    fn tanh_gradient(&self, y: &Tensor, dy: &mut Tensor) {
        elementwise::tanh_backward_in_place(y.data(), dy.data_mut());
    }

    fn dropout(&self, x: &Tensor, p: f32, key: [u64; 4]) -> Tensor {
        let width = x.columns();
        build(x.rows(), width, |y| {
            y.copy_from_slice(x.data());
            dropout::apply_in_place(y, width, p, key);
        })
    }

    fn dropout_gradient(&self, dy: &mut Tensor, p: f32, key: [u64; 4]) {
        let width = dy.columns();
        dropout::apply_in_place(dy.data_mut(), width, p, key);
    }

    fn gather(&self, picks: &[(&Tensor, &[u32])]) -> Tensor {
        rows::gather(picks)
    }

    fn lookup(&self, base: Option<&Tensor>, tables: &[(&Tensor, &[u32])]) -> Tensor {
        rows::lookup(base, tables)
    }

    fn scatter_add(&self, d_out: &Tensor, rows: &[u32], d_table: &mut Tensor, beta: Beta) {
        rows::scatter_add(d_out, rows, d_table, beta);
    }

    fn sparse_product(&self, matrix: &SparseMatrix, x: &Tensor, out: &mut Tensor, beta: Beta) {
        rows::sparse_product(matrix, x, out, beta);
    }

    fn cross_entropy(&self, logits: &Tensor, targets: &[u32]) -> (Tensor, Tensor) {
        losses::cross_entropy(logits, targets)
    }

    fn cross_entropy_gradient(&self, probabilities: &mut Tensor, targets: &[u32], d: f32) {
        losses::cross_entropy_gradient(probabilities, targets, d);
    }

    fn soft_cross_entropy(&self, logits: &Tensor, targets: &Tensor) -> (Tensor, Tensor) {
        losses::soft_cross_entropy(logits, targets)
    }

    fn soft_cross_entropy_gradient(&self, probabilities: &mut Tensor, targets: &Tensor, d: f32) {
        losses::soft_cross_entropy_gradient(probabilities, targets, d);
    }

    fn interpolate_rows(&self, x: &Tensor, y: &Tensor, factors: &[f32]) -> Tensor {
        build(x.rows(), x.columns(), |out| {
            elementwise::interpolate_rows(x.data(), y.data(), factors, out)
        })
    }

    fn scale_rows(&self, x: &Tensor, factors: &[f32]) -> Tensor {
        build(x.rows(), x.columns(), |out| {
            elementwise::scale_rows(x.data(), factors, out)
        })
    }

    fn segment_mean(&self, x: &Tensor, segments: &[Range<usize>]) -> Tensor {
        rows::segment_mean(x, segments)
    }

    fn segment_mean_gradient(&self, d_out: &Tensor, segments: &[Range<usize>], dx: &mut Tensor, beta: Beta) {
        rows::segment_mean_gradient(d_out, segments, dx, beta);
    }

    fn hits(&self, logits: &Tensor, targets: &[u32]) -> Tensor {
        losses::hits(logits, targets)
    }

    fn score_at_argmax(&self, logits: &Tensor, targets: &Tensor) -> Tensor {
        losses::score_at_argmax(logits, targets)
    }

    fn binary_cross_entropy(&self, logits: &Tensor, targets: &Tensor) -> Tensor {
        losses::binary_cross_entropy(logits, targets)
    }

    fn binary_cross_entropy_gradient(&self, logits: &mut Tensor, targets: &Tensor, d: f32) {
        losses::binary_cross_entropy_gradient(logits, targets, d);
    }

    fn normalise_rows(&self, x: &mut Tensor) {
        losses::normalise_rows(x);
    }

    fn squared_error(&self, prediction: &Tensor, target: &Tensor) -> Tensor {
        losses::squared_error(prediction, target)
    }

    fn squared_error_gradient(&self, prediction: &mut Tensor, target: &Tensor, d: f32) {
        losses::squared_error_gradient(prediction, target, d);
    }

    fn transport(&self, features: &Tensor, pairs: &[Pair], ipot: Ipot) -> (Tensor, SavedTransport) {
        transport::transport(features, pairs, ipot)
    }

    fn transport_gradient(&self, saved: &SavedTransport, pairs: &[Pair], d: f32, d_features: &mut Tensor, beta: Beta) {
        transport::transport_gradient(saved, pairs, d, d_features, beta);
    }

    fn transport_plan(&self, features: &Tensor, text: Range<usize>, image: Range<usize>, ipot: Ipot) -> Tensor {
        transport::transport_plan(features, text, image, ipot)
    }

    fn weighted_sum(&self, terms: &[(&Tensor, f32)]) -> Tensor {
        losses::weighted_sum(terms)
    }

    fn interpolate(&self, pairs: &mut [(&mut Tensor, &Tensor)], rate: f32) {
        for (y, x) in pairs {
            elementwise::interpolate(x.data(), rate, y.data_mut());
        }
    }

    fn l2_norm(&self, matrices: &[&Tensor]) -> Tensor {
        optimizer::l2_norm(matrices)
    }

    fn update(&self, rule: Rule, clip: Option<&Clip>, updates: &mut [ParameterUpdate]) {
        optimizer::update(rule, clip, updates);
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_grows_during_work() {
        let start = CPU.timestamp();
        let elapsed = || start.until(&CPU.timestamp());
        while elapsed()[1] == Duration::ZERO || elapsed()[0] < Duration::from_millis(20) {
            std::hint::spin_loop();
        }
        assert!(elapsed()[1] > Duration::ZERO);
    }
}
