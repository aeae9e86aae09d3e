//! The sandbox: what a server finds in it, and how it is started and ended.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use mcpfs_trust::release::Runtime;

use super::files::Place;
use super::observe::View;
use super::running::Running;
use super::{Subject, TrialError, TrialOptions, image, limits};
use crate::launch::DEFAULT_PATH;

/// The programs that a trial needs.
#[derive(Debug)]
pub(super) struct Tools {
    bwrap: PathBuf,
    strace: PathBuf,
    prlimit: PathBuf,
    /// Ends the tracer, and with it all else, if this process ends in the middle.
    setpriv: Option<PathBuf>,
}

impl Tools {
    pub(super) fn find() -> Result<Self, TrialError> {
        let need = |program, package| find(program).ok_or(TrialError::Missing { program, package });
        Ok(Self {
            bwrap: need("bwrap", "bubblewrap")?,
            strace: need("strace", "strace")?,
            prlimit: need("prlimit", "util-linux")?,
            setpriv: find("setpriv"),
        })
    }
}

/// A program of this machine.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/bin", "/bin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    let mut all = std::env::split_paths(&path).chain(usual).filter(|folder| folder.is_absolute());
    all.find_map(|folder| Some(folder.join(program)).filter(|file| file.is_file()))
}

/// Everything about one sandbox that is decided before it is made.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) view: View,
    words: Vec<OsString>,
}

/// A home as on a host, but empty; the state lies in it.
const HOME: &str = "/home/mcp";
/// Bytes that the server may write, in each of its two places.
const ROOM: &str = "268435456";
/// What a server gets in place of a credential.
pub(crate) const CREDENTIAL: &str = "mcpfs-trial-no-credential";
/// Where it finds those that are files, as on a host.
const CREDENTIALS: &str = "/run/credentials/mcpfs";
/// Folders of a system, of which an old one has some as links.
const SYSTEM: [&str; 7] = ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"];
/// What programs need of `/etc`, and holds no secret.
const ETC: [&str; 9] = [
    "/etc/ld.so.cache",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
    "/etc/pki/tls/certs",
    "/etc/ca-certificates",
    "/etc/alternatives",
    "/etc/localtime",
    "/etc/nsswitch.conf",
    "/etc/mime.types",
];

impl Layout {
    pub(super) fn new(subject: &Subject<'_>, options: &TrialOptions, place: &Place) -> Result<Self, TrialError> {
        if subject.launch.runtime == Runtime::Image {
            return Self::image(subject, place);
        }
        let launch = subject.launch;
        let tree = format!("/mcp/{}/{}/tree", subject.name, subject.version);
        let state = format!("{HOME}/.local/state/mcpfs/{}", subject.name);
        let (command, runtime) = match launch.tree_path() {
            Some(path) => (format!("{tree}/{path}"), Vec::new()),
            None => runtime(&launch.command, &options.runtimes)?,
        };
        let (cwd, home, credentials) = (state.clone(), HOME.to_owned(), directory(subject));
        let view = View { tree, cwd, state, home, runtime, command, credentials };
        let mut bwrap = walls(subject, &view);
        for path in SYSTEM {
            match std::fs::read_link(path) {
                Ok(target) => bwrap.all(&[OsStr::new("--symlink"), target.as_os_str(), path.as_ref()]),
                Err(_) => bwrap.all(&["--ro-bind-try", path, path]),
            }
        }
        for path in ETC {
            bwrap.all(&["--ro-bind-try", path, path]);
        }
        for name in Place::etc_names() {
            bwrap.bind(&place.etc(name), &format!("/etc/{name}"));
        }
        for path in &view.runtime {
            bwrap.all(&["--ro-bind", path, path]);
        }
        bwrap.all(&PARTS);
        bwrap.bind(&place.home(), HOME);
        bwrap.bind(&place.tree(), &view.tree);
        for name in files(subject) {
            std::fs::write(place.credential(), CREDENTIAL).map_err(TrialError::Files)?;
            bwrap.bind(&place.credential(), &format!("{CREDENTIALS}/{name}"));
        }
        bwrap.all(&["--size", ROOM, "--tmpfs", &view.state, "--remount-ro", "/"]);
        bwrap.start(subject, &view);
        // The state's folders lie in the home, which nothing is written to: they are made before.
        std::fs::create_dir_all(place.home().join(format!(".local/state/mcpfs/{}", subject.name)))
            .map_err(TrialError::Files)?;
        Ok(Self { view, words: bwrap.0 })
    }

