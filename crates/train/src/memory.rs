//! Memory of this process and of the machine.

/// Returns the peak resident memory of this process in bytes; 0 on systems without `/proc/self/status`.
pub(crate) fn peak_resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    kib_of(&status, "VmHWM:").unwrap_or(0) * 1024
}

/// Returns the memory that processes may use on this machine, in bytes: the installed memory, or the limit of the control group (version 2)
/// if it is lower. `None` on systems without `/proc/meminfo`.
pub(crate) fn total() -> Option<u64> {
    let installed = kib_of(&std::fs::read_to_string("/proc/meminfo").ok()?, "MemTotal:")? * 1024;
    let limit = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok();
    let limit = limit.and_then(|text| text.trim().parse().ok());
    Some(limit.map_or(installed, |limit: u64| limit.min(installed)))
}

/// Returns the number of the line that begins with `label`, in KiB.
fn kib_of(text: &str, label: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(label))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_labelled_line() {
        let text = "VmPeak:\t  900 kB\nVmHWM:\t  512 kB\n";
        assert_eq!(kib_of(text, "VmHWM:"), Some(512));
        assert_eq!(kib_of(text, "VmRSS:"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_process_uses_less_than_the_machine_has() {
        let (used, total) = (peak_resident(), total().unwrap());
        assert!(0 < used && used < total, "{used} of {total}");
    }
}
