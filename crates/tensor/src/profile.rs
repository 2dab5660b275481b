//! Where the time of a step goes: operations report what they do while the calling thread is being profiled.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// The sum of all calls of one operation with operands of one size.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Entry {
    /// What was done.
    pub name: String,
    /// How often.
    pub calls: u64,
    /// Time spent in it, without operations inside that report themselves.
    pub time: Duration,
    /// The same, added up over the processors that worked in it; zero where the system does not tell.
    pub processors: Duration,
    /// Floating-point operations: two for a product that is added.
    pub flops: f64,
    /// Bytes that have to be read and written at least.
    pub bytes: f64,
}

#[derive(Default)]
struct Profile {
    entries: HashMap<String, Entry>,
    /// For each operation in progress, the times of those inside it: by the clock and of the processors.
    inside: Vec<[Duration; 2]>,
}

thread_local! {
    static PROFILE: RefCell<Option<Profile>> = const { RefCell::new(None) };
}

/// Begins to take note of the calling thread's operations.
pub fn start() {
    PROFILE.set(Some(Profile::default()));
}

/// Ends it; the operations, those that took longest first.
pub fn finish() -> Vec<Entry> {
    let profile = PROFILE.take().unwrap_or_default();
    let mut entries: Vec<Entry> = profile.entries.into_values().collect();
    entries.sort_by(|a, b| b.time.cmp(&a.time).then_with(|| a.name.cmp(&b.name)));
    entries
}

/// Notes the work from here to the end of the result's life, if the calling thread is being profiled. `what` gives its name,
/// floating-point operations and bytes.
#[must_use]
pub(crate) fn span(what: impl FnOnce() -> (String, f64, f64)) -> Option<Span> {
    PROFILE.with_borrow_mut(|profile| {
        let profile = profile.as_mut()?;
        profile.inside.push([Duration::ZERO; 2]);
        let (name, flops, bytes) = what();
        Some(Span {
            name,
            flops,
            bytes,
            start: Instant::now(),
            processors: processor_time(),
        })
    })
}

/// Reports work whose cost is the bytes that it reads and writes.
pub(crate) fn pass(name: &str, moved: f64) -> Option<Span> {
    span(|| (name.to_string(), 0.0, moved))
}

/// Work in progress.
pub(crate) struct Span {
    name: String,
    flops: f64,
    bytes: f64,
    start: Instant,
    processors: Duration,
}

/// What all threads of this process have spent on processors so far.
#[cfg(unix)]
fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

#[cfg(not(unix))]
fn processor_time() -> Duration {
    Duration::ZERO
}

impl Drop for Span {
    fn drop(&mut self) {
        let times = [self.start.elapsed(), processor_time().saturating_sub(self.processors)];
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
            entry.processors += times[1].saturating_sub(inside[1]);
            entry.flops += self.flops;
            entry.bytes += self.bytes;
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_counts_once_and_only_while_profiling() {
        let op = |name: &str, run: &dyn Fn()| {
            let _span = span(|| (name.into(), 2.0, 4.0));
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

    #[cfg(unix)]
    #[test]
    fn processors_count_while_they_work() {
        start();
        {
            let _span = span(|| ("busy".into(), 0.0, 0.0));
            let begin = Instant::now();
            while processor_time() == Duration::ZERO || begin.elapsed() < Duration::from_millis(20) {
                std::hint::spin_loop();
            }
        }
        let entries = finish();
        assert!(entries[0].processors > Duration::ZERO, "{entries:?}");
    }
}
