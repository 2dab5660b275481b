//! Checks of a device, for the machine of a user: does it compute what the CPU and the original compute?
//!
//! - [`steps`]: training steps and predictions of all tasks, compared with recorded ones of the original, and with the same steps in f32 on
//!   the CPU.
//! - [`run()`]: these checks and, on a CUDA device, those of its instructions, kernels and matrix products, one after the other.

mod row;
mod run;
pub mod steps;

pub use row::{Row, Status, Summary};
pub use run::{Options, names, run};

/// The result of a check: an error says in one line what differs, or what failed.
pub type Outcome = Result<(), String>;
