//! The launch that an artefact brings: for recipes that have none of their own.
//!
//! A bundle says how it is started in a desktop client that asks its user for settings. Here
//! nobody is asked: what is signed is the whole launch. So each value has to be known now, each
//! secret has to be a credential that host configuration grants, and what is left open is a
//! problem for the reviewer and not a guess. What comes out is a plain
//! [`Launch`], shown as the YAML that a recipe would say it with.
//!
//! Nothing here decides: a recipe's own launch always wins, and signing derives again from the
//! artefact what a check derived.

mod bundle;
mod image;
mod yaml;

#[cfg(test)]
mod tests;

use mcpfs_trust::release::Launch;

pub use bundle::{derive, downloads};
pub use image::{DEFAULT_PATH, derive_image, in_path, unmet};
pub use yaml::{quoted, yaml};

/// What an artefact says of its start, in the terms of a recipe.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Derived {
    /// The launch. With problems it is a draft that has `<key>` where a value is missing.
    pub launch: Option<Launch>,
    /// What must not be signed, and so is a credential.
    pub secrets: Vec<Secret>,
    /// Variables left out, since the setting they take their value from has none.
    pub left_out: Vec<String>,
    /// What keeps the launch from being used.
    pub problems: Vec<Problem>,
}

/// A variable whose value is a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Secret {
    /// The variable.
    pub env: String,
    /// The setting's key.
    pub key: String,
    /// The variable's text if it is more than the secret, such as `Bearer ${user_config.token}`.
    pub around: Option<String>,
}

/// Why a launch cannot be derived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Whether it is that something would be downloaded at the start.
    pub downloads: bool,
    /// What is wrong.
    pub message: String,
    /// What to do about it; empty if a launch in the recipe is the only way.
    pub fix: String,
}
