//! Devices, which hold tensors and compute with them.

use crate::backend::Backend;
pub use crate::backend::OwnMemory;
use crate::cpu::CPU;
use crate::cuda::Cuda;
pub use crate::cuda::{DeviceError, MemoryShortage};
pub use crate::device_name::{DeviceName, UnknownDeviceName};
use crate::precision::F32Products;
use crate::profile;
use crate::tensor::{Order, Planes, Tensor};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use vlct_cuda::context::{Allocation, Context};
use vlct_cuda::driver::Driver;
use vlct_cuda::driver::cuda::{Cuda as NvidiaDevice, Device as NvidiaDescription, Unavailable, devices};
pub use vlct_kernels::memory::OutOfMemory;

/// Why a CUDA device cannot be used. Its message is one line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name} cannot be used: {reason}")]
pub struct DeviceUnavailable {
    name: DeviceName,
    reason: Unavailable,
}

impl DeviceUnavailable {
    /// Whether the machine has no CUDA device, so that nothing needs to be repaired.
    pub fn is_absent(&self) -> bool {
        match &self.reason {
            Unavailable::NoDriver { errors } => errors.is_empty(),
            Unavailable::NoDevice { .. } => true,
            _ => false,
        }
    }
}

/// The results of opening devices, by their numbers.
type Opened = BTreeMap<usize, Result<Device, DeviceUnavailable>>;

/// Returns the devices that were opened. While the value exists, no other thread opens a device.
fn opened() -> MutexGuard<'static, Opened> {
    static OPENED: Mutex<Opened> = Mutex::new(BTreeMap::new());
    OPENED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns the device with this number in the order of the driver.
fn open_cuda(index: usize) -> Result<Device, DeviceUnavailable> {
    opened().entry(index).or_insert_with(|| open_unopened(index)).clone()
}

fn open_unopened(index: usize) -> Result<Device, DeviceUnavailable> {
    let name = DeviceName::Cuda(index);
    let unavailable = |reason| DeviceUnavailable { name, reason };
    let driver = NvidiaDevice::open(index).map_err(unavailable)?;
    Device::of_driver(&name.to_string(), Arc::new(driver)).map_err(|error| unavailable(error.into()))
}

/// A device. All tensors of an operation must be on the same device; [`Tensor::to_host`] and [`Device::tensor`] copy values from one
/// device to another.
#[derive(Clone, Copy)]
pub struct Device(&'static dyn Backend);

impl Device {
    /// The CPU of this machine.
    pub fn cpu() -> Self {
        Self(&CPU)
    }

    /// Returns the device of this name. A device is opened once; later calls return the same one.
    ///
    /// # Errors
    /// Why the device cannot be used. [`DeviceName::Auto`] gives no error.
    pub fn open(name: DeviceName) -> Result<Self, DeviceUnavailable> {
        match name {
            DeviceName::Auto => Ok(Self::fastest().0),
            DeviceName::Cpu => Ok(Self::cpu()),
            DeviceName::Cuda(index) => open_cuda(index),
        }
    }

    /// Returns the first CUDA device that can be used, or the CPU and the reason why there is no CUDA device.
    pub fn fastest() -> (Self, Option<DeviceUnavailable>) {
        // The driver may have a device before the first one with kernels.
        let first = Self::cuda_devices().and_then(|devices| open_cuda(devices.first().copied().unwrap_or(0)));
        match first {
            Ok(device) => (device, None),
            Err(reason) => (Self::cpu(), Some(reason)),
        }
    }

    /// Returns the numbers of the CUDA devices that can be used.
    ///
    /// # Errors
    /// Why there is none.
    pub fn cuda_devices() -> Result<Vec<usize>, DeviceUnavailable> {
        // Commands ask several times, and the answer does not change.
        static DEVICES: OnceLock<Result<Vec<NvidiaDescription>, Unavailable>> = OnceLock::new();
        match DEVICES.get_or_init(devices) {
            Ok(devices) => Ok(devices.iter().map(|device| device.index).collect()),
            // A test has registered a device.
            Err(_) if matches!(opened().get(&0), Some(Ok(_))) => Ok(vec![0]),
            Err(reason) => Err(DeviceUnavailable {
                name: DeviceName::Cuda(0),
                reason: reason.clone(),
            }),
        }
    }

    /// Makes [`Device::open`] return `device` for [`DeviceName::Cuda`] with this number, and [`Device::fastest`] if the number is 0, so that
    /// tests can run programs on an emulated device.
    #[cfg(any(test, feature = "test-backends"))]
    pub fn register(index: usize, device: Self) {
        opened().insert(index, Ok(device));
    }

    /// Returns the name: [`DeviceName::Cpu`] or [`DeviceName::Cuda`].
    pub fn name(self) -> DeviceName {
        self.0.name().parse().unwrap_or(DeviceName::Cpu)
    }

    /// Returns the model of a CUDA device, such as `NVIDIA H200`; `CPU` for the CPU.
    pub fn model(self) -> &'static str {
        self.0.model()
    }

    /// Describes the device's own memory, to which values are copied; `None` if the device uses the memory of the machine.
    pub fn own_memory(self) -> Option<OwnMemory> {
        self.0.own_memory()
    }

    /// Returns the context in which a CUDA device runs its kernels; `None` for the CPU. Checks of single kernels use it.
    pub fn cuda_context(self) -> Option<Context> {
        self.0.cuda_context().cloned()
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

    /// Waits until all submitted work is done. Measurements of time need it; results do not.
    pub fn synchronize(self) {
        self.0.synchronize();
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

    /// Copies images to the device while it computes, so that [`Device::patches`] need not copy them. The images must not be changed, moved
    /// or freed before the returned value is dropped; [`Device::patches`] would return patches of the old images. `None` if the device uses the
    /// memory of the machine.
    pub fn upload_images(self, images: &[Planes]) -> Option<UploadedImages> {
        self.0.upload_images(images).map(|copy| UploadedImages { _copy: copy })
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

/// A device is written as its name, and opened when it is read.
impl serde::Serialize for Device {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.name().serialize(serializer)
    }
}

impl<'de> serde::Deserialize<'de> for Device {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::open(DeviceName::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// Images that were copied to a device; see [`Device::upload_images`].
pub struct UploadedImages {
    _copy: Box<dyn Send>,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_cannot_be_used_has_one_line_with_its_name() {
        let reasons = [
            (Unavailable::NoDriver { errors: Vec::new() }, true),
            (Unavailable::NoDevice { hidden: false }, true),
            (
                Unavailable::NoDriver {
                    errors: vec!["libcuda.so.1: damaged".into()],
                },
                false,
            ),
            (Unavailable::NoSuchDevice { index: 3, count: 1 }, false),
        ];
        for (reason, is_absent) in reasons {
            let error = DeviceUnavailable {
                name: DeviceName::Cuda(3),
                reason,
            };
            let text = error.to_string();
            assert!(
                text.starts_with("cuda:3 cannot be used: ") && !text.contains('\n'),
                "{text}"
            );
            assert_eq!(error.is_absent(), is_absent, "{text}");
        }
    }

    #[test]
    fn a_registered_device_is_found_by_its_number() {
        let device = Device::perturbed_cpu(7);
        Device::register(41, device);
        assert_eq!(Device::open(DeviceName::Cuda(41)), Ok(device));
        let missing = Device::open(DeviceName::Cuda(4242)).unwrap_err().to_string();
        assert!(missing.starts_with("cuda:4242 cannot be used: "), "{missing}");
    }
}
