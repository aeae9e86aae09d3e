//! Secrets in files: one line, which only its owner may read.
//!
//! Never an argument and never the environment itself: both are seen by other processes and end
//! up in crash reports. A file that others can read is refused, not read with a warning.

use std::borrow::Cow;
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// Why a secret is not read.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // Each message says what happened and what to do.
pub enum SecretError {
    #[error("cannot read {path}", path = path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("{path} {problem}; make it yours alone: chown {owner} {path} && chmod 600 {path}", path = path.display())]
    Exposed { path: PathBuf, problem: &'static str, owner: u32 },
    #[error("{path} does not hold one line of 1 to {limit} bytes", path = path.display())]
    NotALine { path: PathBuf, limit: u64 },
}

/// Whether an address has a login in it, which a command line should never have.
pub(crate) fn has_login(address: &str) -> bool {
    without_logins(address) != address
}

/// Text as others may see it: addresses in it without the user and password that somebody typed into them.
pub(crate) fn without_logins(text: &str) -> Cow<'_, str> {
    let (mut out, mut rest) = (String::new(), text);
    while let Some((before, after)) = rest.split_once("://") {
        let ends = |c: char| c.is_whitespace() || c.is_control() || "/?#\"'<>`".contains(c);
        let authority = &after[..after.find(ends).unwrap_or(after.len())];
        out.push_str(before);
        out.push_str("://");
        rest = match authority.rfind('@') {
            Some(at) => {
                out.push('…');
                &after[at..]
            }
            None => after,
        };
    }
    match out.is_empty() {
        true => Cow::Borrowed(text),
        false => Cow::Owned(out + rest),
    }
}

/// The line of a file that belongs to this user or root and that nobody else can read.
///
/// # Errors
/// If it is anything else.
pub(crate) fn read_line(path: &Path, limit: u64) -> Result<String, SecretError> {
    let unreadable = |source| SecretError::Unreadable { path: path.to_owned(), source };
    // NONBLOCK: a FIFO in its place must not hang the signer; it is refused below.
    let flags = (rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::CLOEXEC).bits() as i32;
    let file = std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(unreadable)?;
    let facts = file.metadata().map_err(unreadable)?;
    let user = rustix::process::geteuid().as_raw();
    let exposed = |problem| SecretError::Exposed { path: path.to_owned(), problem, owner: user };
    if !facts.is_file() {
        return Err(exposed("is not a regular file"));
    }
    if facts.uid() != user && facts.uid() != 0 {
        return Err(exposed("belongs to another user"));
    }
    if facts.mode() & 0o077 != 0 {
        return Err(exposed("can be read or written by others"));
    }
    let mut text = String::with_capacity(limit as usize + 2);
    file.take(limit + 2).read_to_string(&mut text).map_err(unreadable)?;
    let line = text.strip_suffix('\n').unwrap_or(&text);
    let line = line.strip_suffix('\r').unwrap_or(line);
    if line.is_empty() || line.len() as u64 > limit || line.contains(['\n', '\r', '\0']) {
        return Err(SecretError::NotALine { path: path.to_owned(), limit });
    }
    Ok(line.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logins_are_left_out_and_nothing_else() {
        for (text, shown) in [
            ("s3://u:p@b/x", "s3://…@b/x"),
            ("\"git+https://u:p@h/x.git#v1\" and https://t@h", "\"git+https://…@h/x.git#v1\" and https://…@h"),
            ("https://u:p@ss@h:8443", "https://…@h:8443"),
            ("http://…@h", "http://…@h"),
        ] {
            assert_eq!(without_logins(text), shown);
            assert!(!without_logins(text).contains("u:p"));
        }
        for text in
            ["", "://", "https://h/@scope/x@1.0.0", "https://h?mail=a@b", "a@example.com", "pkcs11:token=x", "x://"]
        {
            assert_eq!(without_logins(text), text);
            assert!(!has_login(text), "{text}");
        }
        assert!(has_login("https://user@h/x"));
    }
}
