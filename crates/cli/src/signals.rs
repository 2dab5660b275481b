//! Ctrl-C, SIGTERM and SIGHUP: the first signal makes the command save its state and return, the second ends the process at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::output::Failure;

/// State that the signal handlers set.
pub struct Signals {
    /// Whether a signal arrived.
    stop: Arc<AtomicBool>,
    /// Number of the last signal; 0: none.
    number: Arc<AtomicUsize>,
}

impl Signals {
    /// Installs the signal handlers.
    pub fn listen() -> Result<Self, Failure> {
        let (stop, number) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            if signal == SIGHUP && is_ignored(signal) {
                continue;
            }
            // The shutdown handler runs before `stop` is set, so that only a second signal ends the process.
            signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&stop))?;
            signal_hook::flag::register_usize(signal, Arc::clone(&number), signal as usize)?;
            signal_hook::flag::register(signal, Arc::clone(&stop))?;
        }
        Ok(Self { stop, number })
    }

    /// Returns the flag that is set when a signal arrives.
    pub fn stop_flag(&self) -> &AtomicBool {
        &self.stop
    }

    /// Returns the flag of [`Signals::stop_flag`] for other threads.
    pub fn shared_stop_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.stop)
    }

    /// Whether a signal has arrived.
    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// Says within a moment of the arrival of a signal that the run stops.
    pub fn announce(&self) -> Announcement {
        /// Time between two looks at the flag.
        const PAUSE: std::time::Duration = std::time::Duration::from_millis(200);
        let announcement = Announcement {
            stop: Arc::clone(&self.stop),
            is_made: Arc::default(),
        };
        let on_thread = announcement.clone();
        std::thread::spawn(move || {
            while !on_thread.stop.load(Ordering::SeqCst) {
                std::thread::sleep(PAUSE);
            }
            on_thread.make();
        });
        announcement
    }

    /// Returns an error with the exit status if a signal arrived: 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP.
    pub fn check(&self) -> Result<(), Failure> {
        match self.number.load(Ordering::SeqCst) {
            0 => Ok(()),
            number => Err(Failure::Stopped(128 + number as u8)),
        }
    }
}

/// The message that a run stops because of a signal.
#[derive(Clone)]
pub struct Announcement {
    stop: Arc<AtomicBool>,
    is_made: Arc<AtomicBool>,
}

impl Announcement {
    /// Prints the message if a signal has arrived and it was not printed before.
    pub fn make(&self) {
        if self.stop.load(Ordering::SeqCst) && !self.is_made.swap(true, Ordering::SeqCst) {
            log::info!("stopping after the current micro-batch; a second signal ends the program at once");
        }
    }
}

/// Returns whether the process ignores `signal`, as under `nohup`. Returns true if this cannot be determined, as on systems without
/// `/proc`.
fn is_ignored(signal: i32) -> bool {
    let Ok(status) = std::fs::read_to_string("/proc/self/status") else {
        return true;
    };
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    ignored.is_none_or(|mask| mask >> (signal - 1) & 1 == 1)
}
