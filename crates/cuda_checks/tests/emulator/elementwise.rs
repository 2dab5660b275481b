//! Element-wise operations.

use crate::Test;
use crate::support::{Device, expect_fault};
use vlct_cuda::driver::emulator::Source;
use vlct_cuda_checks::elementwise::values;

pub fn tests() -> Vec<Test> {
    let fault = |name: &str, from: &'static str, to: &'static str| {
        Test::new(format!("elementwise::finds_{name}"), move || {
            let source = Source::kernel_file("elementwise.cu").map_err(|e| e.to_string())?;
            let device = Device::with_sources(&[source.with_fault(from, to)])?;
            expect_fault(values(&device))
        })
    };
    vec![
        fault(
            "a_write_behind_the_row",
            "f(row, (long long)row * width + c, width - c);",
            "f(row, (long long)row * width + c, 4);",
        ),
        fault("a_missing_group", "if (c < width) f(row", "if (c + 4 < width) f(row"),
    ]
}
