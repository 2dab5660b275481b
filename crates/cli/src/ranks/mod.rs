//! The ranks of a run in processes: how this process finds its rank, starts the others of its machine, and ends with them.

mod children;

use std::io::Read;
use std::time::Duration;

use log::{error, info, warn};
use vlct_config::launch::{Launch, VARIABLE};
use vlct_config::{Config, NumGpus};
use vlct_tensor::collectives::{Listener, Single, Tcp, Waiting, Watch};
use vlct_tensor::{CollectiveError, Collectives, Device, DeviceName};
use vlct_train::TrainError;
use vlct_train::spec;
use vlct_train::trainer::{Finished, Threads, use_threads};

use crate::hints::with_hint;
use crate::output::{Failure, Logger};
use crate::signals::Signals;
use children::Children;

/// How long ranks wait for each other at the beginning: machines of a cluster start programs at different times. As in PyTorch's `TCPStore`.
const JOIN_TIMEOUT: Duration = Duration::from_secs(300);

/// How long a rank that computes may go on after another one has failed, before the process is ended.
const GRACE: Duration = Duration::from_secs(5);

/// The same for rank 0, which saves a checkpoint of its last step before it ends.
const SAVING_GRACE: Duration = Duration::from_secs(60);

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Silences a rank other than rank 0, whose messages would be those of rank 0 again, except warnings and errors.
pub fn quiet_other_ranks() {
    // An error is reported when the keys are known.
    if let Ok(launch) = Launch::read(&variable, 1, 1) {
        Logger::set_rank(launch.rank);
    }
}

/// The place of this process among the ranks, and its device.
pub struct Place {
    launch: Launch,
    device: DeviceName,
    /// Whether this program has started the process.
    is_child: bool,
}

impl Place {
    /// Finds the place in the environment, and the device by the keys `num_gpus`, `num_nodes` and `device`. Starts the compute threads,
    /// because ranks on one machine divide its CPUs.
    pub fn find(config: &Config) -> Result<Self, Failure> {
        let devices = spec::devices_per_machine(config)?;
        let nodes = usize::try_from(config.num_nodes).unwrap_or(usize::MAX);
        let launch = Launch::read(&variable, devices, nodes)?;
        Logger::set_rank(launch.rank);
        let device = spec::device_of_rank(config, launch.local_rank, launch.local_ranks)?;
        use_threads(Threads::from_config(config).of_rank(launch.local_rank, launch.local_ranks))?;
        Ok(Self {
            launch,
            device,
            is_child: variable(VARIABLE).is_some(),
        })
    }

    /// Finds the place by the number of devices of this machine, the number of machines and the name of the device.
    pub fn find_by_flags(num_gpus: Option<i64>, num_nodes: u64, device: DeviceName) -> Result<Self, Failure> {
        Self::find(&Config {
            num_gpus: NumGpus::Count(num_gpus.unwrap_or(1)),
            num_nodes,
            device: device.to_string(),
            ..Config::default()
        })
    }

    /// Number of ranks.
    pub fn ranks(&self) -> usize {
        self.launch.ranks
    }

    /// The device of this rank, if there are others.
    pub fn device(&self) -> Option<DeviceName> {
        (self.launch.ranks > 1).then_some(self.device)
    }

