//! The device of a run: the keys `device` and `num_gpus`.

use vlct_config::{Config, ConfigError, NumGpus};
use vlct_tensor::{Device, DeviceName, DeviceUnavailable};
use vlct_util::text::counted;

/// Largest number of ranks on a machine.
const MAX_RANKS: usize = 1024;

/// Returns the device of a run, with several devices the first one.
///
/// # Errors
/// Returns a contradiction if the keys name no devices, or the device cannot be used.
pub fn device(config: &Config) -> Result<Device, ConfigError> {
    match choices(config)?.first() {
        Some(choice) => open(choice, config),
        None => Ok(Device::cpu()),
    }
}

/// Returns the number of devices of a machine that the keys name, at least 1.
///
/// # Errors
/// Returns a contradiction if the keys name no devices, or more than there are.
pub fn devices_per_machine(config: &Config) -> Result<usize, ConfigError> {
    Ok(choices(config)?.len())
}

/// Returns the number of ranks that the keys name, on all machines.
///
/// # Errors
/// Returns the errors of [`devices_per_machine`].
pub fn ranks_of(config: &Config) -> Result<usize, ConfigError> {
    let nodes = usize::try_from(config.num_nodes).unwrap_or(usize::MAX);
    Ok(devices_per_machine(config)?.saturating_mul(nodes))
}

/// Returns the device of one of `local_ranks` ranks on this machine. If the keys name one device, another program has started the ranks,
/// and each takes the device with its number.
///
/// # Errors
/// Returns the errors of [`device`], and a contradiction if there are fewer devices than ranks.
pub fn device_of_rank(config: &Config, local_rank: usize, local_ranks: usize) -> Result<DeviceName, ConfigError> {
    let choices = choices(config)?;
    let needs_device = match choices.as_slice() {
        [Choice::Fastest] if local_ranks > 1 => false,
        [Choice::Named(DeviceName::Cuda(0))] if local_ranks > 1 => true,
        [choice @ (Choice::Named(DeviceName::Cuda(_)) | Choice::CudaOrCpu(_))] if local_ranks > 1 => {
            return contradiction(format!(
                "{local_ranks} ranks are started on this machine, but the keys name one device, {}: leave it out",
                open(choice, config)?.name()
            ));
        }
        [choice] => return Ok(open(choice, config)?.name()),
        several => match several.get(local_rank) {
            Some(choice) => return Ok(open(choice, config)?.name()),
            None => {
                return contradiction(format!(
                    "num_gpus names {} devices, but {local_ranks} ranks are started on this machine",
                    several.len()
                ));
            }
        },
    };
    let devices = match Device::cuda_devices() {
        Ok(devices) => devices,
        Err(error) if error.is_absent() && !needs_device => return Ok(DeviceName::Cpu),
        Err(error) => return Err(unusable(&error, config)),
    };
    // Slurm can show each rank its own device only.
    let is_own = devices.len() == 1 && std::env::var_os("CUDA_VISIBLE_DEVICES").is_some();
    match devices.get(if is_own { 0 } else { local_rank }) {
        Some(index) => Ok(open(&Choice::Named(DeviceName::Cuda(*index)), config)?.name()),
        None => contradiction(format!(
            "{local_ranks} ranks are started on this machine, which has {} that can be used: start one rank for each device, or set \
             device=cpu",
            counted(devices.len(), "CUDA device")
        )),
    }
}

