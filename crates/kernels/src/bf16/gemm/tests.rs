//! Tests products with all forms of rhs, with all epilogues, and on different numbers of threads.

use super::*;
use crate::aligned::AlignedVec;
use crate::bf16::epilogue::{Gelu, GeluBackward, StoreBf16, StoreF32, StoreF32Transposed};
use crate::bf16::{PackedRhs, blocks};
use crate::reference;
use proptest::prelude::*;

/// Small integers, whose products and sums are exact in f32 and bfloat16.
fn values(n: usize, seed: usize) -> Vec<f32> {
    (0..n).map(|i| (((i + seed) * 7919) % 7) as f32 - 3.0).collect()
}

struct Matrix {
    memory: AlignedVec<Bf16>,
    rows: usize,
    columns: usize,
}

impl Matrix {
    fn new(x: &[f32], rows: usize, columns: usize) -> Self {
        let mut memory = AlignedVec::zeroed(blocks::len(rows, columns));
        blocks::from_f32(x, rows, columns, memory.as_mut_slice());
        Self { memory, rows, columns }
    }

    fn zeros(rows: usize, columns: usize) -> Self {
        Self::new(&vec![0.0; rows * columns], rows, columns)
    }

    fn blocks(&self) -> Blocks<'_> {
        Blocks::new(self.memory.as_slice(), self.rows, self.columns)
    }

    fn values(&self) -> Vec<f32> {
        let mut out = vec![0f32; self.rows * self.columns];
        blocks::to_f32(self.blocks(), &mut out);
        out
    }
}

fn transposed(x: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    let mut out = vec![0f32; x.len()];
    reference::transpose(&mut out, x, rows, columns);
    out
}

/// Returns the matrix `b`, whose transpose is `b_t`, in every form of an rhs.
fn all_forms<'a>(b: &'a [f32], b_t: &'a [f32], blocks: &'a Matrix, packed: &'a PackedRhs) -> [Rhs<'a>; 4] {
    [
        Rhs::Weight(b),
        Rhs::WeightTransposed(b_t),
        Rhs::Blocks(blocks.blocks()),
        Rhs::Packed(packed),
    ]
}

/// Returns `a [m, k] · b [k, n]`.
fn product(a: &[f32], b: &[f32], m: usize, n: usize, k: usize) -> Vec<f32> {
    let mut out = vec![0f32; m * n];
    reference::gemm(&mut out, 0.0, 1.0, a, b, m, n, k);
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn equals_the_reference(m in 1usize..90, n in 1usize..90, k in 1usize..400, threads in 1usize..4, add: bool) {
        let (a, b, before) = (values(m * k, 1), values(k * n, 2), values(m * n, 3));
        let want = product(&a, &b, m, n, k);
        let b_t = transposed(&b, k, n);
        let (lhs, rhs) = (Matrix::new(&a, m, k), Matrix::new(&b, k, n));
        let packed = PackedRhs::pack_transposed(&b_t, n, k);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
        for rhs in all_forms(&b, &b_t, &rhs, &packed) {
            let mut out = before.clone();
            pool.install(|| gemm(lhs.blocks(), rhs, &mut StoreF32::new(&mut out, n, if add { Beta::One } else { Beta::Zero })));
            for (i, got) in out.iter().enumerate() {
                prop_assert_eq!(*got, want[i] + if add { before[i] } else { 0.0 });
            }
        }
        let mut out = vec![f32::NAN; m * n];
        gemm(lhs.blocks(), Rhs::Weight(&b), &mut StoreF32Transposed::new(&mut out, m, n, Beta::Zero));
        prop_assert_eq!(out, transposed(&want, m, n));
    }
}

#[test]
fn sums_are_zero_without_inner_elements() {
    let (m, n) = (40, 70);
    let (lhs, rhs) = (Matrix::zeros(m, 0), Matrix::zeros(0, n));
    let packed = PackedRhs::pack_transposed(&[], n, 0);
    for rhs in all_forms(&[], &[], &rhs, &packed) {
        let mut out = vec![f32::NAN; m * n];
        gemm(lhs.blocks(), rhs, &mut StoreF32::new(&mut out, n, Beta::Zero));
        assert!(out.iter().all(|v| *v == 0.0));
    }
}

#[test]
fn equals_the_reference_for_long_inner_dimensions() {
    let (m, n, k) = (40, 70, 32 * 150 + 5);
    let (a, b) = (values(m * k, 1), values(k * n, 2));
    let (lhs, rhs, b_t) = (Matrix::new(&a, m, k), Matrix::new(&b, k, n), transposed(&b, k, n));
    let packed = PackedRhs::pack_transposed(&b_t, n, k);
    let want = product(&a, &b, m, n, k);
    for rhs in all_forms(&b, &b_t, &rhs, &packed) {
        let mut out = vec![1f32; m * n];
        gemm(lhs.blocks(), rhs, &mut StoreF32::new(&mut out, n, Beta::One));
        assert!(out.iter().zip(&want).all(|(got, want)| *got == want + 1.0));
    }
}

