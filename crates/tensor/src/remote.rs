//! A backend for tests. It behaves like a device with separate memory. Its tensors wrap tensors of the CPU backend; the CPU backend
//! does not accept the wrappers. The backend counts calls and copies.
//!
//! Training on this backend shows that operations, tape, parameters, gradients and optimiser access values only through [`Backend`],
//! and that a step copies nothing to the host.

use crate::backend::{
    Backend, Beta, Clip, Input, Ipot, Layer, LayerNorm, Pair, ParameterUpdate, Rule, SavedNorm, SavedTransport,
    SparseMatrix, Timestamp,
};
use crate::cpu::CPU;
use crate::device::Device;
use crate::precision::{F32Products, Precision};
use crate::tensor::{Order, Planes, Storage, Tensor};
use crate::varlen::Varlen;
use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The backend, with its counters.
#[derive(Default)]
struct Remote {
    calls: AtomicUsize,
    /// Number of matrices copied to the host.
    reads: Arc<AtomicUsize>,
    /// Number of values copied from the host, without images.
    uploaded: AtomicUsize,
}

/// The storage of the backend's tensors.
struct Memory {
    tensor: Tensor,
    reads: Arc<AtomicUsize>,
}

impl Storage for Memory {
    fn to_host(&self, rows: usize, columns: usize) -> Cow<'_, [f32]> {
        assert_eq!(self.tensor.len(), rows * columns);
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.tensor.to_host()
    }

    fn value_bytes(&self) -> usize {
        self.tensor.bytes() as usize / self.tensor.len().max(1)
    }
}

/// Returns the wrapped CPU tensor, in the shape of `t`.
fn cpu(t: &Tensor) -> Tensor {
    let tensor = &t.storage::<Memory>().tensor;
    if tensor.rows() == t.rows() && tensor.columns() == t.columns() {
        tensor.clone()
    } else {
        tensor.reshaped(t.rows(), t.columns())
    }
}

fn cpu_layer(layer: &Layer) -> Layer {
    Layer {
        weight: cpu(&layer.weight),
        bias: layer.bias.as_ref().map(cpu),
        reused: layer.reused,
        f32_products: layer.f32_products,
    }
}

fn cpu_layer_norm(norm: &LayerNorm) -> LayerNorm {
    LayerNorm {
        weight: cpu(&norm.weight),
        bias: cpu(&norm.bias),
        eps: norm.eps,
    }
}

fn cpu_saved_norm(saved: &SavedNorm) -> SavedNorm {
    map_saved_norm(saved, cpu)
}

fn map_saved_norm(saved: &SavedNorm, map: impl Fn(&Tensor) -> Tensor) -> SavedNorm {
    match saved {
        SavedNorm::Input { x, mean, rstd } => SavedNorm::Input {
            x: map(x),
            mean: map(mean),
            rstd: map(rstd),
        },
        SavedNorm::Rows { normalised, rstd } => SavedNorm::Rows {
            normalised: map(normalised),
            rstd: map(rstd),
        },
    }
}

fn cpu_all<T: Copy>(list: &[(&Tensor, T)]) -> Vec<(Tensor, T)> {
    list.iter().map(|(t, rest)| (cpu(t), *rest)).collect()
}

fn borrowed<T: Copy>(list: &[(Tensor, T)]) -> Vec<(&Tensor, T)> {
    list.iter().map(|(t, rest)| (t, *rest)).collect()
}

