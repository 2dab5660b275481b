//! Weighted sums. The sums of the values of rows are tested with the losses.

use crate::support::{Device, expect_error, planted_fault};
use crate::{Outcome, Test};
use vlct_cuda::driver::Element::F32;
use vlct_cuda::driver::Error;
use vlct_cuda::scalars::weighted_sum;
use vlct_cuda_checks::scalars::weighted_sums;

pub fn tests() -> Vec<Test> {
    let fault = |name: &str, from, to| {
        planted_fault(
            format!("scalars::finds_{name}"),
            ["scalars.cu", from, to],
            &[],
            weighted_sums,
        )
    };
    vec![
        Test::new("scalars::names_a_wrong_shape", names_a_wrong_shape),
        fault("a_missing_term", "i < n; i += WARP_SIZE", "i + 1 < n; i += WARP_SIZE"),
        fault("a_missing_sum", "    sum = warp_sum(sum);\n", ""),
    ]
}

fn names_a_wrong_shape() -> Outcome {
    let device = Device::new()?;
    let run = || -> Result<(), Error> {
        let (x, mut out) = (device.f32(&[1.0, 2.0])?, device.empty(1, F32)?);
        let terms = [(x.matrix(1, 1, F32), 1.0), (x.matrix(1, 2, F32), 1.0)];
        weighted_sum(&device.context, &terms, out.matrix_mut(1, 1, F32))
    };
    expect_error(
        run().map_err(|e| e.to_string()),
        &["weighted sum: `value` is [1, 2] of F32 instead of [1, 1] of F32"],
    )
}
