//! What a path means.

pub mod ino;