#[test]
fn threads_share_the_rows_of_a_task() {
    // Many rows and few columns, so that three threads multiply rows of the same task.
    let (m, n, k) = (32 * 100 + 3, 32 * 5, 40);
    let (a, b) = (values(m * k, 1), values(k * n, 2));
    let (lhs, b_t, want) = (Matrix::new(&a, m, k), transposed(&b, k, n), product(&a, &b, m, n, k));
    let packed = PackedRhs::pack_transposed(&b_t, n, k);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().expect("threads");
    for rhs in [Rhs::Weight(&b), Rhs::WeightTransposed(&b_t), Rhs::Packed(&packed)] {
        let mut out = vec![f32::NAN; m * n];
        pool.install(|| gemm(lhs.blocks(), rhs, &mut StoreF32::new(&mut out, n, Beta::Zero)));
        assert!(out == want);
    }
}

#[test]
fn epilogues_equal_the_reference() {
    let (m, n, k) = (45, 50, 64);
    let scaled = |n, seed| -> Vec<f32> { values(n, seed).iter().map(|v| v * 0.25).collect() };
    let (a, b, bias, residual) = (scaled(m * k, 1), scaled(k * n, 2), scaled(n, 3), scaled(m * n, 4));
    let sums = product(&a, &b, m, n, k);
    let lhs = Matrix::new(&a, m, k);
    let mut out = vec![f32::NAN; m * n];
    let mut store = StoreF32::new(&mut out, n, Beta::Zero)
        .bias(Some(&bias))
        .residual(Some(&residual));
    gemm(lhs.blocks(), Rhs::Weight(&b), &mut store);
    for i in 0..m * n {
        assert_eq!(out[i], sums[i] + bias[i % n] + residual[i]);
    }
    let assert_close =
        |got: f32, want: f32| assert!((got - want).abs() <= Bf16::EPSILON * want.abs() + 3e-4, "{got} {want}");
    let mut rounded = Matrix::zeros(m, n);
    gemm(
        lhs.blocks(),
        Rhs::Weight(&b),
        &mut StoreBf16::new(rounded.memory.as_mut_slice(), m, n, Some(&bias)),
    );
    rounded
        .values()
        .iter()
        .enumerate()
        .for_each(|(i, v)| assert_close(*v, sums[i] + bias[i % n]));
    let [mut hidden, mut activation, mut d_hidden] = [(); 3].map(|_| Matrix::zeros(m, n));
    let mut gelu = Gelu::new(
        Some(hidden.memory.as_mut_slice()),
        activation.memory.as_mut_slice(),
        m,
        &bias,
    );
    gemm(lhs.blocks(), Rhs::Weight(&b), &mut gelu);
    let x: Vec<f32> = sums.iter().enumerate().map(|(i, s)| s + bias[i % n]).collect();
    let mut want = vec![0f32; m * n];
    reference::gelu_forward(&mut want, &x);
    activation
        .values()
        .iter()
        .zip(&want)
        .for_each(|(g, w)| assert_close(*g, *w));
    let x = hidden.values();
    let mut gradient = GeluBackward::new(hidden.blocks(), d_hidden.memory.as_mut_slice());
    gemm(lhs.blocks(), Rhs::Weight(&b), &mut gradient);
    reference::gelu_backward(&mut want, &x, &sums);
    for (i, got) in d_hidden.values().iter().enumerate() {
        let bound = Bf16::EPSILON * want[i].abs() + 1e-3 * sums[i].abs() + 1e-4;
        assert!((got - want[i]).abs() <= bound, "{got} {}", want[i]);
    }
    // The padding must be zero, because the next product reads it.
    for matrix in [rounded, hidden, activation, d_hidden] {
        let padding = matrix.memory.as_slice()[..blocks::len(m, n)]
            .iter()
            .enumerate()
            .filter(|(i, _)| {
                let (block, offset) = (i / BLOCK, i % BLOCK);
                block / 2 * SIDE + offset / SIDE >= m || block % 2 * SIDE + offset % SIDE >= n
            });
        assert!(padding.into_iter().all(|(_, v)| v.to_f32() == 0.0));
    }
}

#[test]
fn rhs_gelu_and_column_sums_equal_the_reference() {
    let (m, n, k) = (40, 70, 300);
    let (a, b) = (values(m * k, 1), values(k * n, 2));
    let (lhs, rhs) = (Matrix::new(&a, m, k), Matrix::new(&b, k, n));
    let (mut out, mut sums) = (vec![0f32; m * n], vec![1f32; n]);
    let with_sums = Rhs::WithColumnSums(rhs.blocks(), &mut sums);
    gemm(lhs.blocks(), with_sums, &mut StoreF32::new(&mut out, n, Beta::Zero));
    assert_eq!(out, product(&a, &b, m, n, k));
    for (c, sum) in sums.iter().enumerate() {
        assert_eq!(*sum, 1.0 + (0..k).map(|r| b[r * n + c]).sum::<f32>());
    }
    gemm(
        lhs.blocks(),
        Rhs::Gelu(rhs.blocks()),
        &mut StoreF32::new(&mut out, n, Beta::Zero),
    );
    let mut activation = vec![0f32; b.len()];
    reference::gelu_forward(&mut activation, &b);
    for (got, want) in out.iter().zip(product(&a, &activation, m, n, k)) {
        assert!(
            (got - want).abs() < 4.0 * Bf16::EPSILON * (k as f32).sqrt(),
            "{got} {want}"
        );
    }
}
