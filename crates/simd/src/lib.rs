//! Run-time dispatch of vectorised loops, vector registers, and elementary functions. This crate knows no tensors and no threads.
//!
//! Loops that the compiler vectorises go into [`multiversion!`], which compiles them for each [`Level`]. Loops whose speed
//! depends on which sums stay in registers are written with [`Lanes`](lanes::Lanes) and go into [`for_lanes!`].

#![allow(
    clippy::needless_range_loop,
    reason = "indices are clearer in numeric loops, which vectorise as well"
)]

pub mod lanes;
mod level;
pub mod math;
#[cfg(feature = "test-level")]
pub mod testing;
#[cfg(target_arch = "x86_64")]
mod transpose;

pub use level::Level;
#[cfg(feature = "test-level")]
pub use level::{at_each_level, forced_level};
#[cfg(target_arch = "x86_64")]
pub use transpose::transpose_16x16;

#[cfg(test)]
mod tests {
    #[test]
    fn tests_pass_at_lower_levels() {
        crate::testing::assert_tests_pass_at_lower_levels("tests_pass_at_lower_levels");
    }
}