impl Remote {
    /// Counts a call and returns the CPU backend.
    fn counted_cpu(&self) -> &'static dyn Backend {
        self.calls.fetch_add(1, Ordering::Relaxed);
        &CPU
    }

    fn wrap(&self, tensor: Tensor) -> Tensor {
        let (rows, columns) = (tensor.rows(), tensor.columns());
        let memory = Memory {
            tensor,
            reads: Arc::clone(&self.reads),
        };
        Tensor::new(memory, rows, columns)
    }

    /// Calls `write` with the CPU tensor that `t` wraps.
    fn change<R>(&self, t: &mut Tensor, write: impl FnOnce(&mut Tensor) -> R) -> R {
        let mut tensor = cpu(t);
        // Drops the wrapper's reference, so that `write` copies the CPU tensor only if another tensor shares the memory of `t`, as on any
        // device.
        match t.storage_mut::<Memory>() {
            Some(memory) => memory.tensor = self.counted_cpu().empty(0, 0),
            None => *t = self.wrap(self.counted_cpu().empty(0, 0)),
        }
        let result = write(&mut tensor);
        *t = self.wrap(tensor);
        result
    }

    /// Returns the numbers of calls, of matrices copied to the host, and of values copied from the host without images.
    fn counts(&self) -> [usize; 3] {
        [&self.calls, &*self.reads, &self.uploaded].map(|count| count.load(Ordering::Relaxed))
    }
}

impl Backend for Remote {
    fn name(&self) -> &str {
        "remote"
    }

    fn bf16_is_fast(&self) -> bool {
        CPU.bf16_is_fast()
    }

    fn supports_f32_products(&self, method: F32Products) -> bool {
        CPU.supports_f32_products(method)
    }

    fn fastest_f32_products(&self) -> F32Products {
        CPU.fastest_f32_products()
    }

    fn timestamp(&self) -> Timestamp {
        CPU.timestamp()
    }

    fn release_unused(&self) {
        CPU.release_unused();
    }

    fn empty(&self, rows: usize, columns: usize) -> Tensor {
        let empty = self.counted_cpu().empty(rows, columns);
        let mut empty = self.wrap(empty);
        // NaN, so that an operation that relies on the content fails its test.
        self.change(&mut empty, |t| CPU.overwrite(t, &mut |values| values.fill(f32::NAN)));
        empty
    }

    fn zeros(&self, rows: usize, columns: usize) -> Tensor {
        self.wrap(self.counted_cpu().zeros(rows, columns))
    }

    fn empty_together(&self, shapes: &[[usize; 2]]) -> Vec<Tensor> {
        shapes
            .iter()
            .map(|[rows, columns]| self.empty(*rows, *columns))
            .collect()
    }

    fn zeros_together(&self, shapes: &[[usize; 2]]) -> Vec<Tensor> {
        let zeros = self.counted_cpu().zeros_together(shapes);
        zeros.into_iter().map(|t| self.wrap(t)).collect()
    }

    fn upload(&self, rows: usize, columns: usize, values: &[f32]) -> Tensor {
        self.uploaded.fetch_add(values.len(), Ordering::Relaxed);
        self.wrap(self.counted_cpu().upload(rows, columns, values))
    }

    fn overwrite(&self, to: &mut Tensor, write: &mut dyn FnMut(&mut [f32])) {
        self.uploaded.fetch_add(to.len(), Ordering::Relaxed);
        let backend = self.counted_cpu();
        self.change(to, |to| backend.overwrite(to, write));
    }

    fn patches(&self, images: &[(Planes, &[u32])], side: usize, order: Order) -> Tensor {
        self.wrap(self.counted_cpu().patches(images, side, order))
    }

    fn first_non_finite(&self, matrices: &[Tensor]) -> Option<usize> {
        let matrices: Vec<Tensor> = matrices.iter().map(cpu).collect();
        self.counted_cpu().first_non_finite(&matrices)
    }

    fn operand(&self, x: &Tensor, precision: Precision) -> Tensor {
        self.wrap(self.counted_cpu().operand(&cpu(x), precision))
    }

    fn linear(&self, x: &Tensor, layer: &Layer, residual: Option<&Tensor>) -> Tensor {
        let residual = residual.map(cpu);
        self.wrap(self.counted_cpu().linear(&cpu(x), &cpu_layer(layer), residual.as_ref()))
    }

    fn linear_operand(&self, x: &Tensor, layer: &Layer) -> Tensor {
        self.wrap(self.counted_cpu().linear_operand(&cpu(x), &cpu_layer(layer)))
    }

