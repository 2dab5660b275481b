//! Errors of the reader.

/// The reason why a pickle cannot be read. Offsets count bytes from the beginning of the pickle.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PickleError {
    /// The bytes end inside an instruction or before the final `STOP`.
    #[error("the pickle ends too early, at byte {offset}")]
    Truncated {
        /// The offset at which the missing bytes would begin.
        offset: usize,
    },
    /// A byte that is not an opcode of any protocol.
    #[error("byte {offset} of the pickle ({opcode:#04x}) is not an opcode")]
    UnknownOpcode {
        /// The offset of the byte.
        offset: usize,
        /// The byte.
        opcode: u8,
    },
    /// A protocol newer than 5.
    #[error("the pickle uses protocol {0}, but only 0 to 5 are supported")]
    Protocol(u8),
    /// An instruction pops a value from an empty stack.
    #[error("the instruction at byte {offset} of the pickle takes a value from an empty stack")]
    StackUnderflow {
        /// The offset of the instruction.
        offset: usize,
    },
    /// An instruction needs a mark, but there is none on the stack.
    #[error("the instruction at byte {offset} of the pickle needs a mark, but there is none on the stack")]
    NoMark {
        /// The offset of the instruction.
        offset: usize,
    },
    /// An instruction reads a memo entry that was not written.
    #[error("the instruction at byte {offset} of the pickle reads memo entry {key}, which was not written")]
    NotInMemo {
        /// The offset of the instruction.
        offset: usize,
        /// The key of the entry.
        key: u64,
    },
    /// An argument has the wrong form.
    #[error("the instruction at byte {offset} of the pickle has a malformed {what}")]
    Malformed {
        /// The offset of the instruction.
        offset: usize,
        /// The argument: `length`, for example.
        what: &'static str,
    },
    /// An instruction adds items to a value that is not a container.
    #[error("the instruction at byte {offset} of the pickle adds items to a value that is not a container")]
    NotAContainer {
        /// The offset of the instruction.
        offset: usize,
    },
    /// An instruction of protocol 5 refers to a buffer outside the pickle.
    #[error("the instruction at byte {offset} of the pickle refers to a buffer outside the file")]
    OutOfBand {
        /// The offset of the instruction.
        offset: usize,
    },
    /// One of the limits is exceeded.
    #[error("the pickle has more than {limit} {what}")]
    TooMany {
        /// What the limit counts: `values`, for example.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
}
