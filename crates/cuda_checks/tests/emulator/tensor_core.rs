//! Twins of tensor core instructions and asynchronous copies, in a product that uses all of them.

use crate::support::{Device, expect_fault, test_kernel};
use crate::{Outcome, Test};
use std::ffi::c_void;
use vlct_cuda::driver::emulator::Schedule;
use vlct_cuda::driver::{Driver, Element, Error};
use vlct_cuda_checks::device::{random_bf16, sum_bound};
use vlct_kernels::reference;

pub fn tests() -> Vec<Test> {
    let fault = |name: &str, from: &'static str, to: &'static str| {
        Test::new(format!("tensor_core::finds_{name}"), move || {
            let source = test_kernel("tile_product.cu").with_fault(from, to);
            expect_fault(products(&Device::with_test_kernel(source)?))
        })
    };
    vec![
        Test::new("tensor_core::product", || {
            products(&Device::with_test_kernel(test_kernel("tile_product.cu"))?)
        }),
        fault("a_missing_wait", "        cp_async_wait<1>();\n", ""),
        fault("a_wait_for_an_older_group", "cp_async_wait<1>", "cp_async_wait<2>"),
        fault(
            "a_missing_barrier_after_copies",
            "        __syncthreads();  // the copies of all threads are there\n",
            "",
        ),
        fault(
            "a_missing_barrier_before_copies",
            "        __syncthreads();  // no thread reads the tile any more\n",
            "",
        ),
        fault(
            "a_wrong_row_of_a_fragment",
            "lane % 16) * PITCH + lane / 16 * 8",
            "lane / 2) * PITCH + lane % 2 * 8",
        ),
        fault("a_transposed_fragment", "        ldmatrix_trans(", "        ldmatrix("),
        fault("a_wrong_row_of_a_result", "row + i / 2 * 8", "row + i % 2 * 8"),
        fault(
            "an_address_that_is_not_aligned",
            "lane / 16 * 8);",
            "lane / 16 * 8 + 4);",
        ),
    ]
}

fn products(device: &Device) -> Outcome {
    for schedule in Schedule::ALL {
        device.emulator.set_schedule(schedule);
        for (rows, k) in [(32, 16), (64, 32), (32, 144)] {
            product(device, rows, k)
                .map_err(|e| e.to_string())
                .flatten()
                .map_err(|e| format!("{schedule:?}, {rows} rows, k = {k}: {e}"))?;
        }
    }
    Ok(())
}

fn product(device: &Device, rows: usize, k: usize) -> Result<Outcome, Error> {
    let (a, b) = (random_bf16(rows * k, 1), random_bf16(k * 8, 2));
    let [a_device, b_device] = [device.bf16(&a)?, device.bf16(&b)?];
    let d = device.empty(rows * 8, Element::F32)?;
    let (addresses, columns) = ([a_device.address(), b_device.address(), d.address()], k as i32);
    let [a_at, b_at, d_at] = addresses
        .each_ref()
        .map(|address| std::ptr::from_ref(address).cast::<c_void>());
    let arguments = [a_at, b_at, d_at, std::ptr::from_ref(&columns).cast()];
    let shared_bytes = 2 * (32 * 24 + 16 * 8) * 2;
    // SAFETY: the types are those of the kernel's parameters, and the matrices have the sizes that it accesses.
    unsafe {
        device.emulator.launch(
            "tile_product",
            [(rows / 32) as u32, 1, 1],
            [64, 1, 1],
            shared_bytes,
            device.context.stream(),
            &arguments,
        )?;
    }
    let got = device.read_f32(&d)?;
    let (mut want, mut magnitude) = (vec![0f32; rows * 8], vec![0f32; rows * 8]);
    reference::gemm(&mut want, 0.0, 1.0, &a, &b, rows, 8, k);
    let absolute = |values: &[f32]| values.iter().map(|v| v.abs()).collect::<Vec<_>>();
    reference::gemm(&mut magnitude, 0.0, 1.0, &absolute(&a), &absolute(&b), rows, 8, k);
    Ok(device.compare("product", &got, &want, |i| sum_bound(k) * magnitude[i]))
}
