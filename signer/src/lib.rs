//! The signer: turns reviewed recipes into a signed static registry (docs/architecture.md).
//!
//! ```text
//! recipe → fetch → unpack → check → pack → staging │ release → sign → site, head last
//!          hostile input, no keys                  │ keys, nothing trusted from the left
//! ```
//!
//! The left half reads what strangers made and leaves a [`staging`] folder. The right half
//! recomputes all of it ([`staging::Staging::recheck`]) before a key is used, signs through
//! one door ([`key::sign`]) and publishes by [`site::publish`], which verifies the new state
//! with `mcpfs-trust` as a host would before the head moves. Keys stay in their token; no
//! code here writes key material.
/// A line for people on stderr. That nobody reads it any more (`2>&1 | head`) must not end, half way, what
/// it tells about: `eprintln` would. A login in an address that somebody typed is left out.
macro_rules! tell {
    ($($line:tt)*) => {{
        use std::io::Write as _;
        let line = format!($($line)*);
        let _nobody_reads = writeln!(std::io::stderr(), "{}", crate::secret::without_logins(&line));
    }};
}

mod aws;
pub mod bundle;
pub mod check;
pub mod cli;
pub mod countersign;
#[cfg(any(test, fuzzing))]
pub mod decoders;
pub mod deps;
pub mod descriptors;
pub mod details;
pub mod fetch;
pub mod files;
pub mod forge;
pub mod image;
pub mod init;
pub mod inspect;
pub mod key;
pub mod launch;
pub mod log;
pub mod mirror;
pub mod pack;
pub mod pages;
pub mod pin;
pub mod policy;
pub mod progress;
pub mod promote;
pub mod rebuild;
pub mod recipe;
pub mod release;
pub mod revoke;
#[cfg(any(test, fuzzing))]
mod scratch;
pub mod secret;
pub mod serve;
pub mod sign;
pub mod site;
pub mod source;
pub mod staging;
pub mod trial;
pub mod trust_cmd;
pub mod tryout;
pub mod unpack;
