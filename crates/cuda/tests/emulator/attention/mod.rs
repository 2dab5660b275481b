//! Attention, forward and backward, with all kernels.

mod cases;
mod wgmma;

use crate::support::{Device, compare, expect_error, expect_fault};
use crate::{Outcome, Test};
use cases::{CASES, Case, Expected};
use vlct_cuda::attention::{self, Attention, Kernel, Plan, Saved, kernel_for};
use vlct_cuda::driver::Element::{Bf16, F32};
use vlct_cuda::driver::emulator::{Schedule, Source};
use vlct_cuda::driver::{Element, Error};

pub fn tests() -> Vec<Test> {
    let plain_fault = |name: &str, from: &'static str, to: &'static str| {
        Test::new(format!("attention::finds_{name}"), move || {
            let device = Device::with_sources(&[source("attention.cu")?.with_fault(from, to)])?;
            expect_fault(plain(&device))
        })
    };
    let mma_fault = |name: &str, from: &'static str, to: &'static str| {
        Test::new(format!("attention_mma::finds_{name}"), move || {
            // Two instances of the kernels take half of the compiler's time.
            let source_of_mma = with_fragments("attention_mma.cu")?
                .with_fault("ATTENTION_KERNELS(80, 3);\n", "")
                .with_fault("ATTENTION_KERNELS(128, 2);\n", "")
                .with_fault(from, to);
            let device = Device::with_sources(&[source("attention.cu")?, source_of_mma])?;
            expect_fault(mma(&device, 64))
        })
    };
    let tests = vec![
        Test::new("attention::plain", || {
            plain(&Device::with_sources(&[source("attention.cu")?])?)
        }),
        Test::new("attention_mma::mma", || {
            let sources = [source("attention.cu")?, source("attention_mma.cu")?];
            mma(&Device::with_sources(&sources)?, 128)
        }),
        Test::new("attention::chooses_kernels", chooses_kernels),
        Test::new("attention::names_wrong_arguments", names_wrong_arguments),
        plain_fault(
            "a_mask_off_by_one",
            "float score = j < tile.tokens ?",
            "float score = j + 1 < max(tile.tokens, 2) ?",
        ),
        plain_fault(
            "probabilities_that_are_not_there",
            "            __syncwarp();  // the probabilities are there\n",
            "",
        ),
        plain_fault("a_wrong_log_sum_exp", "largest + log2f(sum)", "largest + logf(sum)"),
        plain_fault(
            "a_sum_that_is_not_scaled",
            "sum = sum * factor + probability;",
            "sum = sum + probability;",
        ),
        plain_fault(
            "a_missing_delta",
            "probability * (at.dot(at.row_b, v + j * at.pitch) - delta[statistic])",
            "probability * at.dot(at.row_b, v + j * at.pitch)",
        ),
        plain_fault(
            "a_gradient_of_a_query_that_is_not_written",
            "if (j >= tile.queries) at.store_row",
            "if (j > tile.queries) at.store_row",
        ),
        plain_fault(
            "a_head_of_delta_that_is_missing",
            "c < w; c += 4 * lanes",
            "c + 4 < w; c += 4 * lanes",
        ),
        mma_fault(
            "a_mask_off_by_one",
            "i / 4 * 8 + at.column + i % 2 >= left) score",
            "i / 4 * 8 + at.column + i % 2 > left) score",
        ),
        mma_fault(
            "a_missing_barrier_between_tiles",
            "        __syncthreads();  // the tile is there, and no warp reads the previous tile any more\n",
            "",
        ),
        mma_fault(
            "a_missing_barrier_between_tiles_of_queries",
            "        __syncthreads();  // the queries are there, and no warp reads the previous ones any more\n",
            "",
        ),
        mma_fault(
            "a_missing_wait",
            "        cp_async_wait<0>();\n        __syncthreads();  // the keys are there",
            "        __syncthreads();  // the keys are there",
        ),
        mma_fault(
            "a_wait_for_an_older_tile",
            "        cp_async_wait<0>();\n        __syncthreads();  // the tile is there",
            "        cp_async_wait<1>();\n        __syncthreads();  // the tile is there",
        ),
        mma_fault(
            "a_wrong_fragment",
            "at.lane / 16 * 8 + at.lane % 8) * (W + PADDING) + at.lane / 8 % 2 * 8",
            "at.lane / 8 % 2 * 8 + at.lane % 8) * (W + PADDING) + at.lane / 16 * 8",
        ),
        mma_fault(
            "a_wrong_row_of_an_operand",
            "int r = i % 2 * 8, c = s",
            "int r = i / 2 * 8, c = s",
        ),
        mma_fault(
            "a_wrong_log_sum_exp",
            "state.largest[half] * log2_scale + log2f(sum)",
            "state.largest[half] + log2f(sum)",
        ),
        mma_fault("outputs_that_are_not_scaled", "out[n][2 * half + 1] *= factor;", ""),
        mma_fault(
            "a_missing_delta",
            "d[n][i] = p[n][i] * (d[n][i] - (i % 2 ? delta.y : delta.x));",
            "d[n][i] = p[n][i] * d[n][i];",
        ),
        mma_fault(
            "a_key_behind_the_end",
            "at.column + i % 2 < keys_left;",
            "at.column + i % 2 <= keys_left;",
        ),
        mma_fault("rows_that_are_not_zero", "first, is_inside ? 16 : 0);", "first, 16);"),
        mma_fault(
            "a_missing_step",
            "(left + STEP - 1) / STEP * STEP) * CHUNKS",
            "left / STEP * STEP) * CHUNKS",
        ),
        mma_fault(
            "a_gradient_of_a_query_that_is_not_written",
            "max(tile.queries - row, 0); r <",
            "max(tile.queries - row + 1, 0); r <",
        ),
    ];
    tests.into_iter().chain(wgmma::tests()).collect()
}

