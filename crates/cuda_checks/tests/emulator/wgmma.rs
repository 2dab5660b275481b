//! Twins of Hopper's instructions for products of warpgroups. Operands are small integers, so that results are exact.

use crate::support::{Device, expect_error, expect_fault, test_kernel};
use crate::{Outcome, Test};
use std::ffi::c_void;
use vlct_cuda::context::Buffer;
use vlct_cuda::driver::emulator::{Schedule, Source};
use vlct_cuda::driver::{Driver, Element, Error};

/// Rows of A and of the sums, and the terms of each sum.
const ROWS: usize = 64;
const K: usize = 64;

/// Shared memory of the kernels: A, and B with up to 128 columns.
const SHARED_BYTES: u32 = ((ROWS + 128) * K * 2) as u32;

pub fn tests() -> Vec<Test> {
    let fault = |name: &str, from: &'static str, to: &'static str| {
        Test::new(format!("wgmma::finds_{name}"), move || {
            expect_fault(products(&few_kernels(from, to)?, &[32], &[16]))
        })
    };
    let fault_of_groups = |name: &str, from: &'static str, to: &'static str| {
        Test::new(format!("wgmma::finds_{name}"), move || {
            expect_fault(groups(&few_kernels(from, to)?))
        })
    };
    let error = |name: &str, from: &'static str, to: &'static str, texts: &'static [&'static str]| {
        Test::new(format!("wgmma::finds_{name}"), move || {
            expect_error(products(&few_kernels(from, to)?, &[32], &[16]), texts)
        })
    };
    vec![
        Test::new("wgmma::products", || {
            let device = Device::with_test_kernel(test_kernel("wgmma.cu"))?;
            products(&device, &[16, 32, 48, 64, 80, 128], &[16, 32, 48, 64])
        }),
        Test::new("wgmma::groups", || {
            groups(&Device::with_test_kernel(test_kernel("wgmma.cu"))?)
        }),
        fault("a_missing_wait", "    wgmma_wait<0>(sums);\n", ""),
        fault(
            "a_missing_commit",
            "    wgmma_commit();\n    wgmma_wait<0>(sums);",
            "    wgmma_wait<0>(sums);",
        ),
        fault(
            "a_missing_barrier",
            "    __syncthreads();  // the matrices are there\n    wgmma_fence(sums",
            "    wgmma_fence(sums",
        ),
        fault(
            "a_wrong_stride",
            "matrix, panel_bytes, 8 * ROW_BYTES,",
            "matrix, panel_bytes, 4 * ROW_BYTES,",
        ),
        fault(
            "a_wrong_leading_offset",
            "matrix, panel_bytes, 8",
            "matrix, 2 * panel_bytes, 8",
        ),
        fault(
            "a_wrong_stride_of_an_mn_major_matrix",
            "matrix, leading, stride,",
            "matrix, leading, 2 * stride,",
        ),
        fault(
            "a_wrong_leading_offset_of_an_mn_major_matrix",
            "matrix, leading, stride,",
            "matrix, 64, stride,",
        ),
        fault(
            "a_wrong_swizzling_mode",
            "ROW_BYTES == 32 ? Swizzle::BYTES_32",
            "ROW_BYTES == 32 ? Swizzle::NONE",
        ),
        fault(
            "a_wrong_part_of_a_row",
            "part = column % COLUMNS / 8;",
            "part = column / 8 % 2;",
        ),
        fault("a_wrong_step", "step * 32 % ROW_BYTES;", "step * 16 % ROW_BYTES;"),
        fault(
            "a_wrong_fragment",
            "r = row + i % 2 * 8, k = i / 4 * 16 + column + i / 2 % 2 * 8",
            "r = row + i / 2 % 2 * 8, k = i / 4 * 16 + column + i % 2 * 8",
        ),
        fault(
            "a_wrong_row_of_a_result",
            "d[(row + i / 2 % 2 * 8) * N + i / 4",
            "d[(row + i % 2 * 8) * N + i / 4",
        ),
        fault(
            "a_fragment_that_changes_before_the_wait",
            "    wgmma_commit();\n    wgmma_wait<0>(sums);",
            "    wgmma_commit();\n    fragments[1][2] = 0;\n    wgmma_wait<0>(sums);",
        ),
        fault_of_groups(
            "a_wait_for_an_older_group",
            "wgmma_wait<1>(first)",
            "wgmma_wait<2>(first)",
        ),
        fault_of_groups(
            "a_missing_wait_for_the_second_group",
            "    wgmma_wait<0>(second);\n",
            "",
        ),
        error(
            "a_missing_fence_of_the_proxy",
            "    fence_proxy_async();\n    __syncthreads();  // the matrices are there\n    wgmma_fence(sums",
            "    __syncthreads();  // the matrices are there\n    wgmma_fence(sums",
            &["wgmma (wgmma.cu:", "written without a later fence_proxy_async"],
        ),
        error(
            "a_fence_of_the_proxy_by_one_warp",
            "    fence_proxy_async();\n    __syncthreads();  // the matrices are there\n    wgmma_fence(sums",
            "    if (threadIdx.x < 32) fence_proxy_async();\n    __syncthreads();  // the matrices are there\n    wgmma_fence(sums",
            &["written without a later fence_proxy_async"],
        ),
        error(
            "an_operand_that_changes_before_the_wait",
            "    wgmma_commit();\n    wgmma_wait<0>(sums);",
            "    wgmma_commit();\n    b_shared[threadIdx.x] = to_bf16(100.f);\n    wgmma_wait<0>(sums);",
            &["written without a later fence_proxy_async"],
        ),
        error(
            "a_missing_fence_of_the_registers",
            "    wgmma_fence(sums, fragments);\n",
            "",
            &["no wgmma_fence names the accumulators"],
        ),
        error(
            "a_fence_without_the_fragments",
            "    wgmma_fence(sums, fragments);\n",
            "    wgmma_fence(sums);\n",
            &["no wgmma_fence names the fragment of A"],
        ),
        error(
            "registers_that_change_after_the_fence",
            "    wgmma_fence(sums, fragments);\n",
            "    wgmma_fence(sums, fragments);\n    sums[0][1] += 1.f;\n",
            &["the accumulators changed after the wgmma_fence"],
        ),
        error(
            "a_warp_without_an_operation",
            "        else wgmma<B_MN_MAJOR>(sums, fragments[step]",
            "        else if (threadIdx.x < 96) wgmma<B_MN_MAJOR>(sums, fragments[step]",
            &["warps 0 and 3 of a warpgroup have issued different operations"],
        ),
        error(
            "threads_with_different_descriptors",
            "fragments[step], of_b,",
            "fragments[step], of_b + threadIdx.x % 32,",
            &["threads of a warp have different descriptors"],
        ),
        error(
            "bits_of_a_descriptor_that_are_not_used",
            "fragments[step], of_b,",
            "fragments[step], of_b | 1ull << 52,",
            &["bits of the descriptor"],
        ),
        error(
            "an_address_outside_of_shared_memory",
            "fragments[step], of_b,",
            "fragments[step], of_b + (1 << 12),",
            &["outside of the 24576 bytes of shared memory"],
        ),
        error(
            "an_address_that_is_not_one_of_shared_memory",
            "matrix_descriptor(matrix, leading",
            "matrix_descriptor(matrix - ROWS * K - 512, leading",
            &["outside of the 24576 bytes of shared memory"],
        ),
    ]
}

