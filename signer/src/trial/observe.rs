//! From system calls to what a reviewer wants to know.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use mcpfs_trust::error::bounded;
use mcpfs_trust::text::visible;
use serde::Serialize;

use super::events::{Call, Outcome, behind, string, strings};
use super::image;

/// What a server did. Paths are as it saw them, with `${TREE}`, `${STATE}` and `${HOME}` for those.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Observed {
    /// Files of the tree, each once, in the order in which they were first opened.
    pub opened: Vec<String>,
    /// Files of the tree that were opened, also those beyond the list.
    pub opened_count: usize,
    /// Attempts to change something outside of `${STATE}` and `/tmp`.
    pub writes: Vec<Write>,
    /// Files that a launched server would not have, or has no business in.
    pub reads: Vec<String>,
    /// Places it tried to reach, and names it looked up.
    pub network: Vec<String>,
    /// Programs that it started, besides its own.
    pub programs: Vec<Program>,
    /// Ways around the tracer that were used, so that this list may have holes.
    pub unseen: Vec<String>,
}

/// An attempt to change a file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Write {
    /// The path.
    pub path: String,
    /// The system call.
    pub by: String,
    /// What came of it, such as `EROFS`.
    pub outcome: String,
}

/// A program that was started, or not found.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Program {
    /// Its path.
    pub path: String,
    /// Its arguments, bounded.
    pub arguments: String,
    /// Whether it began.
    pub began: bool,
}

/// The places of a sandbox, as its server sees them.
#[derive(Debug, Clone)]
pub(super) struct View {
    /// Empty where the tree is the root.
    pub(super) tree: String,
    pub(super) state: String,
    pub(super) home: String,
    /// Where the server starts.
    pub(super) cwd: String,
    /// The runtime and its folder, where it is not of the system.
    pub(super) runtime: Vec<String>,
    /// The command that the launch names.
    pub(super) command: String,
    /// Where its credentials lie that are files, if its recipe declares any.
    pub(super) credentials: Option<&'static str>,
}

/// Entries of each list that are kept.
const KEPT: usize = 200;
/// Files of the tree that are listed.
const OPENED: usize = 20_000;

/// Everything seen so far.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// Whether the server itself began.
    pub(super) started: bool,
    /// Tasks of the sandbox, from before the server began.
    makers: BTreeSet<u32>,
    opened: Vec<String>,
    seen: BTreeSet<String>,
    writes: BTreeMap<String, (String, String)>,
    reads: BTreeSet<String>,
    network: BTreeSet<String>,
    programs: BTreeMap<String, (String, bool)>,
    unseen: BTreeSet<String>,
}

impl Watch {
    /// Takes one call.
    pub(super) fn take(&mut self, call: &Call, view: &View) {
        if !self.started {
            let path = call.args.first().and_then(|arg| string(arg));
            let own = call.name == "execve" && path.as_deref() == Some(view.command.as_bytes());
            if own && matches!(call.result, Outcome::Done(_)) {
                self.started = true;
                self.makers.remove(&call.pid);
            } else {
                self.makers.insert(call.pid);
            }
            return;
        }
        if self.makers.contains(&call.pid) {
            return;
        }
        match call.name.as_str() {
            "open" => self.open(call, view, None, 0, 1),
            "creat" => self.change(call, view, None, 0),
            "openat" => self.open(call, view, Some(0), 1, 2),
            "openat2" => self.open(call, view, Some(0), 1, 2),
            "execve" => self.exec(call, view, 0, 1),
            "execveat" => self.exec(call, view, 1, 2),
            "connect" | "sendto" | "sendmsg" | "sendmmsg" => self.reach(call),
            "io_uring_setup" if matches!(call.result, Outcome::Done(_)) => {
                self.unseen.insert("io_uring: what is done by it does not pass the tracer".to_owned());
            }
            "rename" | "link" => {
                self.change(call, view, None, 0);
                self.change(call, view, None, 1);
            }
            "renameat" | "renameat2" | "linkat" => {
                self.change(call, view, Some(0), 1);
                self.change(call, view, Some(2), 3);
            }
            "symlink" => self.change(call, view, None, 1),
            "symlinkat" => self.change(call, view, Some(1), 2),
            name if name.ends_with("at") => self.change(call, view, Some(0), 1),
            "mkdir" | "mknod" | "unlink" | "rmdir" | "truncate" | "chmod" | "chown" | "lchown" => {
                self.change(call, view, None, 0);
            }
            _ => {}
        }
    }

