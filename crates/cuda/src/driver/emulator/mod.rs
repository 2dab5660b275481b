//! A driver that runs kernels on the CPU, for tests on machines without a GPU.
//!
//! A C++ compiler compiles the `.cu` files with `crates/cuda/emulator`, whose headers define CUDA's execution model: each CUDA thread is a
//! fiber. Launches and copies are executed at once. Memory and shared memory begin as NaNs, guards around them detect kernels that write
//! outside, and a launch fails if threads wait for each other forever. Libraries for matrix products are not emulated, but computed.

mod library;
mod memory;
mod product;

pub use library::{Compiler, Source};

use super::{Address, Driver, Error, Event, Matmul, MemoryInfo, Result, Stream};
use library::{Kernels, RawSchedule};
use memory::{Memory, pointer};
use rayon::prelude::*;
use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Largest dynamic shared memory of a block: 227 KiB on sm_90.
const MAX_SHARED_BYTES: u32 = 227 << 10;

/// Largest number of threads of a block.
const MAX_THREADS: u64 = 1024;

/// The order in which the threads of a kernel run. On a device, any order is possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// The order of warps and blocks.
    pub order: Order,
    /// When asynchronous copies happen.
    pub copies: Copies,
    /// The seed of random orders.
    pub seed: u64,
}

/// The order of warps and blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Each warp runs as far as its barriers let it. Warps, threads of a warp and blocks are in random order. This order finds missing
    /// barriers.
    Greedy,
    /// All threads of a block advance together; blocks are in order.
    Lockstep,
}

/// When asynchronous copies from global to shared memory happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copies {
    /// When they are issued.
    Early,
    /// When a thread waits for them. Until then, the destination is poisoned.
    Late,
}

impl Schedule {
    /// Schedules that tests run every kernel in.
    pub const ALL: [Self; 3] = [
        Self {
            order: Order::Greedy,
            copies: Copies::Late,
            seed: 1,
        },
        Self {
            order: Order::Greedy,
            copies: Copies::Early,
            seed: 2,
        },
        Self {
            order: Order::Lockstep,
            copies: Copies::Late,
            seed: 3,
        },
    ];
}

/// The driver.
pub struct Emulator {
    kernels: Vec<Kernels>,
    /// The index in `kernels` of the library with each kernel, and the number of its parameters.
    index: HashMap<String, (usize, usize)>,
    schedule: Mutex<Schedule>,
    memory: Mutex<Memory>,
    /// When each event was recorded.
    events: Mutex<HashMap<u64, Option<Instant>>>,
    next_handle: AtomicU64,
    guarded: bool,
    capability: (u32, u32),
}

impl Emulator {
    /// Compiles sources for a device with `memory` bytes.
    ///
    /// # Errors
    /// The messages of the compiler.
    pub fn new(compiler: &Compiler, sources: &[Source], memory: usize) -> Result<Self> {
        let kernels = sources
            .par_iter()
            .map(|source| compiler.load(source))
            .collect::<Result<Vec<_>>>()?;
        let mut index = HashMap::new();
        for (i, library) in kernels.iter().enumerate() {
            for (name, parameters) in &library.parameters {
                if index.insert(name.clone(), (i, *parameters)).is_some() {
                    return Err(Error::Driver {
                        function: "opening of libraries for the emulator",
                        message: format!("there are two kernels {name}"),
                    });
                }
            }
        }
        Ok(Self {
            kernels,
            index,
            schedule: Mutex::new(Schedule::ALL[0]),
            memory: Mutex::new(Memory::new(memory)),
            events: Mutex::default(),
            next_handle: AtomicU64::new(1),
            guarded: true,
            capability: (8, 0),
        })
    }

    /// Has another compute capability than 8.0, by which callers choose kernels. The emulator runs kernels of all capabilities.
    #[must_use]
    pub fn with_compute_capability(mut self, major: u32, minor: u32) -> Self {
        self.capability = (major, minor);
        self
    }

    /// Allocates memory without guards, so that AddressSanitizer sees its ends.
    #[must_use]
    pub fn without_guards(mut self) -> Self {
        self.guarded = false;
        self
    }

    /// Sets the order of threads for later launches.
    pub fn set_schedule(&self, schedule: Schedule) {
        *lock(&self.schedule) = schedule;
    }

