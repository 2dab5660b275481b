//! Ctrl-C, SIGTERM, and SIGHUP of a terminal that is closed: the first asks the work to save and end, the second ends the process
//! at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::output::Failure;

/// Listens to the signals.
pub struct Signals {
    stop: Arc<AtomicBool>,
    number: Arc<AtomicUsize>,
}

impl Signals {
    /// Starts listening.
    pub fn listen() -> Result<Self, Failure> {
        let (stop, number) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            if signal == SIGHUP && !is_heard(signal) {
                continue;
            }
            // In this order: the second signal finds `stop` set, the first does not.
            signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&stop))?;
            signal_hook::flag::register_usize(signal, Arc::clone(&number), signal as usize)?;
            signal_hook::flag::register(signal, Arc::clone(&stop))?;
        }
        Ok(Self { stop, number })
    }

    /// Set once a signal has come.
    pub fn stop(&self) -> &AtomicBool {
        &self.stop
    }

    /// Success, or the exit status for the signal that came (130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP).
    pub fn outcome(&self) -> Result<(), Failure> {
        match self.number.load(Ordering::SeqCst) {
            0 => Ok(()),
            number => Err(Failure::Stopped(128 + number as u8)),
        }
    }
}

/// Whether the process was started without this signal ignored, which is what `nohup` does. Known on Linux only.
fn is_heard(signal: i32) -> bool {
    let Ok(status) = std::fs::read_to_string("/proc/self/status") else {
        return false;
    };
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    ignored.is_some_and(|mask| mask >> (signal - 1) & 1 == 0)
}
