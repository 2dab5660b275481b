//! Memory of this process and of the machine, and free space of its disks.

use std::path::Path;

/// Returns the peak resident memory of this process in bytes; 0 on systems without `/proc/self/status`.
pub fn peak_resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    kib_of(&status, "VmHWM:").unwrap_or(0) * 1024
}

/// Returns the memory that processes may use on this machine, in bytes: the installed memory, or the limit of the control group (version 2)
/// if it is lower. `None` on systems without `/proc/meminfo`.
pub fn total() -> Option<u64> {
    let installed = kib_of(&std::fs::read_to_string("/proc/meminfo").ok()?, "MemTotal:")? * 1024;
    let limit = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok();
    let limit = limit.and_then(|text| text.trim().parse().ok());
    Some(limit.map_or(installed, |limit: u64| limit.min(installed)))
}

/// Returns the free bytes of the file system that a path, or the directory in which it will be created, is on. `None` if they are not known.
pub fn free_space(path: &Path) -> Option<u64> {
    let path = std::path::absolute(path).ok()?;
    free_space_of(path.ancestors().find(|directory| directory.exists())?)
}

#[cfg(target_os = "linux")]
fn free_space_of(directory: &Path) -> Option<u64> {
    let space = rustix::fs::statvfs(directory).ok()?;
    space.f_bavail.checked_mul(space.f_frsize)
}

#[cfg(not(target_os = "linux"))]
fn free_space_of(_: &Path) -> Option<u64> {
    None
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
    fn a_directory_that_will_be_created_has_the_free_space_of_its_disk() {
        assert!(free_space(Path::new("/proc/none/at/all")).is_some());
        assert!(free_space(&std::env::temp_dir().join("a/b")).is_some_and(|free| free > 0));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_process_uses_less_than_the_machine_has() {
        let (used, total) = (peak_resident(), total().unwrap());
        assert!(0 < used && used < total, "{used} of {total}");
    }
}
