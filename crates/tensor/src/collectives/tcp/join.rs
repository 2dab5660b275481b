//! The beginning of a run with several processes: rank 0 listens, the others connect.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Tcp;
use super::links::Links;
use super::message::{MAX_GREETING, Message, ReadError, VERSION};
use crate::device::Device;

/// Time between two attempts to connect or to accept.
const PAUSE: Duration = Duration::from_millis(20);

/// Time limit of an attempt to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Time limit of the first message of a connection.
const GREETING_TIMEOUT: Duration = Duration::from_secs(2);

/// Time for which a refused connection is read.
const REFUSAL_TIMEOUT: Duration = Duration::from_millis(200);

/// An error at the beginning of a run. Its message is one line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// Rank 0 cannot listen.
    #[error(
        "rank 0 cannot listen at {address}: {reason}: set the environment variable MASTER_PORT to another port, on all machines"
    )]
    Listen {
        /// The address, with the port.
        address: String,
        /// The reason.
        reason: String,
    },
    /// The host of an address is not known.
    #[error(
        "the address {address} of rank 0 cannot be resolved: {reason}: set the environment variable MASTER_ADDR to the address of the machine of rank 0"
    )]
    UnknownHost {
        /// The address.
        address: String,
        /// The reason.
        reason: String,
    },
    /// Ranks have not connected to rank 0 within the time limit.
    #[error("{} not connected to rank 0 at {address} within {seconds} s: start all ranks, with the same MASTER_ADDR and MASTER_PORT", missing_ranks(.missing))]
    Missing {
        /// The address.
        address: String,
        /// The ranks.
        missing: Vec<usize>,
        /// The time limit.
        seconds: u64,
    },
    /// Rank 0 cannot be reached within the time limit.
    #[error(
        "rank {rank} cannot connect to rank 0 at {address} within {seconds} s ({reason}): check that rank 0 runs, that MASTER_ADDR and \
         MASTER_PORT name its machine and port, and that no firewall blocks the port"
    )]
    Unreachable {
        /// This rank.
        rank: usize,
        /// The address.
        address: String,
        /// The time limit.
        seconds: u64,
        /// The error of the last attempt.
        reason: String,
    },
    /// Rank 0 has refused this rank.
    #[error("rank 0 at {address} has refused rank {rank}: {reason}")]
    Refused {
        /// This rank.
        rank: usize,
        /// The address.
        address: String,
        /// The reason.
        reason: String,
    },
    /// What listens at the address is no rank 0.
    #[error(
        "what listens at {address} is not rank 0 of a run: set the environment variable MASTER_PORT to another port, on all machines"
    )]
    Foreign {
        /// The address.
        address: String,
    },
    /// The connection cannot be used.
    #[error("the connection of rank {rank} cannot be used: {reason}")]
    Connection {
        /// The other rank.
        rank: usize,
        /// The reason.
        reason: String,
    },
    /// The caller has given up.
    #[error("{0}")]
    GivenUp(String),
}

/// Returns `rank 3 has` or `ranks 3, 4 have`.
fn missing_ranks(missing: &[usize]) -> String {
    let list: Vec<String> = missing.iter().map(ToString::to_string).collect();
    match missing {
        [rank] => format!("rank {rank} has"),
        _ => format!("ranks {} have", list.join(", ")),
    }
}

/// How long a rank waits for others.
pub struct Waiting<'a> {
    /// The time limit.
    pub limit: Duration,
    /// Called again and again while a rank waits; a message ends the wait.
    pub give_up: &'a mut dyn FnMut() -> Option<String>,
    /// Told of connections that are refused, one line each.
    pub warn: &'a mut dyn FnMut(&str),
}

/// Rank 0 before the others have connected.
pub struct Listener {
    listener: TcpListener,
    address: String,
}

impl Listener {
    /// Listens at `host:port`; port 0 means any free one. With a loopback address, only programs of this machine can connect. Otherwise, all
    /// interfaces are used, because other machines may know this one by another address.
    ///
    /// # Errors
    /// Returns an error if the host is not known or the port is in use.
    pub fn bind(address: &str) -> Result<Self, JoinError> {
        let all = resolve(address)?;
        let is_local = all.iter().all(|address| address.ip().is_loopback());
        let port = all.first().map_or(0, SocketAddr::port);
        let everywhere = [IpAddr::from([0u16; 8]), IpAddr::from([0u8; 4])].map(|ip| SocketAddr::new(ip, port));
        let listener = match is_local {
            true => TcpListener::bind(all.as_slice()),
            // A machine may have no IPv6.
            false => TcpListener::bind(everywhere[0]).or_else(|error| match error.kind() {
                io::ErrorKind::AddrInUse => Err(error),
                _ => TcpListener::bind(everywhere[1]),
            }),
        };
        let listen = |error: io::Error| JoinError::Listen {
            address: address.into(),
            reason: error.to_string(),
        };
        let listener = listener.map_err(listen)?;
        listener.set_nonblocking(true).map_err(listen)?;
        let port = listener.local_addr().map_err(listen)?.port();
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        Ok(Self {
            listener,
            address: format!("{host}:{port}"),
        })
    }

