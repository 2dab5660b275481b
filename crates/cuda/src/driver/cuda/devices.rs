//! Which devices this machine has, or why it has none.

use super::bindings::{
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, CUDA_ERROR_NO_DEVICE,
    CublasLtApi, DriverApi, call,
};
use super::search::{self, CUBLAS_LT, DRIVER, Environment};
use crate::driver::{Error, Result};
use std::ffi::{CStr, c_int};

/// The oldest version of CUDA that the driver must support: the cubins are of CUDA 13, whose drivers begin with release 580.
const MIN_CUDA: Version = Version(13, 0);

/// A version of CUDA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32, pub u32);

impl Version {
    /// The version, from 1000·major + 10·minor (`cuDriverGetVersion`).
    fn of(number: c_int) -> Self {
        let number = number.unsigned_abs();
        Self(number / 1000, number % 1000 / 10)
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

/// A device that can be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// The number of the device, in the order of the driver; `CUDA_VISIBLE_DEVICES` changes it.
    pub index: usize,
    /// The name of the model.
    pub name: String,
    /// Compute capability: major and minor number.
    pub capability: (u32, u32),
    /// Bytes of memory.
    pub memory: usize,
}

/// Why there is no device, or why it cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// There is no driver.
    #[error("no NVIDIA driver: libcuda.so.1 is not found{}; install NVIDIA's driver, release 580 or newer", found_but(.errors))]
    NoDriver {
        /// Files with the name of the library that could not be opened, and why.
        errors: Vec<String>,
    },
    /// The driver is too old for the kernels.
    #[error("the NVIDIA driver supports CUDA {supported}, but CUDA {MIN_CUDA} is needed; install release 580 or newer")]
    DriverTooOld {
        /// The newest version of CUDA that the driver supports.
        supported: Version,
    },
    /// The driver has no device.
    #[error("the NVIDIA driver finds no GPU{}", if *.hidden { ": CUDA_VISIBLE_DEVICES may hide it" } else { "" })]
    NoDevice {
        /// Whether `CUDA_VISIBLE_DEVICES` is set.
        hidden: bool,
    },
    /// No device of the machine has a number as large as this.
    #[error("there is no device {index}: the machine has {count}, and the first is 0")]
    NoSuchDevice {
        /// The number.
        index: usize,
        /// The number of devices.
        count: usize,
    },
    /// There are no kernels for the device.
    #[error("{name} has compute capability {}.{}, for which there are no kernels; supported are {supported}", .capability.0, .capability.1)]
    Unsupported {
        /// The name of the device.
        name: String,
        /// Its compute capability.
        capability: (u32, u32),
        /// The compute capabilities with kernels.
        supported: String,
    },
    /// There is no library for matrix products.
    #[error(
        "cuBLASLt is missing: libcublasLt.so.13 and libcublasLt.so.12 are not found{}; install it by `pip install nvidia-cublas`, \
         or set VLCT_CUDA to its directory",
        found_but(.errors)
    )]
    NoCublasLt {
        /// Files with the name of the library that could not be opened, and why.
        errors: Vec<String>,
    },
    /// There is no library for communication between devices.
    #[error(
        "NCCL is missing: libnccl.so.2 is not found{}; install it by `pip install nvidia-nccl-cu13`, or set VLCT_CUDA to its directory",
        found_but(.errors)
    )]
    NoNccl {
        /// Files with the name of the library that could not be opened, and why.
        errors: Vec<String>,
    },
    /// A function failed.
    #[error(transparent)]
    Failed(#[from] Error),
}

/// A part of a sentence about libraries that exist, but cannot be opened.
fn found_but(errors: &[String]) -> String {
    if errors.is_empty() {
        return String::new();
    }
    format!(", and these files cannot be opened: {}", errors.join("; "))
}

/// Returns the devices that can be opened.
///
/// # Errors
/// Why there is none.
pub fn devices() -> std::result::Result<Vec<Device>, Unavailable> {
    let (api, _) = initialise()?;
    let all = list(&api)?;
    let usable: Vec<Device> = all
        .iter()
        .filter(|device| is_supported(device).is_ok())
        .cloned()
        .collect();
    match all.first() {
        Some(first) if usable.is_empty() => is_supported(first).map(|()| usable),
        _ => Ok(usable),
    }
}

