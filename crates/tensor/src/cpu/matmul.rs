//! Matrix products and the operations fused with them, in the number format of the operands.
//!
//! An operand is the f32 matrix itself, or a copy of it, rounded to bfloat16 and stored in blocks.

use super::f32_products::gemm;
use super::memory::{CpuTensor, Format, build, build_blocks};
use super::{matmul_span, memory_bound_span, norm};
use crate::backend::{Beta, Input, Layer};
use crate::precision::{F32Products, Precision};
use crate::tensor::Tensor;
use vlct_kernels::bf16::epilogue::{Gelu, GeluBackward, StoreBf16, StoreF32, StoreF32Transposed};
use vlct_kernels::bf16::gemm::gemm as gemm_bf16;
use vlct_kernels::bf16::{Bf16, Rhs, blocks};
use vlct_kernels::elementwise::bias_rows;
use vlct_kernels::gelu;
use vlct_kernels::mat::MatRef;
use vlct_kernels::parallel::add_column_sums;

fn view(t: &Tensor) -> MatRef<'_> {
    MatRef::new(t.data(), t.rows(), t.columns(), t.columns())
}

/// Converts `x` to an operand of products in this precision.
pub(super) fn operand(x: &Tensor, precision: Precision) -> Tensor {
    match (x.format(), precision) {
        (Format::F32, Precision::Bf16) => {
            if let Some(rounded) = x.rounded() {
                return rounded.clone();
            }
            let (rows, columns) = (x.rows(), x.columns());
            let _span = memory_bound_span("round", 1.5 * x.bytes());
            build_blocks(rows, columns, |out| blocks::from_f32(x.data(), rows, columns, out))
        }
        _ => x.clone(),
    }
}

/// Calls `run` with the weight as the rhs of `x·wᵀ`; a weight that more products will use is packed once.
fn with_rhs<R>(layer: &Layer, run: impl FnOnce(Rhs) -> R) -> R {
    let packed = if layer.reused { layer.weight.packed() } else { None };
    run(match packed {
        Some(packed) => Rhs::Packed(packed),
        None => Rhs::WeightTransposed(layer.weight.data()),
    })
}

fn bias(layer: &Layer) -> Option<&[f32]> {
    layer.bias.as_ref().map(CpuTensor::data)
}

/// Returns `x·wᵀ + b (+ residual)` in f32, `[rows, out]`.
pub(super) fn linear(x: &Tensor, layer: &Layer, residual: Option<&Tensor>) -> Tensor {
    let y_bytes = (x.rows() * layer.weight.rows() * 4) as f64 * if residual.is_some() { 2.0 } else { 1.0 };
    let bytes = x.bytes() + layer.weight.bytes() + y_bytes;
    let _span = matmul_span("linear", x.rows(), x.columns(), layer.weight.rows(), bytes);
    let (rows, out) = (x.rows(), layer.weight.rows());
    build(rows, out, |y| match x.format() {
        Format::F32 => {
            let beta = match (bias(layer), residual) {
                (Some(b), r) => {
                    bias_rows(b, r.map(CpuTensor::data), y);
                    Beta::One
                }
                (None, Some(r)) => {
                    y.copy_from_slice(r.data());
                    Beta::One
                }
                (None, None) => Beta::Zero,
            };
            gemm(
                layer.f32_products,
                y,
                out,
                beta,
                view(x),
                view(&layer.weight).transposed(),
            );
        }
        Format::Bf16 => with_rhs(layer, |rhs| {
            let mut store = StoreF32::new(y, out, Beta::Zero)
                .bias(bias(layer))
                .residual(residual.map(CpuTensor::data));
            gemm_bf16(x.blocks(), rhs, &mut store);
        }),
    })
}