    /// The address, with the port that was chosen.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Waits until all other ranks of a run with `ranks` ranks have connected. Connections of others are refused.
    ///
    /// # Errors
    /// Returns an error if a rank is missing at the time limit, or the wait is given up. The ranks that have connected get it as a failure.
    pub fn accept(self, ranks: usize, device: Device, waiting: Waiting) -> Result<Tcp, JoinError> {
        let rank_0 = Tcp {
            rank: 0,
            ranks,
            device,
            links: Links::new(0, ranks),
        };
        let result = self.accept_all(ranks, &rank_0.links, waiting);
        if let Err(error) = result {
            super::Collectives::fail(&rank_0, &error.to_string());
            return Err(error);
        }
        Ok(rank_0)
    }

    fn accept_all(&self, ranks: usize, links: &Arc<Links>, waiting: Waiting) -> Result<(), JoinError> {
        let start = Instant::now();
        loop {
            let missing: Vec<usize> = (1..ranks).filter(|rank| !links.has(*rank)).collect();
            if missing.is_empty() {
                return Ok(());
            }
            if let Some(failure) = links.failure() {
                return Err(JoinError::GivenUp(failure.to_string()));
            }
            if let Some(reason) = (waiting.give_up)() {
                return Err(JoinError::GivenUp(reason));
            }
            if start.elapsed() > waiting.limit {
                return Err(JoinError::Missing {
                    address: self.address.clone(),
                    missing,
                    seconds: waiting.limit.as_secs(),
                });
            }
            match self.listener.accept() {
                Ok((stream, from)) => {
                    if let Err(reason) = greet(stream, ranks, links) {
                        (waiting.warn)(&format!(
                            "a connection from {from} to {} is refused: {reason}",
                            self.address
                        ));
                    }
                }
                // Others are errors of the connection that was about to be accepted.
                Err(_) => std::thread::sleep(PAUSE),
            }
        }
    }
}

/// Adds the connection of a rank, or refuses it.
fn greet(mut stream: TcpStream, ranks: usize, links: &Arc<Links>) -> Result<(), String> {
    prepare(&stream).map_err(|error| error.to_string())?;
    let reason = match read_greeting(&mut stream, GREETING_TIMEOUT) {
        Ok(Message::Hello { version, .. }) if version != VERSION => {
            format!("it is of another version of the program (version {version} of the messages, not {VERSION})")
        }
        Ok(Message::Hello { rank, ranks: of, .. }) if of as usize != ranks => {
            format!("it is rank {rank} of a run with {of} ranks, but this run has {ranks}")
        }
        Ok(Message::Hello { rank, .. }) if rank == 0 || rank as usize >= ranks => {
            format!(
                "it is rank {rank}, but the other ranks of this run are 1 to {}",
                ranks - 1
            )
        }
        Ok(Message::Hello { rank, .. }) if links.has(rank as usize) => {
            format!("rank {rank} has connected before, so two processes have the same rank")
        }
        Ok(Message::Hello { rank, .. }) => {
            let welcome = stream.write_all(&Message::Welcome.bytes());
            let added = welcome.and_then(|()| stream.set_read_timeout(None));
            return added
                .and_then(|()| links.add(rank as usize, stream))
                .map_err(|error| error.to_string());
        }
        Ok(_) | Err(ReadError::Invalid) => "it is not from a rank".into(),
        Err(ReadError::TimedOut) => "it does not say which rank it is from".into(),
        Err(ReadError::Closed) => "it was closed at once".into(),
    };
    refuse(stream, &reason);
    Err(reason)
}

/// Says why a connection is refused. Reads what the other end sends, a little while, because closing a connection with unread bytes would
/// discard the answer.
fn refuse(mut stream: TcpStream, reason: &str) {
    let end = Instant::now() + REFUSAL_TIMEOUT;
    // Errors mean that the other end has closed the connection.
    let _ = stream.write_all(&Message::Refusal(reason.into()).bytes());
    let _ = stream.shutdown(Shutdown::Write);
    let _ = stream.set_read_timeout(Some(REFUSAL_TIMEOUT));
    while Instant::now() < end && stream.read(&mut [0; 4096]).is_ok_and(|count| count > 0) {}
}

