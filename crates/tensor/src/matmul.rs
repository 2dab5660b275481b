//! Matrix products and the operations fused with them, in f32 or bfloat16: the formats of the operands decide.
//!
//! Activations that enter products are *operands*: the f32 matrix itself, or its rounded copy in blocks.

use crate::precision::{F32Products, Precision};
use crate::profile::{Span, pass, span};
use crate::tensor::{Format, Tensor, bytes};
use vlct_kernels::bf16::epilogue::{Gelu, GeluBackward, StoreBf16, StoreF32, StoreF32Transposed};
use vlct_kernels::bf16::gemm::gemm as gemm_bf16;
use vlct_kernels::bf16::{PackedRhs, Rhs, blocks};
use vlct_kernels::elementwise::bias_rows;
use vlct_kernels::mat::{Beta, MatRef};
use vlct_kernels::parallel::add_column_sums;
use vlct_kernels::{bf16, gelu, layer_norm};

/// A linear layer: a weight `[out, in]` and optionally a bias `[1, out]`.
#[derive(Clone)]
pub(crate) struct Layer {
    pub weight: Tensor,
    pub bias: Option<Tensor>,
    /// How f32 products with the weight are computed.
    pub f32_products: F32Products,
}

impl Layer {
    fn bias(&self) -> Option<&[f32]> {
        self.bias.as_ref().map(Tensor::data)
    }
}

/// Reports a product of `[rows, inner]` with `[inner, columns]` that reads and writes `moved` bytes.
fn product(name: &str, rows: usize, inner: usize, columns: usize, moved: f64) -> Option<Span> {
    span(|| {
        (
            format!("{name} {rows}×{inner}×{columns}"),
            2.0 * (rows * inner * columns) as f64,
            moved,
        )
    })
}

fn view(t: &Tensor) -> MatRef<'_> {
    MatRef::new(t.data(), t.rows(), t.columns(), t.columns())
}

/// `x` as an operand of products in this precision.
pub(crate) fn operand(x: &Tensor, precision: Precision) -> Tensor {
    match (x.format(), precision) {
        (Format::F32, Precision::Bf16) => {
            if let Some(rounded) = x.rounded() {
                return rounded.clone();
            }
            let (rows, columns) = (x.rows(), x.columns());
            let _span = pass("round", 1.5 * bytes(x));
            Tensor::build_blocks(rows, columns, |out| blocks::from_f32(x.data(), rows, columns, out))
        }
        _ => x.clone(),
    }
}

/// Calls `run` with the weight as the rhs of `x·wᵀ`; packs it once if the tensor has a slot for its packed form.
fn with_rhs<R>(w: &Tensor, run: impl FnOnce(Rhs) -> R) -> R {
    match w.packed() {
        Some(slot) => {
            let packed = slot.get().unwrap_or_else(|| {
                // Packing before the slot is locked: during packing, rayon may run another product on this thread, which would then
                // wait for the slot that its own thread holds.
                let made = PackedRhs::pack_transposed(w.data(), w.rows(), w.columns());
                slot.get_or_init(|| made)
            });
            run(Rhs::Packed(packed))
        }
        None => run(Rhs::WeightTransposed(w.data())),
    }
}

/// `x·wᵀ + b (+ residual)` in f32, `[rows, out]`.
pub(crate) fn linear(x: &Tensor, layer: &Layer, residual: Option<&Tensor>) -> Tensor {
    let y_bytes = (x.rows() * layer.weight.rows() * 4) as f64 * if residual.is_some() { 2.0 } else { 1.0 };
    let moved = bytes(x) + bytes(&layer.weight) + y_bytes;
    let _span = product("linear", x.rows(), x.columns(), layer.weight.rows(), moved);
    let (rows, out) = (x.rows(), layer.weight.rows());
    Tensor::build(rows, out, |y| match x.format() {
        Format::F32 => {
            let beta = match (layer.bias(), residual) {
                (Some(b), r) => {
                    bias_rows(b, r.map(Tensor::data), y);
                    Beta::One
                }
                (None, Some(r)) => {
                    y.copy_from_slice(r.data());
                    Beta::One
                }
                (None, None) => Beta::Zero,
            };
            layer
                .f32_products
                .gemm(y, out, beta, view(x), view(&layer.weight).transposed());
        }
        Format::Bf16 => with_rhs(&layer.weight, |rhs| {
            let mut store = StoreF32::new(y, out, Beta::Zero)
                .bias(layer.bias())
                .residual(residual.map(Tensor::data));
            gemm_bf16(x.blocks(), rhs, &mut store);
        }),
    })
}

