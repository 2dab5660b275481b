//! Rows of matrices by index.

use crate::support::{Device, expect_error, planted_fault};
use crate::{Outcome, Test};
use vlct_cuda::driver::Element::F32;
use vlct_cuda::rows::{self, NONE, Pick};
use vlct_cuda_checks::rows::gather_lookup_and_scatter_add;

pub fn tests() -> Vec<Test> {
    let fault = |name: &str, from, to| {
        planted_fault(
            format!("rows::finds_{name}"),
            ["rows.cu", from, to],
            &[],
            gather_lookup_and_scatter_add,
        )
    };
    vec![
        Test::new("rows::names_wrong_indices", names_wrong_indices),
        fault(
            "a_value_that_is_not_copied",
            "i < min(left, VALUES); i++",
            "i < min(left, VALUES - 1); i++",
        ),
        fault("a_wrong_matrix", "matrices[source.matrix]", "matrices[0]"),
        fault(
            "a_wrong_table",
            "rows[(long long)t * gridDim.x",
            "rows[(long long)0 * gridDim.x",
        ),
        fault(
            "a_table_without_base",
            "base ? load4(base + i, left)",
            "base && count == 0 ? load4(base + i, left)",
        ),
        fault(
            "a_gradient_that_is_not_added",
            "i < s.end; i++) {\n            long long row = order ? order[i] : i;\n            sum = sum + *",
            "i + 1 < s.end; i++) {\n            long long row = order ? order[i] : i;\n            sum = sum + *",
        ),
        fault("a_lost_beta", "beta == 0.f ?", "true ?"),
        fault(
            "a_wrong_row_of_the_table",
            "(long long)s.row * width",
            "(long long)blockIdx.x * width",
        ),
    ]
}

fn names_wrong_indices() -> Outcome {
    let device = Device::new()?;
    let run = |lists: &[&[u32]]| {
        let table = device.f32(&[0.0; 6])?;
        let picks: Vec<Pick> = lists
            .iter()
            .map(|rows| Pick {
                from: table.matrix(3, 2, F32),
                rows,
            })
            .collect();
        let mut out = device.empty(4, F32)?;
        rows::gather(&device.context, &picks, out.matrix_mut(2, 2, F32))
    };
    let expect = |lists: &[&[u32]], text| expect_error(run(lists).map_err(|e| e.to_string()), &["gather", text]);
    expect(&[&[1, 3]], "the index 3 is outside")?;
    expect(&[&[1, 2, 0]], "3 indices for 2 rows")?;
    expect(&[&[1, NONE]], "no source")?;
    expect(&[&[1, NONE], &[2, 2]], "row 0 of the result has two sources")?;
    run(&[&[1, NONE], &[NONE, 2]]).map_err(|e| e.to_string())
}
