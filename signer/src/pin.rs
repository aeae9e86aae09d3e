//! Where a token's PIN comes from, in this order:
//!
//! 1. a systemd credential: `$CREDENTIALS_DIRECTORY/mcpfs-pin.<token label>`, else `mcpfs-pin`;
//! 2. the file that `MCPFS_PIN_FILE` names, which only its owner may read;
//! 3. a question on the terminal.
//!
//! Never an argument and never the environment itself: both are seen by other processes and
//! end up in crash reports. The first source that exists decides; a bad PIN from it is not
//! replaced by the next source's, since that would be a second try.

use std::path::{Path, PathBuf};

use cryptoki::types::AuthPin;

use crate::secret::{self, SecretError};

/// Longest PIN in bytes; tokens allow less.
const PIN_BYTES: u64 = 256;

/// The sources of PINs.
#[derive(Debug, Clone, Default)]
pub struct Pins {
    /// systemd's credentials directory.
    pub credentials: Option<PathBuf>,
    /// The file named by the environment.
    pub file: Option<PathBuf>,
    /// Whether to ask on the terminal.
    pub ask: bool,
}

/// Why there is no PIN.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // Each message says what happened and what to do.
pub enum PinError {
    #[error(
        "no PIN for token {token}: give it as the systemd credential mcpfs-pin, or in a file that only you can \
             read and that MCPFS_PIN_FILE names, or run the command on a terminal"
    )]
    NoSource { token: String },
    #[error("cannot read the PIN file {path}")]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("the PIN file {path} {problem}; make it yours alone: chown {owner} {path} && chmod 600 {path}")]
    Exposed { path: PathBuf, problem: &'static str, owner: u32 },
    #[error("the PIN file {path} does not hold one line of 1 to 256 bytes")]
    NotAPin { path: PathBuf },
    #[error("no PIN was typed for token {token}")]
    NotTyped { token: String, source: std::io::Error },
}

impl Pins {
    /// The sources of this process: its environment and its terminal.
    pub fn from_environment() -> Self {
        let path = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        Self { credentials: path("CREDENTIALS_DIRECTORY"), file: path("MCPFS_PIN_FILE"), ask: true }
    }

    /// The PIN of the token with this label.
    ///
    /// # Errors
    /// If no source has one, or its file is readable by others.
    pub fn get(&self, token: &str) -> Result<AuthPin, PinError> {
        if let Some(path) = self.path(token) {
            return read(&path).map(AuthPin::from);
        }
        // The question goes to the terminal itself, so redirected output does not matter.
        if !self.ask || std::fs::File::open("/dev/tty").is_err() {
            return Err(PinError::NoSource { token: token.to_owned() });
        }
        let not_typed = |source| PinError::NotTyped { token: token.to_owned(), source };
        let pin = rpassword::prompt_password(format!("PIN of token {}: ", mcpfs_trust::error::bounded(token)));
        let pin = pin.map_err(not_typed)?;
        if pin.is_empty() { Err(not_typed(std::io::ErrorKind::UnexpectedEof.into())) } else { Ok(AuthPin::from(pin)) }
    }

    /// What changes when somebody writes another PIN for the token; says nothing about the PIN.
    pub(crate) fn stamp(&self, token: &str) -> Option<String> {
        use std::os::unix::fs::MetadataExt as _;
        let facts = std::fs::metadata(self.path(token)?).ok()?;
        Some(format!("{}-{}-{}-{}", facts.dev(), facts.ino(), facts.mtime(), facts.mtime_nsec()))
    }

    /// The file that holds it, if a file does.
    fn path(&self, token: &str) -> Option<PathBuf> {
        // A label may hold anything; only a plain one can name a file here.
        let plain =
            !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
        let names = plain.then(|| format!("mcpfs-pin.{token}")).into_iter().chain(["mcpfs-pin".to_owned()]);
        let folder = self.credentials.iter();
        let mut credentials = folder.flat_map(|folder| names.clone().map(move |name| folder.join(name)));
        credentials.find(|path| path.exists()).or_else(|| self.file.clone())
    }
}

fn read(path: &Path) -> Result<String, PinError> {
    let (path, owner) = (path.to_owned(), rustix::process::geteuid().as_raw());
    secret::read_line(&path, PIN_BYTES).map_err(|error| match error {
        SecretError::Unreadable { source, .. } => PinError::Unreadable { path, source },
        SecretError::Exposed { problem, .. } => PinError::Exposed { path, problem, owner },
        SecretError::NotALine { .. } => PinError::NotAPin { path },
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn write(path: &Path, text: &str, mode: u32) {
        // Its owner may not write to a file that is only to be read.
        let _ = std::fs::remove_file(path);
        std::fs::write(path, text).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_file_must_be_its_owners_alone_and_one_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pin");
        let pins = Pins { file: Some(path.clone()), ..Pins::default() };
        assert!(matches!(pins.get("t"), Err(PinError::Unreadable { .. })));
        write(&path, "4711\n", 0o600);
        assert!(pins.get("t").is_ok());
        for mode in [0o640, 0o604, 0o660] {
            write(&path, "4711\n", mode);
            assert!(matches!(pins.get("t"), Err(PinError::Exposed { .. })), "{mode:o}");
        }
        for bad in ["", "\n", "47\n11\n", &"1".repeat(257)] {
            write(&path, bad, 0o600);
            assert!(matches!(pins.get("t"), Err(PinError::NotAPin { .. })), "{bad:?}");
        }
        let folder_as_file = Pins { file: Some(folder.path().to_owned()), ..Pins::default() };
        assert!(folder_as_file.get("t").is_err());
    }

    #[test]
    fn the_first_source_decides() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        write(&file, "from the file", 0o600);
        let pins = Pins { credentials: Some(folder.path().to_owned()), file: Some(file), ask: false };
        let get = |pins: &Pins| read(&pins.path("tok").unwrap()).unwrap();
        assert_eq!(get(&pins), "from the file");
        write(&folder.path().join("mcpfs-pin"), "common", 0o400);
        assert_eq!(get(&pins), "common");
        write(&folder.path().join("mcpfs-pin.tok"), "own", 0o400);
        assert_eq!(get(&pins), "own");
        // An exposed credential is an error, not a reason to try the next source.
        let exposed = std::fs::Permissions::from_mode(0o444);
        std::fs::set_permissions(folder.path().join("mcpfs-pin.tok"), exposed).unwrap();
        assert!(matches!(pins.get("tok"), Err(PinError::Exposed { .. })));
        assert!(matches!(Pins::default().get("t"), Err(PinError::NoSource { .. })));
    }
}
