//! Tests of AVX-512 with bfloat16, and of AMX.

use super::trial;
use libtest_mimic::Trial;
use vlct_kernels::aligned::AlignedVec;
use vlct_kernels::bf16::blocks::{self, Blocks};
use vlct_kernels::bf16::engine::{Amx, Avx512Bf16, BF16X3_BLOCK, BLOCK, Portable, SIDE, TileConfig, TileEngine};
use vlct_kernels::bf16::epilogue::{Gelu, GeluBackward, StoreBf16, StoreF32, StoreF32Transposed};
use vlct_kernels::bf16::gemm::gemm;
use vlct_kernels::bf16::{Bf16, Rhs, layer_norm};
use vlct_kernels::mat::Beta;

pub fn trials() -> Vec<Trial> {
    let no_avx512 = (!Avx512Bf16::is_present()).then_some("needs AVX512_BF16");
    let no_amx = (!Amx::request_permission()).then_some("needs AMX");
    let mut trials = vec![
        trial("avx512_bf16::products_of_integers_equal_portable", no_avx512, || {
            integers_equal_portable::<Avx512Bf16>()
        }),
        trial("avx512_bf16::products_are_close_to_portable", no_avx512, || {
            assert_close_to_portable::<Avx512Bf16>()
        }),
        trial(
            "avx512_bf16::vector_kernels_equal_portable",
            no_avx512,
            vector_kernels_equal_portable,
        ),
        trial("amx::products_equal_portable", no_amx, amx_equals_portable),
        trial(
            "amx::bf16x3_products_equal_portable",
            no_amx,
            amx_bf16x3_equals_portable,
        ),
    ];
    #[cfg(target_os = "linux")]
    trials.extend([
        trial(
            "amx_emulator::products_equal_portable",
            no_amx.is_none().then_some("AMX is present"),
            || {
                super::amx_emulator::install();
                amx_equals_portable();
            },
        ),
        trial(
            "amx_emulator::bf16x3_products_equal_portable",
            no_amx.is_none().then_some("AMX is present"),
            || {
                super::amx_emulator::install();
                amx_bf16x3_equals_portable();
            },
        ),
    ]);
    trials
}

/// Pseudo-random values from −1 to 1.
fn noise(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

/// Small integers, whose products and sums are exact in any order.
fn integers(n: usize, seed: usize) -> Vec<f32> {
    (0..n).map(|i| (((i + seed) * 7919) % 7) as f32 - 3.0).collect()
}

fn rounded(x: &[f32]) -> AlignedVec<Bf16> {
    let mut out = AlignedVec::zeroed(x.len());
    for (out, x) in out.as_mut_slice().iter_mut().zip(x) {
        *out = Bf16::from_f32(*x);
    }
    out
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|v| v.to_bits()).collect()
}

/// A function that multiplies packed operands with an engine.
type ProductFn = unsafe fn(&[Bf16], &[Bf16], &mut [f32], Beta);

/// Multiplies packed bfloat16 operands; checks that `vector_work` is called once for each k-block.
///
/// # Safety
/// The CPU has the engine's instructions, and the engine is configured for this thread.
unsafe fn product<E: TileEngine>(lhs: &[Bf16], rhs: &[Bf16], dst: &mut [f32], beta: Beta) {
    let (k_blocks, mut calls) = (lhs.len() / BLOCK, 0);
    let is_zero = |row: &usize| {
        lhs.chunks(BLOCK)
            .all(|block| block[row * SIDE..][..SIDE].iter().all(|v| v.to_f32() == 0.0))
    };
    let rows = SIDE - (0..SIDE).rev().take_while(is_zero).count();
    // SAFETY: the operands are complete, 64-byte aligned blocks; the engine is configured (caller).
    unsafe {
        E::gemm_block(
            lhs.as_ptr(),
            rhs.as_ptr(),
            rows,
            k_blocks,
            dst.as_mut_ptr(),
            beta,
            [lhs.as_ptr(); 2],
            |k_block| {
                assert_eq!(k_block, calls);
                calls += 1;
            },
        );
    }
    assert_eq!(calls, k_blocks, "one call of `vector_work` for each k-block");
}

