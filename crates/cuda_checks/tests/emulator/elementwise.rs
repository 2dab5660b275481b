//! Element-wise operations.

use crate::Test;
use crate::support::planted_fault;
use vlct_cuda_checks::elementwise::values;

pub fn tests() -> Vec<Test> {
    let fault = |name: &str, from, to| {
        planted_fault(
            format!("elementwise::finds_{name}"),
            ["elementwise.cu", from, to],
            &[],
            values,
        )
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
