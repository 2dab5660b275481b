//! The named datasets.
