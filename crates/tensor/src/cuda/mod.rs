//! The backend of a CUDA device. Only this module calls `vlct_cuda`.
//!
//! All work but copies of images ahead (`uploads.rs`) is submitted to one stream and executed in order. Only [`Tensor::to_host`] and
//! measurements of time wait for it. Matrices are row-major, operands too.

mod attention;
mod losses;
mod matmul;
mod memory;
mod norm;
mod optimizer;
mod rows;
mod transport;
mod uploads;

use crate::backend::{
    Backend, Beta, Clip, Input, Ipot, Layer, LayerNorm, OwnMemory, Pair, ParameterUpdate, Rule, SavedNorm,
    SavedTransport, SparseMatrix, StreamPoint, Timestamp,
};
use crate::precision::{F32Products, Precision};
use crate::profile::{self, Span};
use crate::tensor::{Order, Planes, Tensor};
use crate::varlen::Varlen;
use memory::{CudaTensor, empty, tensor};
use std::any::Any;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use vlct_cuda::context::{Allocation, Context, Moment};
use vlct_cuda::driver::{Driver, Element::F32};
use vlct_cuda::elementwise;
use vlct_cuda::matrix::MatrixMut;

/// A request for more memory than a device has left, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryShortage {
    /// The size of the request.
    pub requested: usize,
    /// Memory that no program uses.
    pub free: usize,
    /// Memory of the device.
    pub total: usize,
}

/// The payload with which computations panic if a device fails or has no memory left. This panic is not a bug; programs catch it and print
/// the message.
#[derive(Clone, Debug, thiserror::Error)]
#[error(transparent)]
pub struct DeviceError(#[from] vlct_cuda::driver::Error);

impl DeviceError {
    /// Returns the request for which the device has too little memory left; `None` for other errors.
    pub fn out_of_memory(&self) -> Option<MemoryShortage> {
        match self.0 {
            vlct_cuda::driver::Error::OutOfMemory { requested, free, total } => {
                Some(MemoryShortage { requested, free, total })
            }
            _ => None,
        }
    }
}

impl From<DeviceError> for vlct_cuda::driver::cuda::Unavailable {
    fn from(DeviceError(error): DeviceError) -> Self {
        error.into()
    }
}

/// Returns the value of a result.
///
/// # Panics
/// With the payload [`DeviceError`] if the device has failed or has no memory left.
fn complete<T>(result: vlct_cuda::driver::Result<T>) -> T {
    result.unwrap_or_else(|error| std::panic::panic_any(DeviceError(error)))
}

/// A CUDA device with its stream and its memory.
pub(crate) struct Cuda {
    name: String,
    context: Context,
    plans: attention::Plans,
    uploads: uploads::Uploads,
}

impl Cuda {
    /// Makes a backend of a device. `name` is that of the device in messages, such as `cuda:0`.
    ///
    /// # Errors
    /// Those of the driver.
    pub fn new(name: &str, driver: Arc<dyn Driver>, allocation: Allocation) -> Result<Self, DeviceError> {
        let context = Context::new(driver, allocation)?;
        Ok(Self {
            name: name.to_owned(),
            uploads: uploads::Uploads::new(&context)?,
            context,
            plans: attention::Plans::default(),
        })
    }

    /// Makes an f32 matrix. `write` must write all values.
    fn build(
        &self,
        rows: usize,
        columns: usize,
        write: impl FnOnce(MatrixMut) -> vlct_cuda::driver::Result<()>,
    ) -> Tensor {
        let mut out = empty(&self.context, rows, columns, F32);
        complete(write(out.overwritten()));
        out
    }

    /// Reports memory-bound work, which reads and writes `bytes` bytes, to the profile.
    fn memory_span(&self, name: &str, bytes: f64) -> Option<Span<'_>> {
        profile::memory_bound_span(self, name, bytes)
    }

    /// Reports a product of `x`, with the result `[x.rows(), columns]` and the other operand `other`, to the profile.
    fn matmul_span(&self, name: &str, x: &Tensor, columns: usize, other: &Tensor) -> Option<Span<'_>> {
        profile::span(self, || {
            let (rows, inner) = (x.rows(), x.columns());
            let bytes = x.bytes() + other.bytes() + (rows * columns * x.element().bytes()) as f64;
            (
                format!("{name} {rows}×{inner}×{columns}"),
                2.0 * (rows * inner * columns) as f64,
                bytes,
            )
        })
    }
}

/// The values of a matrix that is overwritten, or that is added to.
fn destination(to: &mut Tensor, beta: Beta) -> MatrixMut<'_> {
    match beta {
        Beta::Zero => to.overwritten(),
        Beta::One => to.matrix_mut(),
    }
}

