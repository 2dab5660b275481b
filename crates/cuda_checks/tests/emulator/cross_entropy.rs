//! Cross-entropy, soft cross-entropy and accuracies.

use crate::support::{Device, expect_error, expect_fault};
use crate::{Outcome, Test};
use vlct_cuda::cross_entropy;
use vlct_cuda::driver::Element::F32;
use vlct_cuda::driver::Error;
use vlct_cuda::driver::emulator::Source;
use vlct_cuda_checks::cross_entropy::{accuracies, losses_and_gradients};
use vlct_cuda_checks::device::random;

pub fn tests() -> Vec<Test> {
    let fault = |name: &str, file: &'static str, from: &'static str, to: &'static str| {
        Test::new(format!("cross_entropy::finds_{name}"), move || {
            let read = |name: &str| Source::kernel_file(name).map_err(|e| e.to_string());
            let sources = ["cross_entropy.cu", "scalars.cu"].map(|name| {
                let source = read(name)?;
                Ok(if name == file {
                    source.with_fault(from, to)
                } else {
                    source
                })
            });
            let sources = sources.into_iter().collect::<Result<Vec<_>, String>>()?;
            let device = Device::with_sources(&sources)?;
            expect_fault(losses_and_gradients(&device).and_then(|()| accuracies(&device)))
        })
    };
    let loss_fault = |name, from, to| fault(name, "cross_entropy.cu", from, to);
    vec![
        Test::new("cross_entropy::names_a_wrong_target", names_a_wrong_target),
        loss_fault("zeros_behind_the_row", "    if (left < 4) v.w = -INFINITY;\n", ""),
        loss_fault(
            "a_sum_that_keeps_its_maximum",
            "            own.sum *= expf(own.max - max);\n",
            "",
        ),
        loss_fault(
            "a_gradient_in_the_wrong_class",
            "int i = target - c;",
            "int i = target - c - left / 8;",
        ),
        loss_fault(
            "the_last_of_equal_logits",
            "(logit == best.logit && c < best.column)",
            "(logit == best.logit && c > best.column)",
        ),
        loss_fault(
            "the_last_warp_of_equal_logits",
            "(a.logit == b.logit && a.column < b.column)",
            "(a.logit == b.logit && a.column > b.column)",
        ),
        loss_fault(
            "a_missing_weight",
            "total += sum4(load4(targets + c, left));",
            "total += sum4(load4(targets + c, left - 1));",
        ),
        fault(
            "a_missing_row",
            "scalars.cu",
            "i < n; i += blockDim.x",
            "i + 1 < n; i += blockDim.x",
        ),
    ]
}

fn names_a_wrong_target() -> Outcome {
    let device = Device::new()?;
    let run = || -> Result<(), Error> {
        let (x, mut loss) = (device.f32(&random(16, 1))?, device.empty(1, F32)?);
        let mut p = device.empty(16, F32)?;
        let (p, loss) = (p.matrix_mut(2, 8, F32), loss.matrix_mut(1, 1, F32));
        cross_entropy::forward(&device.context, x.matrix(2, 8, F32), &[7, 8], p, loss)
    };
    expect_error(
        run().map_err(|e| e.to_string()),
        &["cross-entropy: target 8 of row 1 is not below 8"],
    )
}
