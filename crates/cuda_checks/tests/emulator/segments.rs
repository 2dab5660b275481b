//! Means of segments.

use crate::support::{Device, expect_error, planted_fault};
use crate::{Outcome, Test};
use std::ops::Range;
use vlct_cuda::driver::Element::F32;
use vlct_cuda::segments;
use vlct_cuda_checks::segments::means_and_gradients;
use vlct_kernels::mat::Beta;

pub fn tests() -> Vec<Test> {
    let fault = |name: &str, from, to| {
        planted_fault(
            format!("segments::finds_{name}"),
            ["segments.cu", from, to],
            &[],
            means_and_gradients,
        )
    };
    vec![
        Test::new("segments::names_wrong_segments", names_wrong_segments),
        fault(
            "a_missing_barrier",
            "    __syncthreads();  // all warps have stored their sums\n",
            "",
        ),
        fault(
            "a_missing_row",
            "row < s.end; row += WARPS",
            "row + 1 < s.end; row += WARPS",
        ),
        fault("a_missing_warp", "int i = 1; i < WARPS", "int i = 2; i < WARPS"),
        fault("a_write_behind_the_row", "store4(dx, left, d);", "store4(dx, 4, d);"),
        fault("a_lost_beta", "beta == 0.f ?", "true ?"),
        fault(
            "a_row_of_no_segment",
            "if (s != NONE) d =",
            "if (s == NONE) s = 0;\n    d =",
        ),
    ]
}

fn names_wrong_segments() -> Outcome {
    let device = Device::new()?;
    let run = |segments: &[Range<usize>]| {
        let d_out = device.f32(&[0.0; 4])?;
        let mut dx = device.empty(6, F32)?;
        let (d_out, dx) = (d_out.matrix(2, 2, F32), dx.matrix_mut(3, 2, F32));
        segments::mean_backward(&device.context, d_out, segments, dx, Beta::Zero)
    };
    let expect = |segments: &[Range<usize>], text| {
        expect_error(
            run(segments).map_err(|e| e.to_string()),
            &["gradient of the mean", text],
        )
    };
    expect(&[0..2, 2..4], "the segment 2..4 is not a range of 3 rows")?;
    expect(&[0..2, 1..3], "not in the order")?;
    run(&[0..2, 2..3]).map_err(|e| e.to_string())
}