/// `x·wᵀ + b` as an operand.
pub(crate) fn linear_operand(x: &Tensor, layer: &Layer) -> Tensor {
    if x.format() == Format::F32 {
        return linear(x, layer, None);
    }
    let moved = bytes(&layer.weight) + bytes(x) * (1.0 + layer.weight.rows() as f64 / x.columns() as f64);
    let _span = product("linear", x.rows(), x.columns(), layer.weight.rows(), moved);
    let (rows, out) = (x.rows(), layer.weight.rows());
    Tensor::build_blocks(rows, out, |y| {
        with_rhs(&layer.weight, |rhs| {
            gemm_bf16(x.blocks(), rhs, &mut StoreBf16::new(y, rows, out, layer.bias()))
        });
    })
}

/// `hidden = x·wᵀ + b`, if `keep`, and `gelu(hidden)`, both operands.
///
/// # Panics
/// If the layer has no bias.
pub(crate) fn linear_gelu(x: &Tensor, layer: &Layer, keep: bool) -> (Option<Tensor>, Tensor) {
    let (rows, out) = (x.rows(), layer.weight.rows());
    if x.format() == Format::F32 {
        let hidden = linear(x, layer, None);
        let _span = pass("GELU", 2.0 * bytes(&hidden));
        let active = Tensor::build(rows, out, |y| gelu::forward(hidden.data(), y));
        return (keep.then_some(hidden), active);
    }
    let results = if keep { 2.0 } else { 1.0 };
    let moved = bytes(&layer.weight) + bytes(x) * (1.0 + results * out as f64 / x.columns() as f64);
    let _span = product("linear, GELU", rows, x.columns(), out, moved);
    let bias = layer
        .bias()
        .unwrap_or_else(|| panic!("layers before a GELU have a bias"));
    let run = |hidden: Option<&mut [bf16::Bf16]>| {
        Tensor::build_blocks(rows, out, |active| {
            with_rhs(&layer.weight, |rhs| {
                gemm_bf16(x.blocks(), rhs, &mut Gelu::new(hidden, active, rows, bias));
            });
        })
    };
    if !keep {
        return (None, run(None));
    }
    let mut active = None;
    let hidden = Tensor::build_blocks(rows, out, |hidden| active = Some(run(Some(hidden))));
    (
        Some(hidden),
        active.unwrap_or_else(|| unreachable!("built together with `hidden`")),
    )
}

/// `dx = β·dx + dy·w` in f32.
pub(crate) fn input_gradient(dy: &Tensor, layer: &Layer, dx: &mut [f32], beta: Beta) {
    let w = &layer.weight;
    let moved = bytes(dy) + bytes(w) + size_of_val(dx) as f64;
    let _span = product("input gradient", dy.rows(), dy.columns(), w.columns(), moved);
    match dy.format() {
        Format::F32 => layer.f32_products.gemm(dx, w.columns(), beta, view(dy), view(w)),
        Format::Bf16 => {
            gemm_bf16(
                dy.blocks(),
                Rhs::Weight(w.data()),
                &mut StoreF32::new(dx, w.columns(), beta),
            );
        }
    }
}

/// `dy·w` as an operand.
pub(crate) fn input_gradient_operand(dy: &Tensor, layer: &Layer) -> Tensor {
    let w = &layer.weight;
    let (rows, columns) = (dy.rows(), w.columns());
    if dy.format() == Format::F32 {
        return Tensor::build(rows, columns, |dx| input_gradient(dy, layer, dx, Beta::Zero));
    }
    let moved = bytes(w) + bytes(dy) * (1.0 + columns as f64 / dy.columns() as f64);
    let _span = product("input gradient", rows, dy.columns(), columns, moved);
    Tensor::build_blocks(rows, columns, |dx| {
        gemm_bf16(
            dy.blocks(),
            Rhs::Weight(w.data()),
            &mut StoreBf16::new(dx, rows, columns, None),
        );
    })
}