    /// Inside the artefact's own root file system: nothing of this host is in it.
    fn image(subject: &Subject<'_>, place: &Place) -> Result<Self, TrialError> {
        let launch = subject.launch;
        let state = format!("{HOME}/.local/state/mcpfs/{}", subject.name);
        let view = View {
            // The root: what follows it begins with a slash.
            tree: String::new(),
            cwd: launch.workdir.clone().unwrap_or("/".to_owned()),
            home: state.clone(),
            state,
            runtime: Vec::new(),
            command: image::program(launch, subject.tree)?,
            credentials: directory(subject),
        };
        image::prepare(&place.tree(), &view.state, &view.cwd).map_err(TrialError::Files)?;
        for name in files(subject) {
            image::put(&place.tree(), CREDENTIALS, name, CREDENTIAL).map_err(TrialError::Files)?;
        }
        let mut bwrap = walls(subject, &view);
        bwrap.bind(&place.tree(), "/");
        for name in image::LOOKUP {
            bwrap.bind(&place.etc(name), &format!("/etc/{name}"));
        }
        bwrap.all(&PARTS);
        bwrap.all(&["--size", ROOM, "--tmpfs", &view.state]);
        bwrap.start(subject, &view);
        Ok(Self { view, words: bwrap.0 })
    }
}

/// Names of the credentials that are files.
fn files<'a>(subject: &Subject<'a>) -> impl Iterator<Item = &'a str> {
    subject.credentials.iter().filter_map(|credential| credential.file.as_deref())
}

fn directory(subject: &Subject<'_>) -> Option<&'static str> {
    files(subject).next().map(|_| CREDENTIALS)
}

/// What every sandbox mounts of its own.
const PARTS: [&str; 11] =
    ["--proc", "/proc", "--ro-bind", "/proc/sys", "/proc/sys", "--dev", "/dev", "--size", ROOM, "--tmpfs", "/tmp"];

/// What no server gets out of, and its environment.
fn walls(subject: &Subject<'_>, view: &View) -> Words {
    let mut bwrap = Words::default();
    bwrap.all(&["--unshare-user", "--unshare-all", "--disable-userns", "--cap-drop", "ALL"]);
    bwrap.all(&["--die-with-parent", "--new-session", "--hostname", "mcp", "--clearenv"]);
    for (name, value) in environment(subject, view) {
        bwrap.all(&["--setenv", &name, &value]);
    }
    bwrap
}

/// Arguments.
#[derive(Default)]
struct Words(Vec<OsString>);

impl Words {
    fn all<S: AsRef<OsStr>>(&mut self, words: &[S]) {
        self.0.extend(words.iter().map(|word| word.as_ref().to_owned()));
    }

    fn bind(&mut self, from: &Path, to: &str) {
        self.all(&[OsStr::new("--ro-bind"), from.as_os_str(), to.as_ref()]);
    }

    /// The command itself, where it starts.
    fn start(&mut self, subject: &Subject<'_>, view: &View) {
        self.all(&["--chdir", &view.cwd, "--", &view.command]);
        self.0.extend(subject.launch.args.iter().map(|arg| expand(arg, view).into()));
    }
}

/// A runtime of the host, and what else of the host it needs: the folder it is installed in, where
/// that is not of the system.
fn runtime(name: &str, named: &BTreeMap<String, PathBuf>) -> Result<(String, Vec<String>), TrialError> {
    let missing = || TrialError::Runtime { name: name.to_owned() };
    let usual = || ["/usr/local/bin", "/usr/bin", "/bin"].map(|folder| Path::new(folder).join(name));
    let found = match named.get(name) {
        Some(path) => Some(path.clone()),
        None => usual().into_iter().find(|path| path.is_file()),
    };
    let found = found.filter(|path| path.is_absolute()).ok_or_else(missing)?;
    let real = found.canonicalize().map_err(|_| missing())?;
    let text = |path: &Path| path.to_str().map(str::to_owned).ok_or_else(missing);
    if SYSTEM.iter().any(|folder| real.starts_with(folder)) {
        return Ok((text(&found)?, Vec::new()));
    }
    // …/bin/node belongs to …; a program that lies anywhere else stands for itself.
    let folder = real.parent().filter(|folder| folder.ends_with("bin")).and_then(Path::parent);
    let own = folder.filter(|folder| folder.components().count() > 2);
    Ok((text(&real)?, vec![text(own.unwrap_or(&real))?]))
}

/// What a host's launcher makes of a user's environment that has nothing else in it.
fn environment(subject: &Subject<'_>, view: &View) -> BTreeMap<String, String> {
    let fixed = [
        ("HOME", view.home.as_str()),
        ("USER", "mcp"),
        ("LOGNAME", "mcp"),
        ("LANG", "C.UTF-8"),
        ("PYTHONDONTWRITEBYTECODE", "1"),
    ];
    let rest: &[(&str, &str)] = match subject.launch.runtime {
        Runtime::Image => &[("PATH", DEFAULT_PATH)],
        Runtime::Host => &[("PATH", "/usr/bin:/bin"), ("PYTHONNOUSERSITE", "1"), ("PYTHONSAFEPATH", "1")],
    };
    let mut env: BTreeMap<String, String> =
        fixed.iter().chain(rest).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let credentials = subject.credentials.iter().filter_map(|credential| credential.env.clone());
    env.extend(credentials.map(|name| (name, CREDENTIAL.to_owned())));
    env.extend(view.credentials.map(|directory| ("CREDENTIALS_DIRECTORY".to_owned(), directory.to_owned())));
    env.extend(subject.launch.env.iter().map(|(name, value)| (name.clone(), expand(value, view))));
    env
}

/// `${TREE}`, `${STATE}`, `${HOME}` and, where there are any, `${CREDENTIALS}` in one pass, as the launcher does it.
fn expand(text: &str, view: &View) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        out.push_str(before);
        let places = [("TREE}", view.tree.as_str()), ("STATE}", &view.state), ("HOME}", &view.home)];
        let places = places.into_iter().chain(view.credentials.map(|place| ("CREDENTIALS}", place)));
        let place = { places }.find_map(|(name, place)| Some((place, after.strip_prefix(name)?)));
        (rest, _) = match place {
            // The root of an image, alone.
            Some((place, left)) if place.is_empty() && !left.starts_with('/') => (left, out.push('/')),
            Some((place, left)) => (left, out.push_str(place)),
            None => (after, out.push_str("${")),
        };
    }
    out.push_str(rest);
    out
}

