//! The walls around a server: bubblewrap, told what the release declares and nothing more.
//!
//! A server in a sandbox has a root it cannot write, private `/tmp`, `/proc` and `/dev`, no
//! capabilities, a session and process table of its own, the network only if its release says so,
//! and of the user's files its state directory and the declared paths. The root is that of the
//! host without homes, `/run` and temporary files, or for `runtime: image` the release's own tree,
//! straight from the mount.
//!
//! Here, and only here, the launcher stays: it starts bubblewrap, waits, and ends as the server
//! did. Otherwise nobody would know whether the server ever began, since bubblewrap makes the walls
//! and starts the program in one go: its status says "exit-code" only of a program that was started,
//! and without one the daemon is told. Whoever ends the launcher ends the sandbox with it.
//!
//! What cannot be applied is an error with its remedy, never a launch with fewer walls. Rejected: a
//! container engine (a daemon of its own, and images that it would have to unpack), and namespaces
//! by hand (a hundred lines of unsafe code that others have had reviewed for years).

mod weave;

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Component, Path, PathBuf};
use std::process::{Command, ExitStatus};

use super::environment::{Places, expand};
use super::secrets::DIRECTORY;
use crate::control::protocol::Confinement;
use weave::{Mount, Points};

/// What bubblewrap says of its own work, bytes.
const STATUS_BYTES: u64 = 64 << 10;
/// Host paths that a server does not see unless they are declared.
const HIDDEN: [&str; 5] = ["/home", "/root", "/run", "/tmp", "/var/tmp"];

