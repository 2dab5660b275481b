//! Matrix products and what is fused with them, in either precision: the formats of the operands decide.
//!
//! Activations that enter products are *operands*: the f32 matrix itself, or its rounded copy in blocks.

use crate::precision::Precision;
use crate::profile::{Span, pass, span};
use crate::tensor::{Format, Tensor, bytes};
use vlct_kernels::bf16::epilogue::{Gelu, GeluBackward, StoreBf16, StoreF32, StoreF32Transposed};
use vlct_kernels::bf16::gemm::gemm as gemm_bf16;
use vlct_kernels::bf16::{PackedRhs, Rhs, blocks};
use vlct_kernels::elementwise::bias_rows;
use vlct_kernels::gemm::gemm;
use vlct_kernels::mat::{Beta, MatRef};
use vlct_kernels::parallel::{Parallelism, add_column_sums};
use vlct_kernels::{bf16, gelu, layer_norm};

/// A weight `[out, in]` and, where there is one, a bias `[1, out]`.
#[derive(Clone)]
pub(crate) struct Layer {
    pub weight: Tensor,
    pub bias: Option<Tensor>,
}

impl Layer {
    fn bias(&self) -> Option<&[f32]> {
        self.bias.as_ref().map(Tensor::data)
    }
}

/// Reports a product of `[rows, inner]` with `[inner, columns]` that reads and writes so many bytes.
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

/// The form in which `x` enters products.
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

