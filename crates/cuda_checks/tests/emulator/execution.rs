//! The execution model: functions of warps and blocks, and errors of kernels that use them wrongly.

use crate::support::{Device, expect_error, test_kernel};
use crate::{Outcome, Test};
use std::ffi::c_void;
use vlct_cuda::context::Buffer;
use vlct_cuda::driver::Element::F32;
use vlct_cuda::driver::emulator::{Compiler, Emulator, Schedule};
use vlct_cuda::driver::{Address, Driver, Error};

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("execution::warp_functions", || {
            warp_functions(&Device::with_test_kernel(test_kernel("execution.cu"))?)
        }),
        // The switches of CPUs other than x86-64.
        Test::new("execution::warp_functions_with_ucontext", || {
            let compiler = compiler()?.with_options(&["-DEMULATOR_UCONTEXT"]);
            warp_functions(&Device::compiled_by(&compiler, &[test_kernel("execution.cu")])?)
        }),
        Test::new("execution::indices", indices),
        Test::new("execution::many_barriers", many_barriers),
        fails(
            "deadlock",
            32,
            0,
            &[
                "deadlock, block (0, 0, 0): deadlock",
                "__syncthreads (execution.cu:",
                "__shfl_sync",
            ],
        ),
        fails(
            "different_barriers",
            64,
            0,
            &["wait at different barriers: execution.cu:"],
        ),
        fails(
            "different_operations",
            32,
            0,
            &["different operations", "__shfl_sync", "__ballot_sync"],
        ),
        fails("unknown", 32, 0, &["there is no kernel unknown"]),
        fails("indices", 1025, 0, &["a block cannot have [1025, 1, 1] threads"]),
        fails(
            "indices",
            32,
            300 << 10,
            &["a block cannot have 307200 bytes of shared memory"],
        ),
        Test::new("execution::undefined_values_are_nan", undefined_values_are_nan),
        Test::new("execution::finds_writes_outside_of_shared_memory", || {
            for (index, side) in [(1, "after"), (-1, "before")] {
                let outcome = run(
                    &Device::with_test_kernel(test_kernel("execution.cu"))?,
                    "writes_behind_shared_memory",
                    32,
                    128,
                    Some(index),
                );
                expect_error(outcome.map(|_| ()), &[side, "the 128 bytes of shared memory"])?;
            }
            Ok(())
        }),
        Test::new("execution::finds_writes_outside_of_memory", || {
            for (index, side) in [(1, "after"), (-1, "before")] {
                let outcome = run(
                    &Device::with_test_kernel(test_kernel("execution.cu"))?,
                    "writes_behind_memory",
                    32,
                    0,
                    Some(index),
                );
                expect_error(outcome.map(|_| ()), &[side, "an allocation of 128 bytes"])?;
            }
            Ok(())
        }),
        Test::new("execution::counts_arguments", || {
            let outcome = run(
                &Device::with_test_kernel(test_kernel("execution.cu"))?,
                "indices",
                32,
                0,
                Some(0),
            );
            expect_error(outcome.map(|_| ()), &["2 arguments for 1 parameters"])
        }),
        Test::new("execution::reports_messages_of_the_compiler", || {
            let source = test_kernel("execution.cu").with_fault("out[lane] = __shfl_sync", "out[lane] = no_function");
            expect_error(
                Device::with_test_kernel(source).map(|_| ()),
                &["execution.cu:", "no_function"],
            )
        }),
        Test::new("execution::every_kernel_has_one_name", || {
            let emulator = Emulator::new(
                &compiler()?,
                &[test_kernel("execution.cu"), test_kernel("execution.cu")],
                1,
            );
            expect_error(
                emulator.map(|_| ()).map_err(|e| e.to_string()),
                &["there are two kernels"],
            )
        }),
    ]
}

fn compiler() -> Result<Compiler, String> {
    crate::support::compiler()
}

