//! A file for node_exporter's textfile collector.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, fchown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};

use crate::supervisor::User;

/// How often it is written.
const EVERY: Duration = Duration::from_secs(15);

/// Makes the file's directory if it is not there, open for readers and the worker's own.
///
/// Root calls this before it becomes the worker. One that is there and another's is not given away.
///
/// # Errors
/// Whose it is, and what to do.
pub(super) fn prepare(file: &Path, user: Option<&User>) -> io::Result<PathBuf> {
    let directory = file.parent().ok_or(io::ErrorKind::NotFound)?;
    let made = match DirBuilder::new().mode(0o755).create(directory) {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
        Err(error) => return Err(error),
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let open = File::from(rustix::fs::open(directory, flags, Mode::empty())?);
    if let (true, Some(user)) = (made, user) {
        fchown(&open, Some(user.uid), Some(user.gid))?;
    }
    let uid = user.map_or_else(|| rustix::process::geteuid().as_raw(), |user| user.uid);
    let found = open.metadata()?;
    if found.uid() != uid || found.mode() & 0o022 != 0 {
        let who = user.map_or_else(|| uid.to_string(), |user| user.name.clone());
        return Err(io::Error::other(format!(
            "{} must belong to {who} alone: install -d -o {who} -m 755 {0}, and name it to node_exporter by a second \
             --collector.textfile.directory",
            directory.display()
        )));
    }
    Ok(directory.to_owned())
}

/// Writes what `page` makes, for ever.
pub(super) async fn keep(file: PathBuf, page: impl Fn() -> String) {
    let mut every = tokio::time::interval(EVERY);
    let mut failed = false;
    loop {
        every.tick().await;
        let (page, file) = (page(), file.clone());
        let written = tokio::task::spawn_blocking(move || write(&file, &page)).await;
        let error = written.map_err(io::Error::other).flatten().err();
        // Said once, and not every time.
        if let (Some(error), false) = (&error, failed) {
            tracing::error!(%error, "metrics.textfile cannot be written");
        }
        failed = error.is_some();
    }
}

/// Replaces the file; whoever reads it sees the old or the new one, whole.
///
/// # Errors
/// What the system says.
pub(super) fn write(file: &Path, page: &str) -> io::Result<()> {
    // The collector reads only what ends in .prom.
    let draft = file.with_extension("prom.new");
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut open = OpenOptions::new().write(true).create_new(true).mode(0o644).open(&draft)?;
    open.write_all(page.as_bytes())?;
    fs::rename(&draft, file)
}
