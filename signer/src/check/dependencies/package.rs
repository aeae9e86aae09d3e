//! A package, and where it comes from.

use mcpfs_trust::package;
use serde::{Deserialize, Serialize};

/// Where a package comes from; it has its own names, and its own order of versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Ecosystem {
    /// npmjs.com.
    Npm,
    /// pypi.org.
    Pypi,
    /// crates.io.
    Cargo,
    /// Go modules, and `stdlib`, which is Go itself.
    Go,
}

/// One package. All texts are bounded and escaped.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, schemars::JsonSchema)]
pub struct Package {
    /// Where it comes from.
    pub ecosystem: Ecosystem,
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its licence, as it says itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub licence: Option<String>,
    /// Whether it runs a script when it is installed.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    #[schemars(default)]
    pub install_script: bool,
}

impl Ecosystem {
    /// All of them, in the order of reports.
    pub const ALL: [Self; 4] = [Self::Npm, Self::Pypi, Self::Cargo, Self::Go];

    /// `npm`, `pypi`, `cargo` or `go`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Npm => "npm",
            Self::Pypi => "pypi",
            Self::Cargo => "cargo",
            Self::Go => "go",
        }
    }

    /// By the name that the OSV format has for it.
    pub(in crate::check) fn of_osv(name: &str) -> Option<Self> {
        match name {
            "npm" => Some(Self::Npm),
            "PyPI" => Some(Self::Pypi),
            "crates.io" => Some(Self::Cargo),
            "Go" => Some(Self::Go),
            _ => None,
        }
    }

    /// A name as it is compared.
    pub(crate) fn canonical(self, name: &str) -> String {
        package::canonical(self.as_str(), name)
    }
}

impl std::fmt::Display for Ecosystem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Package {
    /// `npm:zod@4.1.0`
    pub fn id(&self) -> String {
        format!("{}:{}@{}", self.ecosystem, self.name, self.version)
    }
}