    fn linear_gelu(&self, x: &Tensor, layer: &Layer, save_hidden: bool) -> (Option<Tensor>, Tensor) {
        let (hidden, activation) = self.counted_cpu().linear_gelu(&cpu(x), &cpu_layer(layer), save_hidden);
        (hidden.map(|t| self.wrap(t)), self.wrap(activation))
    }

    fn input_gradient(&self, dy: &Tensor, layer: &Layer, dx: &mut Tensor, beta: Beta) {
        let backend = self.counted_cpu();
        self.change(dx, |dx| backend.input_gradient(&cpu(dy), &cpu_layer(layer), dx, beta));
    }

    fn input_gradient_operand(&self, dy: &Tensor, layer: &Layer) -> Tensor {
        self.wrap(self.counted_cpu().input_gradient_operand(&cpu(dy), &cpu_layer(layer)))
    }

    fn input_gradient_gelu(&self, dy: &Tensor, layer: &Layer, hidden: &Tensor) -> Tensor {
        self.wrap(
            self.counted_cpu()
                .input_gradient_gelu(&cpu(dy), &cpu_layer(layer), &cpu(hidden)),
        )
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
        let (backend, dy) = (self.counted_cpu(), cpu(dy));
        let run = |x: Input| {
            self.change(dw, |dw| match db {
                Some(db) => self.change(db, |db| backend.layer_gradient(&dy, x, dw, beta, Some(db), method)),
                None => backend.layer_gradient(&dy, x, dw, beta, None, method),
            });
        };
        match x {
            Input::Operand(x) => run(Input::Operand(&cpu(x))),
            Input::Gelu(x) => run(Input::Gelu(&cpu(x))),
            Input::NormOutput(saved, norm) => run(Input::NormOutput(&cpu_saved_norm(saved), &cpu_layer_norm(norm))),
        }
    }

    fn bias_gradient(&self, dy: &Tensor, db: &mut Tensor) {
        let backend = self.counted_cpu();
        self.change(db, |db| backend.bias_gradient(&cpu(dy), db));
    }

    fn norm(&self, x: &Tensor, norm: &LayerNorm, precision: Precision) -> (SavedNorm, Tensor) {
        let (saved, y) = self.counted_cpu().norm(&cpu(x), &cpu_layer_norm(norm), precision);
        (map_saved_norm(&saved, |t| self.wrap(t.clone())), self.wrap(y))
    }

    fn norm_gradient(
        &self,
        saved: &SavedNorm,
        dy: &Tensor,
        norm: &LayerNorm,
        dx: &mut Tensor,
        beta: Beta,
    ) -> [Tensor; 2] {
        let backend = self.counted_cpu();
        let (saved, dy, norm) = (cpu_saved_norm(saved), cpu(dy), cpu_layer_norm(norm));
        let gradients = self.change(dx, |dx| backend.norm_gradient(&saved, &dy, &norm, dx, beta));
        gradients.map(|t| self.wrap(t))
    }

    fn attention(&self, qkv: &Tensor, varlen: &Varlen, heads: usize) -> (Tensor, Tensor) {
        let (out, log_sum_exp) = self.counted_cpu().attention(&cpu(qkv), varlen, heads);
        (self.wrap(out), self.wrap(log_sum_exp))
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
        let [d_out, qkv, out, log_sum_exp] = [d_out, qkv, out, log_sum_exp].map(cpu);
        let backend = self.counted_cpu();
        self.wrap(backend.attention_gradient(&d_out, &qkv, &out, &log_sum_exp, varlen, heads))
    }

    fn add(&self, x: &Tensor, sum: &mut Tensor, beta: Beta) {
        let backend = self.counted_cpu();
        self.change(sum, |sum| backend.add(&cpu(x), sum, beta));
    }

    fn gelu(&self, x: &Tensor) -> Tensor {
        self.wrap(self.counted_cpu().gelu(&cpu(x)))
    }

    fn gelu_gradient(&self, x: &Tensor, dy: &mut Tensor) {
        let backend = self.counted_cpu();
        self.change(dy, |dy| backend.gelu_gradient(&cpu(x), dy));
    }

