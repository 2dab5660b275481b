//! Means of segments.

use crate::device::{random, sum_bound};
use crate::{Device, Outcome};
use std::ops::Range;
use vlct_cuda::driver::Element::F32;
use vlct_cuda::driver::Error;
use vlct_cuda::segments;
use vlct_kernels::mat::Beta;
use vlct_kernels::reference;

/// Means of segments and their gradients.
///
/// # Errors
/// The first difference, or an error of the driver.
pub fn means_and_gradients(device: &Device) -> Outcome {
    device.for_all(check)
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
    let mut outcome = device.compare("means", &device.read_f32(&out)?, &want, |i| {
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
        outcome = outcome.and(device.compare("gradients", &device.read_f32(&dx)?, &want, |_| 0.0));
    }
    Ok(outcome)
}