/// Calls `run` with the weight as right operand of `x·wᵀ`: as it was packed before, if it has a place for that.
fn with_rhs<R>(w: &Tensor, run: impl FnOnce(Rhs) -> R) -> R {
    match w.packed() {
        Some(slot) => {
            let packed = slot.get().unwrap_or_else(|| {
                // Before the slot is locked: a thread that packs may take up another product, which would wait for its own.
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
            gemm(
                y,
                out,
                beta,
                1.0,
                view(x),
                view(&layer.weight).transposed(),
                Parallelism::Pool,
            );
        }
        Format::Bf16 => with_rhs(&layer.weight, |rhs| {
            let mut store = StoreF32::new(y, out, Beta::Zero)
                .bias(layer.bias())
                .residual(residual.map(Tensor::data));
            gemm_bf16(x.blocks(), rhs, &mut store);
        }),
    })
}

/// `x·wᵀ + b` as an operand again.
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

/// `hidden = x·wᵀ + b`, if it is to be kept, and `gelu(hidden)`, both operands.
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

/// `dx = dy·w` in f32, or added to it.
pub(crate) fn input_gradient(dy: &Tensor, w: &Tensor, dx: &mut [f32], beta: Beta) {
    let moved = bytes(dy) + bytes(w) + size_of_val(dx) as f64;
    let _span = product("input gradient", dy.rows(), dy.columns(), w.columns(), moved);
    match dy.format() {
        Format::F32 => gemm(dx, w.columns(), beta, 1.0, view(dy), view(w), Parallelism::Pool),
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
pub(crate) fn input_gradient_operand(dy: &Tensor, w: &Tensor) -> Tensor {
    let (rows, columns) = (dy.rows(), w.columns());
    if dy.format() == Format::F32 {
        return Tensor::build(rows, columns, |dx| input_gradient(dy, w, dx, Beta::Zero));
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

/// Through the layer after a GELU and the GELU itself: the gradient of `hidden`, an operand.
pub(crate) fn input_gradient_gelu(dy: &Tensor, w: &Tensor, hidden: &Tensor) -> Tensor {
    let (rows, columns) = (dy.rows(), w.columns());
    if dy.format() == Format::F32 {
        let mut d_hidden = input_gradient_operand(dy, w);
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

/// The input of a layer, as its weight's gradient needs it: what can be computed from something that is kept is not kept.
pub(crate) enum Input<'a> {
    /// An operand.
    Operand(&'a Tensor),
    /// The output of a layer norm.
    Normed(&'a Normed, &'a Scale),
    /// The GELU of an operand.
    Gelu(&'a Tensor),
}

/// `dw [out, in] = dyᵀ·x`, or added to it, and `db += Σ rows of dy`.
pub(crate) fn layer_gradient(dy: &Tensor, x: Input, dw: &mut [f32], beta: Beta, db: Option<&mut [f32]>) {
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
        gemm(dw, width, beta, 1.0, view(dy).transposed(), view(&x), Parallelism::Pool);
        if let Some(db) = db {
            add_column_sums(dy.data(), out, db);
        }
        return;
    }
    // One of the two matrices is turned around, which is dearer than bringing the other one into steps: the smaller one. What
    // is computed on the way has its way: norms when they are turned, GELUs when they are brought into steps.
    let turned_x = match x {
        Input::Normed(normed, scale) => Some(normed.transpose(scale)),
        Input::Operand(x) if width <= out => Some(transpose(x)),
        _ => None,
    };
    if let Some(x) = turned_x {
        let rhs = match db {
            Some(db) => Rhs::WithColumnSums(dy.blocks(), db),
            None => Rhs::Blocks(dy.blocks()),
        };
        gemm_bf16(x.blocks(), rhs, &mut StoreF32Transposed::new(dw, width, out, beta));
        return;
    }
    let turned = transpose(dy);
    if let Some(db) = db {
        blocks::add_row_sums(turned.blocks(), db);
    }
    let rhs = match x {
        Input::Gelu(x) => Rhs::Gelu(x.blocks()),
        _ => Rhs::Blocks(kept.blocks()),
    };
    gemm_bf16(turned.blocks(), rhs, &mut StoreF32::new(dw, width, beta));
}

/// The transpose of an operand in blocks.
fn transpose(x: &Tensor) -> Tensor {
    Tensor::build_blocks(x.columns(), x.rows(), |turned| blocks::transpose(x.blocks(), turned))
}

/// `db += Σ rows of dy` alone, for a layer whose weight is frozen.
pub(crate) fn bias_gradient(dy: &Tensor, db: &mut [f32]) {
    let _span = pass("bias gradient", bytes(dy));
    match dy.format() {
        Format::F32 => add_column_sums(dy.data(), dy.columns(), db),
        Format::Bf16 => blocks::add_row_sums(transpose(dy).blocks(), db),
    }
}

/// What a layer norm keeps for its backward pass.
pub(crate) enum Normed {
    /// The input, and mean and reciprocal deviation of its rows.
    F32 { x: Tensor, mean: Tensor, rstd: Tensor },
    /// The normalised rows, and the reciprocal deviations.
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

    /// What [`norm`] gave, once more, in f32.
    fn output(&self, scale: &Scale) -> Tensor {
        match self {
            Self::F32 { x, .. } => norm(x, scale, Precision::F32).1,
            Self::Bf16 { .. } => unreachable!("operands have the format of what is kept"),
        }
    }

    /// What [`norm`] gave, once more, in blocks and turned around.
    fn transpose(&self, scale: &Scale) -> Tensor {
        match self {
            Self::F32 { .. } => unreachable!("operands have the format of what is kept"),
            Self::Bf16 { normalised: n, .. } => Tensor::build_blocks(n.columns(), n.rows(), |turned| {
                blocks::transpose_scaled(n.blocks(), scale.weight.data(), scale.bias.data(), turned);
            }),
        }
    }

    /// Adds to `dx` (f32), and gives it back together with the gradients of scale and shift.
    pub fn backward(&self, dy: &Tensor, scale: &Scale, mut dx: Tensor) -> (Tensor, [Tensor; 2]) {
        let _span = pass("layer norm gradient", bytes(self.kept()) + bytes(dy) + 2.0 * bytes(&dx));
        let w = scale.weight.data();
        let [mut dw, mut db] = [0; 2].map(|_| Tensor::zeros(1, w.len()));
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
