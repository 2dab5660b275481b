//! The arena, streams, events and errors of the driver.

use crate::support::{Device, compiler, expect_error};
use crate::{Outcome, Test};
use std::sync::Arc;
use vlct_cuda::context::{Allocation, Context};
use vlct_cuda::driver::emulator::Emulator;
use vlct_cuda::driver::{Address, Driver, Error};

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("context::reuses_memory", || {
            reuses_memory().map_err(|e| e.to_string())?
        }),
        Test::new("context::reports_out_of_memory", || {
            reports_out_of_memory().map_err(|e| e.to_string())?
        }),
        Test::new("context::splits_buffers", || {
            splits_buffers().map_err(|e| e.to_string())?
        }),
        Test::new("context::checks_ranges", checks_ranges),
        Test::new("context::measures_time", || {
            measures_time().map_err(|e| e.to_string())?
        }),
    ]
}

const REGION: usize = 1 << 16;

fn context(memory: usize, allocation: Allocation) -> Result<(Context, Arc<Emulator>), Error> {
    let missing = |message| Error::Driver {
        function: "search for a compiler",
        message,
    };
    let emulator = Arc::new(Emulator::new(&compiler().map_err(missing)?, &[], memory)?);
    let driver: Arc<dyn Driver> = emulator.clone();
    Ok((Context::new(driver, allocation)?, emulator))
}

fn expect(condition: bool, message: &str) -> Outcome {
    if condition { Ok(()) } else { Err(message.into()) }
}

fn reuses_memory() -> Result<Outcome, Error> {
    let (context, emulator) = context(4 * REGION, Allocation::Regions(REGION))?;
    let total = emulator.memory_info()?.free;
    let first = context.allocate(1000)?;
    let address = first.address();
    drop(first);
    let again = context.allocate(1000)?;
    let after = emulator.memory_info()?.free;
    let other = context.allocate(1000)?;
    let check = || {
        expect(again.address() == address, "freed memory is not used again")?;
        expect(after == total - REGION, "a region has another size")?;
        expect(other.address() != address, "two buffers have the same memory")
    };
    let outcome = check();
    drop((again, other));
    context.release_unused();
    let free = emulator.memory_info()?.free;
    Ok(outcome.and(expect(free == total, "unused regions are not freed")))
}

fn reports_out_of_memory() -> Result<Outcome, Error> {
    let (context, emulator) = context(4 * REGION, Allocation::Regions(REGION))?;
    // Three unused regions must be returned before a region of four fits.
    drop([
        context.allocate(REGION)?,
        context.allocate(REGION)?,
        context.allocate(REGION)?,
    ]);
    let all = context.allocate(4 * REGION)?;
    let error = context.allocate(1).map(|_| ());
    drop(all);
    let outcome = expect(
        error
            == Err(Error::OutOfMemory {
                requested: 256,
                free: 0,
                total: 4 * REGION,
            }),
        "another error",
    );
    drop(context);
    let free = emulator.memory_info()?.free;
    Ok(outcome.and(expect(free == 4 * REGION, "a dropped context keeps memory")))
}

fn splits_buffers() -> Result<Outcome, Error> {
    let (context, emulator) = context(4 * REGION, Allocation::Regions(REGION))?;
    let parts = context.zeros(768)?.split(&[10, 256, 100]);
    let starts: Vec<u64> = parts
        .iter()
        .map(|part| part.address().0 - parts[0].address().0)
        .collect();
    let mut values = [1u8; 10];
    context.download(&parts[0], &mut values)?;
    let outcome = expect(starts == [0, 256, 512] && values == [0; 10], "wrong parts");
    drop(parts);
    context.release_unused();
    let free = emulator.memory_info()?.free;
    Ok(outcome.and(expect(free == 4 * REGION, "parts of a buffer are not freed")))
}

fn checks_ranges() -> Outcome {
    let device = Device::with_sources(&[])?;
    let run = |copy: &dyn Fn(&Emulator, Address) -> Result<(), Error>| {
        let buffer = device.context.allocate(16).map_err(|e| e.to_string())?;
        copy(&device.emulator, buffer.address()).map_err(|e| e.to_string())
    };
    let stream = device.context.stream();
    run(&|emulator, at| emulator.copy_to_device(at, &[0; 16], stream))?;
    let texts = ["bytes at", "not within one allocation"];
    expect_error(
        run(&|emulator, at| emulator.copy_to_device(at, &[0; 17], stream)),
        &texts,
    )?;
    expect_error(
        run(&|emulator, at| emulator.copy_to_host(&mut [0; 4], at.offset(13), stream)),
        &texts,
    )?;
    expect_error(
        run(&|emulator, at| emulator.fill(Address(at.0 - 1), 0, 4, stream)),
        &texts,
    )?;
    expect_error(run(&|emulator, at| emulator.copy(at, Address(8), 4, stream)), &texts)?;
    expect_error(
        run(&|emulator, at| emulator.copy(at, at.offset(2), 4, stream)),
        &["overlap"],
    )?;
    expect_error(run(&|emulator, at| emulator.free(at.offset(1))), &texts)
}

fn measures_time() -> Result<Outcome, Error> {
    let (context, emulator) = context(REGION, Allocation::Separate)?;
    let [start, end] = [emulator.create_event()?, emulator.create_event()?];
    let unrecorded = emulator.elapsed(start, end).is_err();
    emulator.record(start, context.stream())?;
    emulator.wait(context.stream(), start)?;
    std::thread::sleep(std::time::Duration::from_millis(2));
    emulator.record(end, context.stream())?;
    let elapsed = emulator.elapsed(start, end)?;
    emulator.destroy_event(start)?;
    context.synchronize()?;
    let destroyed = emulator.record(start, context.stream()).is_err();
    emulator.destroy_event(end)?;
    Ok(expect(unrecorded, "an event that was not recorded has a time")
        .and(expect(elapsed.as_millis() >= 2, "the time is too short"))
        .and(expect(destroyed, "a destroyed event can be recorded")))
}
