//! How a release is started, and what it may reach then: recipe, predicate and entry share
//! these types (docs/format.md section 8).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::rules::{BadField, check_count, check_env_name, check_list, check_text, check_value};
use crate::limits;
use crate::name::{Platform, check_file_name};

/// How a server is started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Launch {
    /// A path in the tree, or the name of a runtime that host configuration maps.
    pub command: String,
    /// Arguments; `${TREE}`, `${STATE}` and `${HOME}` expand.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Environment; values expand like arguments.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Whether a host's own arguments are passed on.
    #[serde(default, skip_serializing_if = "AcceptArgs::is_none")]
    pub accept_args: AcceptArgs,
    /// Where `command` is looked up.
    #[serde(default, skip_serializing_if = "Runtime::is_host")]
    pub runtime: Runtime,
    /// Where an image's server starts, an absolute path inside it; `/` without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workdir: Option<String>,
    /// The platform of a single artefact that names none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
}

/// The arguments a host may add.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged)]
pub enum AcceptArgs {
    /// `true`: any, `false`: none.
    All(bool),
    /// Each argument must match one of these whole; `*` stands for any text.
    Matching(Vec<String>),
}

/// Where a launch finds its command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Runtime {
    /// The host's root file system.
    #[default]
    Host,
    /// The artefact's own root file system.
    Image,
}

/// A credential by reference; its value never enters the registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Credential {
    /// The variable it is put into.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env: Option<String>,
    /// Or the file name it is put under.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// What host configuration maps to a source.
    #[serde(rename = "ref")]
    pub reference: String,
    /// The scope it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
}

/// What a sandbox lets through.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Sandbox {
    /// The network it sees.
    #[serde(default)]
    pub network: Network,
    /// Host paths it may read.
    #[serde(default)]
    pub read: Vec<String>,
    /// Host paths it may write.
    #[serde(default)]
    pub write: Vec<String>,
}

/// The network a sandboxed server sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// None but its own loopback.
    #[default]
    None,
    /// The host's.
    Host,
}

impl Default for AcceptArgs {
    fn default() -> Self {
        Self::All(false)
    }
}

impl AcceptArgs {
    fn is_none(&self) -> bool {
        *self == Self::All(false)
    }

    /// Whether a host may add these arguments; the first refused one otherwise.
    ///
    /// # Errors
    /// The argument that is not accepted.
    pub fn check<'a>(&self, args: &'a [String]) -> Result<(), &'a str> {
        let refused = match self {
            Self::All(true) => None,
            Self::All(false) => args.first(),
            Self::Matching(patterns) => args.iter().find(|arg| !patterns.iter().any(|pattern| glob(pattern, arg))),
        };
        refused.map_or(Ok(()), |arg| Err(arg))
    }
}

/// Whether `text` is `pattern` with each `*` replaced by some text. Greedy, linear in practice.
fn glob(pattern: &str, text: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut left) = text.strip_prefix(head) else { return false };
    let mut parts = rest.split('*').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return left.ends_with(part);
        }
        match left.find(part) {
            Some(at) => left = &left[at + part.len()..],
            None => return false,
        }
    }
    true
}

fn is_file_name(name: &str) -> bool {
    check_file_name(name).is_ok()
}

impl Runtime {
    fn is_host(&self) -> bool {
        *self == Self::Host
    }
}

impl Launch {
    /// The command as a path below the tree's root, or `None` if it names a runtime.
    pub fn tree_path(&self) -> Option<&str> {
        let path = self.command.strip_prefix("./").unwrap_or(&self.command);
        (self.command.contains('/') || self.command.contains('.')).then_some(path)
    }

    /// Checks the launch by itself.
    ///
    /// # Errors
    /// The first field that breaks a rule.
    pub fn validate(&self) -> Result<(), BadField> {
        check_text("launch.command", &self.command)?;
        let inside = match self.tree_path() {
            Some(path) => path.split('/').all(|part| check_file_name(part).is_ok()),
            None => check_file_name(&self.command).is_ok(),
        };
        if !inside {
            return Err(BadField::new("launch.command", "neither a path inside the tree nor the name of a runtime"));
        }
        check_count("launch.args", self.args.len())?;
        for arg in &self.args {
            check_value("launch.args", arg)?;
        }
        if self.env.len() > limits::ENV_ITEMS {
            return Err(BadField::new("launch.env", format!("more than {} variables", limits::ENV_ITEMS)));
        }
        for (name, value) in &self.env {
            check_env_name("launch.env", name)?;
            check_value(&format!("launch.env.{name}"), value)?;
        }
        if let AcceptArgs::Matching(patterns) = &self.accept_args {
            check_list("launch.accept_args", patterns)?;
        }
        self.workdir.as_ref().map_or(Ok(()), |workdir| self.check_workdir(workdir))
    }

    /// One spelling of one directory: `/`, or `/` before each name.
    fn check_workdir(&self, workdir: &str) -> Result<(), BadField> {
        check_text("launch.workdir", workdir)?;
        if self.runtime == Runtime::Host {
            return Err(BadField::new("launch.workdir", "only for runtime image: elsewhere it is the state directory"));
        }
        let names = workdir.strip_prefix('/').filter(|names| names.is_empty() || names.split('/').all(is_file_name));
        match names {
            Some(_) => Ok(()),
            None => Err(BadField::new("launch.workdir", "not an absolute path such as /app, without . and ..")),
        }
    }
}

impl Credential {
    pub(super) fn validate(&self) -> Result<(), BadField> {
        check_text("credentials.ref", &self.reference)?;
        match (&self.env, &self.file) {
            (Some(name), None) => check_env_name("credentials.env", name),
            (None, Some(name)) => {
                check_file_name(name).map_err(|error| BadField::new("credentials.file", error.to_string()))
            }
            _ => Err(BadField::new("credentials", "each needs either env or file")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs() {
        for (pattern, text, want) in [
            ("--root=*", "--root=/srv", true),
            ("--root=*", "--root", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "abcx", false),
            ("*", "", true),
            ("x", "xx", false),
            ("ab*ba", "aba", false),
        ] {
            assert_eq!(glob(pattern, text), want, "{pattern} {text}");
        }
    }

    #[test]
    fn commands_stay_in_the_tree() {
        let launch = |command: &str| Launch {
            command: command.to_owned(),
            args: vec![],
            env: BTreeMap::new(),
            accept_args: AcceptArgs::default(),
            runtime: Runtime::Host,
            workdir: None,
            platform: None,
        };
        for good in ["node", "bin/server", "./server", "server.sh"] {
            assert!(launch(good).validate().is_ok(), "{good}");
        }
        for bad in ["", "/bin/sh", "../x", "bin/../../x", "a//b", "..", "a\nb"] {
            assert!(launch(bad).validate().is_err(), "{bad}");
        }
        assert_eq!(launch("node").tree_path(), None);
        assert_eq!(launch("./server").tree_path(), Some("server"));
        let at = |workdir: &str, runtime| Launch { workdir: Some(workdir.to_owned()), runtime, ..launch("node") };
        for good in ["/", "/app", "/usr/src/app"] {
            assert!(at(good, Runtime::Image).validate().is_ok(), "{good}");
            assert!(at(good, Runtime::Host).validate().is_err(), "{good}");
        }
        for bad in ["", "app", "/app/", "//app", "/a/../b", "/.", "/a\n", "${STATE}"] {
            assert!(at(bad, Runtime::Image).validate().is_err(), "{bad}");
        }
    }
}
