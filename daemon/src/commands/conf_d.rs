//! Files of `conf.d` that commands write: each command has one of its own, so that neither people nor
//! configuration tools find theirs edited. Replaced as a whole, under a lock, and the configuration must load.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use toml_edit::DocumentMut;

use super::CommandError;
use crate::config::Config;

fn unwritable(path: &Path) -> impl Fn(io::Error) -> CommandError {
    let path = path.to_owned();
    move |error| {
        let advice = match error.kind() {
            io::ErrorKind::PermissionDenied => "run it with sudo: this is for administrators",
            _ => "",
        };
        CommandError::refused(format!("cannot write {}: {error}", path.display()), advice)
    }
}

/// The file as it is; empty if there is none.
pub(super) fn read(file: &Path) -> Result<DocumentMut, CommandError> {
    let text = match fs::read_to_string(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        other => other.map_err(unwritable(file))?,
    };
    text.parse().map_err(|error: toml_edit::TomlError| CommandError::Usage {
        message: format!("{} is not TOML: {}", file.display(), error.message()),
        advice: "correct it or remove it".to_owned(),
    })
}

/// Edits a file of `conf.d`, and takes the edit back unless the configuration then loads and
/// `holds`.
pub(super) fn replace(
    config: &Path,
    file: &Path,
    edit: impl FnOnce(&mut DocumentMut),
    holds: impl FnOnce(&Config) -> Result<(), String>,
) -> Result<(), CommandError> {
    let directory = file.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(directory).map_err(unwritable(directory))?;
    let lock = File::open(directory).map_err(unwritable(directory))?;
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive)
        .map_err(|error| unwritable(directory)(error.into()))?;
    let mut document = read(file)?;
    let old = file.exists().then(|| document.to_string());
    edit(&mut document);
    write(directory, file, &document.to_string()).map_err(unwritable(file))?;
    let loaded = Config::load(config)
        .map_err(CommandError::from)
        .and_then(|loaded| holds(&loaded).map_err(|problem| CommandError::refused(problem, "remove that line first")));
    if loaded.is_err() {
        match &old {
            Some(text) => write(directory, file, text),
            None => fs::remove_file(file),
        }
        .map_err(unwritable(file))?;
    }
    loaded
}

/// Whole or not at all, also after a crash.
fn write(directory: &Path, file: &Path, text: &str) -> io::Result<()> {
    let new = directory.join(format!(".{}.new", file.file_name().unwrap_or_default().to_string_lossy()));
    let _ = fs::remove_file(&new);
    let mut out = File::options().write(true).create_new(true).mode(0o644).open(&new)?;
    out.write_all(text.as_bytes())?;
    out.sync_all()?;
    fs::rename(&new, file)?;
    File::open(directory)?.sync_all()
}
