//! What the first line of `run` says.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use mcpfs_trust::digest::Digest;
use mcpfs_trust::name::{ServerName, Version};

use crate::registry::Admitted;

/// One release, or a name that has none to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// `<name>@<version>#<statement sha256>`
    Release {
        /// The server.
        name: ServerName,
        /// Its version.
        version: Version,
        /// The digest of the signed statement: two releases never share it.
        statement: Digest,
    },
    /// `<name>@!`: a name that was refused when `run` was read.
    Refused {
        /// The server.
        name: ServerName,
    },
}

/// Not an identity that a mount wrote.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an identity such as name@1.0.0#<sha256> or name@!")]
pub struct BadIdentity;

/// The first line of a release's `run`, with its newline: at most 255 bytes before it, for
/// configuration bounds `rundir`.
pub fn identity_line(rundir: &Path, admitted: &Admitted) -> String {
    let (name, version) = (admitted.name().clone(), admitted.version().clone());
    Identity::Release { name, version, statement: admitted.statement }.line(rundir)
}

/// The first line of the `run` of a name that has nothing to start, with its newline.
pub fn refused_line(rundir: &Path, name: &ServerName) -> String {
    Identity::Refused { name: name.clone() }.line(rundir)
}

impl Identity {
    /// The server.
    pub const fn name(&self) -> &ServerName {
        match self {
            Self::Release { name, .. } | Self::Refused { name } => name,
        }
    }

    fn line(&self, rundir: &Path) -> String {
        format!("#!{}/launch {self}\n", rundir.display())
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Release { name, version, statement } => write!(f, "{name}@{version}#{statement}"),
            Self::Refused { name } => write!(f, "{name}@!"),
        }
    }
}

impl FromStr for Identity {
    type Err = BadIdentity;

    fn from_str(text: &str) -> Result<Self, BadIdentity> {
        let parse = || {
            let (name, rest) = text.split_once('@')?;
            let name = name.parse().ok()?;
            if rest == "!" {
                return Some(Self::Refused { name });
            }
            let (version, statement) = rest.split_once('#')?;
            Some(Self::Release { name, version: version.parse().ok()?, statement: statement.parse().ok()? })
        };
        parse().ok_or(BadIdentity)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use mcpfs_trust::limits::SHEBANG_BYTES;

    use super::*;
    use crate::config::RUNDIR_BYTES;

    const SHA: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn round_trip() {
        for text in [format!("a@1#{SHA}"), format!("internal-postgres@1.2.0+r2#{SHA}"), "a.b_c@!".to_owned()] {
            assert_eq!(text.parse::<Identity>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn everything_else_is_refused() {
        for bad in [
            String::new(),
            "a".to_owned(),
            "a@".to_owned(),
            "a@1".to_owned(),
            "a@1#".to_owned(),
            "@1#".to_owned() + SHA,
            format!("A@1#{SHA}"),
            format!("../a@1#{SHA}"),
            format!("a@v1#{SHA}"),
            format!("a@1#{}", &SHA[1..]),
            format!("a@1#{SHA}0"),
            format!("a@1#{}", SHA.to_uppercase()),
            format!("a@1#{SHA} --flag"),
            format!("a@1#{SHA}\n"),
            "a@!x".to_owned(),
            "a@!#".to_owned() + SHA,
        ] {
            assert_eq!(bad.parse::<Identity>(), Err(BadIdentity), "{bad:?}");
        }
    }

    #[test]
    fn the_longest_line_fits() {
        let rundir = format!("/{}", "r".repeat(RUNDIR_BYTES - 1));
        let longest: Identity = format!("{}@{}#{SHA}", "n".repeat(64), "9".repeat(64)).parse().unwrap();
        let line = longest.line(Path::new(&rundir));
        assert!(line.len() <= SHEBANG_BYTES + 1, "{}", line.len());
        assert!(line.starts_with(&format!("#!{rundir}/launch nnn")) && line.ends_with("\n"));
    }
}
