//! Operations on lists of matrices.

use crate::Test;
use crate::support::{Device, expect_fault};
use vlct_cuda::driver::emulator::Source;
use vlct_cuda_checks::lists::norms_interpolation_and_non_finite_values;

/// The source of a `.cu` file with `lists.cuh` in its place, so that it can be changed too.
pub fn source_with_lists(name: &str) -> Result<Source, String> {
    let read = |name: &str| Source::kernel_file(name).map_err(|e| e.to_string());
    Ok(read(name)?.with_fault("#include \"lists.cuh\"", &read("lists.cuh")?.text))
}

pub fn tests() -> Vec<Test> {
    let fault = |name: &str, from: &'static str, to: &'static str| {
        Test::new(format!("lists::finds_{name}"), move || {
            let source = source_with_lists("lists.cu")?.with_fault(from, to);
            let device = Device::with_sources(&[source])?;
            expect_fault(norms_interpolation_and_non_finite_values(&device))
        })
    };
    vec![
        fault(
            "a_missing_barrier",
            "    __syncthreads();  // all warps have stored their sums\n",
            "",
        ),
        fault(
            "a_wrong_matrix",
            "first_chunks[middle] <= chunk",
            "first_chunks[middle] < chunk",
        ),
        fault(
            "a_wrong_chunk",
            "(blockIdx.x - first_chunk) * CHUNK",
            "(blockIdx.x - first_chunk) * (CHUNK - 4)",
        ),
        fault(
            "a_lost_end",
            "end = min(length, first + CHUNK)",
            "end = min(length - 1, first + CHUNK)",
        ),
        fault(
            "a_lost_value",
            " + ((double)v.z * v.z + (double)v.w * v.w)",
            " + (double)v.z * v.z",
        ),
        fault(
            "a_lost_sum",
            "i < chunks; i += blockDim.x",
            "i < chunks - 1; i += blockDim.x",
        ),
        fault("an_unchecked_value", " && is_finite(v.y)", ""),
        fault(
            "infinity_as_finite",
            "& 0x7f800000u) != 0x7f800000u",
            "& 0x7fffffffu) <= 0x7f800000u",
        ),
    ]
}
