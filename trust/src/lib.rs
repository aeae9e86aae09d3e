//! placeholder
pub mod chunk;
mod codec;
pub mod digest;
pub mod error;
pub mod json;
pub mod layout;
pub mod limits;
pub mod name;
pub mod release;
pub mod time;
pub mod tree;
