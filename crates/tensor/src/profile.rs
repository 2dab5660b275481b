//! A profile: the time that each operation takes. Operations report their work while the calling thread is being profiled.
//!
//! Most operations report themselves. The backend reports work that each backend fuses differently: products, norms and attention.

use crate::backend::{Backend, Timestamp};
use std::cell::RefCell;
use std::collections::HashMap;
use std::time::Duration;

/// The totals of all calls with the same name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Entry {
    /// Name of the operation, with the sizes of a matrix product.
    pub name: String,
    /// Number of calls.
    pub calls: u64,
    /// Wall-clock time, without nested operations that have an entry themselves.
    pub time: Duration,
    /// CPU time, summed over all cores, without the same nested operations; zero where the operating system does not report it.
    pub core_time: Duration,
    /// Floating-point operations; a multiply-add counts as two.
    pub flops: f64,
    /// The least number of bytes that must be read and written.
    pub bytes: f64,
}

#[derive(Default)]
struct Profile {
    entries: HashMap<String, Entry>,
    /// For each operation in progress, the wall-clock time and CPU time of its nested operations.
    nested: Vec<[Duration; 2]>,
}

thread_local! {
    static PROFILE: RefCell<Option<Profile>> = const { RefCell::new(None) };
}

/// Starts profiling the calling thread.
pub fn start() {
    PROFILE.set(Some(Profile::default()));
}

/// Stops profiling the calling thread and returns its operations in descending order of time.
pub fn finish() -> Vec<Entry> {
    let profile = PROFILE.take().unwrap_or_default();
    let mut entries: Vec<Entry> = profile.entries.into_values().collect();
    entries.sort_by(|a, b| b.time.cmp(&a.time).then_with(|| a.name.cmp(&b.name)));
    entries
}

/// Reports the work of `backend` until the returned span is dropped, if the calling thread is being profiled. `describe` returns the name,
/// the floating-point operations and the bytes read and written.
#[must_use]
pub(crate) fn span(backend: &dyn Backend, describe: impl FnOnce() -> (String, f64, f64)) -> Option<Span<'_>> {
    PROFILE.with_borrow_mut(|profile| {
        let profile = profile.as_mut()?;
        profile.nested.push([Duration::ZERO; 2]);
        let (name, flops, bytes) = describe();
        Some(Span {
            name,
            flops,
            bytes,
            backend,
            start: backend.timestamp(),
        })
    })
}

/// Reports memory-bound work of `backend`, which reads and writes `bytes` bytes; see [`span`].
#[must_use]
pub(crate) fn memory_bound_span<'a>(backend: &'a dyn Backend, name: &str, bytes: f64) -> Option<Span<'a>> {
    span(backend, || (name.to_string(), 0.0, bytes))
}

/// Work in progress; dropping it ends the work.
pub(crate) struct Span<'a> {
    name: String,
    flops: f64,
    bytes: f64,
    backend: &'a dyn Backend,
    start: Timestamp,
}

impl Drop for Span<'_> {
    fn drop(&mut self) {
        let end = self.backend.timestamp();
        let times = [
            end.wall.saturating_duration_since(self.start.wall),
            end.cpu.saturating_sub(self.start.cpu),
        ];
        PROFILE.with_borrow_mut(|profile| {
            let Some(profile) = profile else { return };
            let nested = profile.nested.pop().unwrap_or_default();
            if let Some(outer) = profile.nested.last_mut() {
                outer.iter_mut().zip(times).for_each(|(sum, time)| *sum += time);
            }
            let name = std::mem::take(&mut self.name);
            let entry = profile.entries.entry(name.clone()).or_default();
            entry.name = name;
            entry.calls += 1;
            entry.time += times[0].saturating_sub(nested[0]);
            entry.core_time += times[1].saturating_sub(nested[1]);
            entry.flops += self.flops;
            entry.bytes += self.bytes;
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Device;

    #[test]
    fn nested_time_counts_once_and_only_while_profiling() {
        let backend = Device::cpu().backend();
        let op = |name: &str, run: &dyn Fn()| {
            let _span = span(backend, || (name.into(), 2.0, 4.0));
            run();
        };
        op("before", &|| ());
        start();
        let sleep = || std::thread::sleep(Duration::from_millis(20));
        op("outer", &|| op("inner", &sleep));
        op("inner", &|| ());
        let entries = finish();
        let totals: Vec<(&str, u64, f64)> = entries.iter().map(|e| (e.name.as_str(), e.calls, e.flops)).collect();
        assert_eq!(totals, [("inner", 2, 4.0), ("outer", 1, 2.0)]);
        assert!(entries[0].time >= Duration::from_millis(20) && entries[1].time < entries[0].time);
        assert!(finish().is_empty());
    }
}
