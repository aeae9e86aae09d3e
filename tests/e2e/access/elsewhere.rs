//! Callers and mounts in other namespaces, and a mount of a user's own: of whom the daemon can tell which groups
//! they have, and of whom it cannot.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use mcpfs_tests::binaries::bin;
use mcpfs_tests::command::{Ran, Run, exit_within};
use mcpfs_tests::host::{Host, Reads};
use mcpfs_tests::mount::{Mount, is_mounted};
use mcpfs_tests::people::{Group, Person, rights};
use mcpfs_tests::scratch::{PATIENCE, need, wait_for};
use rustix::process::{Pid, Signal, kill_process};

use super::{MEMBER, PRIMARY, STRANGER, give, open_below, refused, text};
use crate::world::{World, errno};

const NOBODY: u32 = 65_534;

/// A daemon in namespaces of its own, whose mount only those see who are told where; ended on drop.
struct Elsewhere {
    child: Child,
    supervisor: u32,
    mcp: PathBuf,
}

impl Elsewhere {
    /// With these words for unshare, and this done in a shell before.
    fn start(host: &Host, namespaces: &[&str], before: &str) -> Self {
        let log = File::create(host.path("elsewhere.log")).unwrap();
        let mut child = Command::new(need("unshare", "util-linux"))
            .args(["--mount", "--propagation", "private"])
            .args(namespaces)
            .args(["sh", "-c", &format!("{before} && exec \"$0\" --config \"$1\" mount --foreground")])
            .arg(bin("mcpfs"))
            .arg(host.config())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let pid = child.id();
        let said = || std::fs::read_to_string(host.path("elsewhere.log")).unwrap();
        wait_for("the daemon", || {
            assert!(child.try_wait().unwrap().is_none(), "{}", said());
            said().lines().any(|line| line.contains(" mounted at ") && !line.contains("::announce")).then_some(())
        });
        // unshare stays for a namespace of processes, and else becomes what it starts.
        let supervisor = match namespaces.contains(&"--fork") {
            true => {
                let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
                children.trim().parse().unwrap()
            }
            false => pid,
        };
        let mcp = PathBuf::from(format!("/proc/{supervisor}/root{}", host.mcp().display()));
        Self { child, supervisor, mcp }
    }

    /// What comes of it if somebody in the same namespaces reads a file.
    fn cat(&self, person: &Person, path: &Path) -> Ran {
        let cat = person.starts("sh");
        let nsenter = Run::new(need("nsenter", "util-linux")).args([
            format!("--mount=/proc/{}/ns/mnt", self.supervisor),
            format!("--pid=/proc/{}/ns/pid_for_children", self.supervisor),
        ]);
        nsenter.arg(cat.get_program()).args(cat.get_args()).args(["-c", "exec cat \"$0\""]).arg(path).run()
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        kill_process(Pid::from_raw(self.supervisor.cast_signed()).unwrap(), Signal::TERM).unwrap();
        if exit_within(&mut self.child, PATIENCE).is_none() {
            self.child.kill().unwrap();
            self.child.wait().unwrap();
        }
    }
}

/// Of three people with the right, only those are let in of whom the request itself tells; the row says why.
fn only_the_request_tells(namespaces: &[&str], before: &str, why: &str) {
    let world = World::new(Reads::Cached);
    let host = &world.host;
    let group = Group::new("finance");
    give(host, &format!("{:?}", group.name()));
    let elsewhere = Elsewhere::start(host, namespaces, before);
    let mcp = File::open(&elsewhere.mcp).unwrap();
    let (stranger, member) = (Person::new(STRANGER), Person::new(MEMBER).member_of(&group));
    let primary = Person::new(PRIMARY).primarily_of(&group);
    let version = "hello/1.1.0/tree/bin/VERSION";
    for path in [version, "hello/run", "hello/1.1.0/tree", "hello"] {
        assert_eq!(errno(member.does(|| open_below(&mcp, path))), libc::EACCES, "{path}");
        assert_eq!(errno(stranger.does(|| open_below(&mcp, path))), libc::EACCES, "{path}");
        assert!(primary.does(|| open_below(&mcp, path)).is_ok(), "{path}");
    }
    assert_eq!(text(open_below(&mcp, version).unwrap()), "1.1.0\n");
    assert_eq!(text(primary.does(|| open_below(&mcp, version)).unwrap()), "1.1.0\n");
    assert_eq!(text(stranger.does(|| open_below(&mcp, "files/1.0.0/tree/twin")).unwrap()), "deep\n");
    let rows = mcpfs_tests::audit::rows(host);
    let told = |row: &&mcpfs_tests::audit::Row| row.event == "refusal" && row.reason.as_ref().unwrap().contains(why);
    assert!(rows.iter().filter(told).count() >= 1, "{}", mcpfs_tests::audit::listing(&rows));
    // The kernel has said no to him already, who has no such group.
    assert_eq!(refused(host, &stranger, "refusal"), []);
}

pub(super) fn hidden_processes() {
    only_the_request_tells(&[], "mount -t proc -o hidepid=2 proc /proc", "hidepid");
}

pub(super) fn another_pid_namespace() {
    only_the_request_tells(&["--pid", "--fork", "--mount-proc"], "true", "another pid namespace");
}