impl StreamPoint for Moment {
    fn until(&self, later: &dyn StreamPoint) -> Duration {
        let later: &dyn Any = later;
        let later = later
            .downcast_ref()
            .unwrap_or_else(|| panic!("points of two kinds of streams"));
        complete(Moment::until(self, later))
    }
}

impl Backend for Cuda {
    fn name(&self) -> &str {
        &self.name
    }

    fn model(&self) -> &str {
        self.context.driver().name()
    }

    fn own_memory(&self) -> Option<OwnMemory> {
        Some(OwnMemory {
            peak: (self.context.peak_memory() + self.uploads.peak_memory()) as u64,
            total: complete(self.context.driver().memory_info()).total as u64,
        })
    }

    fn cuda_context(&self) -> Option<&Context> {
        Some(&self.context)
    }

    fn bf16_is_fast(&self) -> bool {
        true
    }

    fn supports_f32_products(&self, method: F32Products) -> bool {
        method == F32Products::Fma
    }

    fn fastest_f32_products(&self) -> F32Products {
        F32Products::Fma
    }

    fn timestamp(&self) -> Timestamp {
        Timestamp::Stream(Box::new(complete(self.context.record())))
    }

    fn synchronize(&self) {
        complete(self.context.synchronize());
    }

    fn release_unused(&self) {
        self.context.release_unused();
        self.uploads.release_unused();
    }

    fn empty(&self, rows: usize, columns: usize) -> Tensor {
        empty(&self.context, rows, columns, F32)
    }

    fn zeros(&self, rows: usize, columns: usize) -> Tensor {
        let buffer = complete(self.context.zeros(rows * columns * F32.bytes()));
        tensor(&self.context, buffer, rows, columns, F32)
    }

    fn empty_together(&self, shapes: &[[usize; 2]]) -> Vec<Tensor> {
        memory::empty_together(&self.context, shapes)
    }

    fn zeros_together(&self, shapes: &[[usize; 2]]) -> Vec<Tensor> {
        let mut zeros = memory::empty_together(&self.context, shapes);
        for zeros in &mut zeros {
            complete(elementwise::fill(&self.context, 0.0, zeros.overwritten()));
        }
        zeros
    }

    fn upload(&self, rows: usize, columns: usize, values: &[f32]) -> Tensor {
        let buffer = complete(self.context.upload(values));
        tensor(&self.context, buffer, rows, columns, F32)
    }

    fn overwrite(&self, to: &mut Tensor, write: &mut dyn FnMut(&mut [f32])) {
        let mut values = vec![0f32; to.len()];
        write(&mut values);
        let address = to.overwritten().address();
        let (driver, stream) = (self.context.driver(), self.context.stream());
        complete(driver.copy_to_device(address, bytemuck::cast_slice(&values), stream));
    }

    fn patches(&self, images: &[(Planes, &[u32])], side: usize, order: Order) -> Tensor {
        self.extract_patches(images, side, order)
    }

    fn upload_images(&self, images: &[Planes]) -> Option<Box<dyn Send>> {
        Some(self.upload_ahead(images))
    }

    fn first_non_finite(&self, matrices: &[Tensor]) -> Option<usize> {
        self.find_non_finite(matrices)
    }

    fn operand(&self, x: &Tensor, precision: Precision) -> Tensor {
        self.to_operand(x, precision)
    }

    fn linear(&self, x: &Tensor, layer: &Layer, residual: Option<&Tensor>) -> Tensor {
        self.linear_f32(x, layer, residual)
    }

    fn linear_operand(&self, x: &Tensor, layer: &Layer) -> Tensor {
        self.linear_to_operand(x, layer)
    }

    fn linear_gelu(&self, x: &Tensor, layer: &Layer, save_hidden: bool) -> (Option<Tensor>, Tensor) {
        self.linear_with_gelu(x, layer, save_hidden)
    }

    fn input_gradient(&self, dy: &Tensor, layer: &Layer, dx: &mut Tensor, beta: Beta) {
        self.input_gradient_f32(dy, layer, dx, beta);
    }

    fn input_gradient_operand(&self, dy: &Tensor, layer: &Layer) -> Tensor {
        self.input_gradient_to_operand(dy, layer)
    }

    fn input_gradient_gelu(&self, dy: &Tensor, layer: &Layer, hidden: &Tensor) -> Tensor {
        self.input_gradient_with_gelu(dy, layer, hidden)
    }

