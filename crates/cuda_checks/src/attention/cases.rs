//! Packed sequences, what the plain loops compute for them, and how far a kernel may be away.

use crate::device::{bf16_bound, random_bf16, sum_bound};
use std::f32::consts::{LN_2, LOG2_E};
use vlct_cuda::attention::Kernel;
use vlct_cuda::driver::Element::{self, Bf16, F32};
use vlct_kernels::bf16::Bf16 as Number;
use vlct_kernels::reference;

/// Packed sequences, heads, and the factor of the queries.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    pub lengths: &'static [usize],
    pub queries: &'static [usize],
    pub heads: usize,
    pub head_width: usize,
    /// Queries are random in [−1, 1), times this power of two.
    pub factor: f32,
}

const fn case(lengths: &'static [usize], queries: &'static [usize], heads: usize, head_width: usize) -> Case {
    Case {
        lengths,
        queries,
        heads,
        head_width,
        factor: 1.0,
    }
}

/// Single tokens, tiles that end at and near multiples of 16 and 64, empty sequences, sequences without queries; heads narrower than a
/// vector, of odd width, as wide as the kernels and narrower; scores of up to about 10 and 2000, with single keys whose score
/// is far below zero.
pub const CASES: [Case; 16] = [
    case(&[1], &[1], 1, 1),
    case(&[1], &[1], 3, 16),
    case(&[17, 64, 91, 145], &[17, 64, 91, 145], 1, 64),
    case(&[17, 64, 91], &[17, 1, 70], 3, 32),
    case(&[3, 130], &[2, 65], 1, 80),
    case(&[3, 130], &[0, 130], 1, 128),
    case(&[0, 5, 0, 70], &[0, 5, 0, 70], 3, 20),
    case(&[33, 2], &[33, 0], 1, 7),
    case(&[3, 130], &[3, 100], 3, 8),
    case(&[40], &[23], 3, 1),
    case(&[70, 16], &[66, 16], 2, 48),
    case(&[35], &[35], 1, 120),
    case(&[9, 36], &[0, 0], 1, 64),
    case(&[9], &[9], 1, 256),
    Case {
        factor: 32.0,
        ..case(&[70, 33], &[66, 33], 2, 32)
    },
    Case {
        factor: 4096.0,
        ..case(&[40, 1, 100, 1, 1], &[40, 1, 77, 1, 1], 1, 64)
    },
];

/// The most tokens of a sequence that a model has, 36 · 36 patches and 48 more, and a last tile with three of its four steps.
pub const LONG_CASES: [Case; 2] = [case(&[1344], &[130], 1, 32), case(&[170], &[170], 1, 64)];

/// The inputs of a case and the results of the plain loops.
pub struct Expected {
    pub cu_seqlens_k: Vec<usize>,
    pub cu_seqlens_q: Vec<usize>,
    pub qkv: Vec<f32>,
    pub d_out: Vec<f32>,
    pub out: Vec<f32>,
    pub log_sum_exp: Vec<f32>,
    pub d_qkv: Vec<f32>,
    heads: usize,
    head_width: usize,
}

/// The largest differences of a kernel from the plain loops.
pub struct Bounds {
    pub out: Vec<f32>,
    pub log_sum_exp: Vec<f32>,
    pub d_qkv: Vec<f32>,
}

fn offsets(lengths: &[usize]) -> Vec<usize> {
    let ends = lengths.iter().scan(0, |end, length| {
        *end += length;
        Some(*end)
    });
    std::iter::once(0).chain(ends).collect()
}

impl Expected {
    pub fn new(case: Case) -> Self {
        let (cu_seqlens_k, cu_seqlens_q) = (offsets(case.lengths), offsets(case.queries));
        let [tokens, queries] = [&cu_seqlens_k, &cu_seqlens_q].map(|offsets| offsets[offsets.len() - 1]);
        let width = case.heads * case.head_width;
        let mut qkv = random_bf16(tokens * 3 * width, 1);
        for row in qkv.chunks_exact_mut(3 * width) {
            row[..width].iter_mut().for_each(|q| *q *= case.factor);
        }
        let d_out = random_bf16(queries * width, 2);
        let (mut out, mut lse) = (vec![0f32; queries * width], vec![0f32; queries * case.heads]);
        let mut d_qkv = vec![0f32; qkv.len()];
        let (k, q, heads) = (&cu_seqlens_k, &cu_seqlens_q, case.heads);
        reference::attention_forward(&mut out, &mut lse, &qkv, k, q, heads);
        reference::attention_backward(&mut d_qkv, &d_out, &qkv, k, q, heads);
        Self {
            cu_seqlens_k,
            cu_seqlens_q,
            qkv,
            d_out,
            out,
            log_sum_exp: lse,
            d_qkv,
            heads,
            head_width: case.head_width,
        }
    }

