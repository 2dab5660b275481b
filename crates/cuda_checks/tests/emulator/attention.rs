//! Attention, forward and backward, with all kernels.

use crate::support::{Device, expect_error, expect_fault};
use crate::{Outcome, Test};
use vlct_cuda::attention::{self, Attention, Kernel, Plan, kernel_for};
use vlct_cuda::driver::Element::{Bf16, F32};
use vlct_cuda::driver::emulator::Source;
use vlct_cuda::driver::{Element, Error};
use vlct_cuda_checks::attention::{mma_up_to, plain};

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
            expect_fault(mma_up_to(&device, 64))
        })
    };
    vec![
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
    ]
}

pub fn source(name: &str) -> Result<Source, String> {
    Source::kernel_file(name).map_err(|e| e.to_string())
}

/// A source with the text of `attention_fragments.cuh`, so that faults can be planted there too.
pub fn with_fragments(name: &str) -> Result<Source, String> {
    let header = source("attention_fragments.cuh")?.text.replace("#pragma once\n", "");
    Ok(source(name)?.with_fault("#include \"attention_fragments.cuh\"\n", &header))
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