    fn layer_gradient(
        &self,
        dy: &Tensor,
        x: Input,
        dw: &mut Tensor,
        beta: Beta,
        db: Option<&mut Tensor>,
        _: F32Products,
    ) {
        self.weight_gradient(dy, x, dw, beta, db);
    }

    fn bias_gradient(&self, dy: &Tensor, db: &mut Tensor) {
        self.add_bias_gradient(dy, db);
    }

    fn norm(&self, x: &Tensor, norm: &LayerNorm, precision: Precision) -> (SavedNorm, Tensor) {
        self.norm_forward(x, norm, precision)
    }

    fn norm_gradient(
        &self,
        saved: &SavedNorm,
        dy: &Tensor,
        norm: &LayerNorm,
        dx: &mut Tensor,
        beta: Beta,
    ) -> [Tensor; 2] {
        self.norm_backward(saved, dy, norm, dx, beta)
    }

    fn attention(&self, qkv: &Tensor, varlen: &Varlen, heads: usize) -> (Tensor, Tensor) {
        self.attention_forward(qkv, varlen, heads)
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
        self.attention_backward(d_out, qkv, out, log_sum_exp, varlen, heads)
    }

    fn add(&self, x: &Tensor, sum: &mut Tensor, beta: Beta) {
        complete(elementwise::add(
            &self.context,
            x.matrix(),
            destination(sum, beta),
            beta,
        ));
    }

    fn gelu(&self, x: &Tensor) -> Tensor {
        self.build(x.rows(), x.columns(), |y| {
            elementwise::gelu(&self.context, x.matrix(), y)
        })
    }

    fn gelu_gradient(&self, x: &Tensor, dy: &mut Tensor) {
        complete(elementwise::gelu_backward(&self.context, x.matrix(), dy.matrix_mut()));
    }

    fn tanh(&self, x: &Tensor) -> Tensor {
        self.build(x.rows(), x.columns(), |y| {
            elementwise::tanh(&self.context, x.matrix(), y)
        })
    }

    fn tanh_gradient(&self, y: &Tensor, dy: &mut Tensor) {
        complete(elementwise::tanh_backward(&self.context, y.matrix(), dy.matrix_mut()));
    }

    fn dropout(&self, x: &Tensor, p: f32, key: [u64; 4]) -> Tensor {
        self.build(x.rows(), x.columns(), |y| {
            vlct_cuda::dropout::dropout(&self.context, x.matrix(), y, p, key)
        })
    }

    fn dropout_gradient(&self, dy: &mut Tensor, p: f32, key: [u64; 4]) {
        complete(vlct_cuda::dropout::dropout_in_place(
            &self.context,
            dy.matrix_mut(),
            p,
            key,
        ));
    }

    fn gather(&self, picks: &[(&Tensor, &[u32])]) -> Tensor {
        self.gather_rows(picks)
    }

    fn lookup(&self, base: Option<&Tensor>, tables: &[(&Tensor, &[u32])]) -> Tensor {
        self.sum_of_rows(base, tables)
    }

    fn scatter_add(&self, d_out: &Tensor, rows: &[u32], d_table: &mut Tensor, beta: Beta) {
        let table = destination(d_table, beta);
        complete(vlct_cuda::rows::scatter_add(
            &self.context,
            d_out.matrix(),
            rows,
            table,
            beta,
        ));
    }

    fn sparse_product(&self, matrix: &SparseMatrix, x: &Tensor, out: &mut Tensor, beta: Beta) {
        let out = destination(out, beta);
        complete(vlct_cuda::sparse::sparse_product(
            &self.context,
            matrix,
            x.matrix(),
            out,
            beta,
        ));
    }

    fn cross_entropy(&self, logits: &Tensor, targets: &[u32]) -> (Tensor, Tensor) {
        self.hard_cross_entropy(logits, targets)
    }

    fn cross_entropy_gradient(&self, probabilities: &mut Tensor, targets: &[u32], d: f32) {
        let probabilities = probabilities.matrix_mut();
        complete(vlct_cuda::cross_entropy::backward(
            &self.context,
            probabilities,
            targets,
            d,
        ));
    }

    fn soft_cross_entropy(&self, logits: &Tensor, targets: &Tensor) -> (Tensor, Tensor) {
        self.cross_entropy_of_weights(logits, targets)
    }

    fn soft_cross_entropy_gradient(&self, probabilities: &mut Tensor, targets: &Tensor, d: f32) {
        let (probabilities, targets) = (probabilities.matrix_mut(), targets.matrix());
        complete(vlct_cuda::cross_entropy::soft_backward(
            &self.context,
            probabilities,
            targets,
            d,
        ));
    }

