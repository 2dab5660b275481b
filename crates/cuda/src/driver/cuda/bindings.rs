//! Functions of NVIDIA's libraries, which are loaded when a device is opened.
//!
//! The declarations follow `cuda.h` and `cublasLt.h` of CUDA 13; all these functions exist since CUDA 12.0 with the same signatures. Handles
//! and pointers to memory of devices are integers, so that the tables can be shared between threads.

use super::search::Loaded;
use crate::driver::{Error, MemoryInfo, Result};
use libloading::Library;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::mem::ManuallyDrop;

/// A pointer to an object of a library.
pub(super) type Handle = usize;

/// Defines a table of functions. `load` fails with the name of the first function that the library lacks.
macro_rules! functions {
    ($(#[$attribute:meta])* $table:ident, $library:literal: $($name:ident($($argument:ty),*) -> $result:ty;)*) => {
        $(#[$attribute])*
        #[allow(non_snake_case)]
        pub(super) struct $table {
            $(pub $name: unsafe extern "C" fn($($argument),*) -> $result,)*
            /// The functions are valid as long as the library is loaded. It is never unloaded: NVIDIA's libraries have threads and handlers
            /// of their own, and are loaded again when another device is opened.
            _library: ManuallyDrop<Library>,
        }

        impl $table {
            /// Finds the functions of an open library.
            pub fn load(loaded: Loaded) -> Result<Self> {
                let Loaded { library, .. } = loaded;
                Ok(Self {
                    $($name: {
                        // SAFETY: the type is that of the declaration in the library's header.
                        let symbol = unsafe { library.get(concat!(stringify!($name), "\0").as_bytes()) };
                        *symbol.map_err(|_| Error::Driver {
                            function: $library,
                            message: concat!("the library has no function ", stringify!($name), "; it is too old").into(),
                        })?
                    },)*
                    _library: ManuallyDrop::new(library),
                })
            }
        }
    };
}

pub(super) use functions;

functions! {
    /// The driver API: `libcuda`.
    DriverApi, "libcuda":
    cuInit(c_uint) -> c_int;
    cuDriverGetVersion(*mut c_int) -> c_int;
    cuGetErrorName(c_int, *mut *const c_char) -> c_int;
    cuGetErrorString(c_int, *mut *const c_char) -> c_int;
    cuDeviceGetCount(*mut c_int) -> c_int;
    cuDeviceGet(*mut c_int, c_int) -> c_int;
    cuDeviceGetName(*mut c_char, c_int, c_int) -> c_int;
    cuDeviceTotalMem_v2(*mut usize, c_int) -> c_int;
    cuDeviceGetAttribute(*mut c_int, c_int, c_int) -> c_int;
    cuDevicePrimaryCtxRetain(*mut Handle, c_int) -> c_int;
    cuDevicePrimaryCtxRelease_v2(c_int) -> c_int;
    cuCtxSetCurrent(Handle) -> c_int;
    cuMemGetInfo_v2(*mut usize, *mut usize) -> c_int;
    cuMemAlloc_v2(*mut u64, usize) -> c_int;
    cuMemFree_v2(u64) -> c_int;
    cuMemAllocHost_v2(*mut *mut c_void, usize) -> c_int;
    cuMemFreeHost(*mut c_void) -> c_int;
    cuMemcpyHtoDAsync_v2(u64, *const c_void, usize, Handle) -> c_int;
    cuMemcpyDtoHAsync_v2(*mut c_void, u64, usize, Handle) -> c_int;
    cuMemcpyDtoDAsync_v2(u64, u64, usize, Handle) -> c_int;
    cuMemsetD8Async(u64, u8, usize, Handle) -> c_int;
    cuStreamCreate(*mut Handle, c_uint) -> c_int;
    cuStreamDestroy_v2(Handle) -> c_int;
    cuStreamSynchronize(Handle) -> c_int;
    cuStreamWaitEvent(Handle, Handle, c_uint) -> c_int;
    cuEventCreate(*mut Handle, c_uint) -> c_int;
    cuEventDestroy_v2(Handle) -> c_int;
    cuEventRecord(Handle, Handle) -> c_int;
    cuEventSynchronize(Handle) -> c_int;
    cuEventElapsedTime(*mut f32, Handle, Handle) -> c_int;
    cuModuleLoadData(*mut Handle, *const c_void) -> c_int;
    cuModuleUnload(Handle) -> c_int;
    cuModuleGetFunction(*mut Handle, Handle, *const c_char) -> c_int;
    cuFuncSetAttribute(Handle, c_int, c_int) -> c_int;
    cuLaunchKernel(
        Handle, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, Handle, *mut *mut c_void, *mut *mut c_void
    ) -> c_int;
}

functions! {
    /// cuBLASLt: `libcublasLt`.
    CublasLtApi, "libcublasLt":
    cublasLtGetVersion() -> usize;
    cublasLtGetStatusName(c_int) -> *const c_char;
    cublasLtGetStatusString(c_int) -> *const c_char;
    cublasLtCreate(*mut Handle) -> c_int;
    cublasLtDestroy(Handle) -> c_int;
    cublasLtMatmulDescCreate(*mut Handle, c_int, c_int) -> c_int;
    cublasLtMatmulDescDestroy(Handle) -> c_int;
    cublasLtMatmulDescSetAttribute(Handle, c_int, *const c_void, usize) -> c_int;
    cublasLtMatrixLayoutCreate(*mut Handle, c_int, u64, u64, i64) -> c_int;
    cublasLtMatrixLayoutDestroy(Handle) -> c_int;
    cublasLtMatrixLayoutSetAttribute(Handle, c_int, *const c_void, usize) -> c_int;
    cublasLtMatmulPreferenceCreate(*mut Handle) -> c_int;
    cublasLtMatmulPreferenceDestroy(Handle) -> c_int;
    cublasLtMatmulPreferenceSetAttribute(Handle, c_int, *const c_void, usize) -> c_int;
    cublasLtMatmulAlgoGetHeuristic(
        Handle, Handle, Handle, Handle, Handle, Handle, Handle, c_int, *mut HeuristicResult, *mut c_int
    ) -> c_int;
    cublasLtMatmul(
        Handle, Handle, *const f32, u64, Handle, u64, Handle, *const f32, u64, Handle, u64, Handle, *const Algorithm, u64,
        usize, Handle
    ) -> c_int;
}

/// `cublasLtMatmulAlgo_t`, a value without documented content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub(super) struct Algorithm {
    data: [u64; 8],
}

/// `cublasLtMatmulHeuristicResult_t`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(super) struct HeuristicResult {
    pub algorithm: Algorithm,
    pub workspace_bytes: usize,
    pub state: c_int,
    waves: f32,
    reserved: [c_int; 4],
}

