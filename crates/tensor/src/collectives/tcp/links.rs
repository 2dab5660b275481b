//! The connections of a rank: queues of received messages, and the failure that ends the run.
//!
//! A thread reads each connection, so that the end of a process is noticed at once. Queues have a limit: a sender that is ahead waits.

use std::collections::VecDeque;
use std::io::{BufReader, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::super::CollectiveError;
use super::message::{MAX_CONTENT, Message, ReadError};

/// Number of messages that are received in advance.
pub(super) const QUEUE: usize = 8;

/// Time for the reason of a broken connection to arrive.
const REASON_TIMEOUT: Duration = Duration::from_secs(3);

/// The connections of a rank, to all others on rank 0, and to rank 0 on the others.
pub(super) struct Links {
    rank: usize,
    state: Mutex<State>,
    /// Notified when a message has been received or taken, a rank has failed, or the connections are closed.
    changed: Condvar,
    /// The connections by rank.
    streams: Vec<Mutex<Option<TcpStream>>>,
    /// Locked while a failure is noticed and sent, so that the connections are not closed in between.
    stopping: Mutex<()>,
}

struct State {
    /// Received messages by rank.
    queues: Vec<VecDeque<Message>>,
    failure: Option<CollectiveError>,
    /// Whether the failure has been sent to the other ranks.
    is_sent: bool,
    /// Whether the rank is in a function that all ranks call.
    is_calling: bool,
    is_closed: bool,
}

impl Links {
    /// Makes the connections of a rank, none of which exists yet.
    pub fn new(rank: usize, ranks: usize) -> Arc<Self> {
        Arc::new(Self {
            rank,
            state: Mutex::new(State {
                queues: vec![VecDeque::new(); ranks],
                failure: None,
                is_sent: false,
                is_calling: false,
                is_closed: false,
            }),
            changed: Condvar::new(),
            streams: (0..ranks).map(|_| Mutex::new(None)).collect(),
            stopping: Mutex::new(()),
        })
    }

    /// Adds the connection to `peer`, and reads it on a thread of its own.
    pub fn add(self: &Arc<Self>, peer: usize, stream: TcpStream) -> std::io::Result<()> {
        let reader = BufReader::new(stream.try_clone()?);
        *lock(&self.streams[peer]) = Some(stream);
        let links = Arc::clone(self);
        let name = format!("rank {peer}");
        std::thread::Builder::new()
            .name(name)
            .spawn(move || links.read(peer, reader))?;
        Ok(())
    }

    /// Whether there is a connection to `peer`.
    pub fn has(&self, peer: usize) -> bool {
        lock(&self.streams[peer]).is_some()
    }

    /// Reads messages until the connection ends.
    fn read(&self, peer: usize, mut from: BufReader<TcpStream>) {
        loop {
            match Message::read(&mut from, MAX_CONTENT) {
                Ok(message @ (Message::Call { .. } | Message::Data(_))) => {
                    let mut state = self.lock();
                    while state.queues[peer].len() >= QUEUE && !state.is_closed {
                        state = self.wait(state);
                    }
                    // A closed rank still reads: closing a connection with unread bytes would discard what was sent last.
                    if !state.is_closed {
                        state.queues[peer].push_back(message);
                        self.changed.notify_all();
                    }
                }
                Ok(Message::Failure(failure)) => self.stop(match failure {
                    CollectiveError::Failed { message, .. } if self.rank == 0 => {
                        CollectiveError::Failed { rank: peer, message }
                    }
                    _ if self.rank == 0 => CollectiveError::Ended { rank: peer },
                    failure => failure,
                }),
                Ok(_) | Err(ReadError::Invalid) => {
                    return self.stop(CollectiveError::Failed {
                        rank: peer,
                        message: "it has sent bytes that are no message".into(),
                    });
                }
                Err(ReadError::Closed | ReadError::TimedOut) => {
                    return self.stop(CollectiveError::Ended { rank: peer });
                }
            }
        }
    }

    /// Begins a function that all ranks call.
    pub fn begin_call(&self) -> Result<(), CollectiveError> {
        let mut state = self.lock();
        match &state.failure {
            Some(failure) => Err(failure.clone()),
            None => {
                state.is_calling = true;
                Ok(())
            }
        }
    }

    /// Ends a function that all ranks call. Sends a failure that was noticed meanwhile.
    pub fn end_call(&self) {
        self.lock().is_calling = false;
        self.send_failure();
    }

    /// Ends the run with `failure`, unless it has failed before.
    pub fn stop(&self, failure: CollectiveError) {
        let _stopping = lock(&self.stopping);
        {
            let mut state = self.lock();
            // The others end because this rank has ended.
            if state.is_closed {
                return;
            }
            state.failure.get_or_insert(failure);
        }
        self.changed.notify_all();
        self.send_failure();
    }

    /// Returns the failure that has ended the run.
    pub fn failure(&self) -> Option<CollectiveError> {
        self.lock().failure.clone()
    }

    /// Sends the failure to the ranks that do not know it: rank 0 to all others, another rank to rank 0. While rank 0 is in a function that
    /// all ranks call, its results must arrive first, because the function may succeed on all ranks.
    fn send_failure(&self) {
        let mut state = self.lock();
        let is_known = match &state.failure {
            Some(CollectiveError::Failed { rank, .. }) => self.rank != 0 && *rank != self.rank,
            Some(_) => self.rank != 0,
            None => true,
        };
        if is_known || state.is_sent || state.is_calling {
            return;
        }
        state.is_sent = true;
        let Some(failure) = state.failure.clone() else { return };
        drop(state);
        let bytes = Message::Failure(failure).bytes();
        // A rank that cannot be told has ended.
        (0..self.streams.len()).for_each(|peer| drop(self.write(peer, &bytes)));
    }

    /// Sends a message.
    pub fn send(&self, peer: usize, bytes: &[u8]) -> Result<(), CollectiveError> {
        match self.write(peer, bytes) {
            Ok(()) => Ok(()),
            Err(_) => Err(self.reason(peer)),
        }
    }

    fn write(&self, peer: usize, bytes: &[u8]) -> std::io::Result<()> {
        match &mut *lock(&self.streams[peer]) {
            Some(stream) => stream.write_all(bytes),
            None => Ok(()),
        }
    }

    /// Returns the failure because of which the connection to `peer` is broken, when its thread has read it.
    fn reason(&self, peer: usize) -> CollectiveError {
        let state = self.lock();
        let (state, _) = self
            .changed
            .wait_timeout_while(state, REASON_TIMEOUT, |state| state.failure.is_none())
            .unwrap_or_else(PoisonError::into_inner);
        state.failure.clone().unwrap_or(CollectiveError::Ended { rank: peer })
    }

    /// Waits for the next message of `peer`. Messages that arrived before a failure come first.
    pub fn receive(&self, peer: usize) -> Result<Message, CollectiveError> {
        let mut state = self.lock();
        loop {
            if let Some(message) = state.queues[peer].pop_front() {
                self.changed.notify_all();
                return Ok(message);
            }
            if let Some(failure) = &state.failure {
                return Err(failure.clone());
            }
            state = self.wait(state);
        }
    }

    /// Waits until the run has failed or the connections are closed. Returns the failure; `None` if the connections are closed.
    pub fn wait_for_failure(&self) -> Option<CollectiveError> {
        let mut state = self.lock();
        loop {
            if state.is_closed {
                return None;
            }
            if let Some(failure) = &state.failure {
                return Some(failure.clone());
            }
            state = self.wait(state);
        }
    }

    /// Whether the connections are closed.
    pub fn is_closed(&self) -> bool {
        self.lock().is_closed
    }

    /// Says that the connections are not used any more, and tells the other ranks.
    pub fn close(&self) {
        let _stopping = lock(&self.stopping);
        self.lock().is_closed = true;
        self.changed.notify_all();
        for stream in &self.streams {
            if let Some(stream) = &*lock(stream) {
                // Fails if the other rank has ended.
                let _ = stream.shutdown(Shutdown::Write);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }
}

/// Locks a value. A poisoned lock is accepted, because no panic leaves a value inconsistent.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