/// Fails if there are no kernels for the device.
pub(super) fn is_supported(device: &Device) -> std::result::Result<(), Unavailable> {
    match super::cubins::choose(device.capability) {
        Some(_) => Ok(()),
        None => Err(Unavailable::Unsupported {
            name: device.name.clone(),
            capability: device.capability,
            supported: super::cubins::supported(),
        }),
    }
}

/// Loads and initialises the driver, and describes it: file, and which part of the search has found it.
pub(super) fn initialise() -> std::result::Result<(DriverApi, String), Unavailable> {
    let loaded = search::open(&DRIVER, &Environment::current()).map_err(|errors| Unavailable::NoDriver { errors })?;
    let found = loaded.found.to_string();
    let api = DriverApi::load(loaded)?;
    // The version is known before the driver is initialised, and a driver that is too old may fail in other ways.
    let mut version: c_int = 0;
    // SAFETY: the address is valid.
    unsafe { call!(api, cuDriverGetVersion(&raw mut version)) }?;
    check_version(version)?;
    // SAFETY: the function has no preconditions.
    let status = unsafe { (api.cuInit)(0) };
    if status == CUDA_ERROR_NO_DEVICE {
        return Err(no_device());
    }
    api.check("cuInit", status)?;
    Ok((api, format!("driver of CUDA {}: {found}", Version::of(version))))
}

/// Loads cuBLASLt, and describes it: version, file, and which part of the search has found it.
pub(super) fn load_cublas_lt() -> std::result::Result<(CublasLtApi, String), Unavailable> {
    let loaded =
        search::open(&CUBLAS_LT, &Environment::current()).map_err(|errors| Unavailable::NoCublasLt { errors })?;
    let found = loaded.found.to_string();
    let api = CublasLtApi::load(loaded)?;
    // SAFETY: the function has no preconditions.
    let version = unsafe { (api.cublasLtGetVersion)() };
    Ok((api, format!("cuBLASLt {}: {found}", version_text(version))))
}

/// The version of cuBLASLt or NCCL, from 10000·major + 100·minor + patch (`cublasLtGetVersion`, `ncclGetVersion`).
pub(super) fn version_text(version: usize) -> String {
    format!("{}.{}.{}", version / 10_000, version / 100 % 100, version % 100)
}

/// Returns a line about the cuBLASLt of this machine: its version, its file, and which part of the search has found it. This needs no driver.
///
/// # Errors
/// Why there is none.
pub fn cublas_lt() -> std::result::Result<String, Unavailable> {
    load_cublas_lt().map(|(_, description)| description)
}

/// Fails if the driver is too old; `version` is that of `cuDriverGetVersion`.
fn check_version(version: c_int) -> std::result::Result<(), Unavailable> {
    let supported = Version::of(version);
    if supported < MIN_CUDA {
        return Err(Unavailable::DriverTooOld { supported });
    }
    Ok(())
}

fn no_device() -> Unavailable {
    Unavailable::NoDevice {
        hidden: std::env::var_os("CUDA_VISIBLE_DEVICES").is_some(),
    }
}

/// Lists all devices of an initialised driver.
pub(super) fn list(api: &DriverApi) -> std::result::Result<Vec<Device>, Unavailable> {
    let mut count: c_int = 0;
    // SAFETY: the address is valid.
    unsafe { call!(api, cuDeviceGetCount(&raw mut count)) }?;
    if count <= 0 {
        return Err(no_device());
    }
    let devices = (0..count.unsigned_abs() as usize).map(|index| describe(api, index));
    Ok(devices.collect::<Result<_>>()?)
}

/// Returns the driver's number of a device for its functions.
pub(super) fn ordinal(api: &DriverApi, index: usize) -> Result<c_int> {
    let mut device: c_int = 0;
    // SAFETY: the address is valid; a wrong index is an error.
    unsafe { call!(api, cuDeviceGet(&raw mut device, index as c_int)) }?;
    Ok(device)
}