/// Returns a warning if a CUDA device would be used, but something is wrong with it, so that the run is on the CPU.
pub fn warning(config: &Config) -> Option<String> {
    match choices(config).as_deref() {
        Ok([Choice::Fastest]) => {
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

/// What the keys say about the device of a rank.
enum Choice {
    /// The first CUDA device that can be used, else the CPU.
    Fastest,
    /// The CUDA device with this number; the CPU if the machine has no CUDA device.
    CudaOrCpu(usize),
    /// This device.
    Named(DeviceName),
}

/// Returns what the keys say about each rank of a machine, at least one.
fn choices(config: &Config) -> Result<Vec<Choice>, ConfigError> {
    let name: DeviceName = config
        .device
        .parse()
        .map_err(|error| ConfigError::Contradiction(format!("device: {error}")))?;
    let listed = match &config.num_gpus {
        NumGpus::Count(1) => None,
        NumGpus::Count(0) => {
            return match name {
                DeviceName::Cuda(_) => contradiction(format!(
                    "num_gpus=0 means no CUDA device, but device={name}: use num_gpus=1"
                )),
                _ => Ok(vec![Choice::Named(DeviceName::Cpu)]),
            };
        }
        NumGpus::Count(count) => return several(*count, name),
        NumGpus::List(devices) => match devices.as_slice() {
            [] => return Ok(vec![Choice::Named(DeviceName::Cpu)]),
            [index] => Some(number(*index)?),
            several => return listed(several, name),
        },
    };
    let choice = match (name, listed) {
        (DeviceName::Auto, None) => Choice::Fastest,
        (DeviceName::Auto, Some(index)) => Choice::CudaOrCpu(index),
        (DeviceName::Cuda(device), Some(index)) if device != index => {
            return contradiction(format!(
                "num_gpus=[{index}] and device={name} name different devices: leave one of them out"
            ));
        }
        (name, _) => Choice::Named(name),
    };
    Ok(vec![choice])
}

/// Returns the number of a device in a list.
fn number(index: i64) -> Result<usize, ConfigError> {
    match usize::try_from(index) {
        Ok(index) => Ok(index),
        Err(_) => contradiction(format!("num_gpus=[{index}]: the first device is 0")),
    }
}

/// Returns the devices of `num_gpus=count`; −1 means all.
fn several(count: i64, name: DeviceName) -> Result<Vec<Choice>, ConfigError> {
    let needed = usize::try_from(count).ok();
    match (needed, name) {
        (Some(1..=MAX_RANKS), _) | (None, _) if count >= -1 => {}
        _ => return contradiction(format!("num_gpus={count} is not a number of devices: use num_gpus=1")),
    }
    let devices = match (name, needed) {
        (DeviceName::Cpu, Some(needed)) => return Ok((0..needed).map(|_| Choice::Named(DeviceName::Cpu)).collect()),
        (DeviceName::Cpu, None) => {
            return contradiction(
                "num_gpus=-1 means all CUDA devices, but device=cpu: give the number of ranks".into(),
            );
        }
        (DeviceName::Cuda(first), _) if first > 0 => {
            return contradiction(format!(
                "num_gpus={count} means several devices, but device={name} is one: list the devices, as in num_gpus=[{first},{}]",
                first + 1
            ));
        }
        _ => Device::cuda_devices(),
    };
    let hint = match needed {
        Some(needed) => format!("or device=cpu, which computes with {needed} ranks on the CPU"),
        None => "or num_gpus=0, which computes on the CPU".into(),
    };
    let wanted = match needed {
        Some(needed) => format!("num_gpus={count} needs {needed} CUDA devices"),
        None => "num_gpus=-1 means all CUDA devices".into(),
    };
    let devices = match devices {
        Ok(devices) => devices,
        Err(reason) => {
            return contradiction(format!(
                "{wanted}, but this machine has none: {reason}: use num_gpus=1, {hint}"
            ));
        }
    };
    if needed.is_some_and(|needed| needed > devices.len()) {
        let found = devices.len();
        return contradiction(format!(
            "{wanted}, but this machine has {found} that can be used: use num_gpus={found}, {hint}"
        ));
    }
    let used = devices.into_iter().take(needed.unwrap_or(usize::MAX));
    Ok(used.map(|index| Choice::Named(DeviceName::Cuda(index))).collect())
}

/// Returns the devices of a list of several numbers.
fn listed(list: &[i64], name: DeviceName) -> Result<Vec<Choice>, ConfigError> {
    let mut devices: Vec<usize> = list.iter().map(|index| number(*index)).collect::<Result<_, _>>()?;
    let chosen = |index: &usize| match name {
        DeviceName::Cpu => Choice::Named(DeviceName::Cpu),
        _ => Choice::Named(DeviceName::Cuda(*index)),
    };
    if devices.len() > MAX_RANKS {
        return contradiction(format!(
            "num_gpus lists {} devices, more than {MAX_RANKS}",
            devices.len()
        ));
    }
    if let DeviceName::Cuda(first) = name
        && first > 0
        && devices[0] != first
    {
        return contradiction(format!(
            "num_gpus={list:?} and device={name} name different devices: leave one of them out"
        ));
    }
    let choices = devices.iter().map(chosen).collect();
    devices.sort_unstable();
    match devices.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(twice) => contradiction(format!(
            "num_gpus={list:?} has device {} more than once: each rank needs a device of its own",
            twice[0]
        )),
        None => Ok(choices),
    }
}

/// Opens the device of a choice.
fn open(choice: &Choice, config: &Config) -> Result<Device, ConfigError> {
    match choice {
        Choice::Fastest => Ok(Device::fastest().0),
        Choice::CudaOrCpu(index) => match Device::open(DeviceName::Cuda(*index)) {
            Err(error) if error.is_absent() => Ok(Device::cpu()),
            result => opened(result, config),
        },
        Choice::Named(name) => opened(Device::open(*name), config),
    }
}

fn opened(result: Result<Device, DeviceUnavailable>, config: &Config) -> Result<Device, ConfigError> {
    result.map_err(|error| unusable(&error, config))
}

fn unusable(error: &DeviceUnavailable, config: &Config) -> ConfigError {
    let key = match config.num_gpus {
        NumGpus::List(_) => "num_gpus=0",
        NumGpus::Count(_) => "device=cpu",
    };
    ConfigError::Contradiction(format!("{error}; {key} uses the CPU"))
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
    fn each_rank_has_its_device() {
        let devices = [710, 711].map(|index| {
            let device = Device::perturbed_cpu(index as u64);
            Device::register(index, device);
            device
        });
        let config = |words: &[&str]| resolve(words).expect("a configuration").config;
        let listed = config(&["num_gpus=[711,710]"]);
        assert_eq!(devices_per_machine(&listed), Ok(2));
        assert_eq!(device(&listed), Ok(devices[1]));
        let ranks = |config: &Config, count| -> Vec<DeviceName> {
            let names = (0..count).map(|rank| device_of_rank(config, rank, count));
            names.map(|name| name.expect("a device")).collect()
        };
        assert_eq!(ranks(&listed, 2), [DeviceName::Cpu; 2], "the name of a perturbed CPU");
        for (words, count) in [
            (&["num_gpus=3", "device=cpu"][..], 3),
            (&["num_gpus=[0,1]", "device=cpu"], 2),
            (&["device=cpu"], 4),
            (&["num_gpus=0"], 2),
        ] {
            assert_eq!(ranks(&config(words), count), vec![DeviceName::Cpu; count], "{words:?}");
        }
        let message = |words: &[&str], ranks| device_of_rank(&config(words), 0, ranks).unwrap_err().to_string();
        assert!(message(&["device=cuda:710"], 2).contains("2 ranks are started on this machine"));
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
            (
                &["num_gpus=8"],
                &[
                    "num_gpus=8 needs 8 CUDA devices, but this machine has",
                    "device=cpu, which computes with 8 ranks",
                ],
            ),
            (&["num_gpus=-1", "device=cpu"], &["all CUDA devices, but device=cpu"]),
            (
                &["num_gpus=5000", "device=cpu"],
                &["num_gpus=5000 is not a number of devices"],
            ),
            (&["num_gpus=[0,1,0]"], &["device 0 more than once"]),
            (&["num_gpus=[9998,9999]"], &["cuda:9998 cannot be used"]),
            (&["num_gpus=2", "device=cuda:1"], &["num_gpus=[1,2]"]),
            (&["num_gpus=[1,2]", "device=cuda:2"], &["name different devices"]),
        ] {
            let message = device_of(words).unwrap_err();
            assert!(
                parts.iter().all(|part| message.contains(part)) && !message.contains('\n'),
                "{words:?}: {message}"
            );
        }
    }
}