/// The gradient of `hidden` as an operand, through the layer after the GELU and the GELU.
pub(crate) fn input_gradient_gelu(dy: &Tensor, layer: &Layer, hidden: &Tensor) -> Tensor {
    let w = &layer.weight;
    let (rows, columns) = (dy.rows(), w.columns());
    if dy.format() == Format::F32 {
        let mut d_hidden = input_gradient_operand(dy, layer);
        let _span = pass("GELU gradient", 3.0 * bytes(hidden));
        gelu::backward_in_place(hidden.data(), d_hidden.make_mut());
        return d_hidden;
    }
    let moved = bytes(w) + bytes(dy) + 2.0 * bytes(hidden);
    let _span = product("input gradient, GELU", rows, dy.columns(), columns, moved);
    Tensor::build_blocks(rows, columns, |d_hidden| {
        let mut epilogue = GeluBackward::new(hidden.blocks(), d_hidden);
        gemm_bf16(dy.blocks(), Rhs::Weight(w.data()), &mut epilogue);
    })
}

/// The input of a layer for the gradient of its weight. What can be recomputed from saved tensors is not saved.
pub(crate) enum Input<'a> {
    /// An operand.
    Operand(&'a Tensor),
    /// The output of a layer norm.
    Normed(&'a Normed, &'a Scale),
    /// The GELU of an operand.
    Gelu(&'a Tensor),
}

/// `dw [out, in] = β·dw + dyᵀ·x` and `db += Σ rows of dy`.
pub(crate) fn layer_gradient(
    dy: &Tensor,
    x: Input,
    dw: &mut [f32],
    beta: Beta,
    products: F32Products,
    db: Option<&mut [f32]>,
) {
    let out = dy.columns();
    let kept = match &x {
        Input::Operand(x) | Input::Gelu(x) => x,
        Input::Normed(normed, _) => normed.kept(),
    };
    let (rows, width) = (kept.rows(), kept.columns());
    let moved = bytes(dy) + bytes(kept) + size_of_val(dw) as f64;
    let _span = product("weight gradient", out, rows, width, moved);
    if dy.format() == Format::F32 {
        let x = match x {
            Input::Operand(x) => x.clone(),
            Input::Normed(normed, scale) => normed.output(scale),
            Input::Gelu(x) => Tensor::build(rows, width, |y| gelu::forward(x.data(), y)),
        };
        products.gemm(dw, width, beta, view(dy).transposed(), view(&x));
        if let Some(db) = db {
            add_column_sums(dy.data(), out, db);
        }
        return;
    }
    // One of the two matrices is transposed, which costs more than packing the other one: the smaller one. A layer norm is recomputed
    // while it is transposed, a GELU while it is packed.
    let x_t = match x {
        Input::Normed(normed, scale) => Some(normed.transpose(scale)),
        Input::Operand(x) if width <= out => Some(transpose(x)),
        _ => None,
    };
    if let Some(x) = x_t {
        let rhs = match db {
            Some(db) => Rhs::WithColumnSums(dy.blocks(), db),
            None => Rhs::Blocks(dy.blocks()),
        };
        gemm_bf16(x.blocks(), rhs, &mut StoreF32Transposed::new(dw, width, out, beta));
        return;
    }
    let dy_t = transpose(dy);
    if let Some(db) = db {
        blocks::add_row_sums(dy_t.blocks(), db);
    }
    let rhs = match x {
        Input::Gelu(x) => Rhs::Gelu(x.blocks()),
        _ => Rhs::Blocks(kept.blocks()),
    };
    gemm_bf16(dy_t.blocks(), rhs, &mut StoreF32::new(dw, width, beta));
}

/// The transpose of an operand, in blocks.
fn transpose(x: &Tensor) -> Tensor {
    Tensor::build_blocks(x.columns(), x.rows(), |out| blocks::transpose(x.blocks(), out))
}

/// `db += Σ rows of dy` alone, for a layer whose weight is frozen.
pub(crate) fn bias_gradient(dy: &Tensor, db: &mut [f32]) {
    let _span = pass("bias gradient", bytes(dy));
    match dy.format() {
        Format::F32 => add_column_sums(dy.data(), dy.columns(), db),
        Format::Bf16 => blocks::add_row_sums(transpose(dy).blocks(), db),
    }
}

/// The tensors that a layer norm saves for its backward pass.
pub(crate) enum Normed {
    /// The input, and the mean and `rstd` of its rows.
    F32 { x: Tensor, mean: Tensor, rstd: Tensor },
    /// The normalised rows, and their `rstd`.
    Bf16 { normalised: Tensor, rstd: Tensor },
}

/// Scale `[1, width]`, shift `[1, width]` and ε of a layer norm.
#[derive(Clone)]
pub(crate) struct Scale {
    pub weight: Tensor,
    pub bias: Tensor,
    pub eps: f32,
}

/// Layer norm of `x` (f32) as an operand.
pub(crate) fn norm(x: &Tensor, scale: &Scale, precision: Precision) -> (Normed, Tensor) {
    let _span = pass("layer norm", 2.0 * bytes(x));
    let (rows, width) = (x.rows(), x.columns());
    let (w, b) = (scale.weight.data(), scale.bias.data());
    let mut rstd = Tensor::zeros(1, rows);
    match precision {
        Precision::F32 => {
            let mut mean = Tensor::zeros(1, rows);
            let y = Tensor::build(rows, width, |y| {
                layer_norm::forward(x.data(), w, b, scale.eps, y, mean.make_mut(), rstd.make_mut());
            });
            (
                Normed::F32 {
                    x: x.clone(),
                    mean,
                    rstd,
                },
                y,
            )
        }
        Precision::Bf16 => {
            let mut y = None;
            let normalised = Tensor::build_blocks(rows, width, |normalised| {
                y = Some(Tensor::build_blocks(rows, width, |y| {
                    bf16::layer_norm::forward(x.data(), w, b, scale.eps, normalised, y, rstd.make_mut());
                }));
            });
            let y = y.unwrap_or_else(|| unreachable!("built together with `normalised`"));
            (Normed::Bf16 { normalised, rstd }, y)
        }
    }
}

impl Normed {
    fn kept(&self) -> &Tensor {
        match self {
            Self::F32 { x, .. } => x,
            Self::Bf16 { normalised, .. } => normalised,
        }
    }

    /// Recomputes the output of [`norm`] in f32.
    fn output(&self, scale: &Scale) -> Tensor {
        match self {
            Self::F32 { x, .. } => norm(x, scale, Precision::F32).1,
            Self::Bf16 { .. } => unreachable!("operands have the format of saved tensors"),
        }
    }

    /// Recomputes the output of [`norm`] in blocks, transposed.
    fn transpose(&self, scale: &Scale) -> Tensor {
        match self {
            Self::F32 { .. } => unreachable!("operands have the format of saved tensors"),
            Self::Bf16 { normalised: n, .. } => Tensor::build_blocks(n.columns(), n.rows(), |out| {
                blocks::transpose_scaled(n.blocks(), scale.weight.data(), scale.bias.data(), out);
            }),
        }
    }

    /// Adds to `dx` (f32), and returns it together with the gradients of scale and shift.
    pub fn backward(&self, dy: &Tensor, scale: &Scale, mut dx: Tensor) -> (Tensor, [Tensor; 2]) {
        let _span = pass("layer norm gradient", bytes(self.kept()) + bytes(dy) + 2.0 * bytes(&dx));
        let w = scale.weight.data();
        let [mut dw, mut db] = [(); 2].map(|_| Tensor::zeros(1, w.len()));
        match self {
            Self::F32 { x, mean, rstd } => {
                let (mean, rstd) = (mean.data(), rstd.data());
                layer_norm::backward(
                    dy.data(),
                    x.data(),
                    w,
                    mean,
                    rstd,
                    dx.make_mut(),
                    Beta::One,
                    dw.make_mut(),
                    db.make_mut(),
                );
            }
            Self::Bf16 { normalised, rstd } => {
                let (normalised, rstd) = (normalised.blocks(), rstd.data());
                let rounded = Tensor::build_blocks(dy.rows(), dy.columns(), |rounded| {
                    let (dx, dw, db) = (dx.make_mut(), dw.make_mut(), db.make_mut());
                    bf16::layer_norm::backward(dy.blocks(), normalised, w, rstd, dx, rounded, dw, db);
                });
                dx = dx.with_rounded(rounded);
            }
        }
        (dx, [dw, db])
    }
}
