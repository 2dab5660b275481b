//! Python pickles, read as data.
//!
//! A pickle is a program for a stack machine that can call any Python callable. This crate calls nothing: a callable is a
//! [`Value::Global`] (module and name), a call is a [`Value::Object`] (callable, arguments, state), and users of the crate interpret
//! the calls that they know. All opcodes of protocols 0 to 5 are supported.
//!
//! Values are in one flat list and refer to each other by [`Ref`]. Cycles are therefore harmless, and deep nesting causes no recursion.
//! Time and memory are bounded by the `MAX_` limits and by the length of the input.

mod error;
mod input;
mod machine;
mod value;
mod writer;

pub use error::PickleError;
pub use machine::{MAX_MEMO, MAX_REFERENCES, MAX_STACK, MAX_VALUES, parse};
pub use value::{MAX_DESCRIBED_DEPTH, MAX_DESCRIPTION, Object, Pickle, Ref, Value};
pub use writer::Writer;

#[cfg(test)]
mod tests;
