//! The messages between ranks, and their bytes.
//!
//! A message is a byte that says its kind, the length of its content as a 32-bit number, and the content. Numbers are little-endian. The
//! content has at most [`MAX_CONTENT`] bytes, so a reader never allocates more than that, whatever it receives.

use std::io::{self, Read};

use super::super::CollectiveError;

/// Largest content of a message. A longer value is sent in several messages.
pub(super) const MAX_CONTENT: usize = 1 << 20;

/// Largest content of the messages with which a connection begins.
pub(super) const MAX_GREETING: usize = 1 << 10;

/// Version of the messages. Ranks with different versions do not work together.
pub(super) const VERSION: u32 = 1;

/// Begins the content of [`Message::Hello`].
const MAGIC: &[u8; 8] = b"vlctrank";

/// Largest text of a failure in bytes. The rest of a longer one is left out.
const MAX_TEXT: usize = 1 << 14;

/// A function that all ranks call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Sum,
    Broadcast,
    AllGather,
}

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// The first message of a rank to rank 0.
    Hello { version: u32, rank: u32, ranks: u32 },
    /// The answer of rank 0 to a rank that belongs to the run.
    Welcome,
    /// The answer of rank 0 to others.
    Refusal(String),
    /// The sender calls a function, with this number of values or bytes.
    Call { operation: Operation, length: u64 },
    /// A part of the values or bytes.
    Data(Vec<u8>),
    /// The run ends.
    Failure(CollectiveError),
}

/// Why no message could be read.
#[derive(Debug)]
pub(super) enum ReadError {
    /// The sender has closed the connection, or it is broken.
    Closed,
    /// The sender has sent nothing for the time limit of the connection.
    TimedOut,
    /// What was received is no message.
    Invalid,
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Self::TimedOut,
            _ => Self::Closed,
        }
    }
}

const HELLO: u8 = 1;
const WELCOME: u8 = 2;
const REFUSAL: u8 = 3;
const CALL: u8 = 4;
const DATA: u8 = 5;
const FAILED: u8 = 6;
const ENDED: u8 = 7;
const DIVERGED: u8 = 8;

impl Message {
    /// Returns the bytes of the message. The content of [`Message::Data`] must have at most [`MAX_CONTENT`] bytes.
    pub fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Hello { version, rank, ranks } => {
                let mut content = MAGIC.to_vec();
                [version, rank, ranks]
                    .iter()
                    .for_each(|number| content.extend(number.to_le_bytes()));
                framed(HELLO, &[&content])
            }
            Self::Welcome => framed(WELCOME, &[]),
            Self::Refusal(reason) => framed(REFUSAL, &[shortened(reason, MAX_GREETING).as_bytes()]),
            Self::Call { operation, length } => {
                let operation = match operation {
                    Operation::Sum => 0,
                    Operation::Broadcast => 1,
                    Operation::AllGather => 2,
                };
                framed(CALL, &[&[operation], &length.to_le_bytes()])
            }
            Self::Data(content) => framed(DATA, &[content]),
            Self::Failure(failure) => {
                let bytes = |rank: &usize| (u32::try_from(*rank).unwrap_or(u32::MAX)).to_le_bytes();
                match failure {
                    CollectiveError::Failed { rank, message } => {
                        framed(FAILED, &[&bytes(rank), shortened(message, MAX_TEXT).as_bytes()])
                    }
                    CollectiveError::Ended { rank } => framed(ENDED, &[&bytes(rank)]),
                    CollectiveError::Diverged { rank } => framed(DIVERGED, &[&bytes(rank)]),
                }
            }
        }
    }

    /// Reads a message whose content has at most `limit` bytes.
    pub fn read(from: &mut impl Read, limit: usize) -> Result<Self, ReadError> {
        let mut head = [0; 5];
        from.read_exact(&mut head)?;
        let [kind, length @ ..] = head;
        let length = u32::from_le_bytes(length) as usize;
        if !(HELLO..=DIVERGED).contains(&kind) || length > limit.min(MAX_CONTENT) {
            return Err(ReadError::Invalid);
        }
        let mut content = vec![0; length];
        from.read_exact(&mut content)?;
        Self::parse(kind, content).ok_or(ReadError::Invalid)
    }

    fn parse(kind: u8, content: Vec<u8>) -> Option<Self> {
        let numbers = |bytes: &[u8]| -> Vec<u32> {
            let numbers = bytes.as_chunks::<4>().0.iter();
            numbers.map(|bytes| u32::from_le_bytes(*bytes)).collect()
        };
        match kind {
            HELLO => match *numbers(content.strip_prefix(MAGIC)?) {
                [version, rank, ranks] if content.len() == MAGIC.len() + 12 => {
                    Some(Self::Hello { version, rank, ranks })
                }
                _ => None,
            },
            WELCOME => content.is_empty().then_some(Self::Welcome),
            REFUSAL => Some(Self::Refusal(one_line(&content))),
            CALL => {
                let (operation, length) = content.split_first()?;
                let operation = match operation {
                    0 => Operation::Sum,
                    1 => Operation::Broadcast,
                    2 => Operation::AllGather,
                    _ => return None,
                };
                let length = u64::from_le_bytes(length.try_into().ok()?);
                Some(Self::Call { operation, length })
            }
            DATA => Some(Self::Data(content)),
            FAILED | ENDED | DIVERGED => {
                let (rank, text) = content.split_first_chunk::<4>()?;
                let rank = u32::from_le_bytes(*rank) as usize;
                let failure = match kind {
                    FAILED => CollectiveError::Failed {
                        rank,
                        message: one_line(text),
                    },
                    _ if !text.is_empty() => return None,
                    ENDED => CollectiveError::Ended { rank },
                    _ => CollectiveError::Diverged { rank },
                };
                Some(Self::Failure(failure))
            }
            _ => None,
        }
    }
}

