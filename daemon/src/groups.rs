//! Whether somebody has a group, by the kernel's word.
//!
//! A request of the mount says one group of its caller, the one that files of his would get; the others stand
//! in `/proc/TID/status`. That file is made at once, when it is read, of the very thread that waits for our
//! answer: its number cannot be another's meanwhile, since the kernel lets no thread go that waits for an open,
//! killed or not. Rights are a thread's own, so it is the thread that is looked at, not its process. Its
//! user and group must be those of the request: where they are not, somebody acts with borrowed rights (a
//! server of NFS, say), and what is in the file is not about them.
//!
//! A thread that the kernel made for io_uring acts with the rights of whoever asked it to, and has those of the
//! time when it was made: a process may have given up since what such a thread still has. There the process must
//! have the group too.
//!
//! What cannot be read is unknown, and that is a no.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::caller;
use crate::config::Membership;

/// Largest status that is read, bytes: 65,536 groups, the most that Linux has, with ten digits each.
const STATUS_BYTES: u64 = 1 << 20;

/// Whether the thread `tid`, whose request carries this user and group, has the group `wanted` among its others.
pub(crate) fn of_thread(proc: &str, tid: u32, carried: (u32, u32), wanted: u32) -> Membership {
    if tid == 0 {
        return Membership::Unknown("the process is not to be seen from here (another pid namespace)");
    }
    if !is_ours(proc) {
        return Membership::Unknown("/proc on this host is not that of mcpfs's own pid namespace");
    }
    const HIDDEN: Membership =
        Membership::Unknown("/proc does not show the groups of the process (hidepid?): mcpfs doctor");
    let Some(status) = read_status(proc, tid) else { return HIDDEN };
    let own = in_status(&status, carried, wanted);
    match (own, process_of(&status)) {
        (Membership::Member, Some(process)) if process != tid => match caller::is_io_worker(proc, tid) {
            Some(false) => own,
            Some(true) => read_status(proc, process).map_or(HIDDEN, |status| in_status(&status, carried, wanted)),
            None => HIDDEN,
        },
        (Membership::Member, None) => HIDDEN,
        _ => own,
    }
}

fn read_status(proc: &str, tid: u32) -> Option<Vec<u8>> {
    let mut status = Vec::new();
    File::open(format!("{proc}/{tid}/status")).ok()?.take(STATUS_BYTES).read_to_end(&mut status).ok()?;
    Some(status)
}

/// Whether the numbers in `proc` are those that the kernel tells us: it names callers by our own namespace.
pub(crate) fn is_ours(proc: &str) -> bool {
    std::fs::read_link(Path::new(proc).join("self"))
        .is_ok_and(|own| own.to_str() == Some(&std::process::id().to_string()))
}

fn in_status(status: &[u8], (uid, gid): (u32, u32), wanted: u32) -> Membership {
    const CUT: Membership = Membership::Unknown("/proc says nothing of the groups of the process");
    let field = |name: &[u8]| field(status, name);
    // Real, effective, saved, and that by which files are opened.
    let opens_as = |name: &[u8]| field(name)?.split_ascii_whitespace().nth(3)?.parse::<u32>().ok();
    let (Some(user), Some(group), Some(groups)) = (opens_as(b"Uid:"), opens_as(b"Gid:"), field(b"Groups:")) else {
        return CUT;
    };
    if (user, group) != (uid, gid) {
        return Membership::Unknown("it is opened with other rights than those of its process");
    }
    match groups.split_ascii_whitespace().any(|one| one.parse() == Ok(wanted)) {
        true => Membership::Member,
        false => Membership::Stranger,
    }
}

/// The process that a status is of a thread of.
fn process_of(status: &[u8]) -> Option<u32> {
    field(status, b"Tgid:")?.trim().parse().ok()
}

