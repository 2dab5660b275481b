//! Parameter groups.
