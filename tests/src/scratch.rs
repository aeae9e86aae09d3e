//! Directories, ports and waiting.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
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
        .permissions(open_to_the_worker())
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

/// How long to wait for what must come, before it counts as a hang. Nothing that works takes this
/// long, however slow or busy the machine is: a wait ends when the thing is there, never by this.
pub const PATIENCE: Duration = Duration::from_secs(120);

fn make(base: &Path) -> tempfile::TempDir {
    let mut builder = tempfile::Builder::new();
    builder
        .prefix(&crate::guard::prefix())
        .permissions(open_to_the_worker())
        .tempdir_in(base)
        .expect("cannot make a directory for this test")
}

/// The mode of every directory here: the worker of a daemon of root's is another user, and passes
/// through on its way to state and cache, as it does through /var/lib.
fn open_to_the_worker() -> std::fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(0o755)
}

/// A loopback port of our own, on which nothing listens.
///
/// The socket is bound and never listens, so connections are refused. As long as it lives the
/// kernel gives the port to nobody who asks for any port, neither to listen nor to connect from;
/// a server that sets `SO_REUSEADDR` and asks for just this one, as nginx does, gets it.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _held: OwnedFd,
}

impl Port {
    /// Any free one.
    pub fn reserve() -> Self {
        use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with, sockopt};
        let held = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None).expect("a socket");
        sockopt::set_socket_reuseaddr(&held, true).expect("a TCP socket");
        bind(&held, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).expect("no free loopback port");
        // Of std, which knows how to read an address.
        let named = TcpListener::from(held);
        let number = named.local_addr().expect("a bound socket has an address").port();
        Self { number, _held: named.into() }
    }

    /// Its number.
    pub fn number(&self) -> u16 {
        self.number
    }
}

/// Polls until `ready` gives a value.
///
/// # Panics
/// When [`PATIENCE`] has run out, naming `what`.
pub fn wait_for<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = ready() {
            return value;
        }
        assert!(started.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Tells threads to end, also when whoever they accompany fails: a test that panics would wait for them for ever.
#[derive(Debug)]
pub struct Until<'a>(pub &'a AtomicBool);

impl Drop for Until<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
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

/// Makes files that only their owner may write, whatever the umask of whoever starts this: hosts
/// refuse a trust root that others can write. To be called before there are threads.
pub fn usual_umask() {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
}

/// Lets this process have some thousand files open: a login gives it 1,024, and tests open hundreds side by side.
pub fn many_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.map_or(4096, |most| most.min(4096));
    if current.is_some_and(|current| current < wanted) {
        setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum })
            .expect("up to the hard limit anybody may");
    }
}

/// The first directory on the way to `path` in which somebody else could exchange what lies there.
pub fn open_to_others(path: &Path) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let exchangeable = |dir: &&Path| {
        let mode = dir.metadata().map_or(0, |meta| meta.permissions().mode());
        mode & 0o022 != 0 && mode & 0o1000 == 0
    };
    path.ancestors().find(exchangeable).map(Path::to_owned)
}

/// The first directory on the way to `path` that lets only its owner and group pass.
pub fn closed_to_others(path: &Path) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let closed = |dir: &&Path| dir.metadata().map_or(0, |meta| meta.permissions().mode()) & 0o001 == 0;
    path.ancestors().find(closed).map(Path::to_owned)
}

/// Whether this process is root.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