/// A device with a few of the kernels and a planted fault.
fn few_kernels(from: &str, to: &str) -> Result<Device, String> {
    let kernels = ["S(48);\n", "S(64);\n", "(80);\n", "(128);\n"];
    let source = kernels.iter().fold(test_kernel("wgmma.cu"), |source, kernel: &&str| {
        let name = if kernel.starts_with('S') {
            "WGMMA_KERNEL"
        } else {
            "\nWGMMA_KERNEL"
        };
        Source::with_fault(source, &format!("{name}{kernel}"), "\n")
    });
    Device::with_test_kernel(source.with_fault(from, to))
}

/// Small integers that repeat after a prime number.
fn integers(count: usize, seed: usize) -> Vec<f32> {
    (0..count)
        .map(|i| ((i * 7 + i / 13 * 5 + seed) % 17) as f32 - 8.0)
        .collect()
}

/// `C + A·B`, where the columns of A and rows of B begin with `first` and end before `last`.
fn product(a: &[f32], b: &[f32], c: Option<&[f32]>, n: usize, terms: std::ops::Range<usize>) -> Vec<f32> {
    let value = |i: usize, j: usize| {
        let sum: f32 = terms.clone().map(|k| a[i * K + k] * b[k * n + j]).sum();
        sum + c.map_or(0.0, |c| c[i * n + j])
    };
    (0..ROWS * n).map(|index| value(index / n, index % n)).collect()
}

