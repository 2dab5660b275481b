//! Products of sparse matrices.

use crate::Test;
use crate::support::planted_fault;
use vlct_cuda_checks::sparse::products;

pub fn tests() -> Vec<Test> {
    let fault =
        |name: &str, from, to| planted_fault(format!("sparse::finds_{name}"), ["sparse.cu", from, to], &[], products);
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
