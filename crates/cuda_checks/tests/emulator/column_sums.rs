//! Column sums.

use crate::Test;
use crate::support::planted_fault;
use vlct_cuda_checks::column_sums::sums;

pub fn tests() -> Vec<Test> {
    let fault = |name: &str, from, to| {
        planted_fault(
            format!("column_sums::finds_{name}"),
            ["column_sums.cu", from, to],
            &[],
            sums,
        )
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
