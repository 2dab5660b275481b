//! NVIDIA's devices: CUDA's driver API and cuBLASLt, which are loaded when a device is opened.
//!
//! - [`devices`]: which devices there are, or why there is none; `search.rs` has the places where libraries are searched.
//! - `bindings.rs`: the functions of the libraries. Building needs neither CUDA nor its headers.
//! - `cubins.rs`, `kernels.rs`: the compiled kernels for the device's architecture, and their functions.
//! - `product`: matrix products in cuBLASLt's terms. Where cuBLASLt has no kernel, [`unfused`] computes the
//!   epilogue.
//! - `nccl.rs`: communication with the devices of other ranks, by NCCL, which is loaded when a communicator is made.
//!
//! All functions of the host check their arguments: ranges must be within allocations, and handles must exist.

mod allocations;
mod bindings;
mod cubins;
mod devices;
mod kernels;
mod nccl;
mod product;
mod search;
mod staging;

pub use devices::{Device, Unavailable, Version, cublas_lt, devices};
pub use nccl::{Nccl, nccl, unique_id};

use super::unfused::{self, Scratch};
use super::{Address, Driver, Epilogue, Error, Event, Matmul, MemoryInfo, Operand, Result, Stream};
use allocations::Allocations;
use bindings::{
    CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, CU_EVENT_DEFAULT,
    CU_STREAM_NON_BLOCKING, CublasLtApi, DriverApi, Handle, call,
};
use kernels::Kernels;
use product::{Products, Submitted};
use staging::Staging;
use std::collections::{HashMap, HashSet};
use std::ffi::{c_int, c_void};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Workspace of cuBLASLt for each stream, as PyTorch has it: 32 MiB from Hopper on, else 8 MiB.
const fn workspace_bytes(capability: (u32, u32)) -> usize {
    if capability.0 >= 9 { 32 << 20 } else { 8 << 20 }
}

/// Least scratch memory of a stream for products without a fused epilogue, so that it seldom grows.
const MIN_SCRATCH_BYTES: usize = 32 << 20;

/// A device.
pub struct Cuda {
    api: DriverApi,
    device: Device,
    ordinal: c_int,
    context: Handle,
    multiprocessors: u32,
    libraries: Vec<String>,
    kernels: Kernels,
    /// `None` only while the device is closed.
    products: Option<Products>,
    allocations: Mutex<Allocations>,
    streams: Mutex<HashMap<u64, Arc<StreamMemory>>>,
    events: Mutex<HashSet<u64>>,
    /// Allocated by the first copy.
    staging: Mutex<Option<Staging>>,
}