    fn interpolate_rows(&self, x: &Tensor, y: &Tensor, factors: &[f32]) -> Tensor {
        let factors = self.upload(1, factors.len(), factors);
        self.build(x.rows(), x.columns(), |out| {
            elementwise::interpolate_rows(&self.context, x.matrix(), y.matrix(), factors.matrix(), out)
        })
    }

    fn scale_rows(&self, x: &Tensor, factors: &[f32]) -> Tensor {
        let factors = self.upload(1, factors.len(), factors);
        self.build(x.rows(), x.columns(), |out| {
            elementwise::scale_rows(&self.context, x.matrix(), factors.matrix(), out)
        })
    }

    fn segment_mean(&self, x: &Tensor, segments: &[Range<usize>]) -> Tensor {
        self.build(segments.len(), x.columns(), |out| {
            vlct_cuda::segments::mean(&self.context, x.matrix(), segments, out)
        })
    }

    fn segment_mean_gradient(&self, d_out: &Tensor, segments: &[Range<usize>], dx: &mut Tensor, beta: Beta) {
        let dx = destination(dx, beta);
        complete(vlct_cuda::segments::mean_backward(
            &self.context,
            d_out.matrix(),
            segments,
            dx,
            beta,
        ));
    }

    fn hits(&self, logits: &Tensor, targets: &[u32]) -> Tensor {
        self.build(1, 1, |hits| {
            vlct_cuda::cross_entropy::hits(&self.context, logits.matrix(), targets, hits)
        })
    }

    fn score_at_argmax(&self, logits: &Tensor, targets: &Tensor) -> Tensor {
        self.build(1, 1, |score| {
            vlct_cuda::cross_entropy::score_at_argmax(&self.context, logits.matrix(), targets.matrix(), score)
        })
    }

    fn binary_cross_entropy(&self, logits: &Tensor, targets: &Tensor) -> Tensor {
        self.build(1, 1, |loss| {
            vlct_cuda::binary_cross_entropy::forward(&self.context, logits.matrix(), targets.matrix(), loss)
        })
    }

    fn binary_cross_entropy_gradient(&self, logits: &mut Tensor, targets: &Tensor, d: f32) {
        let (logits, targets) = (logits.matrix_mut(), targets.matrix());
        complete(vlct_cuda::binary_cross_entropy::backward(
            &self.context,
            logits,
            targets,
            d,
        ));
    }

    fn normalise_rows(&self, x: &mut Tensor) {
        complete(vlct_cuda::patch_loss::normalise_rows(&self.context, x.matrix_mut()));
    }

    fn squared_error(&self, prediction: &Tensor, target: &Tensor) -> Tensor {
        self.build(1, 1, |loss| {
            vlct_cuda::patch_loss::forward(&self.context, prediction.matrix(), target.matrix(), loss)
        })
    }

    fn squared_error_gradient(&self, prediction: &mut Tensor, target: &Tensor, d: f32) {
        let (prediction, target) = (prediction.matrix_mut(), target.matrix());
        complete(vlct_cuda::patch_loss::backward(&self.context, prediction, target, d));
    }

    fn transport(&self, features: &Tensor, pairs: &[Pair], ipot: Ipot) -> (Tensor, SavedTransport) {
        self.transport_forward(features, pairs, ipot)
    }

    fn transport_gradient(&self, saved: &SavedTransport, _: &[Pair], d: f32, d_features: &mut Tensor, beta: Beta) {
        self.transport_backward(saved, d, d_features, beta);
    }

    fn transport_plan(&self, features: &Tensor, text: Range<usize>, image: Range<usize>, ipot: Ipot) -> Tensor {
        self.plan_of_pair(features, text, image, ipot)
    }

    fn weighted_sum(&self, terms: &[(&Tensor, f32)]) -> Tensor {
        let terms: Vec<_> = terms.iter().map(|(term, factor)| (term.matrix(), *factor)).collect();
        self.build(1, 1, |sum| vlct_cuda::scalars::weighted_sum(&self.context, &terms, sum))
    }

    fn interpolate(&self, pairs: &mut [(&mut Tensor, &Tensor)], rate: f32) {
        self.interpolate_all(pairs, rate);
    }

    fn l2_norm(&self, matrices: &[&Tensor]) -> Tensor {
        self.norm_of_all(matrices)
    }

    fn update(&self, rule: Rule, clip: Option<&Clip>, updates: &mut [ParameterUpdate]) {
        self.update_parameters(rule, clip, updates);
    }
}
