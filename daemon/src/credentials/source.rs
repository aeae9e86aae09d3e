//! The value of a source, read now.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::order::DIRECTORY;
use super::{VALUE_BYTES, command, peer};
use crate::config::{CredentialConfig, CredentialSource};
use crate::owned::{self, OwnedError};
use crate::refusal::with_cause;

/// Why a source gives nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum SourceError {
    #[error("its source cannot be used")]
    File(#[from] OwnedError),
    #[error("reading {path} failed")]
    Read { path: PathBuf, source: io::Error },
    #[error("mcpfs was started without credentials of systemd's: {name} is to be one of them")]
    NoDirectory { name: String },
    #[error(transparent)]
    Command(#[from] command::CommandError),
    #[error("its source gave more than {} KiB", VALUE_BYTES >> 10)]
    TooLong,
    #[error("its source is empty")]
    Empty,
    #[error("its source has a NUL, which no variable can hold")]
    Nul,
}

impl SourceError {
    /// What the administrator does about it.
    pub(super) fn advice(&self, reference: &str) -> String {
        match self {
            // The error says it.
            Self::File(OwnedError::Unsafe { .. }) => "tell your administrator".to_owned(),
            Self::NoDirectory { name } => {
                format!("tell your administrator: LoadCredential={name}:… in mcpfs.service, and restart it")
            }
            Self::Nul => "its release could take it as a file instead: ask its maintainer".to_owned(),
            _ => format!("tell your administrator: it is the source of [credentials.\"{reference}\"]"),
        }
    }
}

/// What a server gets: the source's bytes without one newline at their end.
pub(super) fn value(config: &CredentialConfig, env: bool) -> Result<Zeroizing<Vec<u8>>, SourceError> {
    let mut bytes = match &config.source {
        CredentialSource::File(path) => file(path)?,
        CredentialSource::Systemd(name) => file(&systemds(name)?)?,
        CredentialSource::Command { program, args, user, timeout } => {
            command::output(program, args, user.as_deref(), *timeout)?
        }
    };
    if bytes.len() > VALUE_BYTES {
        return Err(SourceError::TooLong);
    }
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
    }
    match bytes.as_slice() {
        [] => Err(SourceError::Empty),
        some if env && some.contains(&0) => Err(SourceError::Nul),
        _ => Ok(bytes),
    }
}

/// What is wrong with an entry, and which of its keys says it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unusable {
    pub(crate) key: &'static str,
    pub(crate) why: String,
}

/// What is wrong with a source or its groups, as far as that shows without reading it.
pub(crate) fn usable(config: &CredentialConfig) -> Result<(), Unusable> {
    let of = |key, why| Unusable { key, why };
    if let Some(path) = named(&config.source).transpose() {
        let open = path.and_then(|path| Ok(owned::open_secret(&path)?));
        open.map_err(|error| of(config.source.key(), with_cause(&error)))?;
    }
    if let CredentialSource::Command { program, user, .. } = &config.source {
        owned::check_program(program).map_err(|error| of("command", with_cause(&error)))?;
        if let Some(user) = user {
            command::account(user).map_err(|error| of("user", with_cause(&error)))?;
        }
    }
    peer::exist(&config.groups).map_err(|why| of("groups", why))
}

/// The file that a source is, if this process can tell.
fn named(source: &CredentialSource) -> Result<Option<PathBuf>, SourceError> {
    match source {
        CredentialSource::File(path) => Ok(Some(path.clone())),
        CredentialSource::Systemd(name) if std::env::var_os(DIRECTORY).is_some() => systemds(name).map(Some),
        // Another process's environment says where they are.
        CredentialSource::Systemd(_) | CredentialSource::Command { .. } => Ok(None),
    }
}

fn systemds(name: &str) -> Result<PathBuf, SourceError> {
    let directory = std::env::var_os(DIRECTORY).map(PathBuf::from);
    let directory = directory.filter(|directory| directory.is_absolute());
    Ok(directory.ok_or_else(|| SourceError::NoDirectory { name: name.to_owned() })?.join(name))
}

fn file(path: &Path) -> Result<Zeroizing<Vec<u8>>, SourceError> {
    fill(owned::open_secret(path)?).map_err(|source| SourceError::Read { path: path.to_owned(), source })
}

/// At most one byte more than a value has, in one place of memory.
fn fill(file: File) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(VALUE_BYTES + 1));
    file.take(VALUE_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::os::unix::fs::PermissionsExt;
    use std::time::Duration;

    use super::*;

    fn config(source: CredentialSource) -> CredentialConfig {
        CredentialConfig { source, servers: vec![], groups: vec![] }
    }

    fn written(bytes: &[u8]) -> (tempfile::TempDir, CredentialConfig) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        std::fs::write(&path, bytes).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        (dir, config(CredentialSource::File(path)))
    }

    #[test]
    fn files() {
        for (bytes, value) in [
            (&b"hunter2"[..], &b"hunter2"[..]),
            (b"hunter2\n", b"hunter2"),
            (b"hunter2\n\n", b"hunter2\n"),
            (b"two\nlines\r\n", b"two\nlines\r"),
            (&[7; VALUE_BYTES], &[7; VALUE_BYTES]),
        ] {
            let (_dir, config) = written(bytes);
            assert_eq!(super::value(&config, true).unwrap().as_slice(), value);
        }
        let (_dir, binary) = written(b"a\0b");
        assert_eq!(value(&binary, false).unwrap().as_slice(), b"a\0b");
        assert!(matches!(value(&binary, true), Err(SourceError::Nul)));
        for empty in [&b""[..], b"\n"] {
            assert!(matches!(value(&written(empty).1, false), Err(SourceError::File(_) | SourceError::Empty)));
        }
        let (_dir, empty) = written(b"\n");
        assert!(matches!(value(&empty, false), Err(SourceError::Empty)));
        let (_dir, long) = written(&[7; VALUE_BYTES + 1]);
        assert!(matches!(value(&long, false), Err(SourceError::TooLong)));
    }

    #[test]
    fn files_that_others_read_or_that_are_none() {
        let (dir, config) = written(b"x");
        let path = dir.path().join("secret");
        for mode in [0o644, 0o640, 0o602] {
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            let error = with_cause(&value(&config, false).unwrap_err());
            assert!(error.contains("by others"), "{error}");
            assert!(usable(&config).unwrap_err().why.contains("by others"));
        }
        std::fs::remove_file(&path).unwrap();
        assert!(usable(&config).unwrap_err().why.contains("No such file"));
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        assert!(usable(&config).unwrap_err().why.contains("not a regular file"));
    }

    #[test]
    fn commands_and_groups_are_looked_at() {
        let command = |program: &str, user: Option<&str>| {
            let (args, user) = (vec![], user.map(str::to_owned));
            config(CredentialSource::Command { program: program.into(), args, user, timeout: Duration::from_secs(5) })
        };
        assert_eq!(usable(&command("/bin/sh", None)), Ok(()));
        assert!(usable(&command("/bin/no-such-program", None)).unwrap_err().why.contains("No such file"));
        assert!(usable(&command("/etc/passwd", None)).unwrap_err().why.contains("not executable"));
        assert!(usable(&command("/bin/sh", Some("no-such-user"))).unwrap_err().why.contains("no-such-user"));
        let (_dir, mut config) = written(b"x");
        config.groups.push("no-such-group".to_owned());
        let found = usable(&config).unwrap_err();
        assert!(found.key == "groups" && found.why.contains("no group no-such-group"), "{found:?}");
    }
}