/// Launches a kernel with the parameters `a`, `b`, `c`, `d` and integers. Returns `d`.
fn launch(
    device: &Device,
    kernel: &str,
    inputs: [&[f32]; 3],
    count: usize,
    integers: &[i32],
) -> Result<Vec<f32>, Error> {
    let [a, b, c] = [device.bf16(inputs[0])?, device.bf16(inputs[1])?, device.f32(inputs[2])?];
    let d = device.empty(count, Element::F32)?;
    let addresses = [&a, &b, &c, &d].map(Buffer::address);
    let mut arguments: Vec<*const c_void> = addresses.iter().map(|a| std::ptr::from_ref(a).cast()).collect();
    arguments.extend(integers.iter().map(|i| std::ptr::from_ref(i).cast::<c_void>()));
    let stream = device.context.stream();
    // SAFETY: the types are those of the kernel's parameters, and the matrices have the sizes that it accesses.
    unsafe {
        device
            .emulator
            .launch(kernel, [1, 1, 1], [128, 1, 1], SHARED_BYTES, stream, &arguments)?;
    }
    device.read_f32(&d)
}

/// Products of all layouts, with `fragments` columns for kernels with A in registers and `shared` with A in shared memory.
fn products(device: &Device, fragments: &[usize], shared: &[usize]) -> Outcome {
    let kernels = [("fragment", fragments), ("shared", shared)];
    let kernels = kernels.map(|(name, widths)| widths.iter().map(move |n| (format!("wgmma_{name}_{n}"), *n)));
    for (kernel, n) in kernels.into_iter().flatten() {
        let (a, b, c) = (integers(ROWS * K, 1), integers(K * n, 2), integers(ROWS * n, 3));
        for (row_bytes, b_mn_major) in [16, 32, 64, 128].into_iter().flat_map(|bytes| [(bytes, 0), (bytes, 1)]) {
            for accumulate in [0, 1] {
                let want = product(&a, &b, (accumulate == 1).then_some(&c), n, 0..K);
                for schedule in Schedule::ALL {
                    device.emulator.set_schedule(schedule);
                    launch(
                        device,
                        &kernel,
                        [&a, &b, &c],
                        ROWS * n,
                        &[accumulate, row_bytes, b_mn_major],
                    )
                    .map_err(|e| e.to_string())
                    .and_then(|got| device.compare("product", &got, &want, |_| 0.0))
                    .map_err(|e| {
                        format!("{kernel}, {row_bytes} bytes, B is MN-major: {b_mn_major}, {schedule:?}: {e}")
                    })?;
                }
            }
        }
    }
    Ok(())
}

fn groups(device: &Device) -> Outcome {
    let (a, b, c) = (integers(ROWS * K, 1), integers(K * 16, 2), integers(ROWS * 16, 3));
    let want = [0..32, 32..K]
        .map(|terms| product(&a, &b, Some(&c), 16, terms))
        .concat();
    for schedule in Schedule::ALL {
        device.emulator.set_schedule(schedule);
        launch(device, "wgmma_groups", [&a, &b, &c], 2 * ROWS * 16, &[])
            .map_err(|e| e.to_string())
            .and_then(|got| device.compare("two groups", &got, &want, |_| 0.0))
            .map_err(|e| format!("{schedule:?}: {e}"))?;
    }
    Ok(())
}
