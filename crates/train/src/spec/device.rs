//! The device of a run: the keys `device` and `num_gpus`.

use vlct_config::{Config, ConfigError, NumGpus};
use vlct_tensor::{Device, DeviceName, DeviceUnavailable};

/// Returns the device of a run.
///
/// # Errors
/// Returns a contradiction if the keys name no single device, or the device cannot be used.
pub fn device(config: &Config) -> Result<Device, ConfigError> {
    match name(config)? {
        Choice::Fastest => Ok(Device::fastest().0),
        Choice::CudaOrCpu(index) => match Device::open(DeviceName::Cuda(index)) {
            Err(error) if error.is_absent() => Ok(Device::cpu()),
            result => opened(result, config),
        },
        Choice::Named(name) => opened(Device::open(name), config),
    }
}

/// Returns a warning if a CUDA device would be used, but something is wrong with it, so that the run is on the CPU.
pub fn warning(config: &Config) -> Option<String> {
    match name(config) {
        Ok(Choice::Fastest) => {
            let reason = Device::fastest().1.filter(|reason| !reason.is_absent())?;
            Some(format!(
                "the run is on the CPU: {reason}; device='cpu' turns this warning off"
            ))
        }
        _ => None,
    }
}

/// Returns the model and the name of a device, for messages.
pub fn describe_device(device: Device) -> String {
    match device.name() {
        DeviceName::Cuda(_) => format!("{} ({})", device.model(), device.name()),
        _ => "the CPU".into(),
    }
}

/// What the keys say.
enum Choice {
    /// The first CUDA device that can be used, else the CPU.
    Fastest,
    /// The CUDA device with this number; the CPU if the machine has no CUDA device.
    CudaOrCpu(usize),
    /// This device.
    Named(DeviceName),
}

fn name(config: &Config) -> Result<Choice, ConfigError> {
    let name: DeviceName = config
        .device
        .parse()
        .map_err(|error| ConfigError::Contradiction(format!("device: {error}")))?;
    let needs_several = |needed: String| {
        contradiction(format!(
            "{needed}; several devices are not supported yet: use num_gpus=1"
        ))
    };
    let listed = match &config.num_gpus {
        NumGpus::Count(1) => None,
        NumGpus::Count(0) => {
            return match name {
                DeviceName::Cuda(_) => contradiction(format!(
                    "num_gpus=0 means no CUDA device, but device={name}: use num_gpus=1"
                )),
                _ => Ok(Choice::Named(DeviceName::Cpu)),
            };
        }
        NumGpus::Count(-1) => return needs_several("num_gpus=-1 means all CUDA devices".into()),
        NumGpus::Count(n) if *n < 0 => {
            return contradiction(format!("num_gpus={n} is not a number of devices: use num_gpus=1"));
        }
        NumGpus::Count(n) => return needs_several(format!("num_gpus={n} needs {n} devices")),
        NumGpus::List(devices) => match devices.as_slice() {
            [] => return Ok(Choice::Named(DeviceName::Cpu)),
            [index] => match usize::try_from(*index) {
                Ok(index) => Some(index),
                Err(_) => return contradiction(format!("num_gpus=[{index}]: the first device is 0")),
            },
            several => return needs_several(format!("num_gpus={several:?} needs {} devices", several.len())),
        },
    };
    match (name, listed) {
        (DeviceName::Auto, None) => Ok(Choice::Fastest),
        (DeviceName::Auto, Some(index)) => Ok(Choice::CudaOrCpu(index)),
        (DeviceName::Cuda(device), Some(index)) if device != index => contradiction(format!(
            "num_gpus=[{index}] and device={name} name different devices: leave one of them out"
        )),
        (name, _) => Ok(Choice::Named(name)),
    }
}

fn opened(result: Result<Device, DeviceUnavailable>, config: &Config) -> Result<Device, ConfigError> {
    result.map_err(|error| {
        let key = match config.num_gpus {
            NumGpus::List(_) => "num_gpus=0",
            NumGpus::Count(_) => "device=cpu",
        };
        ConfigError::Contradiction(format!("{error}; {key} uses the CPU"))
    })
}

fn contradiction<T>(message: String) -> Result<T, ConfigError> {
    Err(ConfigError::Contradiction(message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use vlct_config::resolve;

    fn device_of(words: &[&str]) -> Result<Device, String> {
        let config = resolve(words).expect("a configuration").config;
        device(&config).map_err(|error| error.to_string())
    }

    #[test]
    fn keys_choose_the_device() {
        let (first, third) = (Device::perturbed_cpu(1), Device::perturbed_cpu(3));
        Device::register(700, first);
        Device::register(703, third);
        for (words, expected) in [
            (&["device=cpu"][..], Device::cpu()),
            (&["num_gpus=0"], Device::cpu()),
            (&["num_gpus=[]"], Device::cpu()),
            (&["device=cpu", "num_gpus=[703]"], Device::cpu()),
            (&["device=cuda:703"], third),
            (&["num_gpus=[703]"], third),
            (&["device=cuda:700", "num_gpus=[700]"], first),
            (&["device=cuda:700", "num_gpus=1"], first),
        ] {
            assert_eq!(device_of(words), Ok(expected), "{words:?}");
        }
    }

    #[test]
    fn contradictions_are_one_clear_line() {
        for (words, parts) in [
            (&["device=gpu"][..], &["device: \"gpu\" is not a device", "cuda:N"][..]),
            (&["device=cuda", "num_gpus=0"], &["num_gpus=0", "device=cuda:0"]),
            (&["device=cuda:1", "num_gpus=[2]"], &["num_gpus=[2]", "cuda:1"]),
            (&["device=cuda:9999"], &["cuda:9999 cannot be used", "device=cpu"]),
            (&["num_gpus=[-2]"], &["the first device is 0"]),
            (&["num_gpus=-3"], &["num_gpus=-3 is not a number of devices"]),
            (&["num_gpus=8"], &["num_gpus=8 needs 8 devices"]),
            (&["num_gpus=-1"], &["all CUDA devices"]),
            (&["num_gpus=[0,1]"], &["[0, 1] needs 2 devices"]),
        ] {
            let message = device_of(words).unwrap_err();
            assert!(
                parts.iter().all(|part| message.contains(part)) && !message.contains('\n'),
                "{words:?}: {message}"
            );
        }
    }
}