/// Multiplies packed bf16x3 operands.
///
/// # Safety
/// The CPU has the engine's instructions, and the engine is configured for this thread.
unsafe fn product_bf16x3<E: TileEngine>(lhs: &[Bf16], rhs: &[Bf16], dst: &mut [f32], beta: Beta) {
    let k_blocks = lhs.len() / BF16X3_BLOCK;
    // SAFETY: the operands are complete, 64-byte aligned k-blocks; the engine is configured (caller).
    unsafe { E::gemm_block_bf16x3(lhs.as_ptr(), rhs.as_ptr(), k_blocks, dst.as_mut_ptr(), beta) };
}

/// Compares two products for 0, 1 and 5 k-blocks of `block` elements, and both values of β.
fn compare(
    block: usize,
    values: impl Fn(usize, usize) -> Vec<f32>,
    products: [ProductFn; 2],
    check: impl Fn(&[f32], &[f32]),
) {
    for k_blocks in [0, 1, 5] {
        let [lhs, rhs] = [1, 2].map(|seed| rounded(&values(k_blocks * block, seed)));
        for beta in [Beta::Zero, Beta::One] {
            let [got, want] = products.map(|product| {
                let mut dst = AlignedVec::<f32>::zeroed(BLOCK);
                dst.as_mut_slice().copy_from_slice(&values(BLOCK, 3));
                let (lhs, rhs) = (&lhs.as_slice()[..k_blocks * block], &rhs.as_slice()[..k_blocks * block]);
                // SAFETY: trials run only if the instructions are present or emulated, and callers have configured the tiles.
                unsafe { product(lhs, rhs, dst.as_mut_slice(), beta) };
                dst
            });
            check(got.as_slice(), want.as_slice());
        }
    }
}

fn integers_equal_portable<E: TileEngine>() {
    for rows in [SIDE, SIDE - 1, 17, 16, 13, 8, 1, 0] {
        // The first operand has seed 1.
        let values = |n: usize, seed: usize| {
            let mut values = integers(n, seed);
            if seed == 1 {
                values
                    .chunks_mut(BLOCK)
                    .for_each(|block| block[rows * SIDE..].fill(0.0));
            }
            values
        };
        compare(BLOCK, values, [product::<E>, product::<Portable>], |got, want| {
            assert!(got == want, "sums differ")
        });
    }
}

/// Tests an engine whose order of additions differs from that of [`Portable`].
fn assert_close_to_portable<E: TileEngine>() {
    compare(
        BLOCK,
        |n, seed| noise(n, seed as u64),
        [product::<E>, product::<Portable>],
        |got, want| {
            for (got, want) in got.iter().zip(want) {
                // Ten f32 rounding errors of a sum of 160 products of magnitude 1/4.
                assert!(
                    (got - want).abs() < 40.0 * f32::EPSILON * 10.0,
                    "{got} instead of {want}"
                );
            }
        },
    );
}

fn amx_equals_portable() {
    // SAFETY: the process may use AMX, or the emulator is installed.
    let _tiles = unsafe { TileConfig::load() };
    integers_equal_portable::<Amx>();
    compare(
        BLOCK,
        |n, seed| noise(n, seed as u64),
        [product::<Amx>, product::<Portable>],
        |got, want| assert!(bits(got) == bits(want), "bits differ"),
    );
}

fn amx_bf16x3_equals_portable() {
    // SAFETY: the process may use AMX, or the emulator is installed.
    let _tiles = unsafe { TileConfig::load() };
    compare(
        BF16X3_BLOCK,
        |n, seed| noise(n, seed as u64),
        [product_bf16x3::<Amx>, product_bf16x3::<Portable>],
        |got, want| assert!(bits(got) == bits(want), "bits differ"),
    );
}

/// Compares the bits of packing, epilogues and layer norm on AVX-512 registers and on arrays. Operands of products are integers, so that
/// sums do not depend on the order of additions.
fn vector_kernels_equal_portable() {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .build()
        .expect("a thread pool");
    // The pool has one thread, because the level applies to one thread only.
    pool.install(|| {
        let mut results = Vec::new();
        vlct_simd::at_each_level(|| results.push(vector_kernel_results()));
        let (best, others) = results.split_last().expect("at least one level");
        for other in others {
            for ((name, want), (_, got)) in best.iter().zip(other) {
                assert!(got == want, "{name} differs");
            }
        }
    });
}

