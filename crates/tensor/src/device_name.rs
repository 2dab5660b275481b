//! Names of devices in configurations and options.

use std::fmt;
use std::str::FromStr;

/// The choice of a device: `auto`, `cpu`, `cuda` or `cuda:N`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum DeviceName {
    /// The first CUDA device that can be used, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The CUDA device with this number, from 0 in the order of the driver; `cuda` is the first one.
    Cuda(usize),
}

/// A text is not the name of a device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a device: expected auto, cpu, cuda or cuda:N, where N is the number of the device, from 0")]
pub struct UnknownDeviceName(String);

impl FromStr for DeviceName {
    type Err = UnknownDeviceName;

    fn from_str(text: &str) -> Result<Self, UnknownDeviceName> {
        let number = || {
            let digits = text.strip_prefix("cuda:")?;
            digits
                .bytes()
                .all(|b| b.is_ascii_digit())
                .then_some(digits)?
                .parse()
                .ok()
        };
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            text => number()
                .map(Self::Cuda)
                .ok_or_else(|| UnknownDeviceName(text.chars().take(80).collect())),
        }
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

impl TryFrom<String> for DeviceName {
    type Error = UnknownDeviceName;

    fn try_from(text: String) -> Result<Self, UnknownDeviceName> {
        text.parse()
    }
}

impl From<DeviceName> for String {
    fn from(name: DeviceName) -> Self {
        name.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_written() {
        for (text, name) in [
            ("auto", DeviceName::Auto),
            ("cpu", DeviceName::Cpu),
            ("cuda:0", DeviceName::Cuda(0)),
            ("cuda:17", DeviceName::Cuda(17)),
        ] {
            assert_eq!(text.parse(), Ok(name));
            assert_eq!(name.to_string(), text);
        }
        assert_eq!("cuda".parse(), Ok(DeviceName::Cuda(0)));
        for text in [
            "",
            "gpu",
            "CPU",
            "cuda:",
            "cuda:-1",
            "cuda:+1",
            "cuda:x",
            "cuda:99999999999999999999999",
            "0",
        ] {
            let error = text.parse::<DeviceName>().unwrap_err().to_string();
            assert!(
                error.contains(&format!("{text:?}")) && error.contains("cuda:N"),
                "{error}"
            );
        }
    }
}
