//! Dropout.

use crate::device::random;
use crate::{Device, Outcome};
use vlct_cuda::driver::Element::F32;
use vlct_cuda::driver::Error;
use vlct_cuda::dropout::{dropout, dropout_in_place};

/// Keys with bits in all halves of all numbers.
const KEY: [u64; 4] = [
    0x0123_4567_89ab_cdef,
    0xfedc_ba98_7654_3210,
    1 << 63,
    0xffff_ffff_0000_0001,
];

/// Dropout with the mask of the CPU.
///
/// # Errors
/// The first difference, or an error of the driver.
pub fn has_the_mask_of_the_cpu(device: &Device) -> Outcome {
    device.for_all(check)
}

/// Dropout of rows that take several blocks of the random stream.
///
/// # Errors
/// The first difference, or an error of the driver.
pub fn has_the_mask_of_the_cpu_in_wide_rows(device: &Device) -> Outcome {
    check(device, [3, 512])?;
    check(device, [9, 2063])
}

fn check(device: &Device, shape: [usize; 2]) -> Outcome {
    for p in [0.0, 0.1, 0.5, 0.9] {
        run(device, shape, p)
            .map_err(|e| e.to_string())
            .flatten()
            .map_err(|e| format!("p = {p}: {e}"))?;
    }
    Ok(())
}

fn run(device: &Device, [rows, width]: [usize; 2], p: f32) -> Result<Outcome, Error> {
    let context = &device.context;
    let x = random(rows * width, 1);
    let mut in_place = device.f32(&x)?;
    let mut out = device.empty(x.len(), F32)?;
    dropout(
        context,
        in_place.matrix(rows, width, F32),
        out.matrix_mut(rows, width, F32),
        p,
        KEY,
    )?;
    dropout_in_place(context, in_place.matrix_mut(rows, width, F32), p, KEY)?;
    let mut want = x;
    vlct_kernels::dropout::apply_in_place(&mut want, width, p, KEY);
    let [out, in_place] = [device.read_f32(&out)?, device.read_f32(&in_place)?];
    let check = || {
        device.compare("values", &out, &want, |_| 0.0)?;
        device.compare("values in place", &in_place, &want, |_| 0.0)
    };
    Ok(check())
}
