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

/// Work that was reported.
struct Reported {
    name: String,
    flops: f64,
    bytes: f64,
    start: Timestamp,
    /// `None` while the work is in progress.
    end: Option<Timestamp>,
    /// The operation that this one is a part of, as an index of [`Profile::reported`].
    outer: Option<usize>,
}

/// The operations of a thread. Their times are computed at the end, so that a device never waits for the host in between.
#[derive(Default)]
struct Profile {
    reported: Vec<Reported>,
    /// The operations in progress, outermost first, as indices of `reported`.
    in_progress: Vec<usize>,
}

thread_local! {
    static PROFILE: RefCell<Option<Profile>> = const { RefCell::new(None) };
}

/// Starts profiling the calling thread.
pub fn start() {
    PROFILE.set(Some(Profile::default()));
}

/// Stops profiling the calling thread and returns its operations, in descending order of time.
pub fn finish() -> Vec<Entry> {
    let Profile { reported, .. } = PROFILE.take().unwrap_or_default();
    let times: Vec<[Duration; 2]> = reported
        .iter()
        .map(|work| match &work.end {
            Some(end) => work.start.until(end),
            None => [Duration::ZERO; 2],
        })
        .collect();
    let mut nested = vec![[Duration::ZERO; 2]; reported.len()];
    for (work, times) in reported.iter().zip(&times) {
        if let Some(outer) = work.outer {
            nested[outer]
                .iter_mut()
                .zip(times)
                .for_each(|(sum, time)| *sum += *time);
        }
    }
    let mut entries: HashMap<String, Entry> = HashMap::new();
    for ((work, times), nested) in reported.into_iter().zip(times).zip(nested) {
        let entry = entries.entry(work.name.clone()).or_default();
        entry.name = work.name;
        entry.calls += 1;
        entry.time += times[0].saturating_sub(nested[0]);
        entry.core_time += times[1].saturating_sub(nested[1]);
        entry.flops += work.flops;
        entry.bytes += work.bytes;
    }
    let mut entries: Vec<Entry> = entries.into_values().collect();
    entries.sort_by(|a, b| b.time.cmp(&a.time).then_with(|| a.name.cmp(&b.name)));
    entries
}

/// Reports the work of `backend` until the returned span is dropped, if the calling thread is being profiled. `describe` returns the name,
/// the floating-point operations and the bytes read and written.
#[must_use]
pub(crate) fn span(backend: &dyn Backend, describe: impl FnOnce() -> (String, f64, f64)) -> Option<Span<'_>> {
    PROFILE.with_borrow_mut(|profile| {
        let profile = profile.as_mut()?;
        let (name, flops, bytes) = describe();
        let index = profile.reported.len();
        profile.reported.push(Reported {
            name,
            flops,
            bytes,
            start: backend.timestamp(),
            end: None,
            outer: profile.in_progress.last().copied(),
        });
        profile.in_progress.push(index);
        Some(Span { index, backend })
    })
}

/// Reports memory-bound work of `backend`, which reads and writes `bytes` bytes; see [`span`].
#[must_use]
pub(crate) fn memory_bound_span<'a>(backend: &'a dyn Backend, name: &str, bytes: f64) -> Option<Span<'a>> {
    span(backend, || (name.to_string(), 0.0, bytes))
}

/// Work in progress; dropping it ends the work.
pub(crate) struct Span<'a> {
    /// The index of the work in the profile of the thread.
    index: usize,
    backend: &'a dyn Backend,
}

impl Drop for Span<'_> {
    fn drop(&mut self) {
        let end = self.backend.timestamp();
        PROFILE.with_borrow_mut(|profile| {
            let Some(profile) = profile else { return };
            profile.in_progress.pop();
            if let Some(work) = profile.reported.get_mut(self.index) {
                work.end = Some(end);
            }
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
