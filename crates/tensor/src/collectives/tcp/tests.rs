//! Ranks over the loopback interface, each on a thread with connections of its own.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use super::*;
use crate::collectives::Threads;

/// Time within which a failure must be noticed.
const SECONDS: Duration = Duration::from_secs(10);

/// Waits for other ranks without reasons to give up.
fn waiting<R>(limit: Duration, work: impl FnOnce(Waiting) -> R) -> (R, Vec<String>) {
    let mut warnings = Vec::new();
    let result = work(Waiting {
        limit,
        give_up: &mut || None,
        warn: &mut |line| warnings.push(line.to_string()),
    });
    (result, warnings)
}

fn listener() -> Listener {
    Listener::bind("127.0.0.1:0").expect("a free port")
}

fn connect(address: &str, rank: usize, ranks: usize) -> Result<Tcp, JoinError> {
    waiting(SECONDS, |waiting| {
        Tcp::connect(address, rank, ranks, Device::cpu(), waiting)
    })
    .0
}

fn accept(listener: Listener, ranks: usize) -> Tcp {
    let (tcp, warnings) = waiting(SECONDS, |waiting| listener.accept(ranks, Device::cpu(), waiting));
    assert_eq!(warnings, [""; 0]);
    tcp.expect("all ranks connect")
}

/// Calls `work` with each of `count` ranks, on a thread each, when all are connected. Returns the results in the order of ranks.
fn on_ranks<T: Send>(count: usize, work: impl Fn(Tcp) -> T + Sync) -> Vec<T> {
    let work = |rank: Tcp| {
        rank.barrier().expect("all ranks are connected");
        work(rank)
    };
    let listener = listener();
    let address = listener.address().to_string();
    std::thread::scope(|scope| {
        let (work, address) = (&work, &address);
        let others: Vec<_> = (1..count)
            .map(|rank| scope.spawn(move || work(connect(address, rank, count).expect("rank 0 listens"))))
            .collect();
        let first = scope.spawn(move || work(accept(listener, count)));
        let threads = std::iter::once(first).chain(others);
        threads.map(|thread| thread.join().expect("no panic")).collect()
    })
}

/// Calls `work` with each of `count` ranks in one process.
fn on_threads<T: Send>(count: usize, work: impl Fn(Threads) -> T + Sync) -> Vec<T> {
    std::thread::scope(|scope| {
        let work = &work;
        let ranks = Threads::new(count, Device::cpu()).into_iter();
        let threads: Vec<_> = ranks.map(|rank| scope.spawn(move || work(rank))).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("no panic"))
            .collect()
    })
}

/// Returns tensors of a rank, of several messages together.
fn tensors(rank: usize) -> [Tensor; 3] {
    let shapes = [[1, 3], [PART / 2 + 5, 9], [7, 1]];
    shapes.map(|[rows, columns]| {
        let value = |i: usize| (0.1 + (i % 1013) as f32 + rank as f32).sin() / 7.0;
        let values: Vec<f32> = (0..rows * columns).map(value).collect();
        Device::cpu().tensor(rows, columns, &values)
    })
}

fn bits(tensors: &[Tensor]) -> Vec<u32> {
    let values = tensors.iter().map(|tensor| tensor.to_host().into_owned());
    values.flatten().map(f32::to_bits).collect()
}

/// What the ranks compute with each kind of communication.
fn results(rank: &dyn Collectives) -> (Vec<u32>, Vec<u32>, Vec<Vec<u8>>) {
    let [mut a, mut b, mut c] = tensors(rank.rank());
    rank.sum(&mut [&mut a, &mut b, &mut c]).expect("all ranks sum");
    rank.sum(&mut []).expect("all ranks sum nothing");
    let sums = bits(&[a, b, c]);
    let [mut a, mut b, mut c] = tensors(rank.rank());
    rank.broadcast(&mut [&mut b, &mut a, &mut c])
        .expect("all ranks broadcast");
    rank.barrier().expect("all ranks wait");
    // Two ranks pass more bytes than a queue holds.
    let length = (rank.rank() % 2) * (QUEUE + 3) * MAX_CONTENT + rank.rank();
    let gathered = rank
        .all_gather(vec![rank.rank() as u8; length])
        .expect("all ranks gather");
    (sums, bits(&[a, b, c]), gathered)
}

#[test]
fn processes_get_the_bits_of_threads() {
    for count in [1, 2, 4] {
        let over_tcp = on_ranks(count, |rank| results(&rank));
        assert!(over_tcp == on_threads(count, |rank| results(&rank)), "{count} ranks");
        assert!(over_tcp.iter().all(|result| *result == over_tcp[0]), "{count} ranks");
    }
}

