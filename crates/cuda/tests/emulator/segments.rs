//! Means of segments.

use crate::support::{Device, compare, expect_error, expect_fault, random, sum_bound};
use crate::{Outcome, Test};
use std::ops::Range;
use vlct_cuda::driver::Element::F32;
use vlct_cuda::driver::Error;
use vlct_cuda::driver::emulator::Source;
use vlct_cuda::segments;
use vlct_kernels::mat::Beta;
use vlct_kernels::reference;

pub fn tests() -> Vec<Test> {
    let fault = |name: &str, from: &'static str, to: &'static str| {
        Test::new(format!("segments::finds_{name}"), move || {
            let source = Source::kernel_file("segments.cu").map_err(|e| e.to_string())?;
            expect_fault(Device::with_sources(&[source.with_fault(from, to)])?.for_all(check))
        })
    };
    vec![
        Test::new("segments::means_and_gradients", || Device::new()?.for_all(check)),
        Test::new("segments::names_wrong_segments", names_wrong_segments),
        fault(
            "a_missing_barrier",
            "    __syncthreads();  // all warps have stored their sums\n",
            "",
        ),
        fault(
            "a_missing_row",
            "row < s.end; row += WARPS",
            "row + 1 < s.end; row += WARPS",
        ),
        fault("a_missing_warp", "int i = 1; i < WARPS", "int i = 2; i < WARPS"),
        fault("a_write_behind_the_row", "store4(dx, left, d);", "store4(dx, 4, d);"),
        fault("a_lost_beta", "beta == 0.f ?", "true ?"),
        fault(
            "a_row_of_no_segment",
            "if (s != NONE) d =",
            "if (s == NONE) s = 0;\n    d =",
        ),
    ]
}

/// Lists of segments of this number of rows: none, all rows, and several with gaps, one of them empty.
fn lists(rows: usize) -> [Vec<Range<usize>>; 3] {
    let (third, two_thirds) = (rows / 3, 2 * rows / 3);
    [
        vec![],
        vec![0..rows, rows..rows],
        vec![
            0..third,
            third..third,
            rows.min(third + 1)..two_thirds.max(rows.min(third + 1)),
            rows..rows,
        ],
    ]
}

fn check(device: &Device, [rows, width]: [usize; 2]) -> Outcome {
    for segments in lists(rows) {
        run(device, [rows, width], &segments)
            .map_err(|e| e.to_string())
            .flatten()
            .map_err(|e| format!("{segments:?}: {e}"))?;
    }
    Ok(())
}

fn run(device: &Device, [rows, width]: [usize; 2], segments: &[Range<usize>]) -> Result<Outcome, Error> {
    let (x, d_out, before) = (
        random(rows * width, 1),
        random(segments.len() * width, 2),
        random(rows * width, 3),
    );
    let [x_device, d_out_device] = [device.f32(&x)?, device.f32(&d_out)?];
    let mut out = device.empty(d_out.len(), F32)?;
    segments::mean(
        &device.context,
        x_device.matrix(rows, width, F32),
        segments,
        out.matrix_mut(segments.len(), width, F32),
    )?;
    let mut want = vec![0f32; d_out.len()];
    reference::segment_mean(&mut want, &x, width, segments);
    // The values are at most 1, so their sums, divided by their number, have this error.
    let mut outcome = compare("means", &device.read_f32(&out)?, &want, |i| {
        sum_bound(segments[i / width].len())
    });
    for beta in [Beta::Zero, Beta::One] {
        let (mut dx, mut want) = match beta {
            Beta::Zero => (device.empty(before.len(), F32)?, vec![0.0; before.len()]),
            Beta::One => (device.f32(&before)?, before.clone()),
        };
        segments::mean_backward(
            &device.context,
            d_out_device.matrix(segments.len(), width, F32),
            segments,
            dx.matrix_mut(rows, width, F32),
            beta,
        )?;
        vlct_kernels::segments::mean_backward(&d_out, width, segments, &mut want);
        // The CPU computes the same products and sums.
        outcome = outcome.and(compare("gradients", &device.read_f32(&dx)?, &want, |_| 0.0));
    }
    Ok(outcome)
}

fn names_wrong_segments() -> Outcome {
    let device = Device::new()?;
    let run = |segments: &[Range<usize>]| {
        let d_out = device.f32(&[0.0; 4])?;
        let mut dx = device.empty(6, F32)?;
        let (d_out, dx) = (d_out.matrix(2, 2, F32), dx.matrix_mut(3, 2, F32));
        segments::mean_backward(&device.context, d_out, segments, dx, Beta::Zero)
    };
    let expect = |segments: &[Range<usize>], text| {
        expect_error(
            run(segments).map_err(|e| e.to_string()),
            &["gradient of the mean", text],
        )
    };
    expect(&[0..2, 2..4], "the segment 2..4 is not a range of 3 rows")?;
    expect(&[0..2, 1..3], "not in the order")?;
    run(&[0..2, 2..3]).map_err(|e| e.to_string())
}
