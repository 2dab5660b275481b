//! Matrix products by cuBLASLt.

mod descriptor;

use super::bindings::{
    Algorithm, CUBLAS_STATUS_INVALID_VALUE, CUBLAS_STATUS_NOT_SUPPORTED, CUBLAS_STATUS_SUCCESS, CublasLtApi, Handle,
    HeuristicResult, call,
};
use crate::driver::{Matmul, Result};
use descriptor::{Descriptor, Key, Layout, data_type};
use std::collections::HashMap;
use std::ffi::c_int;
use std::sync::{Mutex, PoisonError};

/// Attributes of `cublasLtMatmulDesc_t`.
const DESC_TRANSA: c_int = 3;
const DESC_TRANSB: c_int = 4;
const DESC_EPILOGUE: c_int = 7;
const DESC_BIAS_POINTER: c_int = 8;
const DESC_EPILOGUE_AUX_POINTER: c_int = 11;
const DESC_EPILOGUE_AUX_LD: c_int = 12;

/// Attributes of `cublasLtMatmulPreference_t`.
const PREF_MAX_WORKSPACE_BYTES: c_int = 1;
const PREF_REDUCTION_SCHEME_MASK: c_int = 3;
const PREF_MIN_ALIGNMENT_A_BYTES: c_int = 5;

/// f32 arithmetic; f32 operands are not rounded to TF32.
const CUBLAS_COMPUTE_32F: c_int = 68;
const CUDA_R_32F: c_int = 0;

/// Parts of a sum over k may be summed by separate blocks if they are stored in f32 and added in a fixed order. The other schemes of
/// `cublasLtReductionScheme_t` store them in the type of D, or add to D.
const CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE: u32 = 2;

/// Whether cuBLASLt has computed a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Submitted {
    Yes,
    /// cuBLASLt has no kernel for these types, layouts and this epilogue.
    NotSupported,
}

/// A handle of cuBLASLt for one device, and the algorithms that it has chosen.
pub(super) struct Products {
    api: CublasLtApi,
    handle: Handle,
    workspace_bytes: usize,
    /// `None` if cuBLASLt has no algorithm.
    algorithms: Mutex<HashMap<Key, Option<Algorithm>>>,
}

impl Products {
    /// Makes a handle for the current context.
    pub fn new(api: CublasLtApi, workspace_bytes: usize) -> Result<Self> {
        let mut handle = 0;
        // SAFETY: the address is valid.
        unsafe { call!(api, cublasLtCreate(&raw mut handle)) }?;
        Ok(Self {
            api,
            handle,
            workspace_bytes,
            algorithms: Mutex::default(),
        })
    }

    /// Bytes of the workspace that each stream needs.
    pub fn workspace_bytes(&self) -> usize {
        self.workspace_bytes
    }

    /// Submits a product. The algorithm is that of its bucket, or its own if that one does not fit: in both cases a function of the shape.
    ///
    /// # Safety
    /// The context of the handle is current, `stream` belongs to it, `workspace` has [`Self::workspace_bytes`], and all matrices are in
    /// allocated memory of the device.
    pub unsafe fn submit(&self, product: &Matmul, workspace: u64, stream: Handle) -> Result<Submitted> {
        let descriptor = Descriptor::of(product);
        if !descriptor.is_permitted() {
            return Ok(Submitted::NotSupported);
        }
        let operation = Operation::new(&self.api, &descriptor)?;
        let bucket = Descriptor::of(&descriptor::bucket(product));
        for shape in [bucket, descriptor] {
            let Some(algorithm) = self.algorithm(&shape)? else {
                continue;
            };
            // SAFETY: the objects belong to the descriptor; addresses are valid (caller).
            let status = unsafe {
                (self.api.cublasLtMatmul)(
                    self.handle,
                    operation.operation.handle,
                    &raw const descriptor.alpha,
                    descriptor.a.address.0,
                    operation.a.handle,
                    descriptor.b.address.0,
                    operation.b.handle,
                    &raw const descriptor.beta,
                    descriptor.c.address.0,
                    operation.c.handle,
                    descriptor.d.address.0,
                    operation.d.handle,
                    &raw const algorithm,
                    workspace,
                    self.workspace_bytes,
                    stream,
                )
            };
            match status {
                CUBLAS_STATUS_SUCCESS => return Ok(Submitted::Yes),
                // The algorithm of the bucket does not fit the shape.
                CUBLAS_STATUS_INVALID_VALUE | CUBLAS_STATUS_NOT_SUPPORTED => {}
                status => self.api.check("cublasLtMatmul", status)?,
            }
        }
        Ok(Submitted::NotSupported)
    }

    /// Returns the algorithm for a shape, which is determined once.
    fn algorithm(&self, descriptor: &Descriptor) -> Result<Option<Algorithm>> {
        let key = descriptor.key();
        let mut algorithms = self.algorithms.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = algorithms.get(&key) {
            return Ok(*known);
        }
        let found = self.query(descriptor, &key)?;
        algorithms.insert(key, found);
        Ok(found)
    }

