//! Products without fused epilogues (`driver/unfused.rs`, `kernels/epilogue.cu`) against the fused ones of the emulator.

use crate::Test;
use crate::support::{Device, expect_fault};
use vlct_cuda::driver::emulator::Source;
use vlct_cuda_checks::unfused::all_epilogues;

pub fn tests() -> Vec<Test> {
    let mut tests = Vec::new();
    let faults = [
        (
            "unfused::finds_a_wrong_stride",
            "long long i = row * stride_d + column;",
            "long long i = row * width + column;",
        ),
        (
            "unfused::finds_a_summand_without_beta",
            "if (beta != 0.f) v += beta * read(c + row * stride_c + column);",
            "if (beta != 0.f) v += read(c + row * stride_c + column);",
        ),
        (
            "unfused::finds_a_result_that_is_stored_for_aux",
            "if (has_gelu) v = gelu_tanh(v);",
            "if (has_gelu && !aux) v = gelu_tanh(v);",
        ),
        (
            "unfused::finds_sums_without_the_derivative",
            "if (keep) product[row * width + column] = v;",
            "",
        ),
    ];
    for (name, from, to) in faults {
        tests.push(Test::new(name, move || {
            let sources = Source::all().map_err(|e| e.to_string())?.into_iter();
            let faulty = sources.map(|source| {
                if source.name == "epilogue.cu" {
                    source.with_fault(from, to)
                } else {
                    source
                }
            });
            let device = Device::with_sources(&faulty.collect::<Vec<_>>())?;
            expect_fault(all_epilogues(&device))
        }));
    }
    tests
}
