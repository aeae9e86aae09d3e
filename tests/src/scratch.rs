//! Directories, ports and waiting.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// A private directory below /tmp, removed on drop.
///
/// Not below `TMPDIR`: a daemon's `rundir` may be at most 48 bytes long, and lies in here.
/// After [`keep_in`] it is below that directory instead.
pub fn dir() -> tempfile::TempDir {
    make(BASE.get().map_or(Path::new("/tmp"), PathBuf::as_path))
}

/// The directory of a part called `name`: as [`dir`], but after [`keep_in`] it has that name and stays.
pub fn dir_for(name: &str) -> tempfile::TempDir {
    let Some(base) = BASE.get() else { return dir() };
    let mut dir = tempfile::Builder::new()
        .prefix(name)
        .rand_bytes(0)
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o700))
        .tempdir_in(base)
        .unwrap_or_else(|error| panic!("cannot make {name} below {}: {error}", base.display()));
    dir.disable_cleanup(true);
    dir
}

/// A directory with a short path, always below /tmp and always removed.
pub(crate) fn short_dir() -> tempfile::TempDir {
    make(Path::new("/tmp"))
}

/// Puts all parts of this process below `base`, under their names, and leaves them there: for
/// the demo, whose visitor wants to look around afterwards.
pub fn keep_in(base: &Path) {
    BASE.set(base.to_owned()).expect("called once");
}

static BASE: OnceLock<PathBuf> = OnceLock::new();

fn make(base: &Path) -> tempfile::TempDir {
    tempfile::Builder::new().prefix("mf-").tempdir_in(base).expect("cannot make a directory for this test")
}

/// A loopback port that nothing listens on.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("no free loopback port");
    listener.local_addr().expect("a bound socket has an address").port()
}

/// Polls until `ready` gives a value.
///
/// # Panics
/// When `limit` has passed, naming `what`.
pub fn wait_for<T>(what: &str, limit: Duration, mut ready: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = ready() {
            return value;
        }
        assert!(started.elapsed() < limit, "waited {limit:?} for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The real part `program`, looked up in PATH and in root's directories.
///
/// # Panics
/// If it is not installed, naming the Debian package.
pub fn need(program: &str, package: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let extra = ["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(extra)
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
        .unwrap_or_else(|| panic!("{program} is not installed: apt-get install {package} (or: make setup)"))
}

/// The repository's root.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ has a parent")
}

/// Copies a directory, links as links.
pub fn copy_dir(from: &Path, to: &Path) {
    let done = crate::command::Run::new("cp").arg("-a").arg("--").arg(from).arg(to).ok();
    drop(done);
}

/// Whether this process is root.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
