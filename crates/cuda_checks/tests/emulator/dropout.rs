//! Dropout.

use crate::Test;
use crate::support::planted_fault;
use vlct_cuda_checks::dropout::has_the_mask_of_the_cpu;

pub fn tests() -> Vec<Test> {
    let fault = |name: &str, from, to| {
        planted_fault(
            format!("dropout::finds_{name}"),
            ["dropout.cu", from, to],
            &[],
            has_the_mask_of_the_cpu,
        )
    };
    vec![
        fault(
            "a_wrong_number_of_rounds",
            "round < 8; round += 2",
            "round < 12; round += 2",
        ),
        fault("a_wrong_rotation", "b = rotate(b ^ c, 7);", "b = rotate(b ^ c, 8);"),
        fault("a_wrong_half_of_the_key", "(unsigned)(key3 >> 32)", "(unsigned)key3"),
        fault("a_wrong_block", "first / BLOCK_VALUES + lane", "lane"),
        fault(
            "a_wrong_stream",
            "block,  0,      stream, 0}",
            "block,  0,      0, stream}",
        ),
        fault("a_wrong_thread_of_the_mask", "kept, c / BLOCK_VALUES)", "kept, lane)"),
        fault(
            "a_write_behind_the_row",
            "store4(y + at, left, v);",
            "store4(y + at, 4, v);",
        ),
    ]
}
