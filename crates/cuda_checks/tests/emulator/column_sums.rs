//! Column sums.

use crate::Test;
use crate::support::{Device, expect_fault};
use vlct_cuda::driver::emulator::Source;
use vlct_cuda_checks::column_sums::sums;

pub fn tests() -> Vec<Test> {
    let fault = |name: &str, from: &'static str, to: &'static str| {
        Test::new(format!("column_sums::finds_{name}"), move || {
            let source = Source::kernel_file("column_sums.cu").map_err(|e| e.to_string())?;
            let device = Device::with_sources(&[source.with_fault(from, to)])?;
            expect_fault(sums(&device))
        })
    };
    vec![
        fault(
            "a_missing_barrier",
            "    __syncthreads();  // all warps have stored their sums\n",
            "",
        ),
        fault(
            "a_write_behind_the_matrix",
            "if (warp != 0 || c >= width) return;",
            "if (warp != 0 || c > width) return;",
        ),
        fault(
            "a_missing_chunk",
            "first + rows_per_chunk);",
            "first + rows_per_chunk - 1);",
        ),
    ]
}