#[test]
fn a_failure_ends_the_wait_of_all_ranks_with_the_first_message() {
    for failing in 0..3 {
        let start = Instant::now();
        let results = on_ranks(3, |rank| {
            rank.barrier().expect("all ranks wait");
            if rank.rank() == failing {
                rank.fail("no space");
                rank.fail("later");
            }
            let result = rank.sum(&mut [&mut Device::cpu().zeros(1, 2)]);
            assert_eq!(rank.barrier(), result);
            result
        });
        let failure = CollectiveError::Failed {
            rank: failing,
            message: "no space".into(),
        };
        assert_eq!(results, vec![Err(failure); 3]);
        assert!(start.elapsed() < SECONDS);
    }
}

#[test]
fn a_rank_that_ends_and_a_rank_that_diverges_end_the_wait() {
    for ending in 0..3 {
        let results = on_ranks(3, |rank| match rank.rank() == ending {
            true => Ok(()),
            false => rank.barrier(),
        });
        let ended = Err(CollectiveError::Ended { rank: ending });
        let expected: Vec<_> = (0..3)
            .map(|rank| if rank == ending { Ok(()) } else { ended.clone() })
            .collect();
        assert_eq!(results, expected);
    }
    let results = on_ranks(3, |rank| match rank.rank() {
        2 => rank.broadcast(&mut [&mut Device::cpu().zeros(1, 2)]),
        _ => rank.sum(&mut [&mut Device::cpu().zeros(1, 2)]),
    });
    assert_eq!(results, vec![Err(CollectiveError::Diverged { rank: 2 }); 3]);
    let results = on_ranks(2, |rank| rank.sum(&mut [&mut Device::cpu().zeros(1, 2 + rank.rank())]));
    assert_eq!(results, vec![Err(CollectiveError::Diverged { rank: 1 }); 2]);
}

/// The last function of a run succeeds on all ranks, though some of them end while others have not returned from it.
#[test]
fn ranks_that_end_after_the_last_function_are_no_failure() {
    for _ in 0..20 {
        let results = on_ranks(4, |rank| {
            rank.all_gather(vec![rank.rank() as u8; 3 * MAX_CONTENT])
                .map(|all| all.len())
        });
        assert_eq!(results, vec![Ok(4); 4]);
    }
}

#[test]
fn a_rank_that_computes_learns_of_the_end_of_others() {
    let failures = on_ranks(3, |rank| match rank.rank() {
        1 => None,
        _ => rank.watch().wait(),
    });
    let ended = Some(CollectiveError::Ended { rank: 1 });
    assert_eq!(failures, [ended.clone(), None, ended]);
    let watches = on_ranks(2, |rank| rank.watch());
    assert_eq!(watches[0].wait(), None, "the rank has ended by itself");
    assert!(watches[0].has_ended());
}