    fn open(&mut self, call: &Call, view: &View, folder: Option<usize>, path: usize, flags: usize) {
        let flags = call.args.get(flags).map(String::as_str).unwrap_or_default();
        let writes = ["O_WRONLY", "O_RDWR", "O_CREAT", "O_TRUNC", "O_TMPFILE"].iter().any(|flag| flags.contains(flag));
        if writes {
            return self.change(call, view, folder, path);
        }
        let Some(path) = resolve(call, view, folder, path) else { return };
        if let Outcome::Done(real) = &call.result {
            let real = real.as_ref().map_or(path.clone(), |real| String::from_utf8_lossy(real).into_owned());
            if let Some(below) = below(&real, &view.tree).filter(|_| !view.covers(&real)) {
                let file = !flags.contains("O_DIRECTORY") && !flags.contains("O_PATH");
                if file && self.seen.insert(below.to_owned()) && self.opened.len() < OPENED {
                    self.opened.push(visible(below));
                }
                return;
            }
        }
        if view.is_foreign(&path) && self.reads.len() < KEPT {
            self.reads.insert(view.shown(&path));
        }
    }

    fn change(&mut self, call: &Call, view: &View, folder: Option<usize>, path: usize) {
        let Some(path) = resolve(call, view, folder, path) else { return };
        let outcome = match &call.result {
            Outcome::Done(_) => "done".to_owned(),
            // What is there already was not to be changed.
            Outcome::Failed(error) if error == "EEXIST" => return,
            Outcome::Failed(error) => error.clone(),
            Outcome::Unknown => "unknown".to_owned(),
        };
        // A file that is not there, and was only to be removed or renamed.
        let creates = call.name.starts_with("open") || call.name.starts_with("mkdir") || call.name == "creat";
        if outcome == "ENOENT" && !creates {
            return;
        }
        if view.may_write(&path) || self.writes.len() >= KEPT {
            return;
        }
        self.writes.entry(view.shown(&path)).or_insert_with(|| (call.name.clone(), outcome));
    }

    fn exec(&mut self, call: &Call, view: &View, path: usize, argv: usize) {
        let folder = (path == 1).then_some(0);
        let Some(path) = resolve(call, view, folder, path) else { return };
        let began = matches!(call.result, Outcome::Done(_));
        let words = call.args.get(argv).map(|argv| strings(argv)).unwrap_or_default();
        let words: Vec<_> = words.iter().map(|word| String::from_utf8_lossy(word).into_owned()).collect();
        if self.programs.len() < KEPT {
            let program = self.programs.entry(view.shown(&path)).or_insert_with(|| (bounded(&words.join(" ")), began));
            program.1 |= began;
        }
    }

    fn reach(&mut self, call: &Call) {
        if self.network.len() >= KEPT {
            return;
        }
        for argument in &call.args {
            if let Some(place) = address(argument) {
                self.network.insert(place);
            }
        }
        if call.name != "connect" {
            let payloads = call.args.iter().flat_map(|argument| strings(argument));
            self.network.extend(payloads.filter_map(|payload| question(&payload)).map(|name| format!("name {name}")));
        }
    }

    /// What is told.
    pub(super) fn finish(self, view: &View) -> Observed {
        let name = |path: &str| path.rsplit('/').next().unwrap_or(path).to_owned();
        let began: BTreeSet<String> =
            self.programs.iter().filter(|(_, (_, began))| *began).map(|(path, _)| name(path)).collect();
        // A search along PATH fails until it finds.
        let mut missed = BTreeSet::new();
        let own = view.shown(&view.command);
        let programs = self.programs.into_iter().filter(|(path, (_, started))| {
            *path != own && (*started || (!began.contains(&name(path)) && missed.insert(name(path))))
        });
        let programs = programs.map(|(path, (arguments, began))| Program { path, arguments, began });
        Observed {
            opened_count: self.seen.len(),
            opened: self.opened,
            writes: self.writes.into_iter().map(|(path, (by, outcome))| Write { path, by, outcome }).collect(),
            reads: self.reads.into_iter().collect(),
            network: self.network.into_iter().collect(),
            programs: programs.collect(),
            unseen: self.unseen.into_iter().collect(),
        }
    }
}

impl View {
    /// The path with the recipe's words for places.
    pub(super) fn shown(&self, path: &str) -> String {
        // The tree last: an image's is around everything else.
        let places = [("${STATE}", self.state.as_str()), ("${HOME}", &self.home), ("${TREE}", &self.tree)];
        let credentials = self.credentials.map(|place| ("${CREDENTIALS}", place));
        let found = credentials.into_iter().chain(places).find_map(|(word, place)| {
            let rest = path.strip_prefix(place)?;
            (rest.is_empty() || rest.starts_with('/')).then(|| format!("{word}{rest}"))
        });
        bounded(&found.unwrap_or_else(|| path.to_owned()))
    }

