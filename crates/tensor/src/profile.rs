//! Where the time of a step goes: operations report what they do while the calling thread is being profiled.
//!
//! What is the same on each device is reported by the operation. What devices fuse differently (products, norms and attention) is
//! reported by the backend.

use crate::backend::{Backend, Time};
use std::cell::RefCell;
use std::collections::HashMap;
use std::time::Duration;

/// The sum of all calls of one operation with operands of one size.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Entry {
    /// Name of the operation, with the sizes of a matrix product.
    pub name: String,
    /// Number of calls.
    pub calls: u64,
    /// Time spent in it, without operations inside that report themselves.
    pub time: Duration,
    /// The same, added up over the cores that worked in it; zero where the system does not tell.
    pub core_time: Duration,
    /// Floating-point operations: two for a multiplication whose product is added.
    pub flops: f64,
    /// Bytes that have to be read and written at least.
    pub bytes: f64,
}

#[derive(Default)]
struct Profile {
    entries: HashMap<String, Entry>,
    /// For each operation in progress, the times of those inside it: by the clock and of the cores.
    inside: Vec<[Duration; 2]>,
}

thread_local! {
    static PROFILE: RefCell<Option<Profile>> = const { RefCell::new(None) };
}

/// Begins to profile the calling thread.
pub fn start() {
    PROFILE.set(Some(Profile::default()));
}

/// Ends the profile of the calling thread and returns its operations, those that took longest first.
pub fn finish() -> Vec<Entry> {
    let profile = PROFILE.take().unwrap_or_default();
    let mut entries: Vec<Entry> = profile.entries.into_values().collect();
    entries.sort_by(|a, b| b.time.cmp(&a.time).then_with(|| a.name.cmp(&b.name)));
    entries
}

/// Reports work of `backend` from here to the end of the result's life, if the calling thread is being profiled. `what` gives
/// its name, floating-point operations and bytes.
#[must_use]
pub(crate) fn span(backend: &dyn Backend, what: impl FnOnce() -> (String, f64, f64)) -> Option<Span<'_>> {
    PROFILE.with_borrow_mut(|profile| {
        let profile = profile.as_mut()?;
        profile.inside.push([Duration::ZERO; 2]);
        let (name, flops, bytes) = what();
        Some(Span {
            name,
            flops,
            bytes,
            backend,
            start: backend.time(),
        })
    })
}

/// Reports work whose cost is the bytes that it reads and writes.
#[must_use]
pub(crate) fn pass<'a>(backend: &'a dyn Backend, name: &str, moved: f64) -> Option<Span<'a>> {
    span(backend, || (name.to_string(), 0.0, moved))
}

/// Work in progress.
pub(crate) struct Span<'a> {
    name: String,
    flops: f64,
    bytes: f64,
    backend: &'a dyn Backend,
    start: Time,
}

impl Drop for Span<'_> {
    fn drop(&mut self) {
        let end = self.backend.time();
        let times = [
            end.clock.saturating_duration_since(self.start.clock),
            end.cores.saturating_sub(self.start.cores),
        ];
        PROFILE.with_borrow_mut(|profile| {
            let Some(profile) = profile else { return };
            let inside = profile.inside.pop().unwrap_or_default();
            if let Some(outer) = profile.inside.last_mut() {
                outer.iter_mut().zip(times).for_each(|(sum, time)| *sum += time);
            }
            let name = std::mem::take(&mut self.name);
            let entry = profile.entries.entry(name.clone()).or_default();
            entry.name = name;
            entry.calls += 1;
            entry.time += times[0].saturating_sub(inside[0]);
            entry.core_time += times[1].saturating_sub(inside[1]);
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
    fn time_counts_once_and_only_while_profiling() {
        let backend = Device::cpu().backend();
        let op = |name: &str, run: &dyn Fn()| {
            let _span = span(backend, || (name.into(), 2.0, 4.0));
            run();
        };
        op("before", &|| ());
        start();
        let nap = || std::thread::sleep(Duration::from_millis(20));
        op("outer", &|| op("inner", &nap));
        op("inner", &|| ());
        let entries = finish();
        let names: Vec<(&str, u64, f64)> = entries.iter().map(|e| (e.name.as_str(), e.calls, e.flops)).collect();
        assert_eq!(names, [("inner", 2, 4.0), ("outer", 1, 2.0)]);
        assert!(entries[0].time >= Duration::from_millis(20) && entries[1].time < entries[0].time);
        assert!(finish().is_empty());
    }
}
