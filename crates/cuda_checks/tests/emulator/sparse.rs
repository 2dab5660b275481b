//! Products of sparse matrices.

use crate::Test;
use crate::support::{Device, expect_fault};
use vlct_cuda::driver::emulator::Source;
use vlct_cuda_checks::sparse::products;

pub fn tests() -> Vec<Test> {
    let fault = |name: &str, from: &'static str, to: &'static str| {
        Test::new(format!("sparse::finds_{name}"), move || {
            let source = Source::kernel_file("sparse.cu").map_err(|e| e.to_string())?;
            let device = Device::with_sources(&[source.with_fault(from, to)])?;
            expect_fault(products(&device))
        })
    };
    vec![
        fault("a_missing_entry", "i < end; i++", "i + 1 < end; i++"),
        fault("a_lost_beta", "beta == 0.f ?", "true ?"),
        fault("a_wrong_column", "entry.column * width + c", "entry.column * width"),
        fault(
            "a_write_behind_the_row",
            "store4(out, left, sum);",
            "store4(out, 4, sum);",
        ),
    ]
}