    /// The bounds of a kernel for a type, to first order in the roundings of bfloat16.
    ///
    /// All follow from the error of a score, `sum_bound` of its products: with an error of E in the exponents of base 2, of a score and
    /// of the log-sum-exp, a probability has the relative error 4^E − 1. Results in bfloat16 are rounded, and the kernels with tensor
    /// cores round probabilities and gradients of scores.
    pub fn bounds(&self, kernel: Kernel, element: Element) -> Bounds {
        let rounding = |is_rounded: bool| if is_rounded { Number::EPSILON } else { 0.0 };
        let (of_result, of_factor) = (rounding(element == Bf16), rounding(kernel != Kernel::Plain));
        let (w, width) = (self.head_width, self.heads * self.head_width);
        let scale = 1.0 / (w as f32).sqrt();
        let mut bounds = Bounds {
            out: vec![0.0; self.out.len()],
            log_sum_exp: vec![0.0; self.log_sum_exp.len()],
            d_qkv: vec![0.0; self.d_qkv.len()],
        };
        let total_q = self.out.len() / width;
        for (s, h) in (0..self.cu_seqlens_k.len() - 1).flat_map(|s| (0..self.heads).map(move |h| (s, h))) {
            let (k, q) = (&self.cu_seqlens_k[s..s + 2], &self.cu_seqlens_q[s..s + 2]);
            let (keys, queries) = (k[1] - k[0], q[1] - q[0]);
            let part = |part: usize, row: usize| (k[0] + row) * 3 * width + part * width + h * w;
            let values = |index: usize| &self.qkv[index..][..w];
            let magnitude = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a * b).abs()).sum::<f32>();
            for i in 0..queries {
                let row = q[0] + i;
                let (query, d_out) = (values(part(0, i)), &self.d_out[row * width + h * w..][..w]);
                let lse = self.log_sum_exp[h * total_q + row];
                // The largest magnitudes of a score, and of the gradient of a probability.
                let (mut score, mut d_p) = (0f32, 0f32);
                for j in 0..keys {
                    score = score.max(magnitude(query, values(part(1, j))) * scale * LOG2_E);
                    d_p = d_p.max(magnitude(d_out, values(part(2, j))));
                }
                let exponent = sum_bound(w + keys) * score;
                let relative = (2.0 * LN_2 * exponent).exp_m1();
                bounds.log_sum_exp[h * total_q + row] = exponent + 2.0 * sum_bound(keys) + sum_bound(0) * lse.abs();
                // Of the gradients of scores, relative to p·d_p: four errors of probabilities (twice p itself, and delta in both programs),
                // four sums, the output in delta, and the gradient itself, which is at most 2·p·d_p.
                let of_d_score = 4.0 * relative + 4.0 * sum_bound(w + keys) + of_result + 3.0 * of_factor;
                for j in 0..keys {
                    let (key, value) = (part(1, j), part(2, j));
                    let dot: f32 = query.iter().zip(values(key)).map(|(a, b)| a * b).sum();
                    let p = (dot * scale * LOG2_E - lse).exp2() * (1.0 + relative);
                    let d_score = p * d_p * scale * (of_d_score + 2.0 * sum_bound(keys.max(queries)));
                    let of_sum = p * (relative + sum_bound(keys) + of_factor);
                    // Probabilities below the smallest normal number have no relative error.
                    let tiny = f32::MIN_POSITIVE;
                    for c in 0..w {
                        bounds.out[row * width + h * w + c] += of_sum * self.qkv[value + c].abs() + tiny;
                        bounds.d_qkv[part(0, i) + c] += d_score * self.qkv[key + c].abs() + tiny;
                        bounds.d_qkv[key + c] += d_score * query[c].abs() + tiny;
                        bounds.d_qkv[value + c] += (of_sum + p * sum_bound(queries)) * d_out[c].abs() + tiny;
                    }
                }
            }
        }
        for (bounds, results) in [(&mut bounds.out, &self.out), (&mut bounds.d_qkv, &self.d_qkv)] {
            for (bound, result) in bounds.iter_mut().zip(results) {
                if element != F32 {
                    *bound += bf16_bound(result.abs() + *bound);
                }
            }
        }
        bounds
    }
}