/// Why there is no sandbox, and so no server.
#[derive(Debug, thiserror::Error)]
pub(super) enum SandboxError {
    #[error("the release wants to {want} {}, which {problem}", path.display())]
    Declared { want: &'static str, path: PathBuf, problem: String },
    #[error("its root file system cannot be laid out: {0}")]
    Weave(#[from] weave::WeaveError),
    #[error("cannot start {}: {source}", program.display())]
    Start { program: PathBuf, source: io::Error },
    #[error("cannot follow bubblewrap: {0}")]
    Follow(#[source] io::Error),
    #[error("bubblewrap could not make its sandbox or start it there; its own line is above")]
    NotStarted,
}

impl SandboxError {
    /// What to do about it.
    pub(super) fn advice(&self) -> &'static str {
        match self {
            Self::Declared { .. } => "Make it on this host, or ask the release's maintainer whether it needs it",
            Self::Weave(_) => "Ask its maintainer for an image without so many entries beside what it declares",
            Self::Start { .. } => "Install the package bubblewrap",
            Self::Follow(_) => "Start it again",
            Self::NotStarted if !namespaces() => {
                "This host forbids namespaces to users: set sysctl user.max_user_namespaces (and on some systems \
                 kernel.unprivileged_userns_clone = 1 or kernel.apparmor_restrict_unprivileged_userns = 0)"
            }
            Self::NotStarted => "The program, or the interpreter it names, may be missing in its root file system",
        }
    }
}

/// Where things are for one launch.
pub(super) struct Layout<'a> {
    pub(super) confinement: &'a Confinement,
    /// Host paths.
    pub(super) places: Places<'a>,
    /// What is executed: a path in the sandbox's root, or a name that its `PATH` finds.
    pub(super) command: &'a Path,
    /// Credentials that only the server sees, by name.
    pub(super) files: &'a [(String, File)],
}

/// Runs `command` between its walls to its end.
pub(super) fn run(
    layout: &Layout<'_>,
    args: &[OsString],
    env: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<ExitStatus, SandboxError> {
    let program = &layout.confinement.program;
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(|error| SandboxError::Follow(error.into()))?;
    let walls = walls(layout)?;
    // The descriptors besides the standard three that bubblewrap gets; it keeps them from the server.
    for descriptor in std::iter::once(writer.as_fd()).chain(layout.files.iter().map(|(_, file)| file.as_fd())) {
        rustix::io::fcntl_setfd(descriptor, rustix::io::FdFlags::empty())
            .map_err(|error| SandboxError::Follow(error.into()))?;
    }
    let mut command = Command::new(program);
    command.args(walls).arg("--json-status-fd").arg(writer.as_raw_fd().to_string());
    // Not by `--setenv`: everybody can read arguments. Loader variables were refused long before.
    command.arg("--").arg(layout.command).args(args).env_clear().envs(env);
    let started = command.spawn();
    drop(writer);
    let mut child = started.map_err(|source| SandboxError::Start { program: program.clone(), source })?;
    let said = status(reader);
    let ended = child.wait().map_err(SandboxError::Follow)?;
    match said.map_err(SandboxError::Follow)?.contains("\"exit-code\"") || ended.signal().is_some() {
        true => Ok(ended),
        false => Err(SandboxError::NotStarted),
    }
}

/// All that bubblewrap writes until it ends.
fn status(reader: OwnedFd) -> io::Result<String> {
    let mut text = String::new();
    let mut reader = File::from(reader);
    reader.by_ref().take(STATUS_BYTES).read_to_string(&mut text)?;
    // A full pipe would hold it up.
    io::copy(&mut reader, &mut io::sink())?;
    Ok(text)
}

/// Bubblewrap's arguments but for the command.
fn walls(layout: &Layout<'_>) -> Result<Vec<OsString>, SandboxError> {
    let Layout { confinement, places, .. } = layout;
    let mut points = Points::default();
    points.add("/proc", Mount::Proc);
    points.add("/dev", Mount::Devices);
    match confinement.image {
        true => points.add("/tmp", Mount::Temporary),
        false => hide(layout, &mut points),
    }
    if confinement.image && confinement.network {
        for file in ["/etc/resolv.conf", "/etc/hosts"] {
            // A host without one has nothing to pass on.
            if let Ok(real) = Path::new(file).canonicalize() {
                points.add(file, Mount::Read(real));
            }
        }
    }
    if let (true, Some(workdir)) = (confinement.image, &confinement.workdir) {
        points.add_if_missing(workdir, places.tree);
    }
    for (want, list) in [("read", &confinement.read), ("write", &confinement.write)] {
        for text in list {
            let path = PathBuf::from(expand(text, *places));
            let real = declared(want, &path)?;
            points.add(&path, if want == "read" { Mount::Read(real) } else { Mount::Write(real) });
        }
    }
    points.add(places.state, Mount::Write(places.state.to_owned()));
    for (name, file) in layout.files {
        points.add(Path::new(DIRECTORY).join(name), Mount::Data(file.as_raw_fd()));
    }
    let mut args = match confinement.image {
        true => points.over(places.tree)?,
        false => points.over_host(),
    };
    // Without capabilities root may still write the host's settings there.
    args.extend(["--ro-bind", "/proc/sys", "/proc/sys"].map(OsString::from));
    args.extend(["--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL"].map(OsString::from));
    if confinement.network {
        args.push("--share-net".into());
    }
    args.push("--chdir".into());
    args.push(match (confinement.image, &confinement.workdir) {
        (true, Some(workdir)) => workdir.into(),
        (true, None) => "/".into(),
        (false, _) => places.state.into(),
    });
    Ok(args)
}

/// What of the host's root is hidden, and what is shown all the same: the release's files and the
/// runtime that starts them.
fn hide(layout: &Layout<'_>, points: &mut Points) {
    let Layout { places, command, .. } = layout;
    let home = places.home.to_owned();
    let mut hidden: Vec<PathBuf> = HIDDEN.iter().map(PathBuf::from).filter(|path| path.is_dir()).collect();
    if home.is_dir() && home != Path::new("/") && !hidden.iter().any(|above| home.starts_with(above)) {
        hidden.push(home);
    }
    let below_hidden = |path: &Path| hidden.iter().any(|above| path.starts_with(above));
    let mut shown = vec![places.tree.to_owned()];
    if let Ok(real) = command.canonicalize()
        && !command.starts_with(places.tree)
    {
        // `bin` of a runtime needs what lies beside it.
        let prefix = real.parent().filter(|folder| folder.ends_with("bin")).and_then(Path::parent);
        shown.push(
            prefix
                .filter(|prefix| below_hidden(prefix) && !hidden.iter().any(|above| above == prefix))
                .unwrap_or(&real)
                .to_owned(),
        );
        shown.push(command.to_path_buf());
    }
    for path in &hidden {
        points.add(path, Mount::Temporary);
    }
    for path in shown.iter().filter(|path| below_hidden(path)) {
        points.add(path, Mount::Read(path.clone()));
    }
}

/// A declared path, if it is one and there.
fn declared(want: &'static str, path: &Path) -> Result<PathBuf, SandboxError> {
    let refused = |problem: String| SandboxError::Declared { want, path: path.to_owned(), problem };
    let plain =
        path.is_absolute() && path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    if !plain || path == Path::new("/") {
        return Err(refused("is not an absolute path below /".to_owned()));
    }
    path.canonicalize().map_err(|error| refused(format!("cannot be found here: {error}")))
}

/// Whether this user may make namespaces, as far as the kernel's own switches say.
fn namespaces() -> bool {
    let off = [
        ("/proc/sys/user/max_user_namespaces", "0"),
        ("/proc/sys/kernel/unprivileged_userns_clone", "0"),
        ("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1"),
    ];
    rustix::process::geteuid().is_root()
        || !off.iter().any(|(file, word)| std::fs::read_to_string(file).is_ok_and(|text| text.trim() == *word))
}
