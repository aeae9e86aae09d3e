//! Groups of this host, and people who have them.
//!
//! Rights are a thread's own, so a person is a thread of the test with other rights, and what he does fails
//! with an errno of its own. What he starts is a process that has his rights alone.

use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::{Gid, Uid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use crate::command::Run;
use crate::scratch::{need, wait_for};

/// What the tools of the user database end with when another one holds it.
const HELD: i32 = 10;

/// A group in the host's database; gone on drop.
#[derive(Debug)]
pub struct Group {
    name: String,
    gid: u32,
}

impl Group {
    /// One of its own, whose name begins with `what`.
    pub fn new(what: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("{what}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        alone(|| Run::new(need("groupadd", "passwd")).arg(&name));
        let entries = std::fs::read_to_string("/etc/group").expect("the database");
        let entry = entries.lines().find_map(|line| line.strip_prefix(&format!("{name}:x:"))).expect("made just now");
        let gid = entry.split(':').next().expect("a number").parse().expect("a number");
        Self { name, gid }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its number.
    pub fn gid(&self) -> u32 {
        self.gid
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        alone(|| Run::new(need("groupdel", "passwd")).arg(&self.name));
    }
}

/// A user in the host's database; gone on drop.
#[derive(Debug)]
pub struct User {
    name: String,
    person: Person,
}

impl User {
    /// One of its own, whom the database gives `group`.
    pub fn new(group: &Group) -> Self {
        let name = format!("u-{}", group.name());
        alone(|| Run::new(need("useradd", "passwd")).args(["--no-create-home", "--groups", group.name(), &name]));
        let entries = std::fs::read_to_string("/etc/passwd").expect("the database");
        let entry = entries.lines().find_map(|line| line.strip_prefix(&format!("{name}:x:"))).expect("made just now");
        let mut numbers = entry.split(':').map_while(|number| number.parse().ok());
        let (uid, gid) = (numbers.next().expect("a number"), numbers.next().expect("a number"));
        Self { name, person: Person { uid, gid, groups: Vec::new() } }
    }

    /// The user as a session has him that is older than his group.
    pub fn of_before(&self) -> &Person {
        &self.person
    }

    /// `program`, to be run by him as he logs in now.
    pub fn runs(&self, program: impl AsRef<std::ffi::OsStr>) -> Run {
        Run::new(need("runuser", "util-linux")).args(["-u", &self.name, "--"]).arg(program)
    }
}

impl Drop for User {
    fn drop(&mut self) {
        alone(|| Run::new(need("userdel", "passwd")).arg(&self.name));
    }
}

/// Others may hold the database for a moment.
fn alone(command: impl Fn() -> Run) {
    wait_for("the user database", || {
        let ran = command().run();
        assert!(ran.code == 0 || ran.code == HELD, "{ran}");
        (ran.code == 0).then_some(())
    });
}

/// Somebody who is not root.
#[derive(Debug, Clone)]
pub struct Person {
    /// His user.
    pub uid: u32,
    /// His primary group.
    pub gid: u32,
    /// His other groups.
    pub groups: Vec<u32>,
}

impl Person {
    /// A user whom this host has no name for, in his own group.
    pub fn new(uid: u32) -> Self {
        Self { uid, gid: uid, groups: Vec::new() }
    }

    /// The same with this among his other groups.
    #[must_use]
    pub fn member_of(mut self, group: &Group) -> Self {
        // Not the only one, and not the first.
        self.groups.extend([70_001, group.gid(), 70_002]);
        self
    }

    /// The same with this as his primary group.
    #[must_use]
    pub fn primarily_of(mut self, group: &Group) -> Self {
        self.gid = group.gid();
        self
    }

    /// What comes of it if he does it. In a thread, so that threads are what is told apart: the others of this
    /// process are root's.
    ///
    /// # Panics
    /// If that cannot be, or `work` does.
    pub fn does<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let person = scope.spawn(|| {
                let groups: Vec<Gid> = self.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
                let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
                set_thread_groups(&groups).expect("root");
                set_thread_res_gid(gid, gid, gid).expect("root");
                set_thread_res_uid(uid, uid, uid).expect("root");
                work()
            });
            person.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// `program`, to be started by him.
    pub fn starts(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(need("setpriv", "util-linux"));
        command.args([format!("--reuid={}", self.uid), format!("--regid={}", self.gid)]);
        match self.groups.as_slice() {
            [] => command.arg("--clear-groups"),
            groups => {
                let groups: Vec<String> = groups.iter().map(ToString::to_string).collect();
                command.arg(format!("--groups={}", groups.join(",")))
            }
        };
        command.arg("--").arg(program);
        command
    }

    /// The same, to be run to its end.
    pub fn runs(&self, program: impl AsRef<std::ffi::OsStr>) -> Run {
        let command = self.starts(program);
        Run::new(command.get_program()).args(command.get_args().map(std::ffi::OsStr::to_owned).collect::<Vec<_>>())
    }
}

/// Owner, group and mode of a path, as everybody sees them.
///
/// # Panics
/// If it cannot be seen.
pub fn rights(path: &std::path::Path) -> (u32, u32, u32) {
    let found = std::fs::symlink_metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    (found.uid(), found.gid(), found.mode() & 0o7777)
}
