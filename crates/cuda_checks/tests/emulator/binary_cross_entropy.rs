//! Binary cross-entropy, forward and backward.

use crate::support::{Device, expect_error, planted_fault};
use crate::{Outcome, Test};
use vlct_cuda::binary_cross_entropy::forward;
use vlct_cuda::driver::Element::F32;
use vlct_cuda::driver::Error;
use vlct_cuda_checks::binary_cross_entropy::{large_logits, losses_and_gradients};
use vlct_cuda_checks::device::random;

pub fn tests() -> Vec<Test> {
    const LOSS: &str = "binary_cross_entropy.cu";
    let fault = |name: &str, file, from, to| {
        let others: &[&str] = if file == LOSS { &["scalars.cu"] } else { &[LOSS] };
        planted_fault(
            format!("binary_cross_entropy::finds_{name}"),
            [file, from, to],
            others,
            |device| losses_and_gradients(device).and_then(|()| large_logits(device)),
        )
    };
    vec![
        Test::new("binary_cross_entropy::names_a_wrong_shape", names_a_wrong_shape),
        fault("an_overflow", LOSS, "expf(-fabsf(x))", "expf(-x)"),
        fault("a_lost_small_term", LOSS, "log1pf(expf(-fabsf(x)))", "0.f"),
        fault(
            "targets_of_another_row",
            LOSS,
            "x * targets[first + c]",
            "x * targets[c]",
        ),
        fault(
            "missing_barriers_of_a_reduction",
            LOSS,
            "#include \"block_reduce.cuh\"",
            "#include \"device.cuh\"\n#define __syncthreads() (void)0\n#include \"block_reduce.cuh\"",
        ),
        fault(
            "a_missing_class",
            LOSS,
            "c < classes; c += blockDim.x",
            "c + 1 < classes; c += blockDim.x",
        ),
        fault("a_wrong_sign", LOSS, "expf(-x)", "expf(x)"),
        fault(
            "a_missing_row",
            "scalars.cu",
            "i < n; i += blockDim.x",
            "i + 1 < n; i += blockDim.x",
        ),
    ]
}

fn names_a_wrong_shape() -> Outcome {
    let device = Device::new()?;
    let run = || -> Result<(), Error> {
        let (x, mut loss) = (device.f32(&random(16, 1))?, device.empty(1, F32)?);
        let (x, t, loss) = (x.matrix(2, 8, F32), x.matrix(2, 7, F32), loss.matrix_mut(1, 1, F32));
        forward(&device.context, x, t, loss)
    };
    expect_error(
        run().map_err(|e| e.to_string()),
        &["binary cross-entropy: `targets` is [2, 7] of F32 instead of [2, 8] of F32"],
    )
}
