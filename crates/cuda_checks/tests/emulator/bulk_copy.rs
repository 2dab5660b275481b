//! Twins of bulk copies and of the barriers that announce their end.

use crate::support::{Device, expect_error, expect_fault, test_kernel};
use crate::{Outcome, Test};
use std::ffi::c_void;
use vlct_cuda::driver::emulator::Schedule;
use vlct_cuda::driver::{Driver, Element, Error};
use vlct_cuda_checks::device::random;

/// Values of a tile.
const COUNT: usize = 256;

pub fn tests() -> Vec<Test> {
    let device = |from: &str, to: &str| Device::with_test_kernel(test_kernel("bulk_copy.cu").with_fault(from, to));
    let fault = |name: &str, from: &'static str, to: &'static str| {
        Test::new(format!("bulk_copy::finds_{name}"), move || {
            expect_fault(copies(&device(from, to)?))
        })
    };
    let error = |name: &str, from: &'static str, to: &'static str, texts: &'static [&'static str]| {
        Test::new(format!("bulk_copy::finds_{name}"), move || {
            expect_error(copies(&device(from, to)?), texts)
        })
    };
    vec![
        Test::new("bulk_copy::copies", || {
            copies(&Device::with_test_kernel(test_kernel("bulk_copy.cu"))?)
        }),
        fault(
            "missing_expected_bytes",
            "mbarrier_arrive_expect(&full[tile % 2], COUNT * sizeof(float));",
            "mbarrier_arrive(&full[tile % 2]);",
        ),
        fault(
            "too_few_expected_bytes",
            "mbarrier_arrive_expect(&full[tile % 2], COUNT * sizeof(float));",
            "mbarrier_arrive_expect(&full[tile % 2], COUNT);",
        ),
        fault(
            "a_missing_wait_for_a_copy",
            "        mbarrier_wait(&full[slot], parity);\n",
            "",
        ),
        fault(
            "a_missing_wait_for_readers",
            "            mbarrier_wait(&empty[slot], parity);\n",
            "",
        ),
        fault(
            "a_wrong_parity",
            "mbarrier_wait(&full[slot], parity)",
            "mbarrier_wait(&full[slot], 0)",
        ),
        fault(
            "too_few_readers",
            "mbarrier_init(&empty[i], THREADS)",
            "mbarrier_init(&empty[i], THREADS - 32)",
        ),
        error(
            "a_barrier_that_waits_forever",
            "mbarrier_init(&empty[i], THREADS)",
            "mbarrier_init(&empty[i], THREADS + 1)",
            &["deadlock: thread 0 waits in mbarrier_wait (bulk_copy.cu:"],
        ),
        error(
            "a_missing_fence_of_the_proxy",
            "        fence_proxy_async();\n",
            "",
            &["thread 0 has written the destination or the barrier without a later fence_proxy_async"],
        ),
        error(
            "a_barrier_that_was_not_initialised",
            "            mbarrier_init(&full[i], 1);\n",
            "",
            &["the barrier was not initialised"],
        ),
        error(
            "a_size_that_is_no_multiple_of_16",
            "x + tile * COUNT, COUNT * sizeof(float)",
            "x + tile * COUNT, COUNT * sizeof(float) - 8",
            &["1016 bytes are not a multiple of 16"],
        ),
        error(
            "a_source_that_is_not_aligned",
            "x + tile * COUNT, COUNT",
            "x + 1 + tile * COUNT, COUNT",
            &["the source is not a multiple of 16"],
        ),
    ]
}

fn copies(device: &Device) -> Outcome {
    for schedule in Schedule::ALL {
        device.emulator.set_schedule(schedule);
        for tiles in [1, 2, 3, 7] {
            let x = random(tiles * COUNT, 1);
            let want: Vec<f32> = x.iter().map(|x| 2.0 * x).collect();
            run(device, &x)
                .map_err(|e| e.to_string())
                .and_then(|got| device.compare("copies", &got, &want, |_| 0.0))
                .map_err(|e| format!("{schedule:?}, {tiles} tiles: {e}"))?;
        }
    }
    Ok(())
}

fn run(device: &Device, x: &[f32]) -> Result<Vec<f32>, Error> {
    let y = device.empty(x.len(), Element::F32)?;
    let x_device = device.f32(x)?;
    let (addresses, tiles) = ([x_device.address(), y.address()], (x.len() / COUNT) as i32);
    let [x_at, y_at] = addresses
        .each_ref()
        .map(|address| std::ptr::from_ref(address).cast::<c_void>());
    let arguments = [x_at, y_at, std::ptr::from_ref(&tiles).cast()];
    // Two buffers and four barriers.
    let shared_bytes = (2 * COUNT * 4 + 4 * 8) as u32;
    let stream = device.context.stream();
    // SAFETY: the types are those of the kernel's parameters, and the matrices have the sizes that it accesses.
    unsafe {
        device.emulator.launch(
            "bulk_copy_double",
            [1, 1, 1],
            [64, 1, 1],
            shared_bytes,
            stream,
            &arguments,
        )?;
    }
    device.read_f32(&y)
}
