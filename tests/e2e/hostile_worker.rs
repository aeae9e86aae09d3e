//! A worker that was taken over can do nothing, seen from outside. Root only.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use mcpfs_tests::binaries::example;
use mcpfs_tests::command::exit_within;
use mcpfs_tests::host::{Host, Reads};
use mcpfs_tests::mount::{Mount, is_mounted, unmount};
use mcpfs_tests::scratch::{PATIENCE, is_root, wait_for};
use mcpfs_tests::suite::{Attack, Suite};
use rustix::process::{Pid, Signal, kill_process};

use crate::boundary::WORKER;
use crate::world::World;

pub(crate) fn register(suite: &mut Suite) {
    suite.root_attack(
        Attack::new(
            WORKER,
            "hostile_worker::whatever_it_does_the_supervisor_lives",
            "a worker that tries whatever its process could do: files, processes, sockets, namespaces, the supervisor",
            &["refused"],
        ),
        whatever_it_does_the_supervisor_lives,
    );
    suite.root_attack(
        Attack::new(
            WORKER,
            "hostile_worker::another_init_ends_the_session",
            "a worker that begins the kernel's session anew",
            &["the session ends"],
        ),
        another_init_ends_the_session,
    );
    suite.root_attack(
        Attack::new(
            WORKER,
            "hostile_worker::a_deadly_request_is_refused",
            "a request of which every worker dies",
            &["EIO"],
        ),
        a_deadly_request_is_refused,
    );
    if is_root() {
        suite.plain("hostile_worker::one_that_never_serves_ends_the_session", one_that_never_serves_ends_the_session);
    }
}

/// A supervisor with the hostile worker; ended on drop.
struct Hostile {
    world: World,
    child: Child,
    neighbour: Child,
}

impl Hostile {
    fn start(which: &str) -> Self {
        let world = World::new(Reads::Passthrough);
        let host = &world.host;
        std::fs::write(host.path("readable"), "everybody may read this").unwrap();
        std::fs::write(host.path("cache/others"), "root's").unwrap();
        std::os::unix::fs::chown(host.path("cache"), Some(0), Some(0)).unwrap();
        let neighbour = Command::new("setpriv")
            .args(["--reuid", "mcpfs", "--regid", "mcpfs", "--clear-groups", "sleep", "3600"])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        std::fs::write(host.path("state/neighbour"), neighbour.id().to_string()).unwrap();
        host.give_to_worker("state");
        let secret = host.path("etc/secret");
        std::fs::write(&secret, SECRET).unwrap();
        std::fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        host.drop_in("50-credentials", &format!("[credentials.dw]\nfile = {secret:?}\nservers = [\"hello\"]\n"));
        mcpfs_tests::command::Run::new("chown").arg("mcpfs:").arg(host.path("cache")).ok();
        let log = std::fs::File::create(host.path("mount.log")).unwrap();
        let child = Command::new(example("hostile-worker"))
            .arg(host.config())
            .arg(which)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Self { world, child, neighbour }
    }

    fn host(&self) -> &Host {
        &self.world.host
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.host().path("mount.log")).unwrap_or_default()
    }

    fn said(&mut self, what: &str) {
        wait_for(what, || {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("the supervisor ended with {status} before {what:?}:\n{}", self.log());
            }
            self.log().contains(what).then_some(())
        });
    }

    /// What the supervisor has open, by what it is.
    fn descriptors(&self) -> Vec<String> {
        let listed = std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap();
        let target = |path: PathBuf| Some(path.read_link().ok()?.to_string_lossy().into_owned());
        // Without the numbers of sockets and pipes.
        let kind = |target: String| target.split_once(":[").map_or(target.clone(), |(kind, _)| kind.to_owned());
        let mut found: Vec<String> = listed.filter_map(|entry| target(entry.unwrap().path())).map(kind).collect();
        found.sort();
        found
    }

    /// The one that serves, and the one that stands by, as far as they are there.
    fn workers(&self) -> Vec<i32> {
        let children = format!("/proc/{0}/task/{0}/children", self.child.id());
        std::fs::read_to_string(children).unwrap().split_whitespace().map(|pid| pid.parse().unwrap()).collect()
    }

    /// Waits until the supervisor has started the worker that stands by, and knows it.
    fn stands_by(&self) {
        let fds = format!("/proc/{}/fd", self.child.id());
        wait_for("a worker that stands by", || {
            let targets = std::fs::read_dir(&fds).unwrap().filter_map(|entry| entry.unwrap().path().read_link().ok());
            (targets.filter(|target| target.to_string_lossy().contains("pidfd")).count() == 2).then_some(())
        });
    }

    fn threads(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap().count()
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        // Its own processes; one that has ended already is as good.
        drop(self.child.kill());
        drop(self.child.wait());
        drop(self.neighbour.kill());
        drop(self.neighbour.wait());
        if is_mounted(&self.host().mcp()) {
            unmount(&self.host().mcp());
        }
    }
}

/// A credential, for root's launches and nobody else's.
const SECRET: &str = "not the worker's to read";

