//! Runs of 1, 2 and 4 ranks, as threads: they train on the same samples with the same masks, so their results differ by the rounding of sums.

mod classifiers;
mod faults;
mod support;
mod tasks;