    /// Asks cuBLASLt's heuristic for the best algorithm.
    fn query(&self, descriptor: &Descriptor, key: &Key) -> Result<Option<Algorithm>> {
        let operation = Operation::new(&self.api, descriptor)?;
        let preference = Object::preference(&self.api)?;
        preference.set(PREF_MAX_WORKSPACE_BYTES, self.workspace_bytes as u64)?;
        preference.set(PREF_REDUCTION_SCHEME_MASK, CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE)?;
        for (attribute, (_, _, alignment)) in (PREF_MIN_ALIGNMENT_A_BYTES..).zip(key.matrices) {
            preference.set(attribute, alignment)?;
        }
        let mut result = HeuristicResult::default();
        let mut count: c_int = 0;
        // SAFETY: all objects are valid, and there is memory for one result.
        let status = unsafe {
            (self.api.cublasLtMatmulAlgoGetHeuristic)(
                self.handle,
                operation.operation.handle,
                operation.a.handle,
                operation.b.handle,
                operation.c.handle,
                operation.d.handle,
                preference.handle,
                1,
                &raw mut result,
                &raw mut count,
            )
        };
        if matches!(status, CUBLAS_STATUS_NOT_SUPPORTED | CUBLAS_STATUS_INVALID_VALUE) {
            return Ok(None);
        }
        self.api.check("cublasLtMatmulAlgoGetHeuristic", status)?;
        let is_valid =
            count > 0 && result.state == CUBLAS_STATUS_SUCCESS && result.workspace_bytes <= self.workspace_bytes;
        Ok(is_valid.then_some(result.algorithm))
    }
}

impl Drop for Products {
    fn drop(&mut self) {
        // SAFETY: the handle is not used any more.
        unsafe { (self.api.cublasLtDestroy)(self.handle) };
    }
}

/// An object of cuBLASLt that is destroyed when it is dropped.
struct Object<'a> {
    api: &'a CublasLtApi,
    handle: Handle,
    set: SetAttribute,
    destroy: unsafe extern "C" fn(Handle) -> c_int,
}

/// The function that sets an attribute of an object, and its name.
type SetAttribute = (
    unsafe extern "C" fn(Handle, c_int, *const std::ffi::c_void, usize) -> c_int,
    &'static str,
);

impl<'a> Object<'a> {
    fn operation(api: &'a CublasLtApi) -> Result<Self> {
        let mut handle = 0;
        // SAFETY: the address is valid.
        unsafe {
            call!(
                api,
                cublasLtMatmulDescCreate(&raw mut handle, CUBLAS_COMPUTE_32F, CUDA_R_32F)
            )
        }?;
        Ok(Self {
            api,
            handle,
            set: (api.cublasLtMatmulDescSetAttribute, "cublasLtMatmulDescSetAttribute"),
            destroy: api.cublasLtMatmulDescDestroy,
        })
    }

    fn layout(api: &'a CublasLtApi, layout: &Layout) -> Result<Self> {
        let mut handle = 0;
        let (element, rows, columns) = (data_type(layout.element), layout.rows as u64, layout.columns as u64);
        // SAFETY: the address is valid.
        unsafe {
            call!(
                api,
                cublasLtMatrixLayoutCreate(&raw mut handle, element, rows, columns, layout.ld as i64)
            )
        }?;
        Ok(Self {
            api,
            handle,
            set: (api.cublasLtMatrixLayoutSetAttribute, "cublasLtMatrixLayoutSetAttribute"),
            destroy: api.cublasLtMatrixLayoutDestroy,
        })
    }

    fn preference(api: &'a CublasLtApi) -> Result<Self> {
        let mut handle = 0;
        // SAFETY: the address is valid.
        unsafe { call!(api, cublasLtMatmulPreferenceCreate(&raw mut handle)) }?;
        let set = api.cublasLtMatmulPreferenceSetAttribute;
        Ok(Self {
            api,
            handle,
            set: (set, "cublasLtMatmulPreferenceSetAttribute"),
            destroy: api.cublasLtMatmulPreferenceDestroy,
        })
    }

    /// Sets an attribute; the library checks the size of the value.
    fn set<T: Copy>(&self, attribute: c_int, value: T) -> Result<()> {
        let (function, name) = self.set;
        // SAFETY: the object is valid, and the function reads `size_of::<T>()` bytes.
        let status = unsafe { function(self.handle, attribute, (&raw const value).cast(), size_of::<T>()) };
        self.api.check(name, status)
    }
}

impl Drop for Object<'_> {
    fn drop(&mut self) {
        // SAFETY: the object is not used any more.
        unsafe { (self.destroy)(self.handle) };
    }
}

/// The objects of a product.
struct Operation<'a> {
    operation: Object<'a>,
    a: Object<'a>,
    b: Object<'a>,
    c: Object<'a>,
    d: Object<'a>,
}

impl<'a> Operation<'a> {
    fn new(api: &'a CublasLtApi, descriptor: &Descriptor) -> Result<Self> {
        let operation = Object::operation(api)?;
        operation.set(DESC_TRANSA, c_int::from(descriptor.transpose_a))?;
        operation.set(DESC_TRANSB, c_int::from(descriptor.transpose_b))?;
        operation.set(DESC_EPILOGUE, descriptor.epilogue)?;
        if let Some(bias) = descriptor.bias {
            operation.set(DESC_BIAS_POINTER, bias.0)?;
        }
        if let Some(aux) = descriptor.aux {
            operation.set(DESC_EPILOGUE_AUX_POINTER, aux.address.0)?;
            operation.set(DESC_EPILOGUE_AUX_LD, aux.ld as i64)?;
        }
        Ok(Self {
            operation,
            a: Object::layout(api, &descriptor.a)?,
            b: Object::layout(api, &descriptor.b)?,
            c: Object::layout(api, &descriptor.c)?,
            d: Object::layout(api, &descriptor.d)?,
        })
    }
}
