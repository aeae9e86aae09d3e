//! placeholder
pub mod check;
pub mod cli;
pub mod fetch;
pub mod files;
pub mod key;
pub mod pack;
pub mod pin;
pub mod recipe;
pub mod staging;
pub mod trust_cmd;
pub mod unpack;
