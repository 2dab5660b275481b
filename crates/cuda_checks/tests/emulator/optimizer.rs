//! Updates of parameters.

use crate::lists::source_with_lists;
use crate::support::{Device, expect_error, expect_fault};
use crate::{Outcome, Test};
use vlct_cuda::driver::Element::F32;
use vlct_cuda::optimizer::{Betas, ParameterUpdate, Rule, update};
use vlct_cuda_checks::optimizer::all_rules;

const BETAS: Betas = Betas {
    beta1: 0.9,
    beta2: 0.98,
    epsilon: 1e-8,
};

pub fn tests() -> Vec<Test> {
    let fault = |name: &str, from: &'static str, to: &'static str| {
        Test::new(format!("optimizer::finds_{name}"), move || {
            let source = source_with_lists("optimizer.cu")?.with_fault(from, to);
            let device = Device::with_sources(&[source])?;
            expect_fault(all_rules(&device))
        })
    };
    vec![
        Test::new("optimizer::names_wrong_moments", names_wrong_moments),
        fault(
            "a_missing_barrier",
            "    __syncthreads();  // all warps have stored their sums\n",
            "",
        ),
        fault("a_wrong_clip", "factor < 1.f ? factor : 1.f", "factor"),
        fault("a_clip_without_epsilon", "add_rn(*norm, 1e-6f)", "*norm"),
        fault(
            "decay_before_the_step",
            "mul_rn(parameter.decay, updated)",
            "mul_rn(parameter.decay, p)",
        ),
        fault(
            "a_wrong_square",
            "mul_rn(sub_rn(1.f, beta2), mul_rn(g, g))",
            "mul_rn(mul_rn(sub_rn(1.f, beta2), g), g)",
        ),
        fault(
            "a_lost_correction",
            "mul_rn(sqrt_rn(v), parameter.v_factor)",
            "sqrt_rn(v)",
        ),
        fault("a_lost_factor_of_the_values", "mul_rn(p, parameter.kept)", "p"),
        fault(
            "values_that_are_rounded_before",
            "store4(parameter.rounded + i, left, p)",
            "store4(parameter.rounded + i, left, g)",
        ),
        fault("a_lost_moment", "if (HAS_V) store4(parameter.v + i, left, v);", ""),
        fault(
            "a_write_behind_the_values",
            "store4(parameter.m + i, left, m);",
            "store4(parameter.m + i, 4, m);",
        ),
        fault(
            "lars_without_decay",
            "return decayed(factor, g, parameter.decay, p);",
            "return mul_rn(factor, g) + 0 * p;",
        ),
        fault(
            "lars_with_one_chunk",
            "i < first_chunks[blockIdx.x + 1]; i += blockDim.x",
            "i < first_chunks[blockIdx.x] + 1; i += blockDim.x",
        ),
        fault("lars_with_zero_norms", "values > 0 && gradients > 0 ?", "true ?"),
        fault(
            "lars_with_the_wrong_norm",
            "sums[2ll * blockIdx.x + 1] = gradients;",
            "sums[2ll * blockIdx.x + 1] = values;",
        ),
    ]
}

fn names_wrong_moments() -> Outcome {
    let device = Device::new()?;
    let run = |columns: usize, rule: Rule| {
        let [mut values, gradient, mut m] = [device.f32(&[0.0; 6])?, device.f32(&[0.0; 6])?, device.f32(&[0.0; 6])?];
        let update_of = ParameterUpdate {
            values: values.matrix_mut(2, 3, F32),
            gradient: gradient.matrix(2, 3, F32),
            moments: vec![m.matrix_mut(2, columns, F32)],
            rounded: None,
            learning_rate: 0.1,
            weight_decay: 0.0,
            step: 1,
        };
        update(&device.context, rule, None, &mut [update_of])
    };
    let expect = |columns, rule, text| {
        expect_error(
            run(columns, rule).map_err(|e| e.to_string()),
            &["update of parameters", text],
        )
    };
    expect(3, Rule::AdamW(BETAS), "1 moments instead of 2")?;
    expect(2, Rule::Sgd(0.9), "`a moment` is [2, 2] of F32 instead of [2, 3]")?;
    run(3, Rule::Sgd(0.9)).map_err(|e| e.to_string())
}
