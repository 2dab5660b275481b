//! Devices, which hold tensors and compute with them.

use crate::backend::Backend;
use crate::cpu::CPU;
use crate::cuda::Cuda;
pub use crate::cuda::DeviceError;
use crate::precision::F32Products;
use crate::profile;
use crate::tensor::{Order, Planes, Tensor};
use std::sync::Arc;
use vlct_cuda::context::Allocation;
use vlct_cuda::driver::Driver;
pub use vlct_kernels::memory::OutOfMemory;

/// A device. All tensors of an operation must be on the same device; [`Tensor::to_host`] and [`Device::tensor`] copy values from one
/// device to another.
#[derive(Clone, Copy)]
pub struct Device(&'static dyn Backend);

impl Device {
    /// The CPU of this machine.
    pub fn cpu() -> Self {
        Self(&CPU)
    }

    /// Returns a CUDA device with this driver. `name` is that of the device in messages, such as `cuda:0`. The device exists until the
    /// program ends.
    ///
    /// # Errors
    /// Returns the error of the driver.
    pub fn of_driver(name: &str, driver: Arc<dyn Driver>) -> Result<Self, DeviceError> {
        Ok(Self(Box::leak(Box::new(Cuda::new(
            name,
            driver,
            Allocation::default(),
        )?))))
    }

    /// Returns a device for tests. It computes in f32 on the CPU and perturbs each element of the operands of matrix products at random,
    /// by up to half a unit in the last place of bfloat16, to measure how far rounding moves a result. Seed and value determine the
    /// perturbation.
    #[cfg(any(test, feature = "test-backends"))]
    pub fn perturbed_cpu(seed: u64) -> Self {
        Self(Box::leak(Box::new(crate::perturbed::Perturbed { seed })))
    }

    #[cfg(test)]
    pub(crate) fn new(backend: &'static dyn Backend) -> Self {
        Self(backend)
    }

    pub(crate) fn backend(self) -> &'static dyn Backend {
        self.0
    }

    /// Whether matrix products are faster in bfloat16 than in f32.
    pub fn bf16_is_fast(self) -> bool {
        self.0.bf16_is_fast()
    }

    /// Whether the device supports this method for large f32 products.
    pub fn supports_f32_products(self, method: F32Products) -> bool {
        self.0.supports_f32_products(method)
    }

    /// Times a large f32 product by each method that the device supports and returns the fastest method. A method other than FMA must
    /// take at least 10 % less time than FMA.
    pub fn fastest_f32_products(self) -> F32Products {
        self.0.fastest_f32_products()
    }

    /// Returns unused memory to the operating system. Callers do this between phases with very different memory
    /// needs, such as training and evaluation.
    pub fn release_unused(self) {
        self.0.release_unused();
    }

    /// Makes a `[rows, columns]` matrix of zeros.
    pub fn zeros(self, rows: usize, columns: usize) -> Tensor {
        self.0.zeros(rows, columns)
    }

    /// Makes a `[rows, columns]` matrix of these values, which are in row-major order.
    ///
    /// # Panics
    /// If the number of values is not `rows · columns`.
    pub fn tensor(self, rows: usize, columns: usize, values: &[f32]) -> Tensor {
        assert_eq!(
            values.len(),
            rows * columns,
            "number of values of a [{rows}, {columns}] matrix"
        );
        self.0.upload(rows, columns, values)
    }

    /// Copies patches of `side · side` pixels from images in host memory. `images` lists each image with the indices of its patches; the
    /// patch in row `r` and column `c` of an image has the index `r · (width / side) + c`. Returns a row `[3 · side²]` for each patch,
    /// image by image.
    ///
    /// # Panics
    /// If an image has another number of values than its size says, or an index is out of range.
    pub fn patches(self, images: &[(Planes, &[u32])], side: usize, order: Order) -> Tensor {
        let values = 3 * side * side * images.iter().map(|(_, patches)| patches.len()).sum::<usize>();
        let _span = profile::memory_bound_span(self.0, "extract patches", (2 * values * 4) as f64);
        self.0.patches(images, side, order)
    }
}

impl Default for Device {
    fn default() -> Self {
        Self::cpu()
    }
}

impl PartialEq for Device {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::addr_eq(self.0, other.0)
    }
}

impl Eq for Device {}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0.name())
    }
}
