//! The generated picture world.
