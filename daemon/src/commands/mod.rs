//! What the sub-commands do; the clap tree is put together in the command line.

pub mod audit;