/// Returns `x·wᵀ + b` as an operand.
pub(super) fn linear_operand(x: &Tensor, layer: &Layer) -> Tensor {
    if x.format() == Format::F32 {
        return linear(x, layer, None);
    }
    let bytes = layer.weight.bytes() + x.bytes() * (1.0 + layer.weight.rows() as f64 / x.columns() as f64);
    let _span = matmul_span("linear", x.rows(), x.columns(), layer.weight.rows(), bytes);
    let (rows, out) = (x.rows(), layer.weight.rows());
    build_blocks(rows, out, |y| {
        with_rhs(layer, |rhs| {
            gemm_bf16(x.blocks(), rhs, &mut StoreBf16::new(y, rows, out, bias(layer)))
        });
    })
}

/// Returns `hidden = x·wᵀ + b` (only if `save_hidden`) and `gelu(hidden)` as operands.
///
/// # Panics
/// If the layer has no bias.
pub(super) fn linear_gelu(x: &Tensor, layer: &Layer, save_hidden: bool) -> (Option<Tensor>, Tensor) {
    let (rows, out) = (x.rows(), layer.weight.rows());
    if x.format() == Format::F32 {
        let hidden = linear(x, layer, None);
        let _span = memory_bound_span("GELU", 2.0 * hidden.bytes());
        let activation = build(rows, out, |y| gelu::forward(hidden.data(), y));
        return (save_hidden.then_some(hidden), activation);
    }
    let results = if save_hidden { 2.0 } else { 1.0 };
    let bytes = layer.weight.bytes() + x.bytes() * (1.0 + results * out as f64 / x.columns() as f64);
    let _span = matmul_span("linear, GELU", rows, x.columns(), out, bytes);
    let bias = bias(layer).unwrap_or_else(|| panic!("a layer before a GELU has no bias"));
    let compute = |hidden: Option<&mut [Bf16]>| {
        build_blocks(rows, out, |activation| {
            with_rhs(layer, |rhs| {
                gemm_bf16(x.blocks(), rhs, &mut Gelu::new(hidden, activation, rows, bias));
            });
        })
    };
    if !save_hidden {
        return (None, compute(None));
    }
    let mut activation = None;
    let hidden = build_blocks(rows, out, |hidden| activation = Some(compute(Some(hidden))));
    (
        Some(hidden),
        activation.unwrap_or_else(|| unreachable!("built together with `hidden`")),
    )
}

/// Computes `dx = β·dx + dy·w` in f32.
pub(super) fn input_gradient(dy: &Tensor, layer: &Layer, dx: &mut [f32], beta: Beta) {
    let w = &layer.weight;
    let bytes = dy.bytes() + w.bytes() + size_of_val(dx) as f64;
    let _span = matmul_span("input gradient", dy.rows(), dy.columns(), w.columns(), bytes);
    match dy.format() {
        Format::F32 => gemm(layer.f32_products, dx, w.columns(), beta, view(dy), view(w)),
        Format::Bf16 => {
            gemm_bf16(
                dy.blocks(),
                Rhs::Weight(w.data()),
                &mut StoreF32::new(dx, w.columns(), beta),
            );
        }
    }
}

/// Returns `dy·w` as an operand.
pub(super) fn input_gradient_operand(dy: &Tensor, layer: &Layer) -> Tensor {
    let w = &layer.weight;
    let (rows, columns) = (dy.rows(), w.columns());
    if dy.format() == Format::F32 {
        return build(rows, columns, |dx| input_gradient(dy, layer, dx, Beta::Zero));
    }
    let bytes = w.bytes() + dy.bytes() * (1.0 + columns as f64 / dy.columns() as f64);
    let _span = matmul_span("input gradient", rows, dy.columns(), columns, bytes);
    build_blocks(rows, columns, |dx| {
        gemm_bf16(
            dy.blocks(),
            Rhs::Weight(w.data()),
            &mut StoreBf16::new(dx, rows, columns, None),
        );
    })
}

