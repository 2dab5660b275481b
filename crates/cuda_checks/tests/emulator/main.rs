//! Runs the checks of the library in the emulator: kernels against the plain loops of `vlct_kernels::reference`.
//!
//! Every kernel runs in each schedule. Tests with planted faults show that these comparisons, or the emulator, find the fault. Without a C++
//! compiler, all tests are reported as ignored. Set `VLCT_SANITIZE` to run the kernels with AddressSanitizer, as the test
//! `sanitizers::…` does in a process of its own.

mod attention;
mod attention_wgmma;
mod binary_cross_entropy;
mod bulk_copy;
mod column_sums;
mod context;
mod cross_entropy;
mod dropout;
mod elementwise;
mod execution;
mod intrinsics;
mod layer_norm;
mod lists;
mod matmul;
mod missing_compiler;
mod optimizer;
mod patch_loss;
mod patches;
mod rows;
mod sanitizers;
mod scalars;
mod segments;
mod sparse;
mod support;
mod tensor_core;
mod transport;
mod unfused;
mod wgmma;

use libtest_mimic::{Arguments, Trial};
use vlct_cuda_checks::{Check, HOPPER, INTRINSICS, KERNELS, Outcome, PRODUCTS};

/// A test, its name, and what it needs beside a compiler, if that is missing.
struct Test {
    name: String,
    missing: Option<String>,
    run: Box<dyn FnOnce() -> Outcome + Send>,
}

impl Test {
    fn new(name: impl Into<String>, run: impl FnOnce() -> Outcome + Send + 'static) -> Self {
        Self {
            name: name.into(),
            missing: None,
            run: Box::new(run),
        }
    }
}

/// Tests that run a check of the library on a device with all kernels.
fn checks(checks: &[Check]) -> Vec<Test> {
    let test = |(name, run): &Check| {
        let run = *run;
        Test::new(*name, move || run(&*support::Device::new()?))
    };
    checks.iter().map(test).collect()
}

fn main() {
    let kernels = [
        checks(&INTRINSICS),
        checks(&KERNELS),
        checks(&HOPPER),
        checks(&PRODUCTS),
        attention::tests(),
        attention_wgmma::tests(),
        binary_cross_entropy::tests(),
        bulk_copy::tests(),
        column_sums::tests(),
        cross_entropy::tests(),
        dropout::tests(),
        elementwise::tests(),
        intrinsics::tests(),
        layer_norm::tests(),
        lists::tests(),
        optimizer::tests(),
        patch_loss::tests(),
        patches::tests(),
        rows::tests(),
        scalars::tests(),
        segments::tests(),
        sparse::tests(),
        tensor_core::tests(),
        transport::tests(),
        unfused::tests(),
        wgmma::tests(),
    ];
    let others = if std::env::var_os(sanitizers::VARIABLE).is_some() {
        vec![sanitizers::planted()]
    } else {
        vec![
            context::tests(),
            execution::tests(),
            matmul::tests(),
            missing_compiler::tests(),
            sanitizers::tests(),
        ]
    };
    let tests = kernels.into_iter().chain(others).flatten();
    let missing_compiler = support::compiler().err();
    let trials = tests.map(|test| {
        let missing = missing_compiler.clone().or(test.missing);
        let trial = Trial::test(test.name, || (test.run)().map_err(Into::into));
        match missing {
            Some(reason) => trial.with_kind(reason).with_ignored_flag(true),
            None => trial,
        }
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit();
}
