//! Modules and functions of a device: a cubin is loaded when one of its kernels is launched for the first time.

use super::bindings::{CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, DriverApi, Handle, call};
use super::cubins::{Architecture, Cubins};
use crate::driver::{Error, Result};
use std::collections::HashMap;
use std::ffi::{CString, c_int};
use std::sync::{Mutex, PoisonError};

/// Shared memory that a kernel may have without a special attribute (CUDA C++ Programming Guide, compute capabilities).
const DEFAULT_SHARED_BYTES: u32 = 48 << 10;

/// The kernels of a device.
pub(super) struct Kernels {
    cubins: Cubins,
    /// The largest shared memory of a block, in bytes.
    max_shared_bytes: u32,
    loaded: Mutex<Loaded>,
}

#[derive(Default)]
struct Loaded {
    /// The module of each cubin.
    modules: HashMap<usize, Handle>,
    functions: HashMap<&'static str, Function>,
}

/// A function of a module.
#[derive(Clone, Copy)]
struct Function {
    handle: Handle,
    /// The shared memory that its attribute permits, in bytes.
    shared_bytes: u32,
}

impl Kernels {
    /// The kernels for an architecture.
    pub fn new(architecture: Architecture, max_shared_bytes: u32) -> Result<Self> {
        Ok(Self {
            cubins: Cubins::read(architecture)?,
            max_shared_bytes,
            loaded: Mutex::default(),
        })
    }

    /// Returns the function of a kernel, which is permitted to have this much shared memory. The context must be current.
    pub fn function(&self, api: &DriverApi, kernel: &str, shared_bytes: u32) -> Result<Handle> {
        let (name, index) = self
            .cubins
            .index_of(kernel)
            .ok_or_else(|| Error::UnknownKernel(kernel.into()))?;
        if shared_bytes > self.max_shared_bytes {
            return Err(Error::Launch {
                kernel: kernel.into(),
                reason: format!(
                    "{shared_bytes} bytes of shared memory exceed the device's limit of {}",
                    self.max_shared_bytes
                ),
            });
        }
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let function = match loaded.functions.get(name) {
            Some(function) => *function,
            None => self.load(api, &mut loaded, name, index)?,
        };
        if shared_bytes > function.shared_bytes {
            let (attribute, value) = (CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, shared_bytes as c_int);
            // SAFETY: the function exists.
            unsafe { call!(api, cuFuncSetAttribute(function.handle, attribute, value)) }?;
        }
        let shared_bytes = function.shared_bytes.max(shared_bytes);
        loaded.functions.insert(
            name,
            Function {
                shared_bytes,
                ..function
            },
        );
        Ok(function.handle)
    }

    fn load(&self, api: &DriverApi, loaded: &mut Loaded, name: &str, index: usize) -> Result<Function> {
        let module = match loaded.modules.get(&index) {
            Some(module) => *module,
            None => {
                let cubin = self
                    .cubins
                    .cubin(index)
                    .ok_or_else(|| Error::UnknownKernel(name.into()))?;
                let mut module = 0;
                // SAFETY: a cubin is a whole ELF file, whose size the driver reads from its header.
                unsafe { call!(api, cuModuleLoadData(&raw mut module, cubin.as_ptr().cast())) }?;
                loaded.modules.insert(index, module);
                module
            }
        };
        let text = CString::new(name).map_err(|_| Error::UnknownKernel(name.into()))?;
        let mut handle = 0;
        // SAFETY: the module exists, and the name ends with a zero.
        unsafe { call!(api, cuModuleGetFunction(&raw mut handle, module, text.as_ptr())) }?;
        Ok(Function {
            handle,
            shared_bytes: DEFAULT_SHARED_BYTES,
        })
    }

    /// Unloads all modules. The context must be current.
    pub fn unload(&self, api: &DriverApi) {
        let loaded = std::mem::take(&mut *self.loaded.lock().unwrap_or_else(PoisonError::into_inner));
        for module in loaded.modules.into_values() {
            // An error here concerns work whose results are not needed any more.
            // SAFETY: no kernel of the module runs any more.
            let _ = unsafe { call!(api, cuModuleUnload(module)) };
        }
    }
}
