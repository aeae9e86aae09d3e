//! `[credentials]`: where this host has a credential's value from, and who may have it.
//!
//! A recipe names a *ref*, this table maps it to one source. Neither holds a value. What only the host can
//! tell (is the file root's own, is there such a group) is looked at by `mcpfs config check`, by doctor and at
//! each launch, not here: a secret that is being rotated must not be in the way of a start.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use mcpfs_trust::digest::Digest;
use mcpfs_trust::error::bounded;
use mcpfs_trust::limits::CREDENTIAL_REF_BYTES as REF_BYTES;
use mcpfs_trust::name::ServerName;
use serde::{Deserialize, Serialize};

use super::numbers::usable;
use super::value::Span;

/// Words of a command.
const WORDS: usize = 64;
/// Bytes of a command.
const COMMAND_BYTES: usize = 8 << 10;
/// Servers and groups of one ref.
const NAMES: usize = 256;
/// How long a command may take unless it is said.
const TIMEOUT: Duration = Duration::from_secs(5);
/// And at most: whoever launches a server waits for it.
const LONGEST: Duration = Duration::from_secs(8);

/// `[credentials."REF"]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CredentialConfig {
    /// `file`, `systemd` or `command`: one of them.
    pub source: CredentialSource,
    /// `servers`: the names of the servers that may have it.
    pub servers: Vec<ServerName>,
    /// `groups`: only for callers in one of these, by name, or by number in decimal digits; empty if it is for
    /// every caller of those servers.
    pub groups: Vec<String>,
}

/// Where a value comes from, at each launch anew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum CredentialSource {
    /// `file`: root's own, mode 0600.
    File(PathBuf),
    /// `systemd`: the name of a `LoadCredential=` of the unit.
    Systemd(String),
    /// `command`: what it writes on its standard output.
    Command {
        /// Its absolute path; root's own.
        program: PathBuf,
        /// The rest of its words.
        args: Vec<String>,
        /// `user`: whom it runs as, with that user's own group; without it, whoever mounts: root.
        user: Option<String>,
        /// `timeout`: "5s", at most "8s".
        timeout: Duration,
    },
}

/// One entry as it is written.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Written {
    file: Option<PathBuf>,
    systemd: Option<String>,
    command: Option<Vec<String>>,
    timeout: Option<Span>,
    user: Option<String>,
    servers: Vec<ServerName>,
    groups: Option<Vec<WrittenGroup>>,
}

/// TOML's own types of a group.
#[derive(Deserialize)]
#[serde(untagged, expecting = "a group: its name such as \"finance\", or its number such as 5000")]
enum WrittenGroup {
    Number(u32),
    Name(String),
}

impl CredentialSource {
    /// The key that says so.
    pub(crate) fn key(&self) -> &'static str {
        match self {
            Self::File(_) => "file",
            Self::Systemd(_) => "systemd",
            Self::Command { .. } => "command",
        }
    }
}

impl fmt::Display for CredentialConfig {
    /// Which kind of source, and for whom.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let servers: Vec<_> = self.servers.iter().map(ServerName::as_str).collect();
        write!(f, "{} for {}", self.source.key(), servers.join(", "))?;
        match self.groups.is_empty() {
            true => Ok(()),
            false => write!(f, " and members of {}", self.groups.join(", ")),
        }
    }
}

impl CredentialConfig {
    /// Tells this entry from what an edit makes of it.
    pub fn mark(&self, reference: &str) -> u64 {
        let text = serde_json::to_vec(&(reference, self)).unwrap_or_default();
        let digest = Digest::of(&text);
        let mut first = [0; 8];
        first.copy_from_slice(&digest.as_bytes()[..8]);
        u64::from_le_bytes(first)
    }

    /// How long reading it may take.
    pub(crate) fn patience(&self) -> Duration {
        match &self.source {
            CredentialSource::Command { timeout, .. } => *timeout,
            CredentialSource::File(_) | CredentialSource::Systemd(_) => TIMEOUT,
        }
    }
}

/// The whole table.
pub(super) fn credentials(written: BTreeMap<String, Written>) -> Result<BTreeMap<String, CredentialConfig>, String> {
    let entry = |(reference, written): (String, Written)| match entry(&reference, written) {
        Ok(config) => Ok((reference, config)),
        Err(problem) => Err(format!("credentials.{reference}: {problem}")),
    };
    written.into_iter().map(entry).collect()
}