    fn tanh(&self, x: &Tensor) -> Tensor {
        self.wrap(self.counted_cpu().tanh(&cpu(x)))
    }

    fn tanh_gradient(&self, y: &Tensor, dy: &mut Tensor) {
        let backend = self.counted_cpu();
        self.change(dy, |dy| backend.tanh_gradient(&cpu(y), dy));
    }

    fn dropout(&self, x: &Tensor, p: f32, key: [u64; 4]) -> Tensor {
        self.wrap(self.counted_cpu().dropout(&cpu(x), p, key))
    }

    fn dropout_gradient(&self, dy: &mut Tensor, p: f32, key: [u64; 4]) {
        let backend = self.counted_cpu();
        self.change(dy, |dy| backend.dropout_gradient(dy, p, key));
    }

    fn gather(&self, picks: &[(&Tensor, &[u32])]) -> Tensor {
        self.wrap(self.counted_cpu().gather(&borrowed(&cpu_all(picks))))
    }

    fn lookup(&self, base: Option<&Tensor>, tables: &[(&Tensor, &[u32])]) -> Tensor {
        let base = base.map(cpu);
        self.wrap(self.counted_cpu().lookup(base.as_ref(), &borrowed(&cpu_all(tables))))
    }

    fn scatter_add(&self, d_out: &Tensor, rows: &[u32], d_table: &mut Tensor, beta: Beta) {
        let backend = self.counted_cpu();
        self.change(d_table, |d| backend.scatter_add(&cpu(d_out), rows, d, beta));
    }

    fn sparse_product(&self, matrix: &SparseMatrix, x: &Tensor, out: &mut Tensor, beta: Beta) {
        let backend = self.counted_cpu();
        self.change(out, |out| backend.sparse_product(matrix, &cpu(x), out, beta));
    }

    fn cross_entropy(&self, logits: &Tensor, targets: &[u32]) -> (Tensor, Tensor) {
        let (loss, probabilities) = self.counted_cpu().cross_entropy(&cpu(logits), targets);
        (self.wrap(loss), self.wrap(probabilities))
    }

    fn cross_entropy_gradient(&self, probabilities: &mut Tensor, targets: &[u32], d: f32) {
        let backend = self.counted_cpu();
        self.change(probabilities, |p| backend.cross_entropy_gradient(p, targets, d));
    }

    fn soft_cross_entropy(&self, logits: &Tensor, targets: &Tensor) -> (Tensor, Tensor) {
        let (loss, probabilities) = self.counted_cpu().soft_cross_entropy(&cpu(logits), &cpu(targets));
        (self.wrap(loss), self.wrap(probabilities))
    }

    fn soft_cross_entropy_gradient(&self, probabilities: &mut Tensor, targets: &Tensor, d: f32) {
        let backend = self.counted_cpu();
        self.change(probabilities, |p| {
            backend.soft_cross_entropy_gradient(p, &cpu(targets), d)
        });
    }

    fn interpolate_rows(&self, x: &Tensor, y: &Tensor, factors: &[f32]) -> Tensor {
        self.wrap(self.counted_cpu().interpolate_rows(&cpu(x), &cpu(y), factors))
    }

    fn scale_rows(&self, x: &Tensor, factors: &[f32]) -> Tensor {
        self.wrap(self.counted_cpu().scale_rows(&cpu(x), factors))
    }

    fn segment_mean(&self, x: &Tensor, segments: &[Range<usize>]) -> Tensor {
        self.wrap(self.counted_cpu().segment_mean(&cpu(x), segments))
    }

    fn segment_mean_gradient(&self, d_out: &Tensor, segments: &[Range<usize>], dx: &mut Tensor, beta: Beta) {
        let backend = self.counted_cpu();
        self.change(dx, |dx| backend.segment_mean_gradient(&cpu(d_out), segments, dx, beta));
    }

