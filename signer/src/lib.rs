//! placeholder
pub mod recipe;
