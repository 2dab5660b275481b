//! Layer norm, forward and backward.

use crate::support::{Device, expect_error, planted_fault};
use crate::{Outcome, Test};
use vlct_cuda::driver::Element::F32;
use vlct_cuda::driver::Error;
use vlct_cuda::layer_norm::{self, Weights};
use vlct_cuda_checks::device::random;
use vlct_cuda_checks::layer_norm::{backward, forward};

pub fn tests() -> Vec<Test> {
    let fault = |name: &str, from, to| {
        planted_fault(
            format!("layer_norm::finds_{name}"),
            ["layer_norm.cu", from, to],
            &["column_sums.cu"],
            |device| forward(device).and_then(|()| backward(device)),
        )
    };
    vec![
        Test::new("layer_norm::names_a_wrong_shape", names_a_wrong_shape),
        fault(
            "a_missing_barrier",
            "    __syncthreads();  // all warps have added their rows\n",
            "",
        ),
        fault(
            "a_column_counted_twice",
            "if (c + 3 < width) squares += d.w * d.w;",
            "if (c + 2 < width) squares += d.w * d.w;",
        ),
        fault(
            "a_missing_row",
            "if (row >= rows) return;\n    x +=",
            "if (row + 1 >= rows) return;\n    x +=",
        ),
        fault(
            "a_wrong_sum_of_a_warp",
            "sums + 2ll * warp * width",
            "sums + 2ll * (warp / 2) * width",
        ),
    ]
}

fn names_a_wrong_shape() -> Outcome {
    let device = Device::new()?;
    let run = || -> Result<(), Error> {
        let [x, w] = [device.f32(&random(16, 1))?, device.f32(&random(8, 2))?];
        let [mut y, mut mean, mut rstd] = [device.empty(16, F32)?, device.empty(2, F32)?, device.empty(2, F32)?];
        let norm = Weights {
            scale: w.matrix(1, 8, F32),
            shift: w.matrix(1, 7, F32),
            eps: 1e-6,
        };
        let (x, y) = (x.matrix(2, 8, F32), y.matrix_mut(2, 8, F32));
        let (mean, rstd) = (mean.matrix_mut(1, 2, F32), rstd.matrix_mut(1, 2, F32));
        layer_norm::forward(&device.context, x, norm, y, mean, rstd)
    };
    expect_error(
        run().map_err(|e| e.to_string()),
        &["layer norm: `shift` is [1, 7] of F32 instead of [1, 8] of F32"],
    )
}