    fn hits(&self, logits: &Tensor, targets: &[u32]) -> Tensor {
        self.wrap(self.counted_cpu().hits(&cpu(logits), targets))
    }

    fn score_at_argmax(&self, logits: &Tensor, targets: &Tensor) -> Tensor {
        self.wrap(self.counted_cpu().score_at_argmax(&cpu(logits), &cpu(targets)))
    }

    fn binary_cross_entropy(&self, logits: &Tensor, targets: &Tensor) -> Tensor {
        self.wrap(self.counted_cpu().binary_cross_entropy(&cpu(logits), &cpu(targets)))
    }

    fn binary_cross_entropy_gradient(&self, logits: &mut Tensor, targets: &Tensor, d: f32) {
        let backend = self.counted_cpu();
        self.change(logits, |l| backend.binary_cross_entropy_gradient(l, &cpu(targets), d));
    }

    fn normalise_rows(&self, x: &mut Tensor) {
        let backend = self.counted_cpu();
        self.change(x, |x| backend.normalise_rows(x));
    }

    fn squared_error(&self, prediction: &Tensor, target: &Tensor) -> Tensor {
        self.wrap(self.counted_cpu().squared_error(&cpu(prediction), &cpu(target)))
    }

    fn squared_error_gradient(&self, prediction: &mut Tensor, target: &Tensor, d: f32) {
        let backend = self.counted_cpu();
        self.change(prediction, |p| backend.squared_error_gradient(p, &cpu(target), d));
    }

    fn transport(&self, features: &Tensor, pairs: &[Pair], ipot: Ipot) -> (Tensor, SavedTransport) {
        let (loss, saved) = self.counted_cpu().transport(&cpu(features), pairs, ipot);
        (self.wrap(loss), saved)
    }

    fn transport_gradient(&self, saved: &SavedTransport, pairs: &[Pair], d: f32, d_features: &mut Tensor, beta: Beta) {
        let backend = self.counted_cpu();
        self.change(d_features, |out| backend.transport_gradient(saved, pairs, d, out, beta));
    }

    fn transport_plan(&self, features: &Tensor, text: Range<usize>, image: Range<usize>, ipot: Ipot) -> Tensor {
        self.wrap(self.counted_cpu().transport_plan(&cpu(features), text, image, ipot))
    }

    fn weighted_sum(&self, terms: &[(&Tensor, f32)]) -> Tensor {
        self.wrap(self.counted_cpu().weighted_sum(&borrowed(&cpu_all(terms))))
    }

    fn interpolate(&self, pairs: &mut [(&mut Tensor, &Tensor)], rate: f32) {
        let backend = self.counted_cpu();
        for (y, x) in pairs {
            self.change(y, |y| backend.interpolate(&mut [(y, &cpu(x))], rate));
        }
    }

    fn l2_norm(&self, matrices: &[&Tensor]) -> Tensor {
        let matrices: Vec<Tensor> = matrices.iter().map(|matrix| cpu(matrix)).collect();
        self.wrap(self.counted_cpu().l2_norm(&matrices.iter().collect::<Vec<_>>()))
    }

    fn update(&self, rule: Rule, clip: Option<&Clip>, updates: &mut [ParameterUpdate]) {
        let backend = self.counted_cpu();
        let clip = clip.map(|clip| Clip {
            norm: cpu(&clip.norm),
            limit: clip.limit,
        });
        for u in updates {
            let gradient = cpu(u.gradient);
            let mut moments: Vec<Tensor> = u.moments.iter().map(|m| cpu(m)).collect();
            u.moments.iter_mut().for_each(|m| **m = self.wrap(backend.empty(0, 0)));
            self.change(u.values, |values| {
                let update = ParameterUpdate {
                    values,
                    gradient: &gradient,
                    moments: moments.iter_mut().collect(),
                    ..*u
                };
                backend.update(rule, clip.as_ref(), &mut [update]);
            });
            for (m, moment) in u.moments.iter_mut().zip(moments) {
                **m = self.wrap(moment);
            }
        }
    }
}

mod tests;
