//! Values of options that several commands take.

use clap::ValueEnum;
use vlct_tensor::{Device, DeviceName};

use crate::output::Failure;

/// Parses a number of things.
pub fn parse_count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count) if (1..=65_536).contains(&count) => Ok(count),
        _ => Err("expected a number from 1 to 65536".into()),
    }
}

/// Parses a number of threads; 0 means one per available CPU.
pub fn parse_threads(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(threads) if threads <= 4096 => Ok(threads),
        _ => Err("expected a number from 0 to 4096".into()),
    }
}

/// Returns the device of this name. If `auto` gives the CPU although there is a GPU or a driver, a warning says why.
pub fn open_device(name: DeviceName) -> Result<Device, Failure> {
    if name == DeviceName::Auto {
        let (device, reason) = Device::fastest();
        if let Some(reason) = reason.filter(|reason| !reason.is_absent()) {
            log::warn!("the CPU is used: {reason}; --device cpu turns this warning off");
        }
        return Ok(device);
    }
    Device::open(name).map_err(|error| Failure::Failed(format!("{error}; --device cpu uses the CPU")))
}

/// Precisions.
#[derive(Clone, Copy, ValueEnum)]
pub enum PrecisionName {
    /// 32-bit floating point
    #[value(name = "f32", alias = "32")]
    F32,
    /// bfloat16 with f32 accumulation; needs a GPU, or a CPU with AMX (Intel) or with fast AVX-512 bfloat16 instructions (AMD)
    #[value(alias = "16")]
    Bf16,
}