fn source(name: &str) -> Result<Source, String> {
    Source::kernel_file(name).map_err(|e| e.to_string())
}

/// A source with the text of `attention_fragments.cuh`, so that faults can be planted there too.
fn with_fragments(name: &str) -> Result<Source, String> {
    let header = source("attention_fragments.cuh")?.text.replace("#pragma once\n", "");
    Ok(source(name)?.with_fault("#include \"attention_fragments.cuh\"\n", &header))
}

fn plain(device: &Device) -> Outcome {
    check(device, Kernel::Plain, &[F32, Bf16], &CASES)
}

fn mma(device: &Device, max_width: usize) -> Outcome {
    let is_supported =
        |case: &Case| case.head_width <= max_width && kernel_for((8, 0), Bf16, case.head_width) == Kernel::Mma;
    let cases: Vec<Case> = CASES.into_iter().filter(is_supported).collect();
    check(device, Kernel::Mma, &[Bf16], &cases)
}

/// Compares a kernel with the plain loops, in every schedule. All schedules must have equal bits.
fn check(device: &Device, kernel: Kernel, elements: &[Element], cases: &[Case]) -> Outcome {
    for case in cases.iter().copied() {
        let want = Expected::new(case);
        for element in elements {
            let bounds = want.bounds(kernel, *element);
            let mut first: Option<Results> = None;
            for schedule in Schedule::ALL {
                device.emulator.set_schedule(schedule);
                let got = run(device, kernel, *element, case, &want).map_err(|e| e.to_string());
                let compared = got.and_then(|got| {
                    compare("out", &got.out, &want.out, |i| bounds.out[i])?;
                    compare("log-sum-exp", &got.log_sum_exp, &want.log_sum_exp, |i| {
                        bounds.log_sum_exp[i]
                    })?;
                    compare("d_qkv", &got.d_qkv, &want.d_qkv, |i| bounds.d_qkv[i])?;
                    let first = first.get_or_insert_with(|| got.clone());
                    compare("out of two schedules", &got.out, &first.out, |_| 0.0)?;
                    compare("d_qkv of two schedules", &got.d_qkv, &first.d_qkv, |_| 0.0)
                });
                compared.map_err(|e| format!("{kernel:?}, {element:?}, {case:?}, {schedule:?}: {e}"))?;
            }
        }
    }
    Ok(())
}

#[derive(Clone)]
struct Results {
    out: Vec<f32>,
    log_sum_exp: Vec<f32>,
    d_qkv: Vec<f32>,
}

