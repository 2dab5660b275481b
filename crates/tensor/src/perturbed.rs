//! A backend for tests. It measures how sensitive a computation is to the rounding of operands: it computes in f32 on the CPU, and
//! perturbs each element of the operands of matrix products by up to half a unit in the last place of bfloat16.
//!
//! The distance between its results and those without perturbation bounds the errors of bfloat16. This bound accounts for cancellation and
//! does not depend on the bfloat16 kernels.

use crate::backend::{
    Backend, Beta, Clip, Input, Ipot, Layer, LayerNorm, Pair, ParameterUpdate, Rule, SavedNorm, SavedTransport,
    SparseMatrix, Timestamp,
};
use crate::cpu::CPU;
use crate::precision::{F32Products, Precision};
use crate::tensor::{Order, Planes, Tensor};
use crate::varlen::Varlen;
use std::ops::Range;

/// The backend. The perturbation is a function of the seed and the value.
pub(crate) struct Perturbed {
    pub seed: u64,
}

/// Half a unit in the last place of a bfloat16 value in [1, 2).
const HALF_ULP: f32 = 1.0 / 256.0;

impl Perturbed {
    /// Returns `v` plus a pseudo-random value, uniform in ± half a unit in the last place of bfloat16. Equal values move equally, as in
    /// rounding.
    fn perturb(&self, v: f32) -> f32 {
        // The finaliser of SplitMix64 (Steele et al. 2014).
        let mut h = self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ v.to_bits() as u64;
        h = (h ^ (h >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        h = (h ^ (h >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        h ^= h >> 31;
        let uniform = (h >> 40) as f32 / (1 << 23) as f32 - 1.0;
        let exponent = f32::from_bits(v.to_bits() & 0x7f80_0000);
        v + uniform * HALF_ULP * exponent
    }

    fn perturb_tensor(&self, t: &Tensor) -> Tensor {
        let values: Vec<f32> = t.to_host().iter().map(|v| self.perturb(*v)).collect();
        CPU.upload(t.rows(), t.columns(), &values)
    }

    /// Perturbs the normalised rows, which a bfloat16 step rounds and saves. In f32 they are recomputed from the saved input; therefore
    /// the saved input is changed.
    fn perturb_saved(&self, saved: &SavedNorm) -> SavedNorm {
        let SavedNorm::Input { x, mean, rstd } = saved else {
            unreachable!("the CPU saves the input in f32");
        };
        let x = map_values(x, mean, rstd, |_, value, mean, rstd| {
            self.perturb((value - mean) * rstd) / rstd + mean
        });
        SavedNorm::Input {
            x,
            mean: mean.clone(),
            rstd: rstd.clone(),
        }
    }

    fn perturb_layer(&self, layer: &Layer) -> Layer {
        Layer {
            weight: self.perturb_tensor(&layer.weight),
            ..layer.clone()
        }
    }
}

/// Returns the output `[T, D]` of a layer norm, given its saved tensors.
fn norm_output(saved: &SavedNorm, norm: &LayerNorm) -> Tensor {
    let SavedNorm::Input { x, mean, rstd } = saved else {
        unreachable!("the CPU saves the input in f32");
    };
    let (weight, bias) = (norm.weight.to_host(), norm.bias.to_host());
    map_values(x, mean, rstd, |column, value, mean, rstd| {
        (value - mean) * rstd * weight[column] + bias[column]
    })
}

/// Maps each value of `x [T, D]`. `map` gets the column, the value, and the mean and reciprocal standard deviation of the row.
fn map_values(x: &Tensor, mean: &Tensor, rstd: &Tensor, map: impl Fn(usize, f32, f32, f32) -> f32) -> Tensor {
    let (mean, rstd, width) = (mean.to_host(), rstd.to_host(), x.columns());
    let value = |(i, value): (usize, &f32)| map(i % width, *value, mean[i / width], rstd[i / width]);
    let values: Vec<f32> = x.to_host().iter().enumerate().map(value).collect();
    CPU.upload(x.rows(), width, &values)
}

/// Implements functions by those of the CPU backend.
macro_rules! delegate {
    ($(fn $name:ident(&self $(, $arg:ident: $type:ty)* $(,)?) $(-> $result:ty)?;)*) => {
        $(fn $name(&self $(, $arg: $type)*) $(-> $result)? {
            CPU.$name($($arg),*)
        })*
    };
}

impl Backend for Perturbed {
    fn name(&self) -> &str {
        "perturbed CPU"
    }

    fn memory(&self) -> &str {
        CPU.memory()
    }

    fn operand(&self, x: &Tensor, precision: Precision) -> Tensor {
        assert_eq!(precision, Precision::F32, "operands are perturbed in f32 only");
        self.perturb_tensor(x)
    }

    fn linear(&self, x: &Tensor, layer: &Layer, residual: Option<&Tensor>) -> Tensor {
        CPU.linear(x, &self.perturb_layer(layer), residual)
    }

    fn linear_operand(&self, x: &Tensor, layer: &Layer) -> Tensor {
        self.perturb_tensor(&CPU.linear_operand(x, &self.perturb_layer(layer)))
    }

    fn linear_gelu(&self, x: &Tensor, layer: &Layer, save_hidden: bool) -> (Option<Tensor>, Tensor) {
        let (hidden, activation) = CPU.linear_gelu(x, &self.perturb_layer(layer), save_hidden);
        (
            hidden.map(|hidden| self.perturb_tensor(&hidden)),
            self.perturb_tensor(&activation),
        )
    }

    fn input_gradient(&self, dy: &Tensor, layer: &Layer, dx: &mut Tensor, beta: Beta) {
        CPU.input_gradient(dy, &self.perturb_layer(layer), dx, beta);
    }

    fn input_gradient_operand(&self, dy: &Tensor, layer: &Layer) -> Tensor {
        self.perturb_tensor(&CPU.input_gradient_operand(dy, &self.perturb_layer(layer)))
    }

    fn input_gradient_gelu(&self, dy: &Tensor, layer: &Layer, hidden: &Tensor) -> Tensor {
        self.perturb_tensor(&CPU.input_gradient_gelu(dy, &self.perturb_layer(layer), hidden))
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
        let recomputed = match x {
            Input::Operand(x) => x.clone(),
            Input::Gelu(hidden) => self.perturb_tensor(&CPU.gelu(hidden)),
            Input::NormOutput(saved, norm) => self.perturb_tensor(&norm_output(saved, norm)),
        };
        CPU.layer_gradient(dy, Input::Operand(&recomputed), dw, beta, db, method);
    }

    fn norm(&self, x: &Tensor, norm: &LayerNorm, precision: Precision) -> (SavedNorm, Tensor) {
        let (saved, y) = CPU.norm(x, norm, precision);
        (self.perturb_saved(&saved), self.perturb_tensor(&y))
    }

    fn attention(&self, qkv: &Tensor, varlen: &Varlen, heads: usize) -> (Tensor, Tensor) {
        let (out, log_sum_exp) = CPU.attention(qkv, varlen, heads);
        (self.perturb_tensor(&out), log_sum_exp)
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
        self.perturb_tensor(&CPU.attention_gradient(d_out, qkv, out, log_sum_exp, varlen, heads))
    }

    delegate! {
        fn bf16_is_fast(&self) -> bool;
        fn supports_f32_products(&self, method: F32Products) -> bool;
        fn fastest_f32_products(&self) -> F32Products;
        fn timestamp(&self) -> Timestamp;
        fn release_unused(&self);
        fn empty(&self, rows: usize, columns: usize) -> Tensor;
        fn zeros(&self, rows: usize, columns: usize) -> Tensor;
        fn empty_together(&self, shapes: &[[usize; 2]]) -> Vec<Tensor>;
        fn zeros_together(&self, shapes: &[[usize; 2]]) -> Vec<Tensor>;
        fn upload(&self, rows: usize, columns: usize, values: &[f32]) -> Tensor;
        fn overwrite(&self, to: &mut Tensor, write: &mut dyn FnMut(&mut [f32]));
        fn patches(&self, images: &[(Planes, &[u32])], side: usize, order: Order) -> Tensor;
        fn first_non_finite(&self, matrices: &[Tensor]) -> Option<usize>;
        fn bias_gradient(&self, dy: &Tensor, db: &mut Tensor);
        fn norm_gradient(&self, saved: &SavedNorm, dy: &Tensor, norm: &LayerNorm, dx: &mut Tensor, beta: Beta) -> [Tensor; 2];
        fn add(&self, x: &Tensor, sum: &mut Tensor, beta: Beta);
        fn gelu(&self, x: &Tensor) -> Tensor;
        fn gelu_gradient(&self, x: &Tensor, dy: &mut Tensor);
        fn tanh(&self, x: &Tensor) -> Tensor;
        fn tanh_gradient(&self, y: &Tensor, dy: &mut Tensor);
        fn dropout(&self, x: &Tensor, p: f32, key: [u64; 4]) -> Tensor;
        fn dropout_gradient(&self, dy: &mut Tensor, p: f32, key: [u64; 4]);
        fn gather(&self, picks: &[(&Tensor, &[u32])]) -> Tensor;
        fn lookup(&self, base: Option<&Tensor>, tables: &[(&Tensor, &[u32])]) -> Tensor;
        fn scatter_add(&self, d_out: &Tensor, rows: &[u32], d_table: &mut Tensor, beta: Beta);
        fn sparse_product(&self, matrix: &SparseMatrix, x: &Tensor, out: &mut Tensor, beta: Beta);
        fn cross_entropy(&self, logits: &Tensor, targets: &[u32]) -> (Tensor, Tensor);
        fn cross_entropy_gradient(&self, probabilities: &mut Tensor, targets: &[u32], d: f32);
        fn soft_cross_entropy(&self, logits: &Tensor, targets: &Tensor) -> (Tensor, Tensor);
        fn soft_cross_entropy_gradient(&self, probabilities: &mut Tensor, targets: &Tensor, d: f32);
        fn interpolate_rows(&self, x: &Tensor, y: &Tensor, factors: &[f32]) -> Tensor;
        fn scale_rows(&self, x: &Tensor, factors: &[f32]) -> Tensor;
        fn segment_mean(&self, x: &Tensor, segments: &[Range<usize>]) -> Tensor;
        fn segment_mean_gradient(&self, d_out: &Tensor, segments: &[Range<usize>], dx: &mut Tensor, beta: Beta);
        fn hits(&self, logits: &Tensor, targets: &[u32]) -> Tensor;
        fn score_at_argmax(&self, logits: &Tensor, targets: &Tensor) -> Tensor;
        fn binary_cross_entropy(&self, logits: &Tensor, targets: &Tensor) -> Tensor;
        fn binary_cross_entropy_gradient(&self, logits: &mut Tensor, targets: &Tensor, d: f32);
        fn normalise_rows(&self, x: &mut Tensor);
        fn squared_error(&self, prediction: &Tensor, target: &Tensor) -> Tensor;
        fn squared_error_gradient(&self, prediction: &mut Tensor, target: &Tensor, d: f32);
        fn transport(&self, features: &Tensor, pairs: &[Pair], ipot: Ipot) -> (Tensor, SavedTransport);
        fn transport_gradient(&self, saved: &SavedTransport, pairs: &[Pair], d: f32, d_features: &mut Tensor, beta: Beta);
        fn transport_plan(&self, features: &Tensor, text: Range<usize>, image: Range<usize>, ipot: Ipot) -> Tensor;
        fn weighted_sum(&self, terms: &[(&Tensor, f32)]) -> Tensor;
        fn interpolate(&self, pairs: &mut [(&mut Tensor, &Tensor)], rate: f32);
        fn l2_norm(&self, matrices: &[&Tensor]) -> Tensor;
        fn update(&self, rule: Rule, clip: Option<&Clip>, updates: &mut [ParameterUpdate]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_move_by_up_to_half_a_unit_in_the_last_place_of_bfloat16() {
        let perturbed = Perturbed { seed: 3 };
        for exponent in [0.125, 1.0, 1024.0] {
            let moves: Vec<f32> = (0..4096)
                .map(|i| exponent * (1.0 + i as f32 / 4096.0))
                .map(|v| (perturbed.perturb(v) - v) / (exponent * HALF_ULP))
                .collect();
            assert!(moves.iter().all(|m| m.abs() <= 1.0 + 1e-3), "{exponent}");
            let mean = moves.iter().sum::<f32>() / 4096.0;
            let square = moves.iter().map(|m| m * m).sum::<f32>() / 4096.0;
            // A uniform value in ±1 has mean 0 and variance 1/3.
            assert!(
                mean.abs() < 0.05 && (square - 1.0 / 3.0).abs() < 0.03,
                "{mean} {square}"
            );
        }
        assert_eq!(perturbed.perturb(0.0), 0.0);
        assert_eq!(perturbed.perturb(0.3), perturbed.perturb(0.3));
        assert_ne!(perturbed.perturb(0.3), Perturbed { seed: 4 }.perturb(0.3));
    }
}