/// Memory that the products of a stream use one after the other.
#[derive(Default)]
struct StreamMemory {
    /// cuBLASLt's workspace, allocated by the first product.
    workspace: Mutex<Option<Address>>,
    /// Held while a product without a fused epilogue is submitted.
    scratch: Mutex<Option<Scratch>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Cuda {
    /// Opens a device by its number in [`devices`].
    ///
    /// # Errors
    /// Why the device cannot be used.
    pub fn open(index: usize) -> std::result::Result<Self, Unavailable> {
        let (api, driver) = devices::initialise()?;
        let all = devices::list(&api)?;
        let count = all.len();
        let device = all
            .into_iter()
            .nth(index)
            .ok_or(Unavailable::NoSuchDevice { index, count })?;
        devices::is_supported(&device)?;
        let (cublas_lt, description) = devices::load_cublas_lt()?;
        let libraries = vec![driver, description];
        Ok(Self::with_libraries(api, cublas_lt, device, libraries)?)
    }

    fn with_libraries(api: DriverApi, cublas_lt: CublasLtApi, device: Device, libraries: Vec<String>) -> Result<Self> {
        let ordinal = devices::ordinal(&api, device.index)?;
        let architecture = cubins::choose(device.capability).ok_or_else(|| Error::Driver {
            function: "choice of kernels",
            message: format!("there are no kernels for {}", device.name),
        })?;
        let max_shared_bytes =
            devices::attribute(&api, ordinal, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?;
        let multiprocessors = devices::attribute(&api, ordinal, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
        let kernels = Kernels::new(architecture, max_shared_bytes)?;
        let mut context = 0;
        // SAFETY: the address is valid.
        unsafe { call!(api, cuDevicePrimaryCtxRetain(&raw mut context, ordinal)) }?;
        // From here on, dropping the value releases the context.
        let mut cuda = Self {
            api,
            ordinal,
            context,
            multiprocessors,
            libraries,
            kernels,
            products: None,
            allocations: Mutex::default(),
            streams: Mutex::default(),
            events: Mutex::default(),
            staging: Mutex::default(),
            device,
        };
        cuda.make_current()?;
        let products = Products::new(cublas_lt, workspace_bytes(cuda.device.capability))?;
        cuda.products = Some(products);
        Ok(cuda)
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// A line about the driver and one about cuBLASLt: version, file, and which part of the search has found it.
    pub fn libraries(&self) -> &[String] {
        &self.libraries
    }

    /// Makes the context current for this thread. Every function does this first, because any thread may call it.
    fn make_current(&self) -> Result<()> {
        // SAFETY: the context exists until the value is dropped.
        unsafe { call!(self.api, cuCtxSetCurrent(self.context)) }
    }

    /// Makes the context current and returns the stream's handle and memory.
    fn stream(&self, stream: Stream) -> Result<(Handle, Arc<StreamMemory>)> {
        self.make_current()?;
        let memory = lock(&self.streams).get(&stream.0).cloned();
        memory
            .map(|memory| (stream.0 as Handle, memory))
            .ok_or_else(|| Error::Driver {
                function: "stream",
                message: "the stream does not exist".into(),
            })
    }

    /// Makes the context current and returns the event's handle.
    fn event(&self, event: Event) -> Result<Handle> {
        self.make_current()?;
        if lock(&self.events).contains(&event.0) {
            return Ok(event.0 as Handle);
        }
        Err(Error::Driver {
            function: "event",
            message: "the event does not exist".into(),
        })
    }

    fn check(&self, operation: &'static str, address: Address, bytes: usize) -> Result<()> {
        lock(&self.allocations).check(operation, address, bytes)
    }

    /// Submits a product with a fused epilogue, if cuBLASLt has it.
    fn submit(&self, product: &Matmul, stream: Handle, memory: &StreamMemory) -> Result<Submitted> {
        let Some(products) = &self.products else {
            return Ok(Submitted::NotSupported);
        };
        let mut workspace = lock(&memory.workspace);
        let workspace = match *workspace {
            Some(workspace) => workspace,
            None => *workspace.insert(self.allocate(products.workspace_bytes())?),
        };
        // SAFETY: the context is current, the stream is its, and the caller has checked the matrices.
        unsafe { products.submit(product, workspace.0, stream) }
    }

    /// Returns scratch memory of the stream with at least this many bytes.
    fn grow(&self, scratch: &mut Option<Scratch>, bytes: usize, stream: Stream) -> Result<Scratch> {
        if let Some(scratch) = *scratch {
            if scratch.bytes >= bytes {
                return Ok(scratch);
            }
            self.synchronize(stream)?;
            self.free(scratch.address)?;
        }
        *scratch = None;
        let bytes = bytes.max(MIN_SCRATCH_BYTES);
        let address = self.allocate(bytes)?;
        Ok(*scratch.insert(Scratch { address, bytes }))
    }
}

/// The ranges of memory that a product accesses: first byte and length in bytes.
fn ranges(product: &Matmul) -> Vec<(Address, usize)> {
    let Matmul { m, n, k, .. } = *product;
    let matrix = |x: &Operand, rows: usize, columns: usize| {
        let (rows, columns) = if x.transposed { (columns, rows) } else { (rows, columns) };
        let elements = (rows - 1).saturating_mul(x.stride).saturating_add(columns);
        (x.address, elements.saturating_mul(x.element.bytes()))
    };
    let mut ranges = vec![
        matrix(&product.a, m, k),
        matrix(&product.b, k, n),
        matrix(&product.d, m, n),
    ];
    if product.beta != 0.0 {
        ranges.push(matrix(&product.c, m, n));
    }
    let vector = |address: Address, elements: usize| (address, elements * product.d.element.bytes());
    let aux = |address: Address| matrix(&Operand { address, ..product.d }, m, n);
    match product.epilogue {
        Epilogue::None => {}
        Epilogue::Bias { bias } => ranges.push(vector(bias, n)),
        Epilogue::Gelu { bias, aux: to } => {
            ranges.extend(bias.map(|bias| vector(bias, n)));
            ranges.extend(to.map(aux));
        }
        Epilogue::GeluGradient {
            aux: from,
            bias_gradient,
        } => {
            ranges.push(aux(from));
            ranges.extend(bias_gradient.map(|to| vector(to, n)));
        }
        Epilogue::BiasGradient { bias_gradient } => ranges.push(vector(bias_gradient, m)),
    }
    ranges
}

impl Drop for Cuda {
    /// Waits for all work and frees everything. Errors concern work whose results are not needed any more.
    fn drop(&mut self) {
        let _ = self.make_current();
        let streams: Vec<u64> = lock(&self.streams).keys().copied().collect();
        for stream in streams {
            let _ = self.destroy_stream(Stream(stream));
        }
        if let Some(staging) = lock(&self.staging).take() {
            staging.destroy(&self.api);
        }
        let events: Vec<u64> = lock(&self.events).drain().collect();
        let allocations: Vec<u64> = lock(&self.allocations).drain().collect();
        // SAFETY: all streams are destroyed, so nothing uses events and memory any more.
        unsafe {
            for event in events {
                let _ = call!(self.api, cuEventDestroy_v2(event as Handle));
            }
            for address in allocations {
                let _ = call!(self.api, cuMemFree_v2(address));
            }
        }
        self.kernels.unload(&self.api);
        self.products = None;
        // SAFETY: the context was retained once.
        let _ = unsafe { call!(self.api, cuDevicePrimaryCtxRelease_v2(self.ordinal)) };
    }
}

impl Driver for Cuda {
    fn name(&self) -> &str {
        &self.device.name
    }

    fn compute_capability(&self) -> (u32, u32) {
        self.device.capability
    }

    fn multiprocessors(&self) -> u32 {
        self.multiprocessors
    }

    fn memory_info(&self) -> Result<MemoryInfo> {
        self.make_current()?;
        self.api.memory_info()
    }

    fn allocate(&self, bytes: usize) -> Result<Address> {
        self.make_current()?;
        let address = self.api.allocate(bytes)?;
        lock(&self.allocations).insert(address, bytes.max(1));
        Ok(Address(address))
    }

    fn free(&self, address: Address) -> Result<()> {
        self.make_current()?;
        lock(&self.allocations).remove(address)?;
        // SAFETY: the allocation existed until now.
        unsafe { call!(self.api, cuMemFree_v2(address.0)) }
    }

    fn copy_to_device(&self, to: Address, from: &[u8], stream: Stream) -> Result<()> {
        self.check("copy to the device", to, from.len())?;
        let (handle, _) = self.stream(stream)?;
        let mut staging = lock(&self.staging);
        let staging = match &mut *staging {
            Some(staging) => staging,
            None => staging.insert(Staging::new(&self.api)?),
        };
        // SAFETY: the context is current, the range was checked, and the stream exists.
        unsafe { staging.copy(&self.api, to, from, handle) }
    }

    fn copy_to_host(&self, to: &mut [u8], from: Address, stream: Stream) -> Result<()> {
        self.check("copy to the host", from, to.len())?;
        let (handle, _) = self.stream(stream)?;
        if to.is_empty() {
            return self.synchronize(stream);
        }
        // SAFETY: both ranges are valid; the function waits for the copy.
        let copied = unsafe {
            call!(
                self.api,
                cuMemcpyDtoHAsync_v2(to.as_mut_ptr().cast(), from.0, to.len(), handle)
            )
        };
        copied.and(self.synchronize(stream))
    }

    fn copy(&self, to: Address, from: Address, bytes: usize, stream: Stream) -> Result<()> {
        self.check("copy", from, bytes)?;
        self.check("copy", to, bytes)?;
        if to.0.abs_diff(from.0) < bytes as u64 {
            return Err(Error::InvalidArgument {
                operation: "copy",
                reason: "the ranges overlap".into(),
            });
        }
        let (handle, _) = self.stream(stream)?;
        if bytes == 0 {
            return Ok(());
        }
        // SAFETY: both ranges were checked.
        unsafe { call!(self.api, cuMemcpyDtoDAsync_v2(to.0, from.0, bytes, handle)) }
    }

    fn fill(&self, to: Address, value: u8, bytes: usize, stream: Stream) -> Result<()> {
        self.check("fill", to, bytes)?;
        let (handle, _) = self.stream(stream)?;
        if bytes == 0 {
            return Ok(());
        }
        // SAFETY: the range was checked.
        unsafe { call!(self.api, cuMemsetD8Async(to.0, value, bytes, handle)) }
    }

    fn create_stream(&self) -> Result<Stream> {
        self.make_current()?;
        let mut handle = 0;
        // SAFETY: the address is valid.
        unsafe { call!(self.api, cuStreamCreate(&raw mut handle, CU_STREAM_NON_BLOCKING)) }?;
        lock(&self.streams).insert(handle as u64, Arc::default());
        Ok(Stream(handle as u64))
    }

    fn destroy_stream(&self, stream: Stream) -> Result<()> {
        let (handle, memory) = self.stream(stream)?;
        let synchronized = self.synchronize(stream);
        lock(&self.streams).remove(&stream.0);
        let workspace = lock(&memory.workspace).take();
        let scratch = lock(&memory.scratch).take().map(|scratch| scratch.address);
        let freed: Vec<Result<()>> = workspace
            .into_iter()
            .chain(scratch)
            .map(|address| self.free(address))
            .collect();
        // SAFETY: the stream existed until now.
        let destroyed = unsafe { call!(self.api, cuStreamDestroy_v2(handle)) };
        freed.into_iter().fold(synchronized.and(destroyed), Result::and)
    }

    fn synchronize(&self, stream: Stream) -> Result<()> {
        let (handle, _) = self.stream(stream)?;
        // SAFETY: the stream exists.
        unsafe { call!(self.api, cuStreamSynchronize(handle)) }
    }

    fn create_event(&self) -> Result<Event> {
        self.make_current()?;
        let mut handle = 0;
        // SAFETY: the address is valid.
        unsafe { call!(self.api, cuEventCreate(&raw mut handle, CU_EVENT_DEFAULT)) }?;
        lock(&self.events).insert(handle as u64);
        Ok(Event(handle as u64))
    }

    fn destroy_event(&self, event: Event) -> Result<()> {
        let handle = self.event(event)?;
        lock(&self.events).remove(&event.0);
        // SAFETY: the event existed until now.
        unsafe { call!(self.api, cuEventDestroy_v2(handle)) }
    }

    fn record(&self, event: Event, stream: Stream) -> Result<()> {
        let (event, (stream, _)) = (self.event(event)?, self.stream(stream)?);
        // SAFETY: both exist.
        unsafe { call!(self.api, cuEventRecord(event, stream)) }
    }

    fn wait(&self, stream: Stream, event: Event) -> Result<()> {
        let (event, (stream, _)) = (self.event(event)?, self.stream(stream)?);
        // SAFETY: both exist.
        unsafe { call!(self.api, cuStreamWaitEvent(stream, event, 0)) }
    }

    fn elapsed(&self, start: Event, end: Event) -> Result<Duration> {
        let (start, end) = (self.event(start)?, self.event(end)?);
        let mut milliseconds = 0f32;
        // SAFETY: both events exist, and the address is valid.
        unsafe {
            call!(self.api, cuEventSynchronize(start))?;
            call!(self.api, cuEventSynchronize(end))?;
            call!(self.api, cuEventElapsedTime(&raw mut milliseconds, start, end))?;
        }
        Ok(Duration::from_secs_f64((f64::from(milliseconds) / 1e3).max(0.0)))
    }

    unsafe fn launch(
        &self,
        kernel: &str,
        grid: [u32; 3],
        block: [u32; 3],
        shared_bytes: u32,
        stream: Stream,
        arguments: &[*const c_void],
    ) -> Result<()> {
        let (handle, _) = self.stream(stream)?;
        let function = self.kernels.function(&self.api, kernel, shared_bytes)?;
        let ([gx, gy, gz], [bx, by, bz]) = (grid, block);
        // SAFETY: the function and the stream exist. The caller answers for the arguments, which the driver only reads.
        let launched = unsafe {
            let parameters = arguments.as_ptr().cast::<*mut c_void>().cast_mut();
            let extra = std::ptr::null_mut();
            call!(
                self.api,
                cuLaunchKernel(
                    function,
                    gx,
                    gy,
                    gz,
                    bx,
                    by,
                    bz,
                    shared_bytes,
                    handle,
                    parameters,
                    extra
                )
            )
        };
        launched.map_err(|error| match error {
            Error::Driver { message, .. } => Error::Launch {
                kernel: kernel.into(),
                reason: format!(
                    "{message}, with the grid {grid:?}, the block {block:?} and {shared_bytes} bytes of shared memory"
                ),
            },
            error => error,
        })
    }

    fn matmul(&self, product: &Matmul, stream: Stream) -> Result<()> {
        product.check()?;
        for (address, bytes) in ranges(product) {
            self.check("matrix product", address, bytes)?;
        }
        let (handle, memory) = self.stream(stream)?;
        if self.submit(product, handle, &memory)? == Submitted::Yes {
            return Ok(());
        }
        if product.epilogue == Epilogue::None {
            let Matmul { m, n, k, a, d, .. } = product;
            return Err(Error::Driver {
                function: "cublasLtMatmul",
                message: format!(
                    "there is no algorithm for {m}×{n}×{k} with {:?} and {:?}",
                    a.element, d.element
                ),
            });
        }
        let mut scratch = lock(&memory.scratch);
        let scratch = self.grow(&mut scratch, unfused::min_scratch_bytes(product), stream)?;
        unfused::multiply(self, product, scratch, stream)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::Element;

    /// What `open` says on a machine without a driver or a device; with one, a number that is too large is an error.
    #[test]
    fn opening_a_missing_device_gives_the_reason() {
        let reason = Cuda::open(usize::MAX).err().expect("there is no such device");
        match devices() {
            Ok(devices) => assert!(matches!(reason, Unavailable::NoSuchDevice { count, .. } if count >= devices.len())),
            Err(Unavailable::Unsupported { .. }) => assert!(matches!(reason, Unavailable::NoSuchDevice { .. })),
            Err(same) => assert_eq!(reason, same),
        }
    }

    #[test]
    fn ranges_are_those_of_the_matrices() {
        let operand = |first: u64, stride: usize, transposed: bool, element: Element| Operand {
            address: Address(first),
            stride,
            transposed,
            element,
        };
        let mut product = Matmul {
            m: 3,
            n: 5,
            k: 4,
            alpha: 1.0,
            a: operand(1000, 4, false, Element::Bf16),
            b: operand(2000, 6, true, Element::Bf16),
            beta: 0.0,
            c: operand(3000, 5, false, Element::F32),
            d: operand(4000, 8, false, Element::F32),
            epilogue: Epilogue::GeluGradient {
                aux: Address(5000),
                bias_gradient: Some(Address(6000)),
            },
        };
        let bytes = |product: &Matmul| {
            ranges(product)
                .iter()
                .map(|(at, bytes)| (at.0, *bytes))
                .collect::<Vec<_>>()
        };
        let matrices = vec![(1000, 3 * 4 * 2), (2000, (4 * 6 + 4) * 2), (4000, (2 * 8 + 5) * 4)];
        let mut want = matrices.clone();
        want.extend([(5000, (2 * 8 + 5) * 4), (6000, 5 * 4)]);
        assert_eq!(bytes(&product), want);
        product.beta = 1.0;
        product.epilogue = Epilogue::BiasGradient {
            bias_gradient: Address(6000),
        };
        let mut want = matrices;
        want.extend([(3000, 3 * 5 * 4), (6000, 3 * 4)]);
        assert_eq!(bytes(&product), want);
    }
}
