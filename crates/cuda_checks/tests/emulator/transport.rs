//! Optimal transport between words and patches: plans, distances and gradients.

use crate::support::{Device, expect_error, planted_fault};
use crate::{Outcome, Test};
use vlct_cuda::driver::Element::F32;
use vlct_cuda::driver::Error;
use vlct_cuda::transport::{self, Pair};
use vlct_cuda_checks::device::random;
use vlct_cuda_checks::transport::{constant_norms, distances_plans_and_gradients};
use vlct_kernels::mat::Beta;
use vlct_kernels::transport::Ipot;

pub fn tests() -> Vec<Test> {
    let fault = |name: &str, from, to| {
        planted_fault(
            format!("transport::finds_{name}"),
            ["transport.cu", from, to],
            &["scalars.cu"],
            |device| distances_plans_and_gradients(device).and_then(|()| constant_norms(device)),
        )
    };
    let missing_barrier = |name: &str, barrier: &'static str| fault(&format!("a_missing_barrier_{name}"), barrier, "");
    vec![
        Test::new("transport::names_rows_that_do_not_exist", wrong_rows),
        Test::new("transport::names_rows_in_two_groups", rows_in_two_groups),
        missing_barrier(
            "before_iterations",
            "    __syncthreads();  // the initial values are written\n",
        ),
        missing_barrier(
            "after_columns",
            "        __syncthreads();  // `t` and `delta` are complete\n",
        ),
        missing_barrier(
            "after_rows",
            "        __syncthreads();  // `sigma` is complete, and all threads have read `t`\n",
        ),
        missing_barrier(
            "before_a_product",
            "        __syncthreads();  // the chunk is complete\n",
        ),
        missing_barrier(
            "after_a_product",
            "        __syncthreads();  // all threads have read the chunk\n",
        ),
        missing_barrier(
            "before_a_sum_of_units",
            "            __syncthreads();  // the values of the plan are complete, and `projections`\n",
        ),
        missing_barrier(
            "after_a_sum_of_units",
            "            __syncthreads();  // all threads have used the previous values\n",
        ),
        fault(
            "a_missing_iteration",
            "iteration < iterations",
            "iteration + 1 < iterations",
        ),
        fault(
            "factors_of_another_row",
            "(delta[i % m] * sigma[i / m])",
            "(delta[i % m] * sigma[i / m / 2])",
        ),
        fault("a_write_behind_shared_memory", "t + n * m + n}", "t + n * m + n + 40}"),
        fault("factors_in_the_same_memory", "sigma + n}", "sigma}"),
        fault(
            "a_word_of_another_pair",
            "if (word < p.words && patch < p.patches)",
            "if (patch < p.patches)",
        ),
        fault(
            "a_row_instead_of_a_column",
            "other_step = is_word ? 1 : p.patches;",
            "other_step = 1;",
        ),
        fault(
            "a_missing_projection",
            " - load4(unit + i, left) * projections[r];",
            ";",
        ),
        fault(
            "a_projection_of_a_constant_norm",
            "norms[r] > MIN_NORM ? sum : 0.f",
            "sum",
        ),
        fault("a_missing_weight", "distance * p.weight", "distance"),
    ]
}

fn wrong_rows() -> Outcome {
    let device = Device::new()?;
    let pair = Pair {
        text: 0..1,
        image: 1..9,
        weight: 1.0,
    };
    let run = || -> Result<(), Error> {
        let (x, mut distance) = (device.f32(&random(16, 1))?, device.empty(1, F32)?);
        let (x, out) = (x.matrix(2, 8, F32), distance.matrix_mut(1, 1, F32));
        transport::forward(&device.context, x, &[pair], Ipot::TRAINING, out).map(drop)
    };
    expect_error(
        run().map_err(|e| e.to_string()),
        &["optimal transport: 0..1 and 1..9 are not rows of 2 rows"],
    )
}

fn rows_in_two_groups() -> Outcome {
    let device = Device::new()?;
    let pair = |text, image| Pair {
        text,
        image,
        weight: 1.0,
    };
    let run = |pairs: &[Pair]| -> Result<(), Error> {
        let (x, mut distance) = (device.f32(&random(32, 1))?, device.empty(1, F32)?);
        let (x, out) = (x.matrix(4, 8, F32), distance.matrix_mut(1, 1, F32));
        let mut gradient = device.empty(32, F32)?;
        let saved = transport::forward(&device.context, x, pairs, Ipot::TRAINING, out)?;
        transport::backward(&device.context, &saved, 1.0, gradient.matrix_mut(4, 8, F32), Beta::Zero)
    };
    for pairs in [
        vec![pair(0..2, 1..3)],
        vec![pair(0..1, 1..2), pair(1..2, 2..3)],
        vec![pair(2..3, 3..4), pair(0..1, 1..2)],
    ] {
        let text = "gradient of optimal transport: the rows of pairs overlap or are not in ascending order";
        expect_error(run(&pairs).map_err(|e| e.to_string()), &[text])?;
    }
    Ok(())
}