/// The calls that are looked at; those that an architecture does not have are passed over.
const CALLS: &str = "trace=?open,?openat,?openat2,?creat,?mkdir,?mkdirat,?mknod,?mknodat,?unlink,?unlinkat,?rmdir,\
                     ?rename,?renameat,?renameat2,?link,?linkat,?symlink,?symlinkat,?truncate,?chmod,?fchmodat,\
                     ?chown,?lchown,?fchownat,?execve,?execveat,?connect,?sendto,?sendmsg,?sendmmsg,?io_uring_setup";

/// Starts the server.
pub(super) fn start(tools: &Tools, layout: &Layout, place: &Place) -> Result<Running, TrialError> {
    let identity = limits::identity();
    if let Some(identity) = identity {
        place.give_to(identity).map_err(TrialError::Files)?;
    }
    let mut words = Words::default();
    words.all(&[tools.prlimit.as_os_str()]);
    words.all(&limits::words(identity));
    if let Some(setpriv) = &tools.setpriv {
        words.all(&[setpriv.as_os_str(), "--pdeathsig".as_ref(), "KILL".as_ref(), "--".as_ref()]);
    }
    words.all(&[tools.strace.as_os_str()]);
    words.all(&["-f", "-qq", "--seccomp-bpf", "-xx", "-y", "-s", "512", "-e", "signal=none", "-e", CALLS, "-o"]);
    words.all(&[place.pipe().as_os_str(), "--".as_ref(), tools.bwrap.as_os_str()]);
    words.0.extend(layout.words.iter().cloned());
    let mut command = Command::new(&words.0[0]);
    command.args(&words.0[1..]).env_clear().env("PATH", "/usr/bin:/bin").current_dir("/");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.process_group(0);
    if let Some(identity) = identity {
        command.uid(identity.uid).gid(identity.gid);
    }
    let child = command.spawn().map_err(|error| TrialError::Sandbox(error.to_string()))?;
    Ok(Running::watch(child, &place.pipe(), layout.view.clone()))
}

/// What bubblewrap said, which is the last that was said.
pub(super) fn reason(stderr: &str) -> TrialError {
    let line = stderr.lines().rev().map(str::trim).find(|line| !line.is_empty());
    match line.and_then(|line| line.strip_prefix("bwrap: execvp ")) {
        Some(program) => TrialError::Program(mcpfs_trust::error::bounded(program)),
        None => {
            let said = line.unwrap_or("bubblewrap ended without a word");
            TrialError::Sandbox(mcpfs_trust::error::bounded(said))
        }
    }
}
