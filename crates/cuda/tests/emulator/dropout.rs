//! Dropout.

use crate::support::{Device, compare, expect_fault, random};
use crate::{Outcome, Test};
use vlct_cuda::driver::Element::F32;
use vlct_cuda::driver::Error;
use vlct_cuda::driver::emulator::Source;
use vlct_cuda::dropout::{dropout, dropout_in_place};

/// Keys with bits in all halves of all numbers.
const KEY: [u64; 4] = [
    0x0123_4567_89ab_cdef,
    0xfedc_ba98_7654_3210,
    1 << 63,
    0xffff_ffff_0000_0001,
];

pub fn tests() -> Vec<Test> {
    let fault = |name: &str, from: &'static str, to: &'static str| {
        Test::new(format!("dropout::finds_{name}"), move || {
            let source = Source::kernel_file("dropout.cu").map_err(|e| e.to_string())?;
            expect_fault(Device::with_sources(&[source.with_fault(from, to)])?.for_all(check))
        })
    };
    vec![
        Test::new("dropout::has_the_mask_of_the_cpu", || Device::new()?.for_all(check)),
        Test::new("dropout::has_the_mask_of_the_cpu_in_wide_rows", || {
            let device = Device::new()?;
            check(&device, [3, 512])?;
            check(&device, [9, 2063])
        }),
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
        compare("values", &out, &want, |_| 0.0)?;
        compare("values in place", &in_place, &want, |_| 0.0)
    };
    Ok(check())
}
