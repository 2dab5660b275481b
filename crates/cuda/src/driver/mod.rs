//! The driver of a device: memory, copies, streams, events, launches and matrix products.
//!
//! The functions are those of CUDA's driver API and of cuBLASLt that this crate uses, in their terms. Work on a stream is executed in the
//! order of submission, and the host does not wait for it. A kernel that fails on a device reports its error in a later call.
//!
//! Memory is *stream-ordered*: a function that uses memory only submits work, so memory may be reused for later work on the same stream at
//! once, but [`Driver::free`] must follow [`Driver::synchronize`], and use on another stream must follow an event.

pub(crate) mod arguments;
mod communicator;
pub mod cuda;
#[cfg(feature = "emulator")]
pub mod emulator;
mod matmul;
pub mod unfused;

pub use communicator::{Communicator, UniqueId};
pub use matmul::{Epilogue, Matmul, Operand};

use std::ffi::c_void;
use std::time::Duration;

/// An address in the memory of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Address(pub u64);

impl Address {
    /// The null pointer of kernels: a matrix that is absent.
    pub const NULL: Self = Self(0);

    /// The address `bytes` bytes after this one.
    pub fn offset(self, bytes: usize) -> Self {
        Self(self.0 + bytes as u64)
    }
}

/// A queue of work of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stream(pub u64);

/// A point in a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Event(pub u64);

/// The type of the elements of a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Element {
    /// IEEE 754 binary32.
    F32,
    /// bfloat16, the upper half of an f32.
    Bf16,
}

impl Element {
    /// Size of an element in bytes.
    pub const fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
        }
    }
}

/// Free and total memory of a device, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryInfo {
    /// Bytes that no program has allocated.
    pub free: usize,
    /// Bytes of the device.
    pub total: usize,
}

/// Why a device did not do what was requested.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The device has too little free memory.
    #[error(
        "the device has no {requested} bytes of memory left: {free} of {total} bytes are free; use smaller batches"
    )]
    OutOfMemory {
        /// Size of the failed request in bytes.
        requested: usize,
        /// Free memory of the device in bytes.
        free: usize,
        /// Total memory of the device in bytes.
        total: usize,
    },
    /// No loaded library or cubin has a kernel of this name.
    #[error("there is no kernel {0}")]
    UnknownKernel(String),
    /// The sizes of grid, block or shared memory exceed the limits of the device, or the kernel failed.
    #[error("launch of {kernel}: {reason}")]
    Launch {
        /// The name of the kernel.
        kernel: String,
        /// What is wrong.
        reason: String,
    },
    /// A range of memory is not within one allocation.
    #[error("{operation}: {bytes} bytes at {address:#x} are not within one allocation")]
    InvalidRange {
        /// The function that was called.
        operation: &'static str,
        /// The first byte.
        address: u64,
        /// The length in bytes.
        bytes: usize,
    },
    /// Matrices do not fit together, or an argument is out of its range.
    #[error("{operation}: {reason}")]
    InvalidArgument {
        /// The function that was called.
        operation: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// A function of the driver failed.
    #[error("{function}: {message}")]
    Driver {
        /// The name of the function.
        function: &'static str,
        /// The description of the error.
        message: String,
    },
}

/// A result with an [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// A device.
///
/// Every function may be called from any thread.
pub trait Driver: Send + Sync {
    /// Returns the name of the device, for messages.
    fn name(&self) -> &str;

    /// Returns the compute capability: major and minor number, `(9, 0)` for Hopper.
    fn compute_capability(&self) -> (u32, u32);

    /// Returns the number of multiprocessors.
    fn multiprocessors(&self) -> u32;

    /// Returns the free and total memory.
    fn memory_info(&self) -> Result<MemoryInfo>;

    /// Allocates `bytes` bytes (at least one) with arbitrary content at a multiple of 256.
    fn allocate(&self, bytes: usize) -> Result<Address>;

    /// Frees an allocation. No submitted work may use it any more.
    fn free(&self, address: Address) -> Result<()>;

    /// Copies from the host. When the function returns, `from` may be changed.
    fn copy_to_device(&self, to: Address, from: &[u8], stream: Stream) -> Result<()>;

    /// Copies to the host, after all earlier work of the stream. Waits for the copy.
    fn copy_to_host(&self, to: &mut [u8], from: Address, stream: Stream) -> Result<()>;

    /// Copies `bytes` bytes within the device. The ranges must not overlap.
    fn copy(&self, to: Address, from: Address, bytes: usize, stream: Stream) -> Result<()>;

    /// Sets `bytes` bytes to a value.
    fn fill(&self, to: Address, value: u8, bytes: usize, stream: Stream) -> Result<()>;

    /// Makes a stream.
    fn create_stream(&self) -> Result<Stream>;

    /// Destroys a stream after its work.
    fn destroy_stream(&self, stream: Stream) -> Result<()>;

    /// Waits until all work of the stream is done, and reports errors of this work.
    fn synchronize(&self, stream: Stream) -> Result<()>;

    /// Makes an event that records time.
    fn create_event(&self) -> Result<Event>;

    /// Destroys an event.
    fn destroy_event(&self, event: Event) -> Result<()>;

    /// Records the event after the work that the stream has so far.
    fn record(&self, event: Event, stream: Stream) -> Result<()>;

    /// Lets later work of the stream wait for the event.
    fn wait(&self, stream: Stream, event: Event) -> Result<()>;

    /// Waits for both events and returns the time between them.
    fn elapsed(&self, start: Event, end: Event) -> Result<Duration>;

    /// Launches a kernel, as `cuLaunchKernel`: `arguments` has the address of each argument, in the order of the kernel's parameters. Up to
    /// the limit of the device, `shared_bytes` may exceed 48 KiB: the implementation sets the attribute of the function that permits it.
    ///
    /// # Safety
    /// Each address points to a value of the type of the parameter. The kernel accesses only memory of this device that is allocated and
    /// that no other stream writes.
    unsafe fn launch(
        &self,
        kernel: &str,
        grid: [u32; 3],
        block: [u32; 3],
        shared_bytes: u32,
        stream: Stream,
        arguments: &[*const c_void],
    ) -> Result<()>;

    /// Submits a matrix product.
    fn matmul(&self, product: &Matmul, stream: Stream) -> Result<()>;
}