/// Returns a message of this kind, whose content is the concatenation of `parts`.
fn framed(kind: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    debug_assert!(length <= MAX_CONTENT, "the content is divided before");
    let mut bytes = Vec::with_capacity(5 + length);
    bytes.push(kind);
    bytes.extend((length as u32).to_le_bytes());
    parts.iter().for_each(|part| bytes.extend_from_slice(part));
    bytes
}

/// Returns the beginning of a text, at most `length` bytes.
fn shortened(text: &str, length: usize) -> &str {
    let mut end = length.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Returns a received text as one line without control characters.
fn one_line(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Returns the bytes of f32 values.
pub(super) fn bytes_of(values: &[f32]) -> Vec<u8> {
    let mut bytes = vec![0; 4 * values.len()];
    let chunks = bytes.as_chunks_mut::<4>().0;
    chunks
        .iter_mut()
        .zip(values)
        .for_each(|(bytes, value)| *bytes = value.to_le_bytes());
    bytes
}

/// Returns the f32 values of bytes, whose number is a multiple of 4.
pub(super) fn values_of(bytes: &[u8]) -> impl Iterator<Item = f32> {
    bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn messages() -> Vec<Message> {
        let failed = |message: &str| CollectiveError::Failed {
            rank: 3,
            message: message.into(),
        };
        vec![
            Message::Hello {
                version: VERSION,
                rank: 1,
                ranks: 2,
            },
            Message::Welcome,
            Message::Refusal("no".into()),
            Message::Call {
                operation: Operation::Sum,
                length: u64::MAX,
            },
            Message::Call {
                operation: Operation::Broadcast,
                length: 0,
            },
            Message::Call {
                operation: Operation::AllGather,
                length: 7,
            },
            Message::Data(vec![]),
            Message::Data(vec![1; MAX_CONTENT]),
            Message::Failure(failed("no space left")),
            Message::Failure(CollectiveError::Ended { rank: 4 }),
            Message::Failure(CollectiveError::Diverged { rank: 5 }),
        ]
    }

    #[test]
    fn messages_are_read_as_they_were_written_one_after_another() {
        let bytes: Vec<u8> = messages().iter().flat_map(Message::bytes).collect();
        let from = &mut bytes.as_slice();
        for message in messages() {
            assert_eq!(Message::read(from, MAX_CONTENT).expect("a message"), message);
        }
        assert!(matches!(Message::read(from, MAX_CONTENT), Err(ReadError::Closed)));
    }

    #[test]
    fn a_text_arrives_as_one_line_of_bounded_length() {
        let message = "ü".repeat(MAX_TEXT) + "\n";
        let bytes = Message::Failure(CollectiveError::Failed { rank: 0, message }).bytes();
        assert!(bytes.len() <= 5 + 4 + MAX_TEXT);
        let failed = CollectiveError::Failed {
            rank: 0,
            message: "a\nb\u{1b}[1m".into(),
        };
        let read = Message::read(&mut Message::Failure(failed).bytes().as_slice(), MAX_CONTENT).expect("a message");
        let Message::Failure(CollectiveError::Failed { message, .. }) = read else {
            panic!("{read:?}")
        };
        assert_eq!(message, "a b [1m");
    }

    #[test]
    fn a_content_above_the_limit_is_refused_before_memory_is_allocated() {
        let mut head = vec![DATA];
        head.extend(u32::MAX.to_le_bytes());
        assert!(matches!(
            Message::read(&mut head.as_slice(), usize::MAX),
            Err(ReadError::Invalid)
        ));
        let data = Message::Data(vec![0; MAX_GREETING + 1]).bytes();
        assert!(matches!(
            Message::read(&mut data.as_slice(), MAX_GREETING),
            Err(ReadError::Invalid)
        ));
    }

    #[test]
    fn requests_of_other_protocols_are_no_messages() {
        for bytes in [
            &b"GET / HTTP/1.1\r\n\r\n"[..],
            b"SSH-2.0-OpenSSH_9.2\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00",
        ] {
            assert!(matches!(
                Message::read(&mut &*bytes, MAX_GREETING),
                Err(ReadError::Invalid)
            ));
        }
    }

    proptest! {
        /// A message that is read from arbitrary bytes is written as these bytes again, except for texts, which lose control characters.
        #[test]
        fn arbitrary_bytes_are_a_message_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let mut from = bytes.as_slice();
            if let Ok(message) = Message::read(&mut from, MAX_CONTENT) {
                let read = &bytes[..bytes.len() - from.len()];
                let has_text = matches!(message, Message::Refusal(_) | Message::Failure(CollectiveError::Failed { .. }));
                prop_assert!(has_text || message.bytes() == read);
            }
        }

        /// A damaged message is an error or another message, never a panic.
        #[test]
        fn damaged_messages_do_not_panic(which in 0usize..11, position in 0usize..40, value in any::<u8>(), cut in 0usize..40) {
            let mut bytes = messages()[which].bytes();
            let position = position % bytes.len();
            bytes[position] = value;
            bytes.truncate(bytes.len().saturating_sub(cut));
            let _ = Message::read(&mut bytes.as_slice(), MAX_CONTENT);
        }

        #[test]
        fn values_keep_their_bits(bits in proptest::collection::vec(any::<u32>(), 0..9)) {
            let values: Vec<f32> = bits.iter().map(|bits| f32::from_bits(*bits)).collect();
            let read: Vec<u32> = values_of(&bytes_of(&values)).map(f32::to_bits).collect();
            prop_assert_eq!(read, bits);
        }
    }
}
