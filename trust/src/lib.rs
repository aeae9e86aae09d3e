//! Formats and verification of mcpfs: bytes in, verified values or typed errors out.
//!
//! # The chain
//!
//! ```text
//! trust root (the host's own configuration)
//!   └─ head          signed, numbered, expires        head.json
//!        └─ catalogue   by digest                     catalogue/<sha256>.json
//!             └─ bin      by digest                   catalogue/bins/<sha256>.json
//!                  └─ entry  by digest                entries/<sha256>.json
//!                       └─ release  signed statement
//!                            └─ tree   by digest; a layout says where its bytes lie
//!                                 └─ file  by digest
//! ```
//!
//! There is one signed shape (an in-toto statement in a DSSE envelope, [`envelope`]), one
//! function that counts signatures (`threshold`), and one path of numbered steps
//! ([`verify`]) that ends in a [`verify::Verified`] value, which nothing else can make.
//!
//! # What is absent, on purpose
//!
//! I/O, clocks and signing. Times and what was seen before are arguments; the daemon that
//! links this crate cannot sign. `clippy.toml` keeps it so. docs/format.md is the normative
//! text; modules name its sections.

pub mod catalogue;
pub mod chunk;
mod codec;
pub mod details;
pub mod digest;
pub mod entry;
pub mod envelope;
pub mod error;
pub mod head;
pub mod json;
pub mod key;
pub mod layout;
pub mod limits;
pub mod name;
pub mod package;
pub mod release;
pub mod root;
pub mod site;
pub mod statement;
pub mod text;
mod threshold;
pub mod time;
pub mod tree;
pub mod verify;