/// Returns the name of each kernel with the bits of its results.
fn vector_kernel_results() -> Vec<(&'static str, Vec<u32>)> {
    let mut results = Vec::new();
    let widened = |x: &AlignedVec<Bf16>| -> Vec<u32> { x.as_slice().iter().map(|v| v.to_f32().to_bits()).collect() };
    let matrix = |x: &[f32], rows: usize, columns: usize| {
        let mut out = AlignedVec::zeroed(blocks::len(rows, columns));
        blocks::from_f32(x, rows, columns, out.as_mut_slice());
        out
    };
    let (m, n, k) = (45, 83, 70);
    let (a, w, bias, residual) = (integers(m * k, 1), integers(n * k, 2), noise(n, 3), noise(m * n, 4));
    let lhs_memory = matrix(&a, m, k);
    let lhs = Blocks::new(lhs_memory.as_slice(), m, k);
    let zeros = |rows, columns| matrix(&vec![0.0; rows * columns], rows, columns);

    let mut out = vec![0f32; m * n];
    let mut store = StoreF32::new(&mut out, n, Beta::Zero)
        .bias(Some(&bias))
        .residual(Some(&residual));
    gemm(lhs, Rhs::Weight(&w), &mut store);
    gemm(
        lhs,
        Rhs::WeightTransposed(&w),
        &mut StoreF32Transposed::new(&mut out, m, n, Beta::One),
    );
    results.push(("StoreF32", bits(&out)));
    let (mut hidden, mut activation) = (zeros(m, n), zeros(m, n));
    let mut gelu = Gelu::new(Some(hidden.as_mut_slice()), activation.as_mut_slice(), m, &bias);
    gemm(lhs, Rhs::Weight(&w), &mut gelu);
    results.push(("hidden", widened(&hidden)));
    results.push(("Gelu", widened(&activation)));
    let blocks_of_hidden = Blocks::new(hidden.as_slice(), m, n);
    gemm(
        lhs,
        Rhs::Weight(&w),
        &mut GeluBackward::new(blocks_of_hidden, activation.as_mut_slice()),
    );
    results.push(("GeluBackward", widened(&activation)));
    gemm(
        lhs,
        Rhs::Weight(&w),
        &mut StoreBf16::new(activation.as_mut_slice(), m, n, Some(&bias)),
    );
    results.push(("StoreBf16", widened(&activation)));

    let x = noise(m * n, 5);
    let x_memory = matrix(&x, m, n);
    let x_blocks = Blocks::new(x_memory.as_slice(), m, n);
    let (mut transposed, mut sums) = (zeros(n, m), vec![0.5f32; m]);
    blocks::transpose(x_blocks, transposed.as_mut_slice());
    results.push(("transpose", widened(&transposed)));
    blocks::transpose_scaled(x_blocks, &bias, &noise(n, 6), transposed.as_mut_slice());
    results.push(("transpose_scaled", widened(&transposed)));
    blocks::add_row_sums(x_blocks, &mut sums);
    results.push(("add_row_sums", bits(&sums)));

    let (mut normalised, mut y, mut rstd) = (zeros(m, n), zeros(m, n), vec![0f32; m]);
    let (b, dy) = (noise(n, 7), matrix(&noise(m * n, 8), m, n));
    layer_norm::forward(
        &x,
        &bias,
        &b,
        1e-6,
        normalised.as_mut_slice(),
        y.as_mut_slice(),
        &mut rstd,
    );
    results.push((
        "layer_norm::forward",
        [widened(&normalised), widened(&y), bits(&rstd)].concat(),
    ));
    let (mut dx, mut dw, mut db) = (noise(m * n, 9), noise(n, 10), noise(n, 11));
    layer_norm::backward(
        Blocks::new(dy.as_slice(), m, n),
        Blocks::new(normalised.as_slice(), m, n),
        &bias,
        &rstd,
        &mut dx,
        y.as_mut_slice(),
        &mut dw,
        &mut db,
    );
    results.push((
        "layer_norm::backward",
        [bits(&dx), widened(&y), bits(&dw), bits(&db)].concat(),
    ));
    results
}