/// Reads an attribute of a device.
pub(super) fn attribute(api: &DriverApi, device: c_int, attribute: c_int) -> Result<u32> {
    let mut value: c_int = 0;
    // SAFETY: the address is valid.
    unsafe { call!(api, cuDeviceGetAttribute(&raw mut value, attribute, device)) }?;
    Ok(value.unsigned_abs())
}

fn describe(api: &DriverApi, index: usize) -> Result<Device> {
    let device = ordinal(api, index)?;
    let mut name = [0u8; 256];
    let mut memory = 0;
    // SAFETY: the function writes at most the given number of bytes, of which the last is zero; the address is valid.
    unsafe {
        call!(
            api,
            cuDeviceGetName(name.as_mut_ptr().cast(), name.len() as c_int, device)
        )?;
        call!(api, cuDeviceTotalMem_v2(&raw mut memory, device))?;
    }
    let number = |which| attribute(api, device, which);
    Ok(Device {
        index,
        name: CStr::from_bytes_until_nul(&name)
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned(),
        capability: (
            number(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            number(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ),
        memory,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_of_cuda_12_is_too_old() {
        assert_eq!(check_version(13000), Ok(()));
        assert_eq!(check_version(13020), Ok(()));
        let error = check_version(12080).expect_err("too old");
        assert_eq!(
            error.to_string(),
            "the NVIDIA driver supports CUDA 12.8, but CUDA 13.0 is needed; install release 580 or newer"
        );
    }

    #[test]
    fn versions_of_cublas_are_readable() {
        assert_eq!(version_text(130_200), "13.2.0");
        assert_eq!(version_text(120_803), "12.8.3");
    }

    #[test]
    fn a_device_without_kernels_is_named() {
        let device = |name: &str, capability| Device {
            index: 0,
            name: name.into(),
            capability,
            memory: 1,
        };
        assert_eq!(is_supported(&device("NVIDIA H200", (9, 0))), Ok(()));
        assert_eq!(
            is_supported(&device("Tesla T4", (7, 5)))
                .expect_err("too old")
                .to_string(),
            "Tesla T4 has compute capability 7.5, for which there are no kernels; \
             supported are 8.0 to 8.9, 9.0, 10.0, 12.0"
        );
    }

    #[test]
    fn each_reason_is_one_line_that_says_what_to_do() {
        let errors = vec!["/opt/libcuda.so.1 (VLCT_CUDA): file too short".to_string()];
        let none = Vec::new;
        let cases = [
            (
                Unavailable::NoDriver { errors: none() },
                "no NVIDIA driver: libcuda.so.1 is not found; install NVIDIA's driver, release 580 or newer",
            ),
            (
                Unavailable::NoDriver { errors },
                "no NVIDIA driver: libcuda.so.1 is not found, and these files cannot be opened: \
                 /opt/libcuda.so.1 (VLCT_CUDA): file too short; install NVIDIA's driver, release 580 or newer",
            ),
            (
                Unavailable::NoDevice { hidden: true },
                "the NVIDIA driver finds no GPU: CUDA_VISIBLE_DEVICES may hide it",
            ),
            (
                Unavailable::NoSuchDevice { index: 2, count: 1 },
                "there is no device 2: the machine has 1, and the first is 0",
            ),
            (
                Unavailable::NoCublasLt { errors: none() },
                "cuBLASLt is missing: libcublasLt.so.13 and libcublasLt.so.12 are not found; install it by \
                 `pip install nvidia-cublas`, or set VLCT_CUDA to its directory",
            ),
        ];
        for (reason, text) in cases {
            assert_eq!(reason.to_string(), text);
        }
    }

    /// On a machine without a driver, the reason is that there is none; with one, devices are numbered and have memory.
    #[test]
    fn devices_are_listed_or_the_reason_is_given() {
        let has_driver = search::open(&DRIVER, &Environment::current()).is_ok();
        match devices() {
            Ok(devices) => {
                assert!(has_driver && !devices.is_empty());
                assert!(
                    devices
                        .iter()
                        .all(|device| device.memory > 0 && !device.name.is_empty())
                );
            }
            Err(reason) => {
                assert_eq!(has_driver, !matches!(reason, Unavailable::NoDriver { .. }), "{reason}");
                assert!(!reason.to_string().contains('\n'), "{reason}");
            }
        }
    }
}