    /// Starts the other ranks of this machine, if no other program has started them, and connects all ranks.
    ///
    /// # Errors
    /// Returns an error if ranks cannot be started or connected, or a signal arrives.
    pub fn join(self, signals: &Signals) -> Result<Ranks, Failure> {
        let Launch { rank, ranks, .. } = self.launch;
        let Some(address) = self.launch.address.clone().filter(|_| ranks > 1) else {
            return Ok(Ranks {
                tcp: None,
                children: Children::default(),
                is_reporting: true,
            });
        };
        if self.is_child {
            end_with_parent();
        }
        let device = Device::open(self.device)?;
        let mut launch = self.launch;
        let listener = match rank {
            0 => Some(Listener::bind(&address)?),
            _ => None,
        };
        if let Some(listener) = &listener {
            launch.address = Some(listener.address().to_string());
        }
        let mut children = Children::start(&launch.local_others())?;
        let joined = {
            let waiting = Waiting {
                limit: JOIN_TIMEOUT,
                give_up: &mut || match signals.is_stopped() {
                    true => Some("a signal".into()),
                    false => children.ended_early(),
                },
                warn: &mut |line| warn!("{line}"),
            };
            match listener {
                Some(listener) => listener.accept(ranks, device, waiting),
                None => Tcp::connect(&address, rank, ranks, device, waiting),
            }
        };
        let tcp = match joined {
            Ok(tcp) => tcp,
            Err(error) => {
                signals.check()?;
                return Err(error.into());
            }
        };
        info!("{ranks} ranks, {} on this machine", launch.local_ranks);
        let is_reporting = launch.local_rank == 0;
        end_with_others(tcp.watch(), rank, is_reporting);
        Ok(Ranks {
            tcp: Some(tcp),
            children,
            is_reporting,
        })
    }
}

/// The connected ranks. Dropping it ends those that this process has started.
pub struct Ranks {
    /// `None` for a single rank.
    tcp: Option<Tcp>,
    children: Children,
    /// Whether this rank prints the failures of others: the first one of its machine.
    is_reporting: bool,
}

impl Ranks {
    /// The communication of this rank.
    pub fn collectives(&self) -> &dyn Collectives {
        match &self.tcp {
            Some(tcp) => tcp,
            None => &Single,
        }
    }

    /// Whether this is rank 0, which writes files and prints results.
    pub fn is_first(&self) -> bool {
        self.collectives().rank() == 0
    }

    /// Ends the rank: waits for the processes that it has started. Returns the result of the run, or its failure as `describe` says it.
    pub fn finish<T>(
        mut self,
        result: Result<T, TrainError>,
        describe: impl FnOnce(&TrainError) -> Failure,
    ) -> Result<T, Failure> {
        let is_single = self.tcp.is_none();
        // The others learn that this rank has ended.
        drop(self.tcp.take());
        let statuses = self.children.wait(match result {
            Ok(_) => Duration::from_secs(60),
            Err(_) => 2 * GRACE,
        });
        let error = match result {
            Ok(value) => {
                if let Some(status) = statuses.first() {
                    warn!("the run is complete, but {status}");
                }
                return Ok(value);
            }
            Err(error) => error,
        };
        let failure = match &error {
            TrainError::Collective(CollectiveError::Ended { rank: 0 }) => describe(&error),
            // Rank 0 prints the failures of all ranks, and the first rank of each machine those of others.
            _ if !is_single && !self.is_reporting => return Err(Failure::Reported),
            TrainError::Collective(CollectiveError::Ended { rank }) => {
                let own = statuses.iter().find(|status| status.rank == *rank);
                match own {
                    Some(status) => Failure::Failed(format!("{}: {status}", with_hint(&error))),
                    None => describe(&error),
                }
            }
            _ => describe(&error),
        };
        Err(failure)
    }
}

/// Returns an error if a run was interrupted by a signal, to this rank or another one.
pub fn check_interruption(finished: &Finished, signals: &Signals) -> Result<(), Failure> {
    signals.check()?;
    match finished.interrupted {
        true => Err(Failure::Failed(
            "the run was interrupted by a signal to another rank".into(),
        )),
        false => Ok(()),
    }
}

/// Ends the process some time after another rank has failed, because a rank that computes notices failures between micro-batches only.
fn end_with_others(watch: Watch, rank: usize, is_reporting: bool) {
    std::thread::spawn(move || {
        let Some(failure) = watch.wait() else { return };
        std::thread::sleep(if rank == 0 { SAVING_GRACE } else { GRACE });
        if watch.has_ended() {
            return;
        }
        if is_reporting || failure == (CollectiveError::Ended { rank: 0 }) {
            error!("{failure}");
        }
        std::process::exit(1);
    });
}

/// Ends a process some time after the one that started it: the standard input is a pipe, which then closes.
fn end_with_parent() {
    std::thread::spawn(|| {
        // An error and the end of the input mean the same.
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::thread::sleep(GRACE);
        error!("the process that started this rank has ended");
        std::process::exit(1);
    });
}