/// How each thing must end that is refused. Where a list stands, the kernel's version decides which.
const REFUSALS: &[(&str, &[i32])] = &[
    ("back it a second time for one inode", &[libc::EEXIST]),
    ("back a writable file", &[libc::EPERM]),
    ("back a directory", &[libc::EPERM]),
    ("back a pipe", &[libc::EPERM]),
    ("back a device", &[libc::EPERM]),
    ("back the kernel's FUSE device", &[libc::EPERM]),
    ("back the table of ids", &[libc::EPERM]),
    ("back the counts", &[libc::EPERM]),
    ("back a socket", &[libc::EPERM]),
    ("back a file outside of the cache", &[libc::EPERM]),
    ("back a file of its own outside of the cache", &[libc::EPERM]),
    ("back another user's file in the cache", &[libc::EPERM]),
    ("back a file it cannot read", &[libc::EPERM]),
    ("open the file of an id that there is not", &[libc::ENOENT]),
    ("give back an id that there is not", &[libc::ENOENT]),
    ("ask for a secret that is not configured", &[libc::ENOENT]),
    ("ask for the program of a process that there is not", &[libc::ENOENT]),
    ("have a credential read that there is not", &[libc::ENOENT]),
    ("have an entry read that is not in force", &[libc::ENOENT]),
    ("read another's credential", &[libc::EBADF]),
    ("open another's credential", &[libc::EACCES]),
    ("map another's credential", &[libc::EBADF]),
    ("send another's credential on", &[libc::EBADF, libc::EPERM]),
    ("be left without an answer to one of two", &[libc::ENOENT]),
    ("write the table of ids", &[libc::EBADF]),
    ("open the table of ids for writing", &[libc::EACCES]),
    ("make the counts a terabyte", &[libc::EPERM]),
    ("seal the counts", &[libc::EPERM]),
    ("find a predecessor's flags on the device", &[libc::ENOENT]),
    ("find a predecessor's flags on the counts", &[libc::ENOENT]),
    ("open /etc/shadow", &[libc::EACCES]),
    ("read a file of the world that is out of reach", &[libc::EACCES]),
    ("list a directory that is out of reach", &[libc::EACCES]),
    ("list /root", &[libc::EACCES]),
    ("write to /tmp", &[libc::EACCES]),
    ("write beside the configuration", &[libc::EACCES]),
    ("write into the run directory", &[libc::EACCES]),
    ("replace the control socket", &[libc::EACCES]),
    ("open /dev/fuse", &[libc::EACCES]),
    ("open /dev/tty", &[libc::EACCES, libc::ENXIO]),
    ("write /proc/self/mem", &[libc::EACCES]),
    ("read the supervisor's memory", &[libc::EACCES, libc::EPERM]),
    ("list the supervisor's descriptors", &[libc::EACCES]),
    ("read the supervisor's environment", &[libc::EACCES]),
    ("read a neighbour's memory", &[libc::EACCES, libc::EPERM]),
    ("follow a neighbour's descriptor", &[libc::EACCES, libc::EPERM]),
    ("open a neighbour's descriptor", &[libc::EACCES, libc::EPERM]),
    ("clone3", &[libc::ENOSYS]),
    ("a raw socket", &[libc::EPERM]),
    ("listen for TCP", &[libc::EACCES, libc::EPERM]),
];

fn whatever_it_does_the_supervisor_lives() {
    let mut hostile = Hostile::start("all");
    hostile.said("act nothing, until somebody kills it");
    hostile.stands_by();
    let before = hostile.descriptors();
    kill_worker(&hostile);
    // Somebody starts a server while one acts, and while the last one tries what it may not.
    let launches = |hostile: &mut Hostile, times: usize| {
        wait_for("a worker that waits for a launcher", || {
            assert!(hostile.child.try_wait().unwrap().is_none(), "{}", hostile.log());
            (hostile.log().matches("waits for a launcher").count() == times).then_some(())
        });
        std::os::unix::net::UnixStream::connect(hostile.host().rundir().join("control.sock")).unwrap()
    };
    let _launchers = [launches(&mut hostile, 1), launches(&mut hostile, 2)];
    hostile.said("all acts done");
    let log = hostile.log();
    assert!(!log.contains("survived: "), "{log}");
    let acts = log.lines().filter(|line| line.starts_with("act ")).count();
    assert_eq!(log.matches("the worker died; another takes over").count(), acts, "{log}");
    assert!(acts > 15, "{log}");
    assert!(log.contains("made 65536 ids"), "every place and no more: {log}");
    assert!(log.contains("a worker shut the control socket down"), "{log}");
    std::os::unix::net::UnixStream::connect(hostile.host().rundir().join("control.sock")).unwrap();
    // No descriptor of root's came along, in any of them.
    for line in log.lines().filter(|line| line.contains("started with descriptors")) {
        assert!(line.ends_with("[0, 1, 2]"), "{line}");
    }
    let outcomes: BTreeMap<&str, &str> = log
        .lines()
        .filter_map(|line| line.strip_prefix("refusal "))
        .map(|line| line.rsplit_once(": ").unwrap())
        .collect();
    let allowed: Vec<&str> = outcomes.iter().filter(|(_, said)| **said == "allowed").map(|(name, _)| *name).collect();
    assert_eq!(allowed, ["back a file of the cache", "give back its own id"], "{log}");
    for (name, outcome) in &outcomes {
        if allowed.contains(name) {
            continue;
        }
        let expected = REFUSALS.iter().find(|(of, _)| of == name).map_or(&[libc::EPERM][..], |(_, errno)| *errno);
        let number = |errno: &i32| format!("(os error {errno})");
        assert!(expected.iter().any(|errno| outcome.ends_with(&number(errno))), "{name}: {outcome}");
    }
    for (name, _) in REFUSALS {
        assert!(outcomes.contains_key(name), "{name} was not tried");
    }
    mcpfs_tests::proof::note("refused");
    assert!(outcomes.len() > 90, "{}", outcomes.len());
    assert!(!log.contains(SECRET), "{log}");
    // Whoever it tried to reach lives, and nothing of it is left in the supervisor.
    assert!(hostile.neighbour.try_wait().unwrap().is_none());
    wait_for("the end of what was put away", || (hostile.threads() == 1).then_some(()));
    hostile.stands_by();
    let open = hostile.descriptors();
    assert_eq!(open, before);
    kill_process(Pid::from_child(&hostile.child), Signal::TERM).unwrap();
    assert_eq!(exit_within(&mut hostile.child, PATIENCE), Some(0), "{}", hostile.log());
    assert!(!is_mounted(&hostile.host().mcp()));
}

