//! Faults in the kernels that run single instructions.

use crate::Test;
use crate::support::{Device, expect_fault};
use vlct_cuda::driver::emulator::Source;
use vlct_cuda_checks::{Check, INTRINSICS};

pub fn tests() -> Vec<Test> {
    let fault = |name: &str, check: &'static str, from: &'static str, to: &'static str| {
        Test::new(format!("intrinsics::finds_{name}"), move || {
            let source = Source::kernel_file("intrinsics.cu").map_err(|e| e.to_string())?;
            let device = Device::with_sources(&[source.with_fault(from, to)])?;
            let is_named = |(name, _): &&Check| name.strip_prefix("intrinsics::") == Some(check);
            let (_, run) = INTRINSICS.iter().find(is_named).ok_or("there is no such check")?;
            expect_fault(run(&device))
        })
    };
    vec![
        fault(
            "truncation_instead_of_rounding",
            "conversions",
            "out[i] = rounded.bits;",
            "out[i] = in[i] >> 16;",
        ),
        fault(
            "a_fused_operation",
            "arithmetic",
            "add_rn(b, mul_rn(a, b))",
            "fmaf(a, b, b)",
        ),
        fault(
            "a_wrong_fragment_of_a",
            "mma",
            "in[(g + i % 2 * 8) * 8 + i / 2 * 4 + t]",
            "in[(g + i / 2 * 8) * 8 + i % 2 * 4 + t]",
        ),
        fault("a_wrong_fragment_of_b", "mma", "g * 8 + i * 4 + t", "g * 8 + 2 * t + i"),
        fault(
            "a_matrix_that_is_not_transposed",
            "ldmatrix",
            "    ldmatrix_trans(registers, row);",
            "    ldmatrix(registers, row);",
        ),
        fault("a_missing_wait", "cp_async", "        cp_async_wait<1>();\n", ""),
        fault("bytes_that_are_not_zero", "cp_async", "lane % 9);", "8);"),
        fault(
            "a_shuffle_of_other_threads",
            "shuffles",
            "__shfl_down_sync(FULL_MASK, v, 3, 16)",
            "__shfl_down_sync(FULL_MASK, v, 3)",
        ),
    ]
}