/// Runs the forward pass, and the backward pass with its results.
fn run(device: &Device, kernel: Kernel, element: Element, case: Case, want: &Expected) -> Result<Results, Error> {
    let context = &device.context;
    let plan = Plan::new(context, &want.cu_seqlens_k, &want.cu_seqlens_q)?;
    let (tokens, queries, width) = (plan.tokens(), plan.queries(), case.heads * case.head_width);
    let upload = |values: &[f32]| match element {
        F32 => device.f32(values),
        Bf16 => device.bf16(values),
    };
    let [qkv, d_out] = [upload(&want.qkv)?, upload(&want.d_out)?];
    let [mut out, mut d_qkv] = [queries * width, tokens * 3 * width].map(|count| device.empty(count, element));
    let (out, d_qkv) = (
        out.as_mut().map_err(|e| e.clone())?,
        d_qkv.as_mut().map_err(|e| e.clone())?,
    );
    let mut lse = device.empty(case.heads * queries, F32)?;
    let attention = Attention {
        plan: &plan,
        heads: case.heads,
        kernel,
    };
    let qkv = qkv.matrix(tokens, 3 * width, element);
    attention::forward(
        context,
        &attention,
        qkv,
        out.matrix_mut(queries, width, element),
        lse.matrix_mut(case.heads, queries, F32),
    )?;
    let saved = Saved {
        qkv,
        out: out.matrix(queries, width, element),
        log_sum_exp: lse.matrix(case.heads, queries, F32),
    };
    attention::backward(
        context,
        &attention,
        d_out.matrix(queries, width, element),
        saved,
        d_qkv.matrix_mut(tokens, 3 * width, element),
    )?;
    let read = |buffer| match element {
        F32 => device.read_f32(buffer),
        Bf16 => device.read_bf16(buffer),
    };
    Ok(Results {
        out: read(out)?,
        log_sum_exp: device.read_f32(&lse)?,
        d_qkv: read(d_qkv)?,
    })
}

fn chooses_kernels() -> Outcome {
    for (capability, element, head_width, want) in [
        ((9, 0), Bf16, 64, Kernel::Wgmma),
        ((9, 0), Bf16, 8, Kernel::Wgmma),
        ((8, 9), Bf16, 64, Kernel::Mma),
        ((10, 0), Bf16, 64, Kernel::Mma),
        ((8, 0), Bf16, 128, Kernel::Mma),
        ((8, 0), Bf16, 8, Kernel::Mma),
        ((7, 5), Bf16, 64, Kernel::Plain),
        ((9, 0), Bf16, 20, Kernel::Plain),
        ((9, 0), Bf16, 136, Kernel::Plain),
        ((9, 0), F32, 64, Kernel::Plain),
    ] {
        let got = kernel_for(capability, element, head_width);
        if got != want {
            return Err(format!("{capability:?}, {element:?}, {head_width}: {got:?}"));
        }
    }
    Ok(())
}

fn names_wrong_arguments() -> Outcome {
    let device = Device::with_sources(&[])?;
    let context = &device.context;
    let plan = |k: &[usize], q: &[usize]| Plan::new(context, k, q).map(|_| ()).map_err(|e| e.to_string());
    expect_error(plan(&[0, 3, 2], &[0, 1, 2]), &["`cu_seqlens_k` does not ascend from 0"])?;
    expect_error(plan(&[0, 3], &[1, 2]), &["`cu_seqlens_q` does not ascend from 0"])?;
    expect_error(
        plan(&[0, 3, 5], &[0, 2]),
        &["tokens of 2 sequences and query tokens of 1"],
    )?;
    expect_error(
        plan(&[0, 3, 5], &[0, 2, 5]),
        &["sequence 1 has 3 query tokens, but 2 tokens"],
    )?;
    let forward = |kernel: Kernel, element: Element, width: usize, heads: usize| {
        let run = || -> Result<(), Error> {
            let plan = Plan::new(context, &[0, 2], &[0, 2])?;
            let qkv = device.empty(6 * width, element)?;
            let (mut out, mut lse) = (device.empty(2 * width, element)?, device.empty(2 * heads, F32)?);
            let attention = Attention {
                plan: &plan,
                heads,
                kernel,
            };
            let (out, lse) = (out.matrix_mut(2, width, element), lse.matrix_mut(heads, 2, F32));
            attention::forward(context, &attention, qkv.matrix(2, 3 * width, element), out, lse)
        };
        run().map_err(|e| e.to_string())
    };
    for (kernel, element, width, heads, text) in [
        (Kernel::Plain, F32, 10, 3, "a width of 10 cannot have 3 heads"),
        (Kernel::Plain, F32, 10, 0, "a width of 10 cannot have 0 heads"),
        (Kernel::Plain, F32, 514, 2, "heads have at most 256 columns, not 257"),
        (Kernel::Mma, F32, 64, 1, "mma.sync do not support F32"),
        (
            Kernel::Wgmma,
            Bf16,
            136,
            1,
            "wgmma do not support Bf16 and heads of 136 columns",
        ),
        (Kernel::Mma, Bf16, 24, 2, "do not support Bf16 and heads of 12 columns"),
    ] {
        expect_error(forward(kernel, element, width, heads), &["attention: ", text])?;
    }
    Ok(())
}
