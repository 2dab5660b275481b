//! The processes of the other ranks of this machine.

use std::fmt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use vlct_config::launch::{Launch, VARIABLE};

use crate::output::Failure;

/// Time between two looks at a process.
const PAUSE: Duration = Duration::from_millis(20);

/// Processes that this one has started. Dropping it ends them.
#[derive(Default)]
pub struct Children(Vec<(usize, Child)>);

/// A process that has ended without success. As text, it says how.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    pub rank: usize,
    status: ExitStatus,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        #[cfg(unix)]
        if let Some(signal) = std::os::unix::process::ExitStatusExt::signal(&self.status) {
            let reason = match signal {
                9 => ", as when the memory of the machine is exhausted",
                _ => "",
            };
            return write!(f, "signal {signal} has ended the process of rank {}{reason}", self.rank);
        }
        write!(f, "the process of rank {} has ended with {}", self.rank, self.status)
    }
}

impl Children {
    /// Starts a process for each rank, with the arguments of this one.
    ///
    /// # Errors
    /// Returns an error if a process cannot be started.
    pub fn start(launches: &[Launch]) -> Result<Self, Failure> {
        let mut children = Self::default();
        if launches.is_empty() {
            return Ok(children);
        }
        let failed = |error: std::io::Error| Failure::Failed(format!("a rank cannot be started: {error}"));
        let program = std::env::current_exe().map_err(failed)?;
        for launch in launches {
            let child = Command::new(&program)
                .args(std::env::args_os().skip(1))
                .env(VARIABLE, launch.to_variable())
                // Closes when this process ends, however it ends.
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .spawn()
                .map_err(failed)?;
            children.0.push((launch.rank, child));
        }
        Ok(children)
    }

    /// Says which process has ended, while all should run.
    pub fn ended_early(&mut self) -> Option<String> {
        self.0.iter_mut().find_map(|(rank, child)| {
            let status = child.try_wait().ok().flatten()?;
            Some(Ended { rank: *rank, status }.to_string())
        })
    }

    /// Waits until all processes have ended, and ends those that have not after `limit`. Returns those without success.
    pub fn wait(&mut self, limit: Duration) -> Vec<Ended> {
        let end = Instant::now() + limit;
        let mut ended = Vec::new();
        for (rank, mut child) in self.0.drain(..) {
            let status = loop {
                match child.try_wait() {
                    Ok(None) if Instant::now() < end => std::thread::sleep(PAUSE),
                    Ok(Some(status)) => break Some(status),
                    _ => {
                        // Fails if the process has just ended.
                        let _ = child.kill();
                        break child.wait().ok();
                    }
                }
            };
            if let Some(status) = status.filter(|status| !status.success()) {
                ended.push(Ended { rank, status });
            }
        }
        ended
    }
}

impl Drop for Children {
    fn drop(&mut self) {
        self.wait(Duration::ZERO);
    }
}