#[test]
fn foreign_connections_are_refused_and_the_ranks_work() {
    let listener = listener();
    let address = listener.address().to_string();
    std::thread::scope(|scope| {
        let rank_0 = scope.spawn(move || {
            let (tcp, warnings) = waiting(SECONDS, |waiting| listener.accept(3, Device::cpu(), waiting));
            let tcp = tcp.expect("all ranks connect");
            (tcp.barrier(), warnings)
        });
        let raw = |bytes: &[u8]| {
            let mut stream = TcpStream::connect(&address).expect("a listener");
            stream.write_all(bytes).expect("sent");
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer);
            String::from_utf8_lossy(&answer).into_owned()
        };
        assert!(raw(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").contains("it is not from a rank"));
        assert!(raw(&Message::Data(vec![0; MAX_CONTENT / 2]).bytes()[..9]).contains("it is not from a rank"));
        let other_version = Message::Hello {
            version: 9,
            rank: 1,
            ranks: 3,
        };
        assert!(raw(&other_version.bytes()).contains("another version of the program"));
        assert!(raw(b"").contains("which rank") || raw(b"").is_empty());
        let refused = |rank, ranks| connect(&address, rank, ranks).err().expect("refused").to_string();
        let message = refused(1, 4);
        assert!(
            message.contains("refused rank 1: it is rank 1 of a run with 4 ranks, but this run has 3"),
            "{message}"
        );
        assert!(refused(7, 3).contains("the other ranks of this run are 1 to 2"));
        assert!(refused(0, 3).contains("the other ranks of this run are 1 to 2"));
        let first = connect(&address, 1, 3).expect("rank 0 listens");
        assert!(refused(1, 3).contains("two processes have the same rank"));
        let second = connect(&address, 2, 3).expect("rank 0 listens");
        let ranks = [first, second].map(|rank| scope.spawn(move || rank.barrier()));
        for rank in ranks {
            assert_eq!(rank.join().expect("no panic"), Ok(()));
        }
        let (result, warnings) = rank_0.join().expect("no panic");
        assert_eq!(result, Ok(()));
        assert!(warnings.len() >= 7, "{warnings:?}");
        for warning in warnings {
            assert!(
                warning.contains(" is refused: ") && !warning.contains('\n'),
                "{warning}"
            );
        }
    });
}

/// Connects to rank 0 as rank 1 of two, and sends it bytes after the handshake. Returns the error of rank 0 in a barrier.
fn error_after(bytes: &[u8]) -> CollectiveError {
    let listener = listener();
    let address = listener.address().to_string();
    std::thread::scope(|scope| {
        let rank_0 = scope.spawn(move || accept(listener, 2).barrier());
        let mut stream = TcpStream::connect(&address).expect("a listener");
        let hello = Message::Hello {
            version: message::VERSION,
            rank: 1,
            ranks: 2,
        };
        stream.write_all(&hello.bytes()).expect("sent");
        assert_eq!(Message::read(&mut stream, 99).expect("an answer"), Message::Welcome);
        stream.write_all(bytes).expect("sent");
        rank_0.join().expect("no panic").unwrap_err()
    })
}

#[test]
fn bytes_that_are_no_message_end_the_run() {
    let message = error_after(&[0xff; 64]).to_string();
    assert_eq!(message, "rank 1: it has sent bytes that are no message");
}

#[test]
fn a_rank_that_claims_more_bytes_than_it_sends_allocates_nothing() {
    let call = Message::Call {
        operation: Operation::AllGather,
        length: u64::MAX,
    };
    assert_eq!(error_after(&call.bytes()), CollectiveError::Diverged { rank: 1 });
}

#[test]
fn a_port_in_use_is_named_with_the_variable_that_sets_another() {
    let other = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = other.local_addr().expect("an address").to_string();
    let message = Listener::bind(&address).err().expect("the port is in use").to_string();
    assert!(
        message.contains(&address) && message.contains("MASTER_PORT"),
        "{message}"
    );
    let message = connect_within(Duration::from_millis(50), "no.such.host.invalid:1").to_string();
    assert!(
        message.contains("no.such.host.invalid:1") && message.contains("MASTER_ADDR"),
        "{message}"
    );
}

fn connect_within(limit: Duration, address: &str) -> JoinError {
    let result = waiting(limit, |waiting| Tcp::connect(address, 1, 2, Device::cpu(), waiting)).0;
    result.err().expect("no connection")
}

#[test]
fn a_missing_rank_is_named_after_the_time_limit() {
    let listener = listener();
    let address = listener.address().to_string();
    std::thread::scope(|scope| {
        let connected = scope.spawn(|| connect(&address, 2, 4).expect("rank 0 listens").barrier());
        let (result, _) = waiting(Duration::from_secs(1), |waiting| {
            listener.accept(4, Device::cpu(), waiting)
        });
        let message = result.err().expect("two ranks are missing").to_string();
        assert!(
            message.starts_with("ranks 1, 3 have not connected to rank 0 at 127.0.0.1:"),
            "{message}"
        );
        assert_eq!(
            connected.join().expect("no panic"),
            Err(CollectiveError::Failed { rank: 0, message })
        );
    });
    // Now nothing listens there.
    let message = connect_within(Duration::from_millis(100), &address).to_string();
    assert!(
        message.contains("rank 1 cannot connect to rank 0 at") && message.contains(&address),
        "{message}"
    );
    let refused = message.contains("refused");
    assert!(refused, "{message}");
}

#[test]
fn a_wait_can_be_given_up() {
    let mut count = 0;
    let result = listener().accept(
        2,
        Device::cpu(),
        Waiting {
            limit: SECONDS,
            give_up: &mut || {
                count += 1;
                (count > 2).then(|| "a signal".to_string())
            },
            warn: &mut |_| (),
        },
    );
    assert_eq!(result.err(), Some(JoinError::GivenUp("a signal".into())));
}

#[test]
fn a_program_that_is_no_rank_is_named() {
    let other = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = other.local_addr().expect("an address").to_string();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let (mut stream, _) = other.accept().expect("a connection");
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").expect("sent");
        });
        let message = connect(&address, 1, 2).err().expect("no rank").to_string();
        assert!(
            message.contains(&address) && message.contains("is not rank 0 of a run"),
            "{message}"
        );
    });
}
