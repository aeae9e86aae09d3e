//! placeholder
pub mod digest;
pub mod error;
pub mod json;
pub mod limits;
pub mod name;
pub mod release;
pub mod time;
