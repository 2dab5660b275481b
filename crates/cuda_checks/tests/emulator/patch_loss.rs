//! The loss of masked autoencoding: the normalisation of patches, and the squared error, forward and backward.

use crate::support::{Device, expect_error, planted_fault};
use crate::{Outcome, Test};
use vlct_cuda::driver::Element::F32;
use vlct_cuda::driver::Error;
use vlct_cuda::patch_loss::backward;
use vlct_cuda_checks::device::random;
use vlct_cuda_checks::patch_loss::normalised_rows_losses_and_gradients;

pub fn tests() -> Vec<Test> {
    const LOSS: &str = "patch_loss.cu";
    let fault = |name: &str, file, from, to| {
        let others: &[&str] = if file == LOSS { &["scalars.cu"] } else { &[LOSS] };
        planted_fault(
            format!("patch_loss::finds_{name}"),
            [file, from, to],
            others,
            normalised_rows_losses_and_gradients,
        )
    };
    vec![
        Test::new("patch_loss::names_a_wrong_shape", names_a_wrong_shape),
        fault("a_biased_variance", LOSS, "(float)(width - 1)", "(float)width"),
        fault(
            "a_value_behind_the_row",
            LOSS,
            "left > 3 ? d.w * d.w : 0.f",
            "d.w * d.w",
        ),
        fault("a_missing_row", LOSS, "if (row >= rows)", "if (row + 1 >= rows)"),
        fault(
            "a_missing_column",
            LOSS,
            "load4(target + first + c, width - c)",
            "load4(target + first + c, width - c - 1)",
        ),
        fault(
            "missing_barriers_of_a_reduction",
            LOSS,
            "#include \"block_reduce.cuh\"",
            "#include \"device.cuh\"\n#define __syncthreads() (void)0\n#include \"block_reduce.cuh\"",
        ),
        fault(
            "a_wrong_sign",
            LOSS,
            "load4(prediction + i, left) - load4",
            "load4(prediction + i, left) + load4",
        ),
        fault(
            "a_missing_sum_of_a_row",
            "scalars.cu",
            "i < n; i += blockDim.x",
            "i + 1 < n; i += blockDim.x",
        ),
    ]
}

fn names_a_wrong_shape() -> Outcome {
    let device = Device::new()?;
    let run = || -> Result<(), Error> {
        let (mut x, t) = (device.f32(&random(16, 1))?, device.f32(&random(16, 2))?);
        backward(&device.context, x.matrix_mut(2, 8, F32), t.matrix(1, 8, F32), 1.0)
    };
    expect_error(
        run().map_err(|e| e.to_string()),
        &["gradient of squared error: `target` is [1, 8] of F32 instead of [2, 8] of F32"],
    )
}