/// The session is over: the supervisor says so, the mount is gone, whoever waited got an error, and
/// the next start works on the same directories.
fn is_over(mut hostile: Hostile, waiting: Vec<std::thread::JoinHandle<std::io::Error>>) {
    for one in waiting {
        let error = one.join().unwrap();
        let errno = error.raw_os_error();
        assert!([Some(libc::EIO), Some(libc::ENOTCONN), Some(libc::ECONNABORTED)].contains(&errno), "{error}");
    }
    assert_eq!(exit_within(&mut hostile.child, PATIENCE), Some(1), "{}", hostile.log());
    assert!(hostile.log().contains("no worker serves"), "{}", hostile.log());
    assert!(!is_mounted(&hostile.host().mcp()), "{}", hostile.log());
    mcpfs_tests::proof::note("the session ends");
    std::fs::remove_file(hostile.host().path("cache/others")).unwrap();
    let mount = Mount::start(hostile.host());
    let read = std::fs::read(hostile.host().at("hello/1.1.0/tree/bin/VERSION")).unwrap();
    assert!(read == std::fs::read(hostile.world.source("hello-1.1.0").join("bin/VERSION")).unwrap());
    mount.stop();
}

/// Callers whose requests the first worker never answers: each is in the middle of its own.
fn waiting(hostile: &Hostile) -> Vec<std::thread::JoinHandle<std::io::Error>> {
    let calls = [(hostile.host().at("a"), false), (hostile.host().at("b"), false), (hostile.host().mcp(), true)];
    let started = calls.map(|(path, lists)| {
        let (begins, begun) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            begins.send(rustix::thread::gettid()).unwrap();
            match lists {
                true => std::fs::read_dir(path).map(drop).expect_err("nobody answers"),
                false => path.symlink_metadata().map(drop).expect_err("nobody answers"),
            }
        });
        let state = format!("/proc/self/task/{}/syscall", begun.recv().unwrap());
        wait_for("a call in the kernel", || {
            // The number of the call that it sleeps in; a thread that runs has none.
            let number = std::fs::read_to_string(&state).unwrap().split(' ').next().and_then(|word| word.parse().ok());
            let paths = [libc::SYS_statx, libc::SYS_newfstatat, libc::SYS_openat];
            number.is_some_and(|number: i64| paths.contains(&number)).then_some(())
        });
        thread
    });
    started.into()
}

fn kill_worker(hostile: &Hostile) {
    kill_process(Pid::from_raw(hostile.workers()[0]).unwrap(), Signal::KILL).unwrap();
}

fn another_init_ends_the_session() {
    let mut hostile = Hostile::start("init");
    hostile.said("worker 1 serves");
    let waiting = waiting(&hostile);
    kill_worker(&hostile);
    is_over(hostile, waiting);
}

fn one_that_never_serves_ends_the_session() {
    let mut hostile = Hostile::start("mute");
    hostile.said("worker 1 serves");
    let waiting = waiting(&hostile);
    kill_worker(&hostile);
    is_over(hostile, waiting);
}

fn a_deadly_request_is_refused() {
    let mut hostile = Hostile::start("deadly");
    hostile.said("worker 1 serves");
    let path = hostile.host().at("deadly");
    let error = path.symlink_metadata().expect_err("whoever takes it dies");
    assert_eq!(error.raw_os_error(), Some(libc::EIO), "{}", hostile.log());
    mcpfs_tests::proof::note_errno(libc::EIO);
    let log = hostile.log();
    assert_eq!(log.matches("took a request and dies of it").count(), 3, "{log}");
    hostile.said("worker 4 serves");
    assert!(hostile.log().contains("it may be what kills the workers"), "{}", hostile.log());
}