/// The numbers in such a `/proc` are others' than those that the kernel names callers by.
pub(super) fn a_proc_of_another_namespace() {
    let world = World::new(Reads::Cached);
    let host = &world.host;
    let group = Group::new("finance");
    give(host, &format!("{:?}", group.name()));
    let member = Person::new(MEMBER).member_of(&group);
    let primary = Person::new(PRIMARY).primarily_of(&group);
    let version = host.at("hello/1.1.0/tree/bin/VERSION");
    for (own, namespaces) in [(true, &["--pid", "--fork", "--mount-proc"][..]), (false, &["--pid", "--fork"])] {
        let elsewhere = Elsewhere::start(host, namespaces, "true");
        let seen = elsewhere.cat(&member, &version);
        assert_eq!((seen.code, seen.stdout == "1.1.0\n"), (i32::from(!own), own), "{seen}");
        assert_eq!(elsewhere.cat(&primary, &version).stdout, "1.1.0\n");
    }
    let rows = mcpfs_tests::audit::rows(host);
    let row = rows.iter().rfind(|row| row.event == "refusal").unwrap();
    assert!(row.reason.as_ref().unwrap().contains("not that of mcpfs's own pid namespace"), "{row:?}");
}

pub(super) fn root_to_himself(reads: Reads) {
    let world = World::new(reads);
    let host = &world.host;
    let group = Group::new("finance");
    give(host, &format!("{:?}", group.name()));
    let _mount = Mount::start(host);
    let (stranger, member) = (Person::new(STRANGER), Person::new(MEMBER).member_of(&group));
    let passed = File::open(host.at("hello/1.1.0/tree/bin")).unwrap();
    let inside = |person: &Person, shell: &str| {
        let mut command = person.starts(need("unshare", "util-linux"));
        command.args(["--user", "--map-root-user", "--pid", "--fork", "--mount-proc", "sh", "-c", shell]);
        command.current_dir("/").stdin(passed.try_clone().unwrap()).output().unwrap()
    };
    let by_path = format!("id -u; cat {}", host.at("hello/1.1.0/tree/bin/VERSION").display());
    for shell in [&*by_path, "id -u; cat /proc/self/fd/0/VERSION"] {
        let seen = inside(&member, shell);
        assert_eq!(String::from_utf8_lossy(&seen.stdout), "0\n1.1.0\n", "{seen:?}");
        let seen = inside(&stranger, shell);
        assert_eq!(String::from_utf8_lossy(&seen.stdout), "0\n", "{seen:?}");
        let said = String::from_utf8_lossy(&seen.stderr).into_owned();
        assert!(said.contains("Permission denied"), "{said}");
    }
    mcpfs_tests::proof::note("EACCES");
    assert!(!refused(host, &stranger, "refusal").is_empty());
    mcpfs_tests::audit::expect(host, "PolicyRefused", Some("hello"));
}

/// One process, which is no root: its user is asked for groups as all are.
pub(super) fn a_users_own_mount() {
    let world = World::new(Reads::Cached);
    let host = &world.host;
    let (his, other) = (Group::new("his"), Group::new("other"));
    // fusermount3 wants somebody with a name.
    let member = Person::new(NOBODY).member_of(&his);
    give(host, &format!("{:?}\nfiles = {:?}", his.name(), other.name()));
    Run::new("chown").args(["-R", &member.uid.to_string()]).arg(host.path("")).ok();
    let mount = member.runs(bin("mcpfs")).arg("--config").arg(host.config()).arg("mount").env("HOME", host.home());
    mount.ok();
    assert_eq!(member.does(|| rights(&host.at("hello"))), (0, his.gid(), 0o550));
    assert_eq!(member.does(|| std::fs::read(host.at("hello/1.1.0/tree/bin/VERSION"))).unwrap(), b"1.1.0\n");
    assert_eq!(errno(member.does(|| File::open(host.at("files/1.0.0/tree/twin")))), libc::EACCES);
    member.runs(bin("mcpfs")).arg("--config").arg(host.config()).arg("unmount").ok();
    assert!(!is_mounted(&host.mcp()));
}

/// A thread that the kernel made for io_uring keeps the groups of the time when it was made.
pub(super) fn a_group_given_up() {
    let world = World::new(Reads::Cached);
    let host = &world.host;
    let group = Group::new("finance");
    give(host, &format!("{:?}", group.name()));
    let _mount = Mount::start(host);
    let passed = File::open(host.at("hello/1.1.0/tree/bin")).unwrap();
    for (groups, errnos) in
        [(format!("--groups={}", group.gid()), "0\n13\n"), ("--groups=70001".to_owned(), "13\n13\n")]
    {
        let mut python = Command::new(need("setpriv", "util-linux"));
        python.args([&format!("--reuid={MEMBER}"), &format!("--regid={MEMBER}"), &groups]);
        // The system's Python, which all users may run, and which wants no directory as its input.
        python.args(["--inh-caps=+setgid", "--ambient-caps=+setgid", "--", "sh", "-c"]);
        python.args(["exec /usr/bin/python3 -c \"$0\" VERSION 3<&0 </dev/null", include_str!("uring.py")]);
        python.stdin(passed.try_clone().unwrap());
        let ran = python.output().unwrap();
        assert_eq!(String::from_utf8_lossy(&ran.stdout), errnos, "{}", String::from_utf8_lossy(&ran.stderr));
    }
}