/// Returns the gradient of `hidden` as an operand, given the gradient `dy` of `gelu(hidden)·wᵀ`.
pub(super) fn input_gradient_gelu(dy: &Tensor, layer: &Layer, hidden: &Tensor) -> Tensor {
    let w = &layer.weight;
    let (rows, columns) = (dy.rows(), w.columns());
    if dy.format() == Format::F32 {
        let mut d_hidden = input_gradient_operand(dy, layer);
        let _span = memory_bound_span("GELU gradient", 3.0 * hidden.bytes());
        gelu::backward_in_place(hidden.data(), d_hidden.data_mut());
        return d_hidden;
    }
    let bytes = w.bytes() + dy.bytes() + 2.0 * hidden.bytes();
    let _span = matmul_span("input gradient, GELU", rows, dy.columns(), columns, bytes);
    build_blocks(rows, columns, |d_hidden| {
        let mut epilogue = GeluBackward::new(hidden.blocks(), d_hidden);
        gemm_bf16(dy.blocks(), Rhs::Weight(w.data()), &mut epilogue);
    })
}

/// Computes `dw [out, in] = β·dw + dyᵀ·x`, and adds the sum of the rows of `dy` to `db`.
pub(super) fn layer_gradient(
    dy: &Tensor,
    x: Input,
    dw: &mut [f32],
    beta: Beta,
    db: Option<&mut [f32]>,
    method: F32Products,
) {
    let out = dy.columns();
    let saved = match &x {
        Input::Operand(x) | Input::Gelu(x) => x,
        Input::NormOutput(saved, _) => saved.matrix(),
    };
    let (rows, width) = (saved.rows(), saved.columns());
    let bytes = dy.bytes() + saved.bytes() + size_of_val(dw) as f64;
    let _span = matmul_span("weight gradient", out, rows, width, bytes);
    if dy.format() == Format::F32 {
        let x = match x {
            Input::Operand(x) => x.clone(),
            Input::NormOutput(saved, layer_norm) => norm::recompute(saved, layer_norm),
            Input::Gelu(x) => build(rows, width, |y| gelu::forward(x.data(), y)),
        };
        gemm(method, dw, width, beta, view(dy).transposed(), view(&x));
        if let Some(db) = db {
            add_column_sums(dy.data(), out, db);
        }
        return;
    }
    // Of two operands, the smaller is transposed and the larger is packed, because transposing costs more than packing. The output
    // of a layer norm is recomputed while it is transposed, the output of a GELU while it is packed.
    let x_t = match x {
        Input::NormOutput(saved, layer_norm) => Some(norm::recompute_transposed(saved, layer_norm)),
        Input::Operand(x) if width <= out => Some(transpose(x)),
        _ => None,
    };
    if let Some(x_t) = x_t {
        let rhs = match db {
            Some(db) => Rhs::WithColumnSums(dy.blocks(), db),
            None => Rhs::Blocks(dy.blocks()),
        };
        gemm_bf16(x_t.blocks(), rhs, &mut StoreF32Transposed::new(dw, width, out, beta));
        return;
    }
    let dy_t = transpose(dy);
    if let Some(db) = db {
        blocks::add_row_sums(dy_t.blocks(), db);
    }
    let rhs = match x {
        Input::Gelu(x) => Rhs::Gelu(x.blocks()),
        _ => Rhs::Blocks(saved.blocks()),
    };
    gemm_bf16(dy_t.blocks(), rhs, &mut StoreF32::new(dw, width, beta));
}

/// Returns the transpose of an operand, in blocks.
fn transpose(x: &Tensor) -> Tensor {
    build_blocks(x.columns(), x.rows(), |out| blocks::transpose(x.blocks(), out))
}

/// Adds the sum of the rows of `dy` to `db`, for a layer whose weight is frozen.
pub(super) fn bias_gradient(dy: &Tensor, db: &mut [f32]) {
    let _span = memory_bound_span("bias gradient", dy.bytes());
    match dy.format() {
        Format::F32 => add_column_sums(dy.data(), dy.columns(), db),
        Format::Bf16 => blocks::add_row_sums(transpose(dy).blocks(), db),
    }
}