    fn may_write(&self, path: &str) -> bool {
        let free = ["/tmp", "/dev", "/proc/self", &self.state];
        free.into_iter().any(|place| is_in(path, place)) || (is_in(path, "/proc") && !is_in(path, "/proc/sys"))
    }

    /// Whether the sandbox shows something else there than the tree has.
    fn covers(&self, path: &str) -> bool {
        let lookup = || image::LOOKUP.iter().any(|name| path.strip_prefix("/etc/") == Some(name));
        let mounted = || image::MOUNTED.into_iter().chain([self.state.as_str()]).any(|place| is_in(path, place));
        let credentials = || self.credentials.is_some_and(|place| is_in(path, place));
        self.tree.is_empty() && (mounted() || lookup() || credentials())
    }

    /// Whether a path is neither of the system, nor of the server, nor looked for by every runtime.
    fn is_foreign(&self, path: &str) -> bool {
        let own = [self.tree.as_str(), &self.state, "/tmp"];
        let own = own.into_iter().chain(self.credentials);
        let system = SYSTEM.iter().copied().chain(own).chain(self.runtime.iter().map(String::as_str));
        if system.into_iter().any(|place| is_in(path, place)) {
            return false;
        }
        // A runtime looks upwards from the tree for its own files.
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        let above = self.tree.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'));
        !above && path != "/" && path != self.home
    }
}

/// What every program of a system opens.
const SYSTEM: [&str; 26] = [
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/dev",
    "/proc",
    "/sys",
    "/etc/ld.so.cache",
    "/etc/ld.so.preload",
    "/etc/ssl",
    "/etc/pki",
    "/etc/ca-certificates",
    "/etc/passwd",
    "/etc/group",
    "/etc/hosts",
    "/etc/host.conf",
    "/etc/gai.conf",
    "/etc/resolv.conf",
    "/etc/nsswitch.conf",
    "/etc/localtime",
    "/etc/mime.types",
    "/etc/os-release",
    "/etc/alternatives",
];

fn is_in(path: &str, place: &str) -> bool {
    path.strip_prefix(place).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn below<'a>(path: &'a str, place: &str) -> Option<&'a str> {
    path.strip_prefix(place)?.strip_prefix('/')
}

/// An argument as an absolute path without `.` and `..`.
fn resolve(call: &Call, view: &View, folder: Option<usize>, path: usize) -> Option<String> {
    let path = String::from_utf8_lossy(&string(call.args.get(path)?)?).into_owned();
    let full = match (path.starts_with('/'), folder) {
        (true, _) => path,
        (false, None) => format!("{}/{path}", view.cwd),
        (false, Some(folder)) => {
            let folder = behind(call.args.get(folder)?)?;
            format!("{}/{path}", String::from_utf8_lossy(&folder))
        }
    };
    let mut parts: Vec<&str> = Vec::new();
    for part in full.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    Some(format!("/{}", parts.join("/")))
}

/// Where a socket address leads, if that is another machine or a socket of this host.
fn address(argument: &str) -> Option<String> {
    if argument.contains("sa_family=AF_UNIX") {
        let path = String::from_utf8_lossy(&string(argument)?).into_owned();
        let usual = ["/var/run/nscd/socket", "/run/nscd/socket", "/dev/log"].contains(&path.as_str());
        return (!usual).then(|| format!("socket {}", bounded(&path)));
    }
    if !argument.contains("sa_family=AF_INET") {
        return None;
    }
    let port: u16 = argument.split_once("htons(")?.1.split_once(')')?.0.parse().ok()?;
    let text = String::from_utf8(string(argument)?).ok()?;
    let address: IpAddr = text.parse().ok()?;
    let canonical = address.to_canonical();
    if canonical.is_loopback() || canonical.is_unspecified() {
        return None;
    }
    Some(std::net::SocketAddr::new(canonical, port).to_string())
}

/// The name that a DNS query asks for.
fn question(payload: &[u8]) -> Option<String> {
    let [_, _, flags, _, 0, 1, 0, 0, 0, 0, 0, _, rest @ ..] = payload else { return None };
    // A query by its QR bit and opcode.
    if flags & 0xf8 != 0 {
        return None;
    }
    let (mut labels, mut rest) = (Vec::new(), rest);
    loop {
        let (length, left) = rest.split_first()?;
        let length = usize::from(*length);
        if length == 0 {
            // Type and class IN.
            let [_, _, 0, 1, ..] = left else { return None };
            break;
        }
        if length > 63 || left.len() < length || labels.len() > 127 {
            return None;
        }
        labels.push(String::from_utf8_lossy(&left[..length]).into_owned());
        rest = &left[length..];
    }
    (!labels.is_empty()).then(|| bounded(&labels.join(".")))
}