fn entry(reference: &str, written: Written) -> Result<CredentialConfig, String> {
    // Nothing that is not seen: the audit has it as it stands.
    if reference.trim().is_empty() || reference.len() > REF_BYTES || bounded(reference) != reference {
        return Err(format!("a ref is one visible line of at most {REF_BYTES} bytes, as recipes write it"));
    }
    let Written { file, systemd, command, timeout, user, servers, groups } = written;
    if command.is_none() && (timeout.is_some() || user.is_some()) {
        return Err("timeout and user are for a command".to_owned());
    }
    let source = match (file, systemd, command) {
        (Some(file), None, None) if file.is_absolute() => CredentialSource::File(file),
        (Some(file), None, None) => return Err(format!("file = {file:?} is not an absolute path")),
        (None, Some(name), None) => systemds(name)?,
        (None, None, Some(words)) => by_command(words, user, timeout)?,
        (None, None, None) => {
            return Err("has no source: write file = \"/…\", systemd = \"NAME\" or command = [\"/…\"]".to_owned());
        }
        _ => return Err("has two sources: of file, systemd and command only one can count".to_owned()),
    };
    if servers.is_empty() {
        return Err("needs servers = [\"NAME\"]: which servers may have it".to_owned());
    }
    let groups: Vec<String> = match groups {
        Some(groups) if groups.is_empty() => {
            return Err("groups = [] lets nobody have it: name groups, or leave the line out".to_owned());
        }
        given => given.unwrap_or_default().into_iter().map(group).collect::<Result<_, _>>()?,
    };
    if servers.len() > NAMES || groups.len() > NAMES {
        return Err(format!("names more than {NAMES} servers or groups"));
    }
    Ok(CredentialConfig { source, servers, groups })
}

fn group(written: WrittenGroup) -> Result<String, String> {
    match written {
        WrittenGroup::Number(gid) => {
            usable(gid).map(|()| gid.to_string()).map_err(|problem| format!("groups: {problem}"))
        }
        WrittenGroup::Name(name) if !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit()) => {
            Err(format!("groups: {name:?} would be a group's name; a group's number stands without quotes"))
        }
        WrittenGroup::Name(name) if is_account(&name) => Ok(name),
        WrittenGroup::Name(name) => Err(format!("groups: {name:?} is not the name of a group")),
    }
}

fn systemds(name: String) -> Result<CredentialSource, String> {
    let plain = name.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'/' | b':'));
    match plain && !name.is_empty() && name.len() <= 255 && name != "." && name != ".." {
        true => Ok(CredentialSource::Systemd(name)),
        false => Err(format!("systemd = {name:?} is not the name of a credential of systemd's")),
    }
}

fn by_command(words: Vec<String>, user: Option<String>, timeout: Option<Span>) -> Result<CredentialSource, String> {
    let timeout = timeout.map_or(TIMEOUT, |span| span.0);
    if timeout > LONGEST {
        return Err(format!("timeout is longer than {} s: whoever starts the server waits for it", LONGEST.as_secs()));
    }
    let bytes: usize = words.iter().map(String::len).sum();
    if words.len() > WORDS || bytes > COMMAND_BYTES || words.iter().any(|word| word.contains('\0')) {
        return Err(format!("command has more than {WORDS} words or {COMMAND_BYTES} bytes, or a NUL"));
    }
    if let Some(bad) = user.as_ref().filter(|name| !is_account(name)) {
        return Err(format!("user = {bad:?} is not the name of a user"));
    }
    let mut words = words.into_iter();
    match words.next().map(PathBuf::from) {
        Some(program) if program.is_absolute() => {
            Ok(CredentialSource::Command { program, args: words.collect(), user, timeout })
        }
        program => Err(format!(
            "command begins with {:?}, which is not an absolute path; it is a list of words such as \
             [\"/usr/local/bin/fetch-secret\", \"finance-dw\"]",
            program.unwrap_or_default()
        )),
    }
}

