//! Attention with products of warpgroups.

use crate::Test;
use crate::attention::{source, with_fragments};
use crate::support::{Device, compiler, expect_fault};
use std::sync::Arc;
use vlct_cuda::attention::{Kernel, kernel_for};
use vlct_cuda::driver::Driver;
use vlct_cuda::driver::Element::Bf16;
use vlct_cuda::driver::emulator::Emulator;
use vlct_cuda_checks::attention::wgmma_up_to;

pub fn tests() -> Vec<Test> {
    let fault = |name: &str, from: &'static str, to: &'static str| {
        Test::new(format!("attention_wgmma::finds_{name}"), move || {
            // Two instances of the kernels take half of the compiler's time.
            let faulty = with_fragments("attention_wgmma.cu")?
                .with_fault("ATTENTION_KERNELS(80, 3, 2, 2);\n", "")
                .with_fault("ATTENTION_KERNELS(128, 2, 2, 2);\n", "")
                .with_fault(from, to);
            let device = Device::with_sources(&[source("attention.cu")?, faulty])?;
            expect_fault(wgmma_up_to(&device, 64))
        })
    };
    vec![
        Test::new("attention_wgmma::chosen_for_the_emulator", || {
            let emulator = Emulator::new(&compiler()?, &[], 1).map_err(|e| e.to_string())?;
            let drivers: [Arc<dyn Driver>; 2] = [
                Arc::new(Emulator::new(&compiler()?, &[], 1).map_err(|e| e.to_string())?),
                Arc::new(emulator.with_compute_capability(9, 0)),
            ];
            let kernels = drivers.map(|driver| kernel_for(driver.compute_capability(), Bf16, 64));
            if kernels == [Kernel::Mma, Kernel::Wgmma] {
                Ok(())
            } else {
                Err(format!("{kernels:?}"))
            }
        }),
        fault(
            "a_mask_off_by_one",
            "i / 4 * 8 + at.column + i % 2 >= left) score",
            "i / 4 * 8 + at.column + i % 2 > left) score",
        ),
        fault(
            "a_missing_barrier_between_tiles",
            "    fence_proxy_async();\n    __syncthreads();\n",
            "    fence_proxy_async();\n",
        ),
        fault(
            "a_missing_fence_of_the_proxy",
            "    fence_proxy_async();\n    __syncthreads();\n",
            "    __syncthreads();\n",
        ),
        fault(
            "a_fence_of_the_proxy_before_the_copies",
            "    cp_async_wait<0>();\n    fence_proxy_async();\n",
            "    fence_proxy_async();\n    cp_async_wait<0>();\n",
        ),
        fault("a_missing_wait_for_copies", "    cp_async_wait<0>();\n", ""),
        fault(
            "a_missing_wait_for_scores",
            "        wgmma_commit();\n        wgmma_wait<0>(p);\n",
            "        wgmma_commit();\n",
        ),
        fault(
            "a_missing_wait_for_outputs",
            "        wgmma_commit();\n        wgmma_wait<0>(out);\n",
            "        wgmma_commit();\n",
        ),
        fault(
            "a_missing_wait_for_gradients_of_keys",
            "        wgmma_commit();\n        wgmma_wait<0>(d_v, d_k);\n",
            "        wgmma_commit();\n",
        ),
        fault("a_missing_fence_of_outputs", "wgmma_fence(out, rounded);", ""),
        fault(
            "a_missing_fence_of_gradients",
            "wgmma_fence(d_v, d_k, rounded_p, rounded_d);",
            "wgmma_fence(d_v, rounded_p, rounded_d);",
        ),
        fault(
            "a_wrong_swizzling_mode",
            "COLUMNS == 32 ? Swizzle::BYTES_64",
            "COLUMNS == 32 ? Swizzle::BYTES_32",
        ),
        fault(
            "a_wrong_distance_of_eight_rows",
            "EIGHT_ROWS = 8 * ROW_BYTES",
            "EIGHT_ROWS = 4 * ROW_BYTES",
        ),
        fault(
            "a_wrong_step_along_columns",
            "step * STEP % COLUMNS * 2);",
            "step * STEP % COLUMNS);",
        ),
        fault(
            "a_wrong_step_along_rows",
            "step * STEP * ROW_BYTES);",
            "step * 8 * ROW_BYTES);",
        ),
        fault(
            "a_wrong_part_of_a_row",
            "swizzled<P::ROW_BYTES>(r, part)",
            "swizzled<P::ROW_BYTES>(r, part ^ 1)",
        ),
        fault(
            "a_wrong_fragment",
            "from[i / 4 * 2 + i / 2 % 2]",
            "from[i / 4 * 2 + i % 2]",
        ),
        fault(
            "a_tile_with_too_few_rows",
            "left > 32) f(Constant<48>())",
            "left > 32) f(Constant<32>())",
        ),
        fault("rows_that_are_not_zero", "first, is_inside ? 16 : 0);", "first, 16);"),
        fault(
            "a_missing_step",
            "(left + STEP - 1) / STEP * STEP) * PARTS",
            "left / STEP * STEP) * PARTS",
        ),
        fault(
            "a_wrong_log_sum_exp",
            "state.largest[half] * log2_scale + log2f(sum)",
            "state.largest[half] + log2f(sum)",
        ),
        fault("outputs_that_are_not_scaled", "out[n][2 * half + 1] *= factor;", ""),
        fault(
            "a_missing_delta_of_queries",
            "probability * (d[i / 4][i % 4] - delta[half])",
            "probability * d[i / 4][i % 4]",
        ),
        fault(
            "a_missing_delta_of_keys",
            "d[n][i] = p[n][i] * (d[n][i] - (i % 2 ? delta.y : delta.x));",
            "d[n][i] = p[n][i] * d[n][i];",
        ),
        fault(
            "a_key_behind_the_end",
            "at.column + i % 2 < left;",
            "at.column + i % 2 <= left;",
        ),
        fault(
            "a_wrong_row_of_an_operand",
            "int r = i % 2 * 8, c = s",
            "int r = i / 2 * 8, c = s",
        ),
        fault(
            "wrong_keys_of_a_block",
            "load_tile<W>(own, g.k, tile.first,",
            "load_tile<W>(own, g.k, 0,",
        ),
    ]
}