pub(super) const CUDA_SUCCESS: c_int = 0;
pub(super) const CUDA_ERROR_OUT_OF_MEMORY: c_int = 2;
pub(super) const CUDA_ERROR_NO_DEVICE: c_int = 100;

pub(super) const CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: c_int = 16;
pub(super) const CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: c_int = 75;
pub(super) const CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: c_int = 76;
pub(super) const CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN: c_int = 97;
pub(super) const CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES: c_int = 8;
pub(super) const CU_STREAM_NON_BLOCKING: c_uint = 1;
pub(super) const CU_EVENT_DEFAULT: c_uint = 0;
pub(super) const CU_EVENT_DISABLE_TIMING: c_uint = 2;

pub(super) const CUBLAS_STATUS_SUCCESS: c_int = 0;
pub(super) const CUBLAS_STATUS_INVALID_VALUE: c_int = 7;
pub(super) const CUBLAS_STATUS_NOT_SUPPORTED: c_int = 15;

/// Calls a function of the driver API, in an `unsafe` block. A status other than success is an error with CUDA's name and text of it.
macro_rules! call {
    ($api:expr, $name:ident($($argument:expr),* $(,)?)) => {{
        let api = &$api;
        api.check(stringify!($name), (api.$name)($($argument),*))
    }};
}
pub(super) use call;

