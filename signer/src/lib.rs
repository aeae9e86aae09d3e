//! placeholder
pub mod check;
pub mod fetch;
pub mod pack;
pub mod recipe;
pub mod staging;
pub mod unpack;