/// A test of a kernel with the parameter `int* out` that fails with these texts in every schedule.
fn fails(kernel: &'static str, threads: u32, shared_bytes: u32, texts: &'static [&'static str]) -> Test {
    Test::new(
        format!("execution::fails_{kernel}_{threads}_{shared_bytes}"),
        move || {
            let device = Device::with_test_kernel(test_kernel("execution.cu"))?;
            for schedule in Schedule::ALL {
                device.emulator.set_schedule(schedule);
                expect_error(run(&device, kernel, threads, shared_bytes, None).map(|_| ()), texts)?;
            }
            Ok(())
        },
    )
}

/// Launches a kernel of one block with the parameter `out`, a value for each thread, and perhaps `index`. Returns `out`.
fn run(device: &Device, kernel: &str, threads: u32, shared_bytes: u32, index: Option<i32>) -> Result<Buffer, String> {
    let out = device.empty(threads as usize, F32).map_err(|e| e.to_string())?;
    launch(
        device,
        kernel,
        [1, 1, 1],
        [threads, 1, 1],
        shared_bytes,
        out.address(),
        index,
    )
    .map_err(|e| e.to_string())?;
    Ok(out)
}

fn launch(
    device: &Device,
    kernel: &str,
    grid: [u32; 3],
    block: [u32; 3],
    shared_bytes: u32,
    out: Address,
    index: Option<i32>,
) -> Result<(), Error> {
    let mut arguments: Vec<*const c_void> = vec![std::ptr::from_ref(&out).cast()];
    arguments.extend(index.as_ref().map(|index| std::ptr::from_ref(index).cast::<c_void>()));
    // SAFETY: the arguments have the types of the parameters. Kernels that write outside of `out` write to its guards.
    unsafe {
        device
            .emulator
            .launch(kernel, grid, block, shared_bytes, device.context.stream(), &arguments)
    }
}

fn read_i32(device: &Device, buffer: &Buffer) -> Result<Vec<i32>, String> {
    let mut values = vec![0i32; buffer.bytes() / 4];
    device
        .context
        .download(buffer, &mut values)
        .map_err(|e| e.to_string())?;
    Ok(values)
}

fn warp_functions(device: &Device) -> Outcome {
    let want = |function: usize, lane: i32| match function {
        0 => 50,
        1 => lane / 8 * 8 + 3,
        2 => lane ^ 9,
        3 => {
            if lane < 28 {
                lane + 4
            } else {
                lane
            }
        }
        4 => {
            if lane % 16 < 12 {
                lane + 4
            } else {
                lane
            }
        }
        5 => {
            if lane >= 4 {
                lane - 4
            } else {
                lane
            }
        }
        6 => (0..32)
            .filter(|lane| lane % 3 == 0)
            .map(|lane| 1i32.wrapping_shl(lane))
            .sum(),
        7 | 8 => 1,
        9 => lane ^ if lane < 16 { 1 } else { 2 },
        10 => 31 * 16,
        _ => {
            if lane < 20 {
                lane ^ 1
            } else {
                lane
            }
        }
    };
    for schedule in Schedule::ALL {
        device.emulator.set_schedule(schedule);
        let out = device.empty(12 * 32, F32).map_err(|e| e.to_string())?;
        launch(device, "warp_functions", [1, 1, 1], [32, 1, 1], 0, out.address(), None).map_err(|e| e.to_string())?;
        for (i, got) in read_i32(device, &out)?.into_iter().enumerate() {
            let want = want(i / 32, i as i32 % 32);
            if got != want {
                return Err(format!(
                    "{schedule:?}: function {}, thread {}: {got} instead of {want}",
                    i / 32,
                    i % 32
                ));
            }
        }
    }
    Ok(())
}

fn indices() -> Outcome {
    let device = Device::with_test_kernel(test_kernel("execution.cu"))?;
    let out = device.empty(24 * 30, F32).map_err(|e| e.to_string())?;
    launch(&device, "indices", [2, 3, 4], [5, 3, 2], 0, out.address(), None).map_err(|e| e.to_string())?;
    let want: Vec<i32> = (0..24 * 30).map(|i| 1000 * (i / 30) + i % 30).collect();
    if read_i32(&device, &out)? != want {
        return Err("wrong indices".into());
    }
    Ok(())
}

fn many_barriers() -> Outcome {
    const STEPS: i32 = 500;
    let device = Device::with_test_kernel(test_kernel("execution.cu"))?;
    // Eight warps, the last one with a part of its threads only.
    let out = run(&device, "many_barriers", 230, 0, Some(STEPS))?;
    if read_i32(&device, &out)? != [STEPS; 230] {
        return Err("not every thread has passed all barriers".into());
    }
    Ok(())
}

fn undefined_values_are_nan() -> Outcome {
    let device = Device::with_test_kernel(test_kernel("execution.cu"))?;
    let out = run(&device, "reads_unwritten_shared_memory", 32, 128, None)?;
    if device
        .read_f32(&out)
        .map_err(|e| e.to_string())?
        .iter()
        .any(|v| !v.is_nan())
    {
        return Err("shared memory that was not written is a number".into());
    }
    let out = run(&device, "shuffle_from_exited_thread", 32, 0, None)?;
    let values = device.read_f32(&out).map_err(|e| e.to_string())?;
    if values[..30] != [1.0; 30] || !values[31].is_nan() {
        return Err(format!("{values:?}"));
    }
    Ok(())
}