fn field<'a>(status: &'a [u8], name: &[u8]) -> Option<&'a str> {
    // A name has no line break of its own there: the kernel escapes it.
    let line = status.split_inclusive(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(name))?;
    // One that was cut has no end.
    std::str::from_utf8(line.strip_suffix(b"\n")?).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    const STATUS: &str = "Name:\tGroups:\\n7\nTgid:\t9\nPid:\t9\nUid:\t1\t2\t3\t1000\nGid:\t4\t5\t6\t100\n\
                          FDSize:\t64\nGroups:\t4 24 5000 \nNStgid:\t9\n";

    #[test]
    fn groups_of_a_status() {
        let has = |text: &str, wanted| in_status(text.as_bytes(), (1000, 100), wanted);
        for (wanted, is) in [(4, Membership::Member), (24, Membership::Member), (5000, Membership::Member)] {
            assert_eq!(has(STATUS, wanted), is, "{wanted}");
        }
        for wanted in [0, 1, 2, 5, 6, 7, 50, 500, 1000, 64] {
            assert_eq!(has(STATUS, wanted), Membership::Stranger, "{wanted}");
        }
        // No group at all.
        assert_eq!(has(&STATUS.replace("4 24 5000 ", " "), 4), Membership::Stranger);
        let unknown = |text: &str, carried| {
            assert!(matches!(in_status(text.as_bytes(), carried, 4), Membership::Unknown(_)), "{text}");
        };
        unknown(STATUS, (1, 100));
        unknown(STATUS, (1000, 4));
        for end in ["", "Name:", "Uid:\t1\t2", "Uid:\t1\t2\t3\t1000\nGid:", "FDSize", "Groups:", "Groups:\t4 24"] {
            let cut = STATUS.find(end).unwrap() + end.len();
            unknown(&STATUS[..cut], (1000, 100));
        }
        unknown(&STATUS.replace("Groups:\t", "groups:\t"), (1000, 100));
        unknown(&STATUS.replace("1000", "x"), (1000, 100));
    }

    /// /proc as this process would see threads with these numbers, processes and flags.
    fn fake(threads: &[(u32, u32, u32, &str)]) -> tempfile::TempDir {
        let proc = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(std::process::id().to_string(), proc.path().join("self")).unwrap();
        for (tid, process, flags, status) in threads {
            let dir = proc.path().join(tid.to_string());
            std::fs::create_dir(&dir).unwrap();
            std::fs::write(dir.join("status"), status.replace("Tgid:\t9", &format!("Tgid:\t{process}"))).unwrap();
            let rest = "0 ".repeat(12);
            std::fs::write(dir.join("stat"), format!("{tid} (iou-wrk-9) S 1 1 1 0 -1 {flags} {rest}77 0\n")).unwrap();
        }
        proc
    }

    #[test]
    fn a_thread_of_io_uring_has_what_its_process_has() {
        let given_up = STATUS.replace("4 24 5000 ", "4 ");
        for (flags, leader, is) in [
            (0x40, given_up.as_str(), true),
            (0x4050, given_up.as_str(), false),
            (0x4050, STATUS, true),
            (0x4050, &STATUS.replace("1000", "1001"), false),
        ] {
            let proc = fake(&[(9, 9, 0, leader), (12, 9, flags, STATUS)]);
            let found = of_thread(proc.path().to_str().unwrap(), 12, (1000, 100), 24);
            assert_eq!(found == Membership::Member, is, "{flags:x} {leader}: {found:?}");
        }
        let alone = fake(&[(12, 9, 0x4050, STATUS)]);
        assert!(matches!(of_thread(alone.path().to_str().unwrap(), 12, (1000, 100), 24), Membership::Unknown(_)));
    }

    #[test]
    fn a_thread_of_our_own() {
        let thread = || rustix::thread::gettid().as_raw_nonzero().get().cast_unsigned();
        let ours = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let all: Vec<u32> =
            rustix::process::getgroups().unwrap().into_iter().map(rustix::process::Gid::as_raw).collect();
        let look = move |wanted| of_thread("/proc", thread(), ours, wanted);
        for gid in &all {
            assert_eq!(look(*gid), Membership::Member);
        }
        let free = (70_000..).find(|gid| !all.contains(gid)).unwrap();
        assert_eq!(look(free), Membership::Stranger);
        assert_eq!(std::thread::spawn(move || look(free)).join().unwrap(), Membership::Stranger);
        for (proc, tid) in [("/proc", 0), ("/proc", u32::MAX), ("/nowhere", 1)] {
            assert!(matches!(of_thread(proc, tid, ours, free), Membership::Unknown(_)), "{proc} {tid}");
        }
        // As in a container that was given the host's /proc.
        let other = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("1", other.path().join("self")).unwrap();
        std::fs::create_dir(other.path().join("9")).unwrap();
        std::fs::write(other.path().join("9/status"), STATUS).unwrap();
        let proc = other.path().to_str().unwrap();
        assert!(matches!(of_thread(proc, 9, (1000, 100), 4), Membership::Unknown(why) if why.contains("own pid")));
    }
}