fn is_account(name: &str) -> bool {
    !name.is_empty() && name.len() <= 255 && !name.chars().any(|c| c.is_control() || c.is_whitespace() || c == ':')
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn read(text: &str) -> Result<CredentialConfig, String> {
        let written: BTreeMap<String, Written> = toml::from_str(text).map_err(|error| error.to_string())?;
        let mut all = credentials(written)?;
        Ok(all.pop_first().unwrap().1)
    }

    #[test]
    fn sources() {
        let config = read("[\"finance-dw/readonly\"]\nfile = \"/x\"\nservers = [\"pg\"]\ngroups = [\"finance\"]\n");
        let config = config.unwrap();
        assert_eq!(config.source, CredentialSource::File("/x".into()));
        assert_eq!((config.servers[0].as_str(), config.groups[0].as_str()), ("pg", "finance"));
        let config = read("[a]\nsystemd = \"finance-dw\"\nservers = [\"pg\"]\n").unwrap();
        assert_eq!(config.source, CredentialSource::Systemd("finance-dw".to_owned()));
        let config = read("[a]\ncommand = [\"/bin/x\", \"y\"]\nservers = [\"pg\"]\n").unwrap();
        let args = vec!["y".to_owned()];
        let command = CredentialSource::Command { program: "/bin/x".into(), args, user: None, timeout: TIMEOUT };
        assert_eq!(config.source, command);
        let other = read("[a]\ncommand = [\"/bin/x\", \"z\"]\nservers = [\"pg\"]\n").unwrap();
        assert!(config.mark("a") != other.mark("a") && config.mark("a") != config.mark("b"));
        assert_eq!(config.mark("a"), config.clone().mark("a"));
    }

    #[test]
    fn words() {
        let config = read("[a]\ncommand = [\"/bin/x\", \"secret\"]\nservers = [\"pg\", \"crm\"]\n").unwrap();
        assert_eq!(config.to_string(), "command for pg, crm");
        let config = read("[a]\nfile = \"/x\"\nservers = [\"pg\"]\ngroups = [\"finance\", 5000]\n").unwrap();
        assert_eq!(config.to_string(), "file for pg and members of finance, 5000");
    }

    #[test]
    fn mistakes() {
        let own = "servers = [\"pg\"]\n";
        for (text, says) in [
            (own.to_owned(), "no source"),
            (format!("file = \"/x\"\nsystemd = \"x\"\n{own}"), "two sources"),
            (format!("systemd = \"x\"\ncommand = [\"/x\"]\n{own}"), "two sources"),
            (format!("file = \"x\"\n{own}"), "not an absolute path"),
            (format!("command = [\"x\"]\n{own}"), "not an absolute path"),
            (format!("command = []\n{own}"), "not an absolute path"),
            (format!("command = \"/x\"\n{own}"), "sequence"),
            (format!("command = [\"/x\", \"\\u0000\"]\n{own}"), "NUL"),
            (format!("command = [\"/x\"]\ntimeout = \"9s\"\n{own}"), "longer than 8 s"),
            (format!("command = [\"/x\"]\ntimeout = \"0s\"\n{own}"), "time span"),
            (format!("command = [\"/x\"]\nuser = \"a b\"\n{own}"), "not the name of a user"),
            (format!("file = \"/x\"\ntimeout = \"5s\"\n{own}"), "for a command"),
            (format!("file = \"/x\"\nuser = \"u\"\n{own}"), "for a command"),
            (format!("systemd = \"../x\"\n{own}"), "not the name of a credential"),
            (format!("systemd = \"..\"\n{own}"), "not the name of a credential"),
            ("file = \"/x\"\n".to_owned(), "needs servers"),
            ("file = \"/x\"\nservers = [\"PG\"]\n".to_owned(), "not a server name"),
            (format!("file = \"/x\"\ngroups = []\n{own}"), "lets nobody"),
            (format!("file = \"/x\"\ngroups = [\"\"]\n{own}"), "not the name of a group"),
            (format!("file = \"/x\"\ngroups = [\"5000\"]\n{own}"), "without quotes"),
            (format!("file = \"/x\"\ngroups = [65534]\n{own}"), "cannot name"),
            (format!("file = \"/x\"\ngroups = [-1]\n{own}"), "a group: its name"),
            (format!("file = \"/x\"\nvalue = \"s\"\n{own}"), "unknown field"),
        ] {
            let error = read(&format!("[\"a/b\"]\n{text}")).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
        let long = format!("[\"{}\"]\nfile = \"/x\"\n{own}", "r".repeat(REF_BYTES + 1));
        assert!(read(&long).unwrap_err().contains("at most 200 bytes"));
        let hidden = format!("[\"a\\u202eb\"]\nfile = \"/x\"\n{own}");
        assert!(read(&hidden).unwrap_err().contains("visible"));
    }
}