    /// Returns the names of all kernels, sorted.
    pub fn kernels(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.index.keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    fn check_launch(
        &self,
        kernel: &str,
        grid: [u32; 3],
        block: [u32; 3],
        shared_bytes: u32,
        given: usize,
    ) -> Result<usize> {
        let (library, parameters) = *self
            .index
            .get(kernel)
            .ok_or_else(|| Error::UnknownKernel(kernel.to_string()))?;
        let fails = |reason: String| {
            Err(Error::Launch {
                kernel: kernel.to_string(),
                reason,
            })
        };
        let threads = block.iter().map(|n| u64::from(*n)).product::<u64>();
        if given != parameters {
            return fails(format!("{given} arguments for {parameters} parameters"));
        }
        if threads == 0 || threads > MAX_THREADS || block[2] > 64 {
            return fails(format!("a block cannot have {block:?} threads"));
        }
        if grid.contains(&0) || grid[0] > i32::MAX as u32 || grid[1] > 65535 || grid[2] > 65535 {
            return fails(format!("a grid cannot have {grid:?} blocks"));
        }
        if shared_bytes > MAX_SHARED_BYTES {
            return fails(format!("a block cannot have {shared_bytes} bytes of shared memory"));
        }
        Ok(library)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn unknown_event() -> Error {
    Error::Driver {
        function: "event",
        message: "the event does not exist or was not recorded".into(),
    }
}

impl Driver for Emulator {
    fn name(&self) -> &str {
        "CUDA emulator"
    }

    fn compute_capability(&self) -> (u32, u32) {
        self.capability
    }

    fn multiprocessors(&self) -> u32 {
        2
    }

    fn memory_info(&self) -> Result<MemoryInfo> {
        Ok(lock(&self.memory).info())
    }

    fn allocate(&self, bytes: usize) -> Result<Address> {
        lock(&self.memory).allocate(bytes, self.guarded)
    }

    fn free(&self, address: Address) -> Result<()> {
        lock(&self.memory).free(address)
    }

    fn copy_to_device(&self, to: Address, from: &[u8], _: Stream) -> Result<()> {
        let memory = lock(&self.memory);
        memory.check("copy to the device", to, from.len())?;
        // SAFETY: the range was checked, and memory of the device does not overlap slices of the host.
        unsafe { pointer(to).copy_from_nonoverlapping(from.as_ptr(), from.len()) };
        Ok(())
    }

    fn copy_to_host(&self, to: &mut [u8], from: Address, _: Stream) -> Result<()> {
        let memory = lock(&self.memory);
        memory.check("copy to the host", from, to.len())?;
        // SAFETY: the range was checked, and memory of the device does not overlap slices of the host.
        unsafe { pointer(from).copy_to_nonoverlapping(to.as_mut_ptr(), to.len()) };
        Ok(())
    }

    fn copy(&self, to: Address, from: Address, bytes: usize, _: Stream) -> Result<()> {
        let memory = lock(&self.memory);
        memory.check("copy", from, bytes)?;
        memory.check("copy", to, bytes)?;
        if to.0.abs_diff(from.0) < bytes as u64 {
            return Err(Error::InvalidArgument {
                operation: "copy",
                reason: "the ranges overlap".into(),
            });
        }
        // SAFETY: both ranges were checked and do not overlap.
        unsafe { pointer(to).copy_from_nonoverlapping(pointer(from), bytes) };
        Ok(())
    }

    fn fill(&self, to: Address, value: u8, bytes: usize, _: Stream) -> Result<()> {
        let memory = lock(&self.memory);
        memory.check("fill", to, bytes)?;
        // SAFETY: the range was checked.
        unsafe { pointer(to).write_bytes(value, bytes) };
        Ok(())
    }

    fn create_stream(&self) -> Result<Stream> {
        Ok(Stream(self.next_handle.fetch_add(1, Ordering::Relaxed)))
    }

    fn destroy_stream(&self, _: Stream) -> Result<()> {
        Ok(())
    }

    fn synchronize(&self, _: Stream) -> Result<()> {
        Ok(())
    }

    fn create_event(&self) -> Result<Event> {
        let handle = self.next_handle.fetch_add(1, Ordering::Relaxed);
        lock(&self.events).insert(handle, None);
        Ok(Event(handle))
    }

    fn destroy_event(&self, event: Event) -> Result<()> {
        lock(&self.events)
            .remove(&event.0)
            .map(|_| ())
            .ok_or_else(unknown_event)
    }

    fn record(&self, event: Event, _: Stream) -> Result<()> {
        let mut events = lock(&self.events);
        *events.get_mut(&event.0).ok_or_else(unknown_event)? = Some(Instant::now());
        Ok(())
    }

    fn wait(&self, _: Stream, event: Event) -> Result<()> {
        // As on a device, waiting for an event that was not recorded does nothing.
        lock(&self.events).get(&event.0).map(|_| ()).ok_or_else(unknown_event)
    }

    fn elapsed(&self, start: Event, end: Event) -> Result<Duration> {
        let events = lock(&self.events);
        let time = |event: Event| events.get(&event.0).copied().flatten().ok_or_else(unknown_event);
        Ok(time(end)?.saturating_duration_since(time(start)?))
    }

    unsafe fn launch(
        &self,
        kernel: &str,
        grid: [u32; 3],
        block: [u32; 3],
        shared_bytes: u32,
        _: Stream,
        arguments: &[*const c_void],
    ) -> Result<()> {
        let library = self.check_launch(kernel, grid, block, shared_bytes, arguments.len())?;
        let schedule = *lock(&self.schedule);
        let schedule = RawSchedule {
            lockstep: u32::from(schedule.order == Order::Lockstep),
            early_copies: u32::from(schedule.copies == Copies::Early),
            seed: schedule.seed,
        };
        // SAFETY: the number of arguments was checked, and the caller answers for their types and for the memory.
        let result =
            unsafe { self.kernels[library].launch(kernel, grid, block, shared_bytes as usize, schedule, arguments) };
        let result = match lock(&self.memory).damaged_guard() {
            Some(damage) => result.and(Err(damage)),
            None => result,
        };
        result.map_err(|reason| Error::Launch {
            kernel: kernel.to_string(),
            reason,
        })
    }

    fn matmul(&self, product: &Matmul, _: Stream) -> Result<()> {
        product::multiply(&self.memory, product)
    }
}