impl Tcp {
    /// Connects a rank other than rank 0 to `host:port`. Rank 0 may begin to listen later.
    ///
    /// # Errors
    /// Returns an error if rank 0 cannot be reached within the time limit, refuses the rank, or the wait is given up.
    pub fn connect(
        address: &str,
        rank: usize,
        ranks: usize,
        device: Device,
        waiting: Waiting,
    ) -> Result<Self, JoinError> {
        let start = Instant::now();
        loop {
            let error = match attempt(address, rank, ranks) {
                Ok(stream) => {
                    let links = Links::new(rank, ranks);
                    let connection = |error: io::Error| JoinError::Connection {
                        rank,
                        reason: error.to_string(),
                    };
                    links.add(0, stream).map_err(connection)?;
                    return Ok(Self {
                        rank,
                        ranks,
                        device,
                        links,
                    });
                }
                Err(error @ (JoinError::Unreachable { .. } | JoinError::UnknownHost { .. })) => error,
                Err(error) => return Err(error),
            };
            if let Some(reason) = (waiting.give_up)() {
                return Err(JoinError::GivenUp(reason));
            }
            if start.elapsed() > waiting.limit {
                return Err(match error {
                    JoinError::Unreachable {
                        rank, address, reason, ..
                    } => JoinError::Unreachable {
                        rank,
                        address,
                        reason,
                        seconds: waiting.limit.as_secs(),
                    },
                    error => error,
                });
            }
            std::thread::sleep(PAUSE);
        }
    }
}

/// Tries once to connect.
fn attempt(address: &str, rank: usize, ranks: usize) -> Result<TcpStream, JoinError> {
    let unreachable = |reason: String| JoinError::Unreachable {
        rank,
        address: address.into(),
        seconds: 0,
        reason,
    };
    let mut last = "no address".to_string();
    for candidate in resolve(address)? {
        let mut stream = match TcpStream::connect_timeout(&candidate, CONNECT_TIMEOUT) {
            Ok(stream) => stream,
            Err(error) => {
                last = error.to_string();
                continue;
            }
        };
        let hello = Message::Hello {
            version: VERSION,
            rank: rank as u32,
            ranks: ranks as u32,
        };
        let prepared = prepare(&stream).and_then(|()| stream.write_all(&hello.bytes()));
        prepared.map_err(|error| unreachable(error.to_string()))?;
        // Rank 0 answers one connection after another.
        return match read_greeting(&mut stream, 10 * GREETING_TIMEOUT) {
            Ok(Message::Welcome) => match stream.set_read_timeout(None) {
                Ok(()) => Ok(stream),
                Err(error) => Err(unreachable(error.to_string())),
            },
            Ok(Message::Refusal(reason)) => Err(JoinError::Refused {
                rank,
                address: address.into(),
                reason,
            }),
            Err(ReadError::Closed | ReadError::TimedOut) => Err(unreachable("it does not answer".into())),
            Ok(_) | Err(ReadError::Invalid) => Err(JoinError::Foreign {
                address: address.into(),
            }),
        };
    }
    Err(unreachable(last))
}

/// Reads the first message of a connection, which must arrive within `limit` as a whole.
fn read_greeting(stream: &mut TcpStream, limit: Duration) -> Result<Message, ReadError> {
    struct Limited<'a> {
        stream: &'a mut TcpStream,
        end: Instant,
    }
    impl io::Read for Limited<'_> {
        fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
            let rest = self.end.saturating_duration_since(Instant::now());
            if rest.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.stream.set_read_timeout(Some(rest))?;
            self.stream.read(to)
        }
    }
    let end = Instant::now() + limit;
    Message::read(&mut Limited { stream, end }, MAX_GREETING)
}

/// Sets the options of a connection: messages are sent at once, and the loss of the other machine is noticed.
fn prepare(stream: &TcpStream) -> io::Result<()> {
    // A listener that does not block may pass this on to its connections.
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    #[cfg(target_os = "linux")]
    {
        use rustix::net::sockopt;
        // A machine that is gone is noticed after 10 s + 3 · 5 s without an answer.
        sockopt::set_socket_keepalive(stream, true)?;
        sockopt::set_tcp_keepidle(stream, Duration::from_secs(10))?;
        sockopt::set_tcp_keepintvl(stream, Duration::from_secs(5))?;
        sockopt::set_tcp_keepcnt(stream, 3)?;
    }
    Ok(())
}

fn resolve(address: &str) -> Result<Vec<SocketAddr>, JoinError> {
    let unknown = |reason: String| JoinError::UnknownHost {
        address: address.into(),
        reason,
    };
    match address.to_socket_addrs() {
        Ok(all) => {
            let all: Vec<SocketAddr> = all.collect();
            match all.is_empty() {
                true => Err(unknown("it has no address".into())),
                false => Ok(all),
            }
        }
        Err(error) => Err(unknown(error.to_string())),
    }
}