impl DriverApi {
    /// Turns a status into a result.
    pub fn check(&self, function: &'static str, status: c_int) -> Result<()> {
        if status == CUDA_SUCCESS {
            return Ok(());
        }
        Err(Error::Driver {
            function: function.trim_end_matches("_v2"),
            message: self.describe(status),
        })
    }

    /// CUDA's text and name of a status.
    pub fn describe(&self, status: c_int) -> String {
        let text = |function: unsafe extern "C" fn(c_int, *mut *const c_char) -> c_int| {
            let mut text = std::ptr::null();
            // SAFETY: the function writes a pointer to a static string, or null.
            unsafe { (function(status, &raw mut text) == CUDA_SUCCESS).then(|| text_at(text)) }
        };
        describe(status, text(self.cuGetErrorString), text(self.cuGetErrorName))
    }

    /// Memory of the device of the current context.
    pub fn memory_info(&self) -> Result<MemoryInfo> {
        let (mut free, mut total) = (0, 0);
        // SAFETY: both addresses are valid.
        unsafe { call!(self, cuMemGetInfo_v2(&raw mut free, &raw mut total)) }?;
        Ok(MemoryInfo { free, total })
    }

    /// Allocates memory in the current context.
    pub fn allocate(&self, bytes: usize) -> Result<u64> {
        let mut address = 0;
        // SAFETY: the address is valid.
        let status = unsafe { (self.cuMemAlloc_v2)(&raw mut address, bytes.max(1)) };
        if status == CUDA_ERROR_OUT_OF_MEMORY {
            let MemoryInfo { free, total } = self.memory_info()?;
            return Err(Error::OutOfMemory {
                requested: bytes,
                free,
                total,
            });
        }
        self.check("cuMemAlloc", status).map(|()| address)
    }
}

impl CublasLtApi {
    /// Turns a status into a result.
    pub fn check(&self, function: &'static str, status: c_int) -> Result<()> {
        if status == CUBLAS_STATUS_SUCCESS {
            return Ok(());
        }
        // SAFETY: both functions return static strings for every number.
        let (text, name) = unsafe {
            (
                text_at((self.cublasLtGetStatusString)(status)),
                text_at((self.cublasLtGetStatusName)(status)),
            )
        };
        Err(Error::Driver {
            function,
            message: describe(status, Some(text), Some(name)),
        })
    }
}

/// Copies a string of a library.
///
/// # Safety
/// The pointer is null or points to a string that ends with a zero.
pub(super) unsafe fn text_at(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: the pointer is valid (caller).
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// One line about a status: text and name where the library knows them, else the number.
pub(super) fn describe(status: c_int, text: Option<String>, name: Option<String>) -> String {
    let known = |text: Option<String>| text.map(|t| t.trim().to_string()).filter(|t| !t.is_empty());
    match (known(text), known(name)) {
        (Some(text), Some(name)) => format!("{text} ({name})"),
        (Some(text), None) | (None, Some(text)) => format!("{text} (status {status})"),
        (None, None) => format!("status {status}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_described_by_text_and_name() {
        let text = |s: &str| Some(s.to_string());
        assert_eq!(
            describe(
                700,
                text("an illegal memory access was encountered"),
                text("CUDA_ERROR_ILLEGAL_ADDRESS")
            ),
            "an illegal memory access was encountered (CUDA_ERROR_ILLEGAL_ADDRESS)"
        );
        assert_eq!(describe(12345, None, None), "status 12345");
        assert_eq!(describe(7, text(""), text("NAME")), "NAME (status 7)");
    }

    /// `sizeof` of the structures in `cublasLt.h`.
    #[test]
    fn structures_have_the_sizes_of_the_header() {
        assert_eq!(size_of::<Algorithm>(), 64);
        assert_eq!(size_of::<HeuristicResult>(), 96);
    }
}
